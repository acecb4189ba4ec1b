"""The rivals: other ways to cluster the same prepared data, each a function, and their command.

    python baselines.py --method leiden_k --dataname pbmc68k_reduced

Each method is a pure function of `preprocess.prepare`'s AnnData (N cells), the number of clusters
and the seed; `METHODS` lists them. The command reads, prepares and scores as `train.py` does, with
its flags but the network's. TensorFlow is never imported, slow packages where first needed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import random
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

import results
import train
import utils
from settings import Settings, build_parser, parse_settings
from utils import InputError

log = logging.getLogger("sctag")

DEFAULT_RESOLUTION = 1.0  # scanpy's, at which modularity is the classical one
LOG10_RESOLUTIONS = -4.0, 4.0  # from one cluster a component to one a cell, in most data
TRIES = 20  # halve that range to a factor of 1.00002, where only chance is left
SCVI_NEIGHBORS = 15  # of the graph of scVI's embedding: the default of --k_neighbors
# The settings that matter here; every other one is the network's.
USED = (
    *("dataname", "data", "data_dir", "layer", "label_key", "round_counts", "out", "overwrite"),
    *("quiet", "seed", "variant", "n_clusters", "highly_genes", "gene_selection", "clip"),
    *("k_neighbors", "n_pcs", "exact_knn_cells", "symmetric_graph"),
)


def checked(found: np.ndarray, n_clusters: int, name: str) -> np.ndarray:
    """Labels (N,) int renumbered from 0 without gaps; warns if they are not n_clusters groups."""
    groups, labels = np.unique(found, return_inverse=True)
    if len(groups) != n_clusters:
        log.warning("warning: %s found %d clusters, not %d", name, len(groups), n_clusters)
    return labels


def pca_kmeans(adata, *, n_clusters: int, seed: int) -> np.ndarray:
    """K-means of obsm["X_pca"]. Returns labels (N,)."""
    import clustering

    found = clustering.kmeans(adata.obsm["X_pca"], n_clusters=n_clusters, seed=seed)
    return checked(found, n_clusters, "K-means")


def spectral(adata, *, n_clusters: int, seed: int) -> np.ndarray:
    """Spectral clustering of the kNN graph, the published scTAG's start. Returns labels (N,)."""
    import clustering

    graph = adata.obsp["connectivities"]
    found = clustering.spectral(graph, n_clusters=n_clusters, seed=seed)
    return checked(found, n_clusters, "spectral clustering")


def undirected(adjacency: sp.csr_matrix) -> sp.csr_matrix:
    """The graph that Leiden and Louvain share: each edge once, of weight 1, no cell with itself.

    adjacency: (N, N), directed or not; two cells are joined if either lists the other. Returns the
    part above the diagonal, CSR float32 (N, N).
    """
    graph = sp.csr_matrix(sp.triu(adjacency + adjacency.T, k=1), dtype=np.float32)
    graph.data[:] = 1
    return graph


def leiden(graph: sp.csr_matrix, *, resolution: float, seed: int) -> np.ndarray:
    """Leiden's clusters by modularity (Traag et al. 2019), until no cell moves: labels (N,).

    graph: of `undirected`. scanpy's `leiden` with igraph's implementation.
    """
    import anndata
    import scanpy as sc

    if graph.nnz == 0:  # scanpy cannot read such a graph
        return np.arange(graph.shape[0])
    cells = anndata.AnnData(shape=(graph.shape[0], 0))
    how = {"flavor": "igraph", "directed": False, "n_iterations": -1}
    sc.tl.leiden(cells, resolution, adjacency=graph, random_state=seed, **how)
    return cells.obs["leiden"].to_numpy().astype(int)


def louvain(graph: sp.csr_matrix, *, resolution: float, seed: int) -> np.ndarray:
    """Louvain's clusters by modularity (Blondel et al. 2008), cells in random order: labels (N,).

    graph: of `undirected`. igraph's `community_multilevel`: the same modularity and resolution as
    its Leiden, and compiled; networkx's is Python, scanpy's needs one more package (louvain).
    """
    import igraph

    edges = graph.tocoo()
    network = igraph.Graph(n=graph.shape[0], edges=np.column_stack([edges.row, edges.col]))
    igraph.set_random_number_generator(random.Random(seed))
    try:
        return np.array(network.community_multilevel(resolution=resolution).membership)
    finally:
        igraph.set_random_number_generator(random)  # igraph's own default


