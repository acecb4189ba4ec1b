"""The rivals: other ways to cluster the same prepared data, each a function, and their command.

    python baselines.py --method leiden_k --dataname pbmc68k_reduced

Each method is a pure function of `preprocess.prepare`'s AnnData (N cells), the number of clusters
and the seed; `METHODS` lists them. The command reads, prepares and scores as `train.py` does, with
its flags but the network's. TensorFlow is never imported, slow packages where first needed.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import results
import train
import utils
from communities import DEFAULT_RESOLUTION, at_k, leiden, louvain, undirected
from settings import Settings, build_parser, parse_settings
from utils import InputError

log = logging.getLogger("sctag")

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


def at_default(adata, *, n_clusters: int | None, seed: int, partition: Callable) -> np.ndarray:
    """`leiden` or `louvain` of the kNN graph at resolution 1; ignores n_clusters. Labels (N,)."""
    graph = undirected(adata.obsp["connectivities"])
    return partition(graph, resolution=DEFAULT_RESOLUTION, seed=seed)


def to_k(adata, *, n_clusters: int, seed: int, partition: Callable) -> np.ndarray:
    """`leiden` or `louvain` of the kNN graph, by `communities.at_k`. Returns labels (N,)."""
    graph = undirected(adata.obsp["connectivities"])
    return at_k(graph, n_clusters=n_clusters, seed=seed, partition=partition)


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
    "leiden_k": Method(partial(to_k, partition=leiden), True, f"Leiden {_TO_K}"),
    "louvain": Method(partial(at_default, partition=louvain), False, f"Louvain {_GRAPH}"),
    "louvain_k": Method(partial(to_k, partition=louvain), True, f"Louvain {_TO_K}"),
    "scvi_kmeans": Method(scvi_kmeans, True, "K-means of scVI's embedding", True),
    "scvi_leiden": Method(scvi_leiden, False, "Leiden of its 15-NN graph at resolution 1", True),
}


def parse(argv: list[str] | None = None) -> tuple[str, Settings]:
    """The method's name and the settings: `train.py`'s flags without the network's.

    Exits with status 2 and one sentence on stderr where a flag cannot be used.
    """
    parser = build_parser(
        "baselines.py",
        "Cluster single-cell RNA-seq counts with a rival of scTAG.",
        run_name="METHOD",
        offered=USED,
        refusal="is for train.py: no method here uses it",
    )
    described = "; ".join(f"{name}: {method.sentence}" for name, method in METHODS.items())
    parser.add_argument("--method", required=True, choices=METHODS, metavar="NAME", help=described)
    given = vars(parser.parse_args(argv))
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
        with stopwatch("read"):
            adata, cell_types, source = train.read(settings)
        with stopwatch("prepare"):
            adata, cell_types = train.prepare(adata, cell_types, settings)
        n_clusters, source_of_number = None, "found by the method"
        if method.needs_k:
            n_clusters, source_of_number = train.count_clusters(settings, cell_types, adata)
        with stopwatch("cluster"):
            if method.needs_k and n_clusters is None:
                import estimation

                points, graph = adata.obsm["X_pca"], adata.obsp["connectivities"]
                estimate = estimation.estimate_n_clusters([points], graph, seed=settings.seed)
                n_clusters = estimate.n_clusters
                train.write_estimate(staging, estimate)
            labels = method.function(adata, n_clusters=n_clusters, seed=settings.seed)
        sizes = np.bincount(labels).tolist()
        metrics = train.score_all(cell_types, scores=labels)
        metrics |= {"cells": adata.n_obs, "genes": adata.n_vars, "n_clusters": n_clusters}
        metrics["n_clusters_source"] = source_of_number
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
