"""Likely cell types of clusters, by a list of marker genes that the user gives.

Letters: N cells, G genes, C clusters, T cell types.
"""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import csr_blocks
from annotation import genes
from formats import hdf5
from formats.parts import listed, opened_text
from utils import InputError

if TYPE_CHECKING:  # slow to import
    import anndata as ad
    import pandas as pd

log = logging.getLogger("sctag")

UNCLEAR = "unclear"
# A cluster is unclear if its best type scores less than a tenth of a standard deviation, or if the
# runner-up has at least two thirds of the best score.
LEAST_SCORE = 0.1
RUNNER_UP = 2 / 3
STORED = 2**24  # values of genes that are looked at together, about

SUFFIXES = (".csv", ".tsv", ".txt", ".gmt")
ADVICE = "give a cell type and a gene in each row, or a cell type and all of its genes"
# Titles of columns, in lower case and without spaces, dots and underscores.
TYPE_TITLES = frozenset({"celltype", "celltypes", "type", "cellname", "cell", "cluster", "name"})
GENE_TITLES = (  # the second where there is none of the first
    re.compile(r"(official)?(gene|marker|feature)?(gene|marker|symbol|name)s?\d*"),
    re.compile(r"(gene|ensembl|feature)*ids?"),
)


# --- The list -------------------------------------------------------------------------------------


def read_sets(path: Path | str) -> dict[str, list[str]]:
    """Return the marker genes of each cell type, in the order of a file.

    A .gmt has a type a row: its name, a description, and its genes, separated by tabs. In a table,
    .csv, .tsv or .txt, the first column is the cell type and all others are genes, so that a row
    may be a pair, or a type with all of its genes. If titles in the first row name one column as
    that of the types (`cell_type`, `type`, `cell name`, ...) and others as those of the genes
    (`gene`, `symbol`, `marker1`, `marker2`, ..., or else `gene_id`), only these are read.

    A field may hold several genes, with commas, semicolons or spaces between them. The columns are
    separated by tabs if the first row has one, or else by the first comma or semicolon in it. A
    line that begins with # is passed over, and the file may be packed by gzip. Rows of one type are
    put together, and a gene that repeats in it counts once.

    Raises
    ------
    InputError
        If the file is missing, is of another kind, or lacks types or genes.
    """
    path = Path(path)
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(SUFFIXES) and path.exists():
        raise InputError(
            f"{path}: a list of marker genes is a table of text ({', '.join(SUFFIXES)}): {ADVICE}"
        )
    with hdf5.input_errors(path), opened_text(path, is_list=True) as file:
        lines = file.read().splitlines()
    rows = _rows(lines, is_gmt=name.endswith(".gmt"))
    sets: dict[str, dict[str, None]] = {}
    for number, cell_type, fields in rows:
        names = [gene for field in fields for gene in re.split(r"[,;\s]+", field) if gene]
        if not cell_type or not names:
            lacking = "gene" if cell_type else "cell type"
            raise InputError(f"{path}: line {number} names no {lacking}: {ADVICE}")
        sets.setdefault(cell_type, {}).update(dict.fromkeys(names))
    if not sets:
        raise InputError(f"{path}: names no cell type: {ADVICE}")
    return {cell_type: list(names) for cell_type, names in sets.items()}


def _rows(lines: list[str], *, is_gmt: bool) -> list[tuple[int, str, list[str]]]:
    """Return of each row that is not empty its line, from 1, the cell type and fields of genes."""
    separator = "\t" if is_gmt else _separator(lines)
    rows = []
    for number, line in enumerate(lines, 1):
        fields = [field.strip() for field in next(csv.reader([line], delimiter=separator), [])]
        if any(fields) and not fields[0].startswith("#"):
            rows.append((number, fields))
    if is_gmt:
        return [(number, fields[0], fields[2:]) for number, fields in rows]
    columns = _titled(rows[0][1]) if rows else None
    if columns is None:
        return [(number, fields[0], fields[1:]) for number, fields in rows]
    of_type, of_genes = columns
    width = 1 + max(of_type, *of_genes)
    padded = [(number, fields + [""] * (width - len(fields))) for number, fields in rows[1:]]
    return [(number, row[of_type], [row[i] for i in of_genes]) for number, row in padded]


