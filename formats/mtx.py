"""Matrices of Matrix Market (.mtx) with names in files beside them, as Cell Ranger writes them."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import coo_matrix

from formats import bounds, hdf5, tenx
from formats.parts import Choices, Parts, listed, named_frame, numbered, opened, opened_text
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import pandas as pd

BANNER = b"%%MatrixMarket"
# A file's prefix is what it shares with the files that belong to it: GSM123_matrix.mtx.gz.
MATRIX = re.compile(r"(?P<prefix>.*?)[._-]?(matrix|counts|mtx)?\.mtx(\.gz)?", re.I)
NAMES = r"(?P<prefix>.*?)[._-]?({})\.(tsv|txt|csv)(\.gz)?"
CELLS = re.compile(NAMES.format("barcodes?|cells?|cell_names|cell_metadata"), re.I)
GENES = re.compile(NAMES.format("features?|genes?|gene_names|all_genes"), re.I)
HEADER = re.compile(
    r"|x|v1|[a-z_. -]*(barcode|bc|cell|gene|feature|name|id|symbol|index|well)[a-z_. -]*", re.I
)


def is_mtx(path: Path) -> bool:
    """Return whether a path is of Matrix Market, or a folder with such a file in it or below."""
    if path.is_dir():
        return bool(_matrices(path) or _folders(path))
    if MATRIX.fullmatch(path.name):
        return True
    with path.open("rb") as file:
        return file.read(len(BANNER)) == BANNER


def read_mtx(path: Path, choices: Choices) -> Parts:
    """Read a matrix, and the names of its cells and genes from the files that belong to it.

    Whether its rows are genes is told by the number of names. Without names they are, as 10x writes
    them, unless the user says otherwise.
    """
    if path.is_dir():
        path = _only_matrix(path)
    matrix = _matrix(path)
    cells, genes = _names_beside(path, CELLS), _names_beside(path, GENES)
    by_genes, notes = _orientation(path, matrix.shape, cells, genes, choices.transpose)
    if by_genes:
        matrix = matrix.T
    for item, size, names in zip(("cell", "gene"), matrix.shape, (cells, genes), strict=True):
        if not names.fit(size):
            raise InputError(
                f"{names.path}: has {len(names.rows)} names for the {size} {item}s of {path.name}: "
                "keep the files of one sample together, or say with --transpose or --no-transpose "
                "whether its rows are genes"
            )
        if names.path is None:
            notes = (*notes, f"no names of {item}s are beside {path.name}: they are numbered")
    obs = named_frame(_barcodes(cells, matrix.shape[0]))
    return tenx.genes_only(
        Parts(matrix.tocsr(), obs, _var(genes, matrix.shape[1]), notes), str(path)
    )


# ---- which files


def _files(folder: Path, pattern: re.Pattern[str]) -> dict[Path, str]:
    """Return the files of a folder that are named so, and their prefixes."""
    matches = {path: pattern.fullmatch(path.name) for path in sorted(folder.iterdir())}
    return {path: match["prefix"] for path, match in matches.items() if match and path.is_file()}


def _matrices(folder: Path) -> list[Path]:
    """Return the matrices in a folder; of one that is there both packed and not, the latter."""
    names = {
        path.name.lower().removesuffix(".gz"): path for path in [*_files(folder, MATRIX)][::-1]
    }
    return sorted(names.values())


def _folders(folder: Path) -> list[Path]:
    """Return the folders just below one that hold a matrix; those that cannot be read do not."""
    present = []
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):
            if path.is_dir() and _matrices(path):
                present.append(path)
    return present


def samples_in(folder: Path) -> list[Path]:
    """Return the matrices of a folder that have names of cells of their own, and folders below.

    A matrix is a sample if it shares its prefix with a file of barcodes, as GEO names them
    (GSM1_matrix.mtx.gz beside GSM1_barcodes.tsv.gz), a folder if it has a matrix in it or below.
    """
    prefixes = _files(folder, MATRIX)
    barcodes = {*_files(folder, CELLS).values()} - {""}
    below = []
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):  # it cannot be read
            if path.is_dir() and is_mtx(path):
                below.append(path)
    return [path for path in _matrices(folder) if prefixes[path] in barcodes] + below


def _only_matrix(folder: Path) -> Path:
    """Return the matrix of a folder, or of the only folder below that has one."""
    matrices = _matrices(folder)
    folders = [] if matrices else _folders(folder)
    if len(folders) == 1:
        return _only_matrix(folders[0])
    present = matrices or folders
    if len(present) == 1:
        return present[0]
    kind = "matrices" if matrices else "folders with a matrix"
    raise InputError(
        f"{folder}: holds {len(present)} {kind}: name one of them with --data: "
        f"{listed(path.name for path in present)}"
    )


class _Names(NamedTuple):
    """A file of names, and its lines as lists of columns; no path if there is no such file."""

    path: Path | None
    rows: list[list[str]]

    def fit(self, size: int) -> bool:
        """Return whether there are so many names: a line for each, and perhaps a header."""
        extra = len(self.rows) - size
        has_header = extra == 1 and HEADER.fullmatch(self.rows[0][0]) is not None
        return self.path is None or extra == 0 or has_header

    def of(self, size: int) -> list[list[str]]:
        """Return the lines without a header."""
        return self.rows[len(self.rows) - size :]


def _names_beside(matrix: Path, pattern: re.Pattern[str]) -> _Names:
    """Read the names that belong to a matrix.

    They are in the file with its prefix, or in one without any, or in the only such file of a
    folder with one matrix.
    """
    match = MATRIX.fullmatch(matrix.name)
    own = match["prefix"] if match else matrix.stem
    files = _files(matrix.parent, pattern)
    for prefix in (own, ""):
        for path, other in files.items():
            if other == prefix:
                return _read_names(path)
    if len(files) == 1 and len(_matrices(matrix.parent)) <= 1:
        return _read_names(*files)
    return _Names(None, [])


def _read_names(path: Path) -> _Names:
    with opened_text(path, is_list=True) as file:
        content = io.StringIO(file.read(), newline="")
        if path.name.lower().removesuffix(".gz").endswith(".csv"):
            return _Names(path, [row for row in csv.reader(content) if row])
        lines = (line.rstrip("\r\n") for line in content)
        return _Names(path, [[x.strip('"') for x in line.split("\t")] for line in lines if line])


# ---- what is in them


def _matrix(path: Path) -> coo_matrix:
    """Read a file of Matrix Market, dense or sparse."""
    from scipy.io import mminfo, mmread

    try:
        with opened(path) as file:
            rows, columns, entries, form, *_ = mminfo(_Lines(file))
        bounds.check_entries(entries if form == "coordinate" else rows * columns, path)
        with opened(path) as file:
            matrix = coo_matrix(mmread(_Lines(file)))
    except InputError:
        raise
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: is not a matrix that can be read ({hdf5.reason(error)}): copy or download it "
            "again"
        ) from error
    bounds.check_shape(matrix.shape, matrix.nnz, str(path))
    return matrix


class _Lines:
    """A stream of bytes whose last line has an end, and which has no null bytes (ValueError).

    The reader of SciPy 1.17 runs past the end of the memory otherwise, and crashes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.has_ended = stream, False

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        content = self.stream.read(size)
        if b"\0" in content:
            raise ValueError("it has null bytes")
        if not content and not self.has_ended:
            self.has_ended = True
            return b"\n"
        return content


