"""Views of the cells, principal components of genes and of logarithms, and what is made of them.

Two views see different genes. The components that the network's graph began with are of a few
hundred z-scored genes, in which each gene counts the same (`obsm["X_pca"]`); the others are of the
logarithms of more genes, in which a gene counts by how much it varies (`obsm["X_pca_logs"]`). From
them come the graph that the network reads, what is clustered beside its embedding, and the random
halves of the genes on which a consensus of many clusterings rests (docs/recipe.md). Letters: N
cells, P components of a view, D latent size, F features, C clusters. Nothing here knows TensorFlow
or a true label.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import pairwise_distances_argmin

import batches
import clustering
import csr_blocks
from components import Source
from neighbours import beside, graph_of, metric_map, neighbour_metric

if TYPE_CHECKING:
    import anndata as ad
    import scipy.sparse as sp

    from data_settings import Preparation

COMPONENTS, LOGS = "X_pca", "X_pca_logs"  # the views, keys of obsm
LOG_GENES, LOG_MEAN = "log_gene", "log_mean"  # columns of the genes of raw
MEAN_COUNT = "mean_count"  # a third one: by it, new data may lack some of the genes
LOG_LOADINGS = "X_pca_logs"  # of raw: a key of varm
GRAPH = "sctag_connectivities"  # of obsp: the graph of the views, where it is not that of one
EDGES = 2**18  # that are looked at together, for their distances or their common neighbours
MAPS = "sctag_maps"  # of uns: into the space in which that graph's neighbours are sought
LOG_COMPONENTS, LOG_COMPONENTS_OF_HALF = 50, 30
HALVES = 8  # of the genes, drawn at random
STARTS = 10  # of K-means on a half: where it misses the optimum, the other halves outvote it
SAMPLE = 6_000  # of more cells so many are clustered, others on each half, and the rest follows


# --- The views and their graph --------------------------------------------------------------------


def add_log_components(prepared: ad.AnnData, log_genes: np.ndarray, *, seed: int) -> None:
    """Set obsm["X_pca_logs"] (N, P): components of the logarithms of genes, which are not scaled.

    Parameters
    ----------
    prepared
        Prepared data, with the logarithms of all genes in `raw`. There var["log_gene"] marks the
        genes that were used, var["log_mean"] has the mean of each, and varm["X_pca_logs"] the
        loadings, 0 of the others.
    log_genes
        Which of all genes are used, as a mask.
    seed
        Of the components.
    """
    raw = prepared.raw
    source = Source(raw.X[:, log_genes], seed=seed)
    scores, loadings = source.components(min(LOG_COMPONENTS, *source.shape))
    prepared.obsm[LOGS] = scores
    raw.var[LOG_GENES] = log_genes
    raw.var[LOG_MEAN] = csr_blocks.column_means(raw.X)
    raw.varm[LOG_LOADINGS] = np.zeros((raw.n_vars, loadings.shape[1]), np.float32)
    raw.varm[LOG_LOADINGS][log_genes] = loadings


def log_components_like(logarithms: np.ndarray, reference: ad.AnnData) -> np.ndarray:
    """Return the log components (N, P) of cells by the loadings of a reference.

    Parameters
    ----------
    logarithms
        Of the reference's log genes, in its order, shape (N, genes).
    reference
        Data of `add_log_components`.
    """
    genes = reference.raw.var[LOG_GENES].to_numpy()
    mean = reference.raw.var[LOG_MEAN].to_numpy()[genes]
    return (logarithms - mean) @ reference.raw.varm[LOG_LOADINGS][genes]


def views_of(prepared: ad.AnnData) -> dict[str, np.ndarray]:
    """Return the views that prepared data have by their names, each (N, P)."""
    return {name: prepared.obsm[name] for name in (COMPONENTS, LOGS) if name in prepared.obsm}


def add_graph(prepared: ad.AnnData, preparation: Preparation, *, seed: int) -> None:
    """Set obsp["sctag_connectivities"], the graph of all views, where it is not that of the first.

    Neighbours are sought with the views beside each other, each with total variance 1; with
    `neighbour_metric` each is first brought into the metric of the graph of the components.
    uns["sctag_maps"] keeps the linear maps of the views into that space.
    """
    views = views_of(prepared)
    if len(views) == 1 and not preparation.neighbour_metric:
        return
    graph = prepared.obsp["connectivities"]
    maps = {}
    for name, view in views.items():
        linear = np.eye(view.shape[1])
        if preparation.neighbour_metric:
            linear = metric_map(view, graph)
        total = (view @ linear).var(axis=0).sum()
        maps[name] = linear / np.sqrt(max(total, np.finfo(np.float64).tiny))
    prepared.uns[MAPS] = maps
    add_mapped_graph(prepared, maps, preparation, seed=seed)


def add_mapped_graph(
    prepared: ad.AnnData, maps: dict[str, np.ndarray], preparation: Preparation, *, seed: int
) -> None:
    """Set obsp["sctag_connectivities"], of the views by the maps into the space of neighbours."""
    prepared.obsp[GRAPH] = graph_of(mapped(prepared, maps), preparation, seed=seed)


def mapped(prepared: ad.AnnData, maps: dict[str, np.ndarray]) -> np.ndarray:
    """Return the views in the space of neighbours (N, P), by the maps that a graph has left."""
    return np.hstack([prepared.obsm[name] @ linear for name, linear in maps.items()])


def graph(prepared: ad.AnnData) -> sp.csr_matrix:
    """Return the graph that the network reads, CSR (N, N): that of all views where there is one."""
    return prepared.obsp[GRAPH if GRAPH in prepared.obsp else "connectivities"]


def graph_distances(prepared: ad.AnnData) -> sp.csr_matrix:
    """Return the distances along the edges of the network's graph, CSR float32 (N, N).

    They are euclidean, in the space in which the neighbours of `graph` were sought. A cell has none
    to itself; those of identical cells are stored zeros.
    """
    import scipy.sparse as sp

    maps = prepared.uns.get(MAPS)
    points = prepared.obsm[COMPONENTS] if maps is None else mapped(prepared, maps)
    edges = graph(prepared).tocoo()
    others = edges.row != edges.col
    rows, columns = edges.row[others], edges.col[others]
    lengths = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), EDGES):
        block = slice(start, start + EDGES)
        lengths[block] = np.linalg.norm(points[rows[block]] - points[columns[block]], axis=1)
    return sp.csr_matrix((lengths, (rows, columns)), shape=edges.shape)


def features(prepared: ad.AnnData, *, metric: bool) -> np.ndarray:
    """Return the views (N, F) beside each other, each with total variance 1, perhaps in the metric.

    With `metric` it is that of the neighbours in `graph`.
    """
    views = [*views_of(prepared).values()]
    if metric:
        views = [neighbour_metric(view, graph(prepared)) for view in views]
    return beside(*views)


# --- A consensus over halves of the genes ---------------------------------------------------------


def halves(prepared: ad.AnnData, *, seed: int) -> Iterator[list[np.ndarray]]:
    """Yield the views made anew from a random half of their genes, `HALVES` times.

    Where the data have batches each view is corrected as those of all genes are.
    What the halves agree on rests on many genes; what a few genes say differs between them. Source:
    the random subspaces of Ho 1998.

    Parameters
    ----------
    prepared
        Prepared data. Of the z-scores as many components are made as obsm["X_pca"] has.
    seed
        Decides the halves, and so the result.
    """
    rng = np.random.default_rng(seed)
    z_scores = Source(np.asarray(prepared.X), seed=seed)
    sources = [(z_scores, prepared.obsm[COMPONENTS].shape[1])]
    if LOGS in prepared.obsm:
        logarithms = prepared.raw.X[:, prepared.raw.var[LOG_GENES].to_numpy()]
        sources.append((Source(logarithms, seed=seed), LOG_COMPONENTS_OF_HALF))
    for _ in range(HALVES):
        views = []
        for source, most in sources:
            n_cells, n_genes = source.shape
            genes = rng.choice(n_genes, max(n_genes // 2, 1), replace=False)
            made = source.components(min(most, n_cells, len(genes)), genes)
            views.append(batches.corrected(prepared, made.scores, seed=seed))
        yield views


def clusterings(
    points: np.ndarray, *, n_clusters: int, seed: int, sample: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the labels of points (N, F) by K-means and by Ward's linkage, in this order.

    Each is of shape (N,). With a sample, positions of some of the points, only these are clustered,
    and every point goes to the nearest mean of a cluster.
    """
    chosen = points if sample is None else points[sample]
    labelings = [
        clustering.kmeans(chosen, n_clusters=n_clusters, seed=seed, starts=STARTS),
        AgglomerativeClustering(n_clusters).fit_predict(chosen),
    ]
    if sample is None:
        return labelings
    return [
        pairwise_distances_argmin(points, clustering.centers_of(chosen, labels))
        for labels in labelings
    ]


