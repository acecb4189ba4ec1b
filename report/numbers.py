"""The numbers that the page and its figures show, computed from a `Content`.

Letters: N cells, C clusters, M marker genes that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from report.content import Content

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

SHOWN = 3  # marker genes of a cluster that are drawn
LISTED = 10  # marker genes of a cluster that the table lists


class Marker(NamedTuple):
    """A gene that is drawn, the cluster that it marks, and the gene's name for readers."""

    cluster: str
    gene: str
    shown: str


class Dots(NamedTuple):
    """What the dot plot shows of M genes in C clusters.

    Parameters
    ----------
    markers
        The genes, length M.
    mean
        Mean logarithm in a cluster, over the largest such mean of the gene, shape (M, C).
    share
        Share of the cluster's cells with counts of the gene, shape (M, C).
    """

    markers: list[Marker]
    mean: np.ndarray
    share: np.ndarray


def grouped(values: Sequence[Any] | np.ndarray | pd.Series) -> tuple[list[str], np.ndarray]:
    """Return the distinct values of cells as sorted text, and codes (N,), -1 where one is missing.

    The order of a categorical's categories is kept; those without cells are left out.
    """
    import pandas as pd

    categorical = pd.Categorical(values).remove_unused_categories()
    return [str(name) for name in categorical.categories], categorical.codes.astype(np.int64)


def symbols(markers: pd.DataFrame) -> pd.Series:
    """Return what readers call the genes of a table of markers: symbols, where it has any."""
    if "symbol" not in markers:
        return markers["gene"].astype(str)
    named = markers["symbol"].notna() & (markers["symbol"].astype(str) != "")
    return markers["symbol"].where(named, markers["gene"]).astype(str)


def ranked(content: Content, each: int) -> pd.DataFrame:
    """Return the first `each` markers of every cluster, in the order of clusters and ranks.

    The column `cluster` is text then, and `shown` has the gene's name for readers.
    """
    assert content.markers is not None
    table = content.markers.assign(
        cluster=content.markers["cluster"].astype(str), shown=symbols(content.markers)
    )
    table = table[table["cluster"].isin(content.cluster_names)].sort_values("rank", kind="stable")
    table = table.groupby("cluster", sort=False).head(each)
    place = {name: i for i, name in enumerate(content.cluster_names)}
    return table.sort_values("cluster", key=lambda names: names.map(place), kind="stable")


def top_markers(content: Content, each: int = SHOWN) -> list[Marker]:
    """Return the first `each` marker genes of every cluster, a gene once, under the first cluster.

    Genes that `logs` lacks cannot be drawn and are left out.
    """
    if content.markers is None or content.logs is None:
        return []
    chosen: dict[str, Marker] = {}
    for row in ranked(content, each).itertuples():
        gene = str(row.gene)
        if gene not in chosen and gene in content.logs.var_names:
            chosen[gene] = Marker(str(row.cluster), gene, str(row.shown))
    return list(chosen.values())


def gene_values(logs: ad.AnnData, genes: Sequence[str]) -> np.ndarray:
    """Return the logarithms of some genes as a dense array, shape (N, genes), float32."""
    import scipy.sparse as sp

    columns = logs.X[:, logs.var_names.get_indexer(genes)]
    dense = columns.toarray() if sp.issparse(columns) else np.asarray(columns)
    return dense.astype(np.float32)


def dots(content: Content) -> Dots | None:
    """Return what the dot plot shows, or None where there are no markers to draw."""
    markers = top_markers(content)
    if not markers:
        return None
    assert content.logs is not None
    values = gene_values(content.logs, [marker.gene for marker in markers])
    n_clusters, shape = len(content.cluster_names), (len(markers), len(content.cluster_names))
    mean, share = np.zeros(shape), np.zeros(shape)
    for code in range(n_clusters):
        inside = values[content.codes == code]
        if len(inside):
            mean[:, code], share[:, code] = inside.mean(axis=0), (inside > 0).mean(axis=0)
    largest = mean.max(axis=1, keepdims=True)
    return Dots(markers, np.divide(mean, largest, where=largest > 0, out=mean), share)


def probabilities(content: Content) -> np.ndarray | None:
    """Return the probability of each cell's own cluster, shape (N,), NaN without one, or None."""
    if content.proba is None:
        return None
    own = np.asarray(content.proba, np.float64)[np.arange(content.n_cells), content.codes]
    return np.where(content.codes < 0, np.nan, own)


def overview(content: Content) -> list[dict[str, Any]]:
    """Return a row for each cluster: its size, and the medians of its cells.

    The keys are cluster, cells, share (of all cells) and, where the content has them, probability,
    uncertain (share of cells), depth, mito and cell_type (as suggested). A median of no cells is
    None.
    """
    per_cell = {"probability": probabilities(content), "depth": content.depth, "mito": content.mito}
    suggested: dict[str, str] = {}
    if content.suggestions is not None:
        pairs = zip(content.suggestions["cluster"], content.suggestions["cell_type"], strict=True)
        suggested = {str(cluster): str(cell_type) for cluster, cell_type in pairs}
    rows = []
    for code, name in enumerate(content.cluster_names):
        inside = content.codes == code
        size = int(inside.sum())
        row: dict[str, Any] = {"cluster": name, "cells": size, "share": size / content.n_cells}
        for key, values in per_cell.items():
            if values is not None:
                row[key] = float(np.median(np.asarray(values)[inside])) if size else None
        if content.uncertain is not None:
            row["uncertain"] = float(np.mean(content.uncertain[inside])) if size else None
        if suggested:
            row["cell_type"] = suggested.get(name, "")
        rows.append(row)
    return rows


def confusion(content: Content) -> tuple[list[str], np.ndarray] | None:
    """Return the labels and how many of their cells each cluster has, shape (labels, C), or None.

    Cells without a label or a cluster are left out. The labels come in the order of the cluster
    that has most of their cells, so that agreement shows as a diagonal.
    """
    if content.labels is None:
        return None
    names, codes = grouped(content.labels)
    counts = np.zeros((len(names), len(content.cluster_names)), np.int64)
    known = (codes >= 0) & (content.codes >= 0)
    np.add.at(counts, (codes[known], content.codes[known]), 1)
    if not counts.any():
        return None
    order = np.lexsort((-counts.max(axis=1), counts.argmax(axis=1)))
    return [names[i] for i in order], counts[order]
