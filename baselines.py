"""The rivals: other ways to cluster the same prepared data, each a function, and their command.

    python baselines.py --method leiden_k --dataname pbmc68k_reduced

Each method is a function of prepared data (N cells), the number of clusters and the seed, and one
line in `METHODS`. The command runs the pipeline of `train.py` with its flags for data and run.
No method here uses TensorFlow; slow packages are imported where they are first needed.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import batches
import command
import folders
import pipeline
import scanpy_steps
import settings
import supervise
from results import Fitted
from settings import Settings
from utils import InputError, Stopwatch

if TYPE_CHECKING:
    import anndata as ad

    from estimation import Number

log = logging.getLogger("sctag")

STAGES = ("data", "run")  # of the settings that matter here; every other one is the network's
MIXTURE_STARTS = 10  # of the Gaussian mixture, of which the best is kept
SCVI_NEIGHBORS = 15  # of the graph of scVI's embedding: the default of --k_neighbors


# --- The methods ----------------------------------------------------------------------------------


def checked(groups: np.ndarray, n_clusters: int, name: str) -> np.ndarray:
    """Return labels (N,) renumbered from 0 without gaps; warn if they are not n_clusters groups."""
    names, labels = np.unique(groups, return_inverse=True)
    if len(names) != n_clusters:
        log.warning("warning: %s found %d clusters, not %d", name, len(names), n_clusters)
    return labels


def pca_kmeans(adata: ad.AnnData, *, n_clusters: int, seed: int) -> np.ndarray:
    """Return labels (N,) by K-means of obsm["X_pca"]."""
    import clustering

    labels = clustering.kmeans(adata.obsm["X_pca"], n_clusters=n_clusters, seed=seed)
    return checked(labels, n_clusters, "K-means")


def pca_mixture(adata: ad.AnnData, *, n_clusters: int, seed: int) -> np.ndarray:
    """Return labels (N,) by a mixture of Gaussians, each with its own full covariance.

    The mixture is fitted to obsm["X_pca"], ten times from K-means. Source: scikit-learn's
    `GaussianMixture`. Raises InputError where a component has hardly two distinct cells.
    """
    import warnings

    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(n_clusters, n_init=MIXTURE_STARTS, random_state=seed)
    with warnings.catch_warnings():
        # A start that has not converged is still compared, and the best of all is taken.
        warnings.filterwarnings("ignore", message=".*did not converge")
        # Fewer distinct points than clusters: `checked` counts the clusters.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        try:
            labels = mixture.fit_predict(adata.obsm["X_pca"])
        except ValueError:
            raise InputError(
                f"a Gaussian mixture of {n_clusters} cannot be fitted, since too many cells are "
                "alike: give fewer clusters with --n_clusters, or choose another --method"
            ) from None
    return checked(labels, n_clusters, "the Gaussian mixture")


def spectral(adata: ad.AnnData, *, n_clusters: int, seed: int) -> np.ndarray:
    """Return labels (N,) by spectral clustering of the kNN graph, the published scTAG's start."""
    import clustering

    graph = adata.obsp["connectivities"]
    labels = clustering.spectral(graph, n_clusters=n_clusters, seed=seed)
    return checked(labels, n_clusters, "spectral clustering")


def communities(
    adata: ad.AnnData, *, n_clusters: int | None, seed: int, algorithm: str
) -> np.ndarray:
    """Return labels (N,) by Leiden or Louvain of the kNN graph at resolution 1.

    The algorithm is the name of a function in `clustering`; n_clusters is not used.
    """
    import clustering

    partition = getattr(clustering, algorithm)
    graph = clustering.undirected(adata.obsp["connectivities"])
    return partition(graph, resolution=clustering.DEFAULT_RESOLUTION, seed=seed)


def communities_at_k(
    adata: ad.AnnData, *, n_clusters: int, seed: int, algorithm: str
) -> np.ndarray:
    """Return labels (N,) by Leiden or Louvain of the kNN graph at n_clusters: `clustering.at_k`."""
    import clustering

    partition = getattr(clustering, algorithm)
    graph = clustering.undirected(adata.obsp["connectivities"])
    return clustering.at_k(graph, n_clusters=n_clusters, seed=seed, partition=partition)


def import_scvi() -> Any:
    """Return the optional package scvi-tools; InputError, with how to install it, if it fails."""
    try:
        import scvi
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"scVI needs the optional package scvi-tools, which cannot be imported ({reason}): "
            "install it with `pip install scvi-tools`, or choose another --method"
        ) from None
    return scvi