class Consensus(NamedTuple):
    """Clusters that many clusterings agree on.

    Parameters
    ----------
    labels
        Labels from 0, shape (N,).
    agreement
        How far the single clusterings agree with them, as a mean adjusted Rand index.
    """

    labels: np.ndarray
    agreement: float


def consensus(
    prepared: ad.AnnData, z: np.ndarray | None, *, metric: bool, n_clusters: int, seed: int
) -> Consensus:
    """Return what clusterings of random halves of the genes agree on.

    On each half of `halves` K-means and Ward's linkage cluster the cells twice: by the views as
    they are with the embedding beside them, and by the views in the metric of the graph's
    neighbours. Of many cells a sample is clustered, see `clusterings`. No distance is right on all
    data; a cluster that one of them splits by chance, or by a few genes, is split in another way on
    another half and outvoted. Their consensus is that of
    `clustering.consensus`.

    Parameters
    ----------
    prepared
        Prepared data.
    z
        Embedding by the network, shape (N, D); None for the same without a network.
    metric
        Whether the second kind of clusterings is made; without it all are of the first kind.
    n_clusters
        C.
    seed
        Of the halves and of K-means.
    """
    labelings: list[np.ndarray] = []
    rng, sample = np.random.default_rng(seed), None
    for views in halves(prepared, seed=seed):
        if prepared.n_obs > SAMPLE:
            sample = rng.choice(prepared.n_obs, SAMPLE, replace=False)
        kinds = [beside(*views) if z is None else beside(*views, z)]
        if metric:
            kinds.append(beside(*(neighbour_metric(view, graph(prepared)) for view in views)))
        for points in kinds:
            labelings += clusterings(points, n_clusters=n_clusters, seed=seed, sample=sample)
    labels = clustering.consensus(labelings, n_clusters)
    return Consensus(labels, clustering.mean_agreement(labels, labelings))