def _separator(lines: list[str]) -> str:
    """Return what separates the columns: a tab, or the first row's first comma or semicolon."""
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if "\t" in first:
        return "\t"
    mark = re.search("[,;]", re.sub(r'^\s*"[^"]*"', "", first))  # not in a quoted first field
    return mark.group() if mark else ","


def _titled(fields: list[str]) -> tuple[int, list[int]] | None:
    """Return the columns of the types and of the genes, or None if a first row has no titles."""
    titles = [re.sub(r"[\s._-]", "", field).lower() for field in fields]
    of_type = next((i for i, title in enumerate(titles) if title in TYPE_TITLES), None)
    if of_type is None:
        return None
    for pattern in GENE_TITLES:
        of_genes = [
            i for i, title in enumerate(titles) if pattern.fullmatch(title) and i != of_type
        ]
        if of_genes:
            return of_type, of_genes
    return None


# --- What the list says of the clusters -----------------------------------------------------------


def suggest(logs: ad.AnnData, clusters: pd.Categorical, sets: dict[str, list[str]]) -> pd.DataFrame:
    """Return how well each cell type suits each cluster, and the type that suits it best.

    The score of a type is the mean of the z-scores of its genes in the cluster: by how many
    standard deviations the logarithms of the cluster lie above the middle. Mean and standard
    deviation of a gene are over all cells, with cells weighed so that each cluster counts the same.

        score(c, t) = mean over the genes g of t of (mean of x_g in c - mean of x_g) / sd of x_g

    The idea is ScType's (Ianevski et al. 2022, Nature Communications 13, 1246): z-scores, so that
    no gene counts more because it is high, and a mean over the cells of the cluster. There a common
    type has lower scores than a rare one, which the weights prevent. Scanpy's `score_genes`, which
    does not scale the genes, was tried first. With lists of 3 to 10 well-known genes a type it put
    35 of the 44 known types of six public data sets right; it called the ductal cells of a mouse
    pancreas beta cells, because every droplet there has some insulin. The z-scores put 43 right, 3
    of them as unclear; the list had no type for the 44th.

    A type is suggested only; a cluster is "unclear" if no type reaches a score of 0.1, or if the
    runner-up has two thirds of the best score or more, as two types in one cluster do.

    Parameters
    ----------
    logs
        In X, CSR, the natural logarithm of 1 + count / size factor of all genes, shape (N, G).
        Genes are looked up by name, as written and then in any case, and by symbol.
    clusters
        Cluster of each cell, shape (N,); an empty category is left out.
    sets
        Marker genes of each cell type, as `read_sets` returns them.

    Returns
    -------
    A row a cluster, for a .csv: cluster, suggestion, best, best_score, best_genes (how many of its
    genes were found, such as "5 of 6"), runner_up with the same, margin (the difference of the
    scores), and "score of TYPE" for every type of which a gene was found. Where only one type has
    genes there is no runner-up, and no margin.

    Raises
    ------
    InputError
        If no gene of the list is among those of the data.
    """
    import pandas as pd

    positions = _positions(logs.var, sets)
    names, z = _z_scores(logs, clusters)
    scores = np.column_stack([z[:, of_type].mean(axis=1) for of_type in positions.values()])
    counted = {name: f"{len(positions[name])} of {len(sets[name])}" for name in positions}
    rows = [
        {"cluster": name} | _ranked(dict(zip(positions, row, strict=True)), counted)
        for name, row in zip(names, scores, strict=True)
    ]
    every = pd.DataFrame(scores, columns=[f"score of {name}" for name in positions])
    return pd.concat([pd.DataFrame(rows), every], axis=1)