def at_default(adata, *, n_clusters: int | None, seed: int, partition: Callable) -> np.ndarray:
    """`leiden` or `louvain` of the kNN graph at resolution 1; ignores n_clusters. Labels (N,)."""
    graph = undirected(adata.obsp["connectivities"])
    return partition(graph, resolution=DEFAULT_RESOLUTION, seed=seed)


def at_k(adata, *, n_clusters: int, seed: int, partition: Callable) -> np.ndarray:
    """`leiden` or `louvain` at a resolution that gives n_clusters, or the nearest found, said.

    Bisection of the resolution's logarithm, with one seed throughout. The number of clusters grows
    with the resolution, but not without steps back, so that one can be missed; of two numbers that
    are equally near, the first found counts. Returns labels (N,).
    """
    graph = undirected(adata.obsp["connectivities"])
    low, high = LOG10_RESOLUTIONS
    nearest, labels, at = np.inf, None, None
    for _ in range(TRIES):
        middle = (low + high) / 2
        tried = partition(graph, resolution=10**middle, seed=seed)
        found = tried.max() + 1
        if abs(found - n_clusters) < abs(nearest - n_clusters):
            nearest, labels, at = found, tried, 10**middle
        if found == n_clusters:
            break
        low, high = (middle, high) if found < n_clusters else (low, middle)
    name = partition.__name__
    if nearest != n_clusters:
        sentence = "warning: %s: no resolution tried gives %d clusters, %d is the nearest number"
        log.warning(sentence, name, n_clusters, nearest)
    log.info("%-9s %d clusters at resolution %.4g", name, nearest, at)
    return labels


def import_scvi():
    """The optional package scvi-tools; raises InputError, with how to install it, if it fails."""
    try:
        import scvi
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"scVI needs the optional package scvi-tools, which cannot be imported ({reason}): "
            "install it with `pip install scvi-tools`, or choose another --method"
        ) from None
    return scvi


def scvi_latent(adata, *, seed: int) -> np.ndarray:
    """scVI's embedding (N, 10) of layers["counts"] (Lopez et al. 2018), all its defaults kept.

    Sets the global seeds (scvi-tools knows no others). Raises InputError without scvi-tools.
    """
    import anndata

    scvi = import_scvi()
    counts = anndata.AnnData(adata.layers["counts"].copy())  # scvi-tools writes into its input
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(counts)
    model = scvi.model.SCVI(counts)
    model.train(enable_progress_bar=False)
    return model.get_latent_representation()


def scvi_kmeans(adata, *, n_clusters: int, seed: int) -> np.ndarray:
    """K-means of scVI's embedding (`scvi_latent`). Returns labels (N,)."""
    import clustering

    found = clustering.kmeans(scvi_latent(adata, seed=seed), n_clusters=n_clusters, seed=seed)
    return checked(found, n_clusters, "K-means")


def scvi_leiden(adata, *, n_clusters: int | None, seed: int) -> np.ndarray:
    """`leiden` at resolution 1 of the symmetric 15-NN graph of scVI's embedding. Labels (N,)."""
    import preprocess

    z = scvi_latent(adata, seed=seed)
    graph = preprocess.knn_graph(z, k=SCVI_NEIGHBORS, symmetric=True, exact=True, seed=seed)
    return leiden(undirected(graph), resolution=DEFAULT_RESOLUTION, seed=seed)


class Method(NamedTuple):
    """A rival: function(adata, *, n_clusters, seed) -> labels (N,) from 0, and what it needs."""

    function: Callable[..., np.ndarray]
    needs_k: bool
    sentence: str
    needs_scvi: bool = False


_GRAPH, _TO_K = "of the kNN graph at resolution 1", "at a resolution that gives n_clusters"
METHODS: dict[str, Method] = {
    "pca_kmeans": Method(pca_kmeans, True, "K-means of the principal components"),
    "spectral": Method(spectral, True, "spectral clustering of the kNN graph"),
    "leiden": Method(partial(at_default, partition=leiden), False, f"Leiden {_GRAPH}"),
    "leiden_k": Method(partial(at_k, partition=leiden), True, f"Leiden {_TO_K}"),
    "louvain": Method(partial(at_default, partition=louvain), False, f"Louvain {_GRAPH}"),
    "louvain_k": Method(partial(at_k, partition=louvain), True, f"Louvain {_TO_K}"),
    "scvi_kmeans": Method(scvi_kmeans, True, "K-means of scVI's embedding", True),
    "scvi_leiden": Method(scvi_leiden, False, "Leiden of its 15-NN graph at resolution 1", True),
}


