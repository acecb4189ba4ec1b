"""Tables of text, .csv and .tsv, whose rows are cells or genes."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.sparse import csr_matrix, vstack

from formats import bounds, hdf5
from formats.parts import Choices, Parts, listed, named_frame, numbered, opened_text
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import pandas as pd

SEPARATORS = {"csv": ",", "tsv": "\t", "txt": "\t"}  # by the suffix, if the first line has none
BLOCK = 2**24  # values that are held as a dense array at a time
NAMES_LOOKED_AT = 50_000

# Names of genes that no cell has: identifiers of Ensembl, FlyBase, WormBase and TAIR, spike-ins,
# mitochondrial and ribosomal genes, those without a name of their own, and placeholders.
GENE = re.compile(
    r"(hg19_|hg38_|mm10_|GRC[hm]\d+_+)?("
    r"ENS[A-Z]*[GT]\d{6,}.*|FBgn\d{7}|WBGene\d{8}|AT[1-5CM]G\d{5}|ERCC-\d{5}|(MT|mt)-\w+"
    r"|(RP[LS]|Rp[ls])[A-Z]?\d+\w*|LINC\d+|LOC\d+|Gm\d+|\d+[A-Z]\d+Rik|([Gg]ene|g)[_.-]?\d+)"
)
COMMON = frozenset(
    {
        *("ACTB", "B2M", "CD3D", "CD3E", "CD4", "CD8A", "CD14", "CD19", "CD74", "EEF1A1"),
        *("FTH1", "FTL", "GAPDH", "GNLY", "HBB", "INS", "LYZ", "MALAT1", "MS4A1", "NEAT1"),
        *("NKG7", "PPBP", "PTPRC", "SOX2", "TMSB4X", "TP53", "TRP53", "UBC", "VIM", "XIST"),
    }
)
# Names of cells that no gene has: barcodes, and numbers behind a word for a cell or a sample.
CELL = re.compile(
    r"(.*[_.:#-])?[ACGTN]{8,}([-_.].*)?"
    r"|(cell|c|barcode|bc|sample|spot|well|SRR|ERR|GSM)[_.-]?\d+.*",
    re.I,
)


def is_table(path: Path) -> bool:
    """Return whether a path is a file named as a table of text: .csv, .tsv or .txt, also .gz."""
    return path.is_file() and _suffix(path) in SEPARATORS


def _suffix(path: Path) -> str:
    """Return the ending of a file's name, without the .gz that may follow it."""
    _, dot, suffix = path.name.lower().removesuffix(".gz").rpartition(".")
    return suffix if dot else ""


def read_table(path: Path, choices: Choices) -> Parts:
    """Read a table with names in the first row and the first column, or without any names.

    Whether its rows are cells or genes is guessed, unless the user says it.
    """
    matrix, rows, columns = _table(path)
    by_genes = choices.transpose
    notes: tuple[str, ...] = ()
    if by_genes is None:
        by_genes, reason = guess(matrix.shape, rows, columns)
        axis, flag = ("genes", "--no-transpose") if by_genes else ("cells", "--transpose")
        other = "cells" if by_genes else "genes"
        notes = (f"rows are {axis}, guessed from {reason}: {flag} if they are {other}",)
    if by_genes:
        matrix, rows, columns = matrix.T, columns, rows
    cells = numbered("cell", matrix.shape[0]) if rows is None else rows
    genes = numbered("gene", matrix.shape[1]) if columns is None else columns
    return Parts(matrix, named_frame(cells), named_frame(genes), notes)


# ---- which axis is genes


def guess(
    shape: tuple[int, int], rows: Sequence[str] | None, columns: Sequence[str] | None
) -> tuple[bool, str]:
    """Return whether the rows of a table are genes rather than cells, and what tells it, in words.

    Where the names say nothing, the longer side is genes, as most experiments have more of them.
    """
    difference = _gene_like(rows) - _gene_like(columns)
    if difference:
        return difference > 0, "the names"
    return shape[0] > shape[1], "the shape"