def _ranked(scores: dict[str, float], counted: dict[str, str]) -> dict[str, object]:
    """Return the columns on the best type of a cluster and the runner-up, by the scores of types.

    `counted` says of each type how many of its genes are in the data.
    """
    order = sorted(scores, key=lambda name: -scores[name])
    best, second = order[0], order[1] if len(order) > 1 else ""
    rival = scores.get(second, np.nan)  # which is not above anything
    is_clear = scores[best] >= LEAST_SCORE and not rival >= RUNNER_UP * scores[best]
    return {
        "suggestion": best if is_clear else UNCLEAR,
        "best": best,
        "best_score": scores[best],
        "best_genes": counted[best],
        "runner_up": second,
        "runner_up_score": rival,
        "runner_up_genes": counted.get(second, ""),
        "margin": scores[best] - rival,
    }


def check(var: pd.DataFrame, path: Path | str) -> None:
    """Log what a list of marker genes has, and the types without a gene in the data.

    Parameters
    ----------
    var
        Annotation of the genes of the data.
    path
        The list, as `read_sets` reads it.

    Raises
    ------
    InputError
        If none of its genes is among those of the data, or if most of its cell types are genes.
    """
    sets = read_sets(path)
    n_genes = len({gene for names in sets.values() for gene in names})
    log.info("types     %d cell types with %d marker genes, from %s", len(sets), n_genes, path)
    lookup = genes.Positions(var)
    # Types may be called by their genes, as Sst and Vip neurons are: such a gene is in the set.
    misplaced = [name for name in sets if lookup.of(name) is not None and name not in sets[name]]
    if len(misplaced) > len(sets) / 2:
        raise InputError(
            f"{path}: most of its cell types are genes ({listed(misplaced)}), as if its rows or "
            f"columns were turned: {ADVICE}"
        )
    absent = sets.keys() - _positions(var, sets).keys()
    if absent:
        log.warning("warning: cell types without a gene in the data: %s", listed(absent))


def _positions(var: pd.DataFrame, sets: dict[str, list[str]]) -> dict[str, list[int]]:
    """Return where the genes of each type stand, of the types with any; InputError if none has."""
    lookup = genes.Positions(var)
    positions = {
        name: sorted({place for gene in of_type if (place := lookup.of(gene)) is not None})
        for name, of_type in sets.items()
    }
    if not any(positions.values()):
        asked = [gene for of_type in sets.values() for gene in of_type]
        raise InputError(
            f"none of the {len(set(asked))} marker genes is among the data's genes: the list has "
            f"{', '.join(asked[:3])}, the data have {', '.join(map(str, var.index[:3]))}: give "
            "the genes of the list as the data name them"
        )
    return {name: places for name, places in positions.items() if places}


def _z_scores(logs: ad.AnnData, clusters: pd.Categorical) -> tuple[list[str], np.ndarray]:
    """Return the names of the C clusters with cells, and z-scores of all genes in them, (C, G).

    The cells are weighed so that each cluster counts the same. A gene that is constant has 0.
    """
    import pandas as pd
    import scipy.sparse as sp

    used = pd.Categorical(clusters).remove_unused_categories()
    n_cells, n_clusters = len(used), len(used.categories)
    share = 1 / np.bincount(used.codes)[used.codes]  # of a cell in its cluster
    average = sp.csr_matrix((share, (used.codes, np.arange(n_cells))), shape=(n_clusters, n_cells))
    means, squares = np.zeros((n_clusters, logs.n_vars)), np.zeros(logs.n_vars)
    for some, block in csr_blocks.gene_blocks(logs.X, STORED):
        means[:, some] = (average @ block).toarray()
        squares[some] = np.asarray((average @ block.power(2)).mean(axis=0)).ravel()
    middle = means.mean(axis=0)
    variance = squares - middle**2
    differs = variance > 1e-10 * squares  # more than rounding
    sd = np.sqrt(np.where(differs, variance, 1))
    z = np.where(differs, (means - middle) / sd, 0)
    return [str(name) for name in used.categories], z
