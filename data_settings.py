"""The settings of the data: what is read, and how counts become what the network reads.

They are declared as those of `settings.py`, of which they are a part: that module says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from declare import setting

LABEL_KEY = "cell_type1"  # the column of true labels that the published data sets have

_data = partial(setting, group="data", stage="data")
_cells = partial(setting, group="cells", stage="data")
_graph = partial(setting, group="genes and graph", stage="data")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which file is read, and what of it."""

    dataname: str = _data(
        "Quake_Smart-seq2_Limb_Muscle", "read DATA_DIR/NAME/data.h5", metavar="NAME"
    )
    data: list[Path] | None = _data(
        None,
        "read this file or folder, whose contents decide what it is, instead of --dataname: .h5ad, "
        ".h5mu, .h5 (10x, published), .loom, .zarr, .mtx or its folder, .csv or .tsv; several, or "
        "a folder of several, are samples, joined on the genes that they share: obs[sample] says "
        "which a cell is of, and the results are named after the first, as A+2",
        metavar="PATH",
        neutral=True,
    )
    data_dir: Path = _data(Path("data"), "where --dataname looks", neutral=True)
    layer: str | None = _data(
        None,
        "layer that holds the counts, or `raw` for those of raw.X with its genes",
        shown="X, or the only other place with whole counts",
    )
    genome: str | None = _data(
        None, "genome whose genes are read, of a 10x .h5 with several", shown="the only one"
    )
    transpose: bool | None = _data(
        None,
        "whether rows are genes in a table of text, an .mtx or a plain X",
        shown="guessed from the names",
    )
    gene_key: str | None = _data(
        None,
        "column of var with the names of the genes, such as their symbols",
        shown="the names that the file gives them",
    )
    label_key: str | None = _data(
        None,
        "column of obs with the true labels, for the scores only; one that you name must be there",
        shown=f"{LABEL_KEY}, if there",
    )
    labels: Path | None = _data(
        None,
        "file of the true labels in place of --label_key, .csv or .tsv: a row for each cell, its "
        "name and its label",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which cells go in, in the order in which they are left out; see `selection.kept`."""

    cells: Path | None = _cells(
        None,
        "take only the cells that this file names, one a line or in the first column of a .csv or "
        ".tsv",
        metavar="FILE",
    )
    subset: list[str] | None = _cells(
        None,
        "take only the cells whose column KEY of obs has the value, or one of several as KEY=A,B; "
        "KEY!=VALUE leaves them out; all must hold if several are given",
        metavar="KEY=VALUE",
    )
    min_counts: int = _cells(0, "leave out cells with fewer counts than this", low=0)
    min_genes: int = _cells(0, "leave out cells with counts of fewer genes than this", low=0)
    max_mito: float | None = _cells(
        None,
        "leave out cells with a larger share of mitochondrial counts than this, of genes named "
        "MT-... or mt-...",
        low=0,
        below=1,
        metavar="SHARE",
    )
    subsample: int | None = _cells(
        None,
        "take a random sample of so many of the cells that are left, by the seed, for a first look",
        low=2,
        metavar="INT",
    )


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How counts become what the network reads; see `preprocess.prepare`."""

    round_counts: bool = _data(
        False,
        "round counts that are not whole up, as the published suite does, instead of refusing them",
        official=True,
    )
    batch_key: str | None = _data(
        None,
        "column of obs with the batch of each cell, such as its donor: genes are chosen within "
        "batches, Harmony corrects the components, and the count decoder is told the batch",
        shown="no batches",
    )
    min_cells: int = _graph(1, "leave out genes with counts in fewer cells than this", low=1)
    highly_genes: int = _graph(500, "number of variable genes to keep", low=1)
    gene_selection: str = _graph(
        "pearson",
        "how variable genes are chosen (scanpy's methods)",
        official="seurat",
        choices=("seurat", "seurat_v3", "cell_ranger", "pearson"),
    )
    log_genes: int = _graph(
        2000,
        "number of variable genes whose logarithms, not scaled, are a second view of the cells; 0: "
        "no such view",
        official=0,
        low=0,
    )
    clip: float | None = _graph(
        10.0,
        "largest absolute z-score of a gene, or `none`",
        official=None,
        above=0,
        words={"none": None},
    )
    k_neighbors: int = _graph(15, "neighbours of a cell in the graph, itself included", low=1)
    n_pcs: int = _graph(
        20, "principal components in which neighbours are sought", official=50, low=1
    )
    exact_knn_cells: int = _graph(
        30_000,
        "neighbours are exact in data of up to so many cells; in larger ones those of a cell are "
        "sought among a part of the cells, which has some 99 % of them",
        low=0,
    )
    symmetric_graph: bool = _graph(
        True,
        "join two cells if either lists the other, instead of a directed graph",
        official=False,
    )
    neighbour_metric: bool = _graph(
        True,
        "measure distances in units of how far neighbours are apart in each direction",
        official=False,
    )