def scvi_model(adata: ad.AnnData, *, seed: int) -> Any:
    """Return an untrained scVI of layers["counts"], with all its defaults.

    It is told the batches, if there are any. The global seeds are set, because scvi-tools knows no
    others. Source: Lopez et al. 2018. Raises InputError without scvi-tools.
    """
    import anndata

    scvi = import_scvi()
    # A copy, because scvi-tools writes into its input.
    counts = anndata.AnnData(adata.layers["counts"].copy(), obs=adata.obs.copy())
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(counts, batch_key=batches.key_of(adata))
    return scvi.model.SCVI(counts)


def scvi_latent(adata: ad.AnnData, *, seed: int) -> np.ndarray:
    """Return the embedding (N, 10) of a trained `scvi_model`."""
    model = scvi_model(adata, seed=seed)
    model.train(enable_progress_bar=False)
    return model.get_latent_representation()


def scvi_kmeans(adata: ad.AnnData, *, n_clusters: int, seed: int) -> np.ndarray:
    """Return labels (N,) by K-means of scVI's embedding."""
    import clustering

    labels = clustering.kmeans(scvi_latent(adata, seed=seed), n_clusters=n_clusters, seed=seed)
    return checked(labels, n_clusters, "K-means")


def scvi_leiden(adata: ad.AnnData, *, n_clusters: int | None, seed: int) -> np.ndarray:
    """Return labels (N,) by Leiden at resolution 1 of the symmetric 15-NN graph of scVI's z."""
    import clustering
    import neighbours

    z = scvi_latent(adata, seed=seed)
    graph = neighbours.knn_graph(z, k=SCVI_NEIGHBORS, symmetric=True, exact=True, seed=seed)
    edges = clustering.undirected(graph)
    return clustering.leiden(edges, resolution=clustering.DEFAULT_RESOLUTION, seed=seed)


def scanpy_usual(adata: ad.AnnData, *, n_clusters: int | None, seed: int) -> np.ndarray:
    """Return labels (N,) by Leiden at resolution 1 of the graph of `scanpy_steps.cells`."""
    import clustering

    graph = scanpy_steps.graph(adata, seed=seed)
    return clustering.leiden(graph, resolution=clustering.DEFAULT_RESOLUTION, seed=seed)


def scanpy_usual_at_k(adata: ad.AnnData, *, n_clusters: int, seed: int) -> np.ndarray:
    """Return labels (N,) by Leiden of the graph of `scanpy_steps.cells` at n_clusters."""
    import clustering

    graph = scanpy_steps.graph(adata, seed=seed)
    return clustering.at_k(graph, n_clusters=n_clusters, seed=seed, partition=clustering.leiden)


def no_network(adata: ad.AnnData, *, n_clusters: int, seed: int) -> np.ndarray:
    """Return labels (N,) by scTAG's own consensus without its network: what that must beat."""
    import views

    found = views.consensus(adata, None, metric=True, n_clusters=n_clusters, seed=seed)
    return checked(found.labels, n_clusters, "the consensus")


# --- What the number of clusters is estimated on --------------------------------------------------

# Returns points (N, F) and a graph (N, N) of prepared data and a seed.
Space = Callable[..., tuple[np.ndarray, Any]]


def components_and_graph(adata: ad.AnnData, *, seed: int) -> tuple[np.ndarray, Any]:
    """Return the principal components (N, P) and their kNN graph (N, N)."""
    return adata.obsm["X_pca"], adata.obsp["connectivities"]


def all_views(adata: ad.AnnData, *, seed: int) -> tuple[np.ndarray, Any]:
    """Return all views in the metric (N, F) and their graph (N, N), as scTAG without a network."""
    import views

    return views.features(adata, metric=True), views.graph(adata)


def scanpy_space(adata: ad.AnnData, *, seed: int) -> tuple[np.ndarray, Any]:
    """Return the components (N, P) and the graph (N, N) of `scanpy_steps.cells`."""
    cells = scanpy_steps.cells(adata, seed=seed)
    return cells.obsm["X_pca"], cells.obsp["connectivities"]


class Method(NamedTuple):
    """A rival: function(adata, *, n_clusters, seed) -> labels (N,) from 0, and what it needs."""

    function: Callable[..., np.ndarray]
    needs_k: bool
    sentence: str
    needs_scvi: bool = False
    space: Space = components_and_graph  # on which the number of clusters is estimated