def parse(argv: list[str] | None = None) -> tuple[str, Settings]:
    """The method's name and the settings: `train.py`'s flags without the network's.

    Exits with status 2 and one sentence on stderr where a flag cannot be used.
    """
    parser = build_parser()
    parser.prog = "baselines.py"
    parser.description = "Cluster single-cell RNA-seq counts with a rival of scTAG."
    for action in parser._actions:  # argparse has no public way to change a flag's help
        if action.dest == "out":
            action.help = action.help.replace("VARIANT", "METHOD")
        elif action.dest not in (*USED, "help"):
            action.help = argparse.SUPPRESS
    described = "; ".join(f"{name}: {method.sentence}" for name, method in METHODS.items())
    parser.add_argument("--method", required=True, choices=METHODS, metavar="NAME", help=described)
    absent = object()
    unused = [field.name for field in fields(Settings) if field.name not in USED]
    given = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(unused, absent))))
    for name in unused:
        if given.pop(name, absent) is not absent:
            parser.error(f"--{name} is for scTAG's network, which no method here uses")
    name = given.pop("method")
    return name, replace(parse_settings(["--variant", given["variant"]]), **given)


def run(name: str, settings: Settings) -> str:
    """The whole job, from file to results folder; returns the line that the command ends with."""
    stopwatch, method = train.Stopwatch(), METHODS[name]
    if method.needs_scvi:  # a missing package is said before anything is read
        import_scvi()
    if not method.needs_k:
        settings = replace(settings, n_clusters=None)
    out_dir = settings.out or Path("results", settings.name, f"{name}-seed{settings.seed}")
    with results.staged(out_dir, overwrite=settings.overwrite) as staging:
        if (out_dir / results.DATA).exists():  # its files would be left among the new ones
            raise InputError(f"{out_dir} holds a run of train.py: choose another folder as --out")
        with stopwatch("read"):
            adata, cell_types, source = train.read(settings)
        with stopwatch("prepare"):
            adata, cell_types = train.prepare(adata, cell_types, settings)
        n_clusters = None
        if method.needs_k:
            n_clusters = train.count_clusters(settings, cell_types, adata.n_obs)
        with stopwatch("cluster"):
            labels = method.function(adata, n_clusters=n_clusters, seed=settings.seed)
        sizes = np.bincount(labels).tolist()
        metrics = train.score_all(cell_types, scores=labels)
        metrics |= {"cells": adata.n_obs, "genes": adata.n_vars, "n_clusters": n_clusters}
        metrics |= {"clusters_found": len(sizes), "cluster_sizes": sizes}
        with stopwatch("write"):
            write(staging, name, settings, source, adata.obs_names, labels)
        metrics["seconds"] = stopwatch.total()
        metrics["peak_memory_mb"] = round(utils.peak_memory_mb(), 1)
        results.write_json(staging / results.METRICS, metrics)
    return train.summarise(metrics | {"empty_clusters": 0}, out_dir)


def write(staging: Path, name: str, settings: Settings, source: dict, cells, labels) -> None:
    """labels.csv (cell, cluster) and settings.json: all that is needed to repeat the run."""
    import pandas as pd

    table = pd.DataFrame({"cell": cells, "cluster": labels})
    table.to_csv(staging / results.LABELS, index=False)
    used = {key: value for key, value in settings.to_json().items() if key in USED}
    record = {"settings": {"method": name} | used, "data": source} | results.environment()
    record["versions"]["igraph"] = importlib.metadata.version("igraph")
    if METHODS[name].needs_scvi:
        record["versions"]["scvi-tools"] = import_scvi().__version__
    results.write_json(staging / results.SETTINGS, record)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 (results not written), 2 (unusable input)."""
    name, settings = parse(argv)
    return utils.run_command("baselines.py", lambda: run(name, settings), quiet=settings.quiet)


if __name__ == "__main__":
    sys.exit(main())