def _gene_like(names: Sequence[str] | None) -> float:
    """Return the share of names that are of genes, less that of names that are of cells."""
    if not names:
        return 0.0
    step = -(-len(names) // NAMES_LOOKED_AT)
    looked_at = names[::step]
    genes = sum(name.upper() in COMMON or GENE.fullmatch(name) is not None for name in looked_at)
    cells = sum(CELL.fullmatch(name) is not None for name in looked_at)
    return (genes - cells) / len(looked_at)


# ---- what the file says


def _table(path: Path) -> tuple[csr_matrix, list[str] | None, list[str] | None]:
    """Return the numbers of a table, and the names of its rows and of its columns or None."""
    import pandas as pd

    with opened_text(path) as file:
        separator, header = _first_row(path, file)
    has_names = not all(map(_is_number, header))
    options: dict[str, Any] = {"converters": {0: str}, "skiprows": 1} if has_names else {}
    blocks, names = [], []
    try:
        with opened_text(path) as file:
            chunks = pd.read_csv(
                file,
                sep=separator,
                header=None,
                skipinitialspace=True,
                chunksize=max(1, min(BLOCK // len(header), bounds.most_rows(path) + 1)),
                **options,
            )
            for chunk in chunks:
                if has_names:
                    names += chunk.pop(0).tolist()
                _check_numbers(path, chunk, header)
                blocks.append(csr_matrix(chunk.to_numpy()))
                bounds.check_rows(sum(block.shape[0] for block in blocks), path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = hdf5.reason(error)
        raise InputError(
            f"{path}: is not a table that can be read ({reason}): a row for each cell and a column "
            "for each gene are needed, with their names in the first column and the first row"
        ) from error
    matrix = vstack(blocks, format="csr")
    if not has_names:
        return matrix, None, None
    return matrix, names, _titles(header, matrix.shape[1], path)


def _first_row(path: Path, file: Any) -> tuple[str, list[str]]:
    """Return what separates the columns of a table, and the entries of its first row."""
    line = bounds.first_line(file, path)
    separator = _separator(line) or SEPARATORS[_suffix(path)]
    bounds.check_columns(1 + line.count(separator), path)
    return separator, next(csv.reader([line], delimiter=separator), None) or [""]


def _separator(text: str) -> str | None:
    """Return the comma, tab or semicolon that is most frequent in a text; None without any."""
    count = {separator: text.count(separator) for separator in (",", "\t", ";")}
    separator = max(count, key=lambda name: count[name])
    return separator if count[separator] else None


def entries(path: Path) -> list[list[str]]:
    """Return the rows of a small table of text, which may be packed, as lists of entries.

    The first two rows tell what separates the entries; where nothing does, a row is one entry.
    Rows without any text are left out.

    Raises
    ------
    InputError
        If the file is missing, cannot be read or has no such row.
    """
    with hdf5.input_errors(path), opened_text(path, is_list=True) as file:
        lines = file.read().splitlines()
    separator = _separator("\n".join(lines[:2]))
    try:
        if separator is None:
            rows = [[line.strip().strip('"')] for line in lines]
        else:
            rows = [[x.strip() for x in row] for row in csv.reader(lines, delimiter=separator)]
    except csv.Error as error:
        raise InputError(f"{path}: is not a table that can be read ({error})") from error
    rows = [row for row in rows if any(row)]
    if not rows:
        raise InputError(f"{path}: has no rows, give a table of text")
    return rows


def _titles(header: list[str], n_columns: int, path: Path) -> list[str]:
    """Return the names of the columns; R leaves out what would stand above those of the rows."""
    if len(header) not in (n_columns, n_columns + 1):
        raise InputError(
            f"{path}: is not a table that can be read: its first row has {len(header)} names, and "
            f"its other rows have {n_columns} numbers"
        )
    return header[len(header) - n_columns :]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_numbers(path: Path, chunk: pd.DataFrame, header: list[str]) -> None:
    wrong = [i for i, kind in enumerate(chunk.dtypes) if kind.kind not in "biuf"]
    if wrong:
        titles = header[-chunk.shape[1] :]
        words = listed(titles[i] if i < len(titles) else f"column {i + 1}" for i in wrong)
        raise InputError(
            f"{path}: columns that are not numbers throughout: {words}: give one column for each "
            "gene, and the names of the cells in the first"
        )