_AT_1, _TO_K = "at resolution 1", "at a resolution that gives n_clusters"
_GRAPH = f"of the kNN graph {_AT_1}"
METHODS: dict[str, Method] = {
    "pca_kmeans": Method(pca_kmeans, True, "K-means of the principal components"),
    "pca_mixture": Method(pca_mixture, True, "Gaussian mixture of the principal components"),
    "spectral": Method(spectral, True, "spectral clustering of the kNN graph"),
    "leiden": Method(partial(communities, algorithm="leiden"), False, f"Leiden {_GRAPH}"),
    "leiden_k": Method(partial(communities_at_k, algorithm="leiden"), True, f"Leiden {_TO_K}"),
    "louvain": Method(partial(communities, algorithm="louvain"), False, f"Louvain {_GRAPH}"),
    "louvain_k": Method(partial(communities_at_k, algorithm="louvain"), True, f"Louvain {_TO_K}"),
    "scanpy": Method(scanpy_usual, False, f"scanpy's usual steps, then Leiden {_AT_1}"),
    "scanpy_k": Method(scanpy_usual_at_k, True, f"the same {_TO_K}", space=scanpy_space),
    "no_network": Method(
        no_network, True, "the consensus of train.py without a network", space=all_views
    ),
    "scvi_kmeans": Method(scvi_kmeans, True, "K-means of scVI's embedding", True),
    "scvi_leiden": Method(scvi_leiden, False, "Leiden of its 15-NN graph at resolution 1", True),
}


# --- The command ----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> tuple[str, Settings]:
    """Return the method's name and the settings from `train.py`'s flags without the network's.

    Exits with status 2 and one sentence on stderr where a flag cannot be used.
    """
    parser = command.build_parser(
        "baselines.py",
        "Cluster single-cell RNA-seq counts with a rival of scTAG.",
        run_name="METHOD",
        stages=STAGES,
        refusal="is for train.py: no method here uses it",
    )
    sentences = "; ".join(f"{name}: {method.sentence}" for name, method in METHODS.items())
    parser.add_argument("--method", required=True, choices=METHODS, metavar="NAME", help=sentences)
    given = vars(parser.parse_args(argv))
    return given.pop("method"), command.settings_of(given)


def decided(number: Number, name: str, adata: ad.AnnData, *, seed: int) -> Number:
    """Return the number of clusters for a method, estimated now if it is needed and not known."""
    method = METHODS[name]
    if not method.needs_k or number.n_clusters is not None:
        return number
    points, graph = method.space(adata, seed=seed)
    return number.estimated_on(points, graph, seed=seed)


def fit_with(name: str) -> pipeline.Fit:
    """Return a function that clusters prepared data with a method, for the pipeline."""

    def fit(adata: ad.AnnData, number: Number, settings: Settings, stopwatch: Stopwatch) -> Fitted:
        with stopwatch("cluster"):
            number = decided(number, name, adata, seed=settings.seed)
            function = METHODS[name].function
            labels = function(adata, n_clusters=number.n_clusters, seed=settings.seed)
        return Fitted(labels, number, {"clusters_found": int(labels.max()) + 1})

    return fit


def run(name: str, given: Settings, fit: pipeline.Fit | None = None) -> str:
    """Run the whole job, from file to results folder; return the line the command ends with.

    `fit` is what clusters in place of the method's own function.
    """
    method, number = METHODS[name], None
    if method.needs_scvi:  # a missing package is said before anything is read
        import_scvi()
    values = given.to_json()
    if not method.needs_k:
        from estimation import Number

        number, values["n_clusters"] = Number(None, "found by the method"), None
    out_dir = given.out or Path("results", given.name, f"{name}-seed{given.seed}")
    notes = {"method": name} | {key: values[key] for key in settings.used_by(*STAGES)}
    fit = fit or fit_with(name)
    given = dataclasses.replace(given, no_h5ad=True)  # a rival's files hold no AnnData
    return pipeline.run(given, fit, out_dir=out_dir, notes=notes, number=number)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (results not written), 2 (unusable input)."""
    name, given = parse(argv)
    job = partial(run, name, given)
    return command.run_command("baselines.py", job, quiet=given.quiet, log_file=given.log_file)


if __name__ == "__main__":
    sys.exit(supervise.run(main, "baselines.py", folders.tidy))