def _orientation(
    path: Path, shape: tuple[int, int], cells: _Names, genes: _Names, transpose: bool | None
) -> tuple[bool, tuple[str, ...]]:
    """Return whether the rows of a matrix are genes, and notes on how that was told."""
    rows, columns = shape
    if transpose is not None:
        return transpose, ()
    if cells.path is None and genes.path is None:
        note = f"the rows of {path.name} are taken for genes: --no-transpose if they are cells"
        return True, (note,)
    if genes.fit(columns) and cells.fit(rows) and not (genes.fit(rows) and cells.fit(columns)):
        return False, (f"the rows of {path.name} are cells, by the number of names beside it",)
    return True, ()


def _barcodes(cells: _Names, size: int) -> np.ndarray | list[str]:
    """Return the barcodes, which are in the first column."""
    return numbered("cell", size) if cells.path is None else [row[0] for row in cells.of(size)]


def _var(genes: _Names, size: int) -> pd.DataFrame:
    """Return the symbols as names, with the ids and the types of 10x where they are there."""
    if genes.path is None:
        return named_frame(numbered("gene", size))
    rows = genes.of(size)
    width = min(map(len, rows), default=1)
    if width == 1:
        return named_frame([row[0] for row in rows])
    var = named_frame([row[1] or row[0] for row in rows], gene_ids=[row[0] for row in rows])
    types = [row[2] for row in rows] if width > 2 else []
    if {*types} & {tenx.EXPRESSION, *tenx.NO_GENES}:
        var["feature_types"] = types
    return var
