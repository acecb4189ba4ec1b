"""Ways to cluster cells without a network: K-means, spectral clustering, Leiden and Louvain.

They give the clusters from which the clustering phase starts, and they are the rivals of
`baselines.py`. Letters: N cells, F features, C clusters, M partitions, U distinct rows of labels.
No function here has a parameter for true labels.
"""

from __future__ import annotations

import contextlib
import logging
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin

if TYPE_CHECKING:
    import igraph

log = logging.getLogger("sctag")

# K-means keeps the best of this many starts. With 20 the optimum is missed on some data, so that
# its own seed moves the labels; more than 100 find nothing better (docs/recipe.md).
KMEANS_STARTS = 100

LINKED_ROWS = 8_000  # of labels, at most, whose distances to each other are held in a consensus

DEFAULT_RESOLUTION = 1.0  # scanpy's, at which modularity is the classical one
LOG10_RESOLUTIONS = -4.0, 4.0  # from one cluster a component to one a cell, in most data
TRIES = 20  # halve that range to a factor of 1.00002, where only chance is left

# A function of (graph, resolution=, seed=) that returns labels: `leiden` or `louvain`.
Partition = Callable[..., np.ndarray]


def kmeans(
    points: np.ndarray, *, n_clusters: int, seed: int, starts: int = KMEANS_STARTS
) -> np.ndarray:
    """Return labels (N,) from 0 to C - 1 by scikit-learn's K-means, the best of some starts.

    Points are (N, F).
    """
    with warnings.catch_warnings():
        # Fewer distinct points than clusters: the caller counts the clusters it gets.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        return KMeans(n_clusters, n_init=starts, random_state=seed).fit_predict(points)


def spectral(adjacency: sp.csr_matrix, *, n_clusters: int, seed: int) -> np.ndarray:
    """Return labels (N,) by spectral clustering of the kNN graph, the official initialisation.

    The adjacency (N, N) is binary; a directed graph enters as (A + A^T)/2, as scikit-learn does
    with a warning. Source: scikit-learn's `SpectralClustering`, labels by `discretize`.
    """
    if n_clusters == adjacency.shape[0]:  # ARPACK finds fewer eigenvectors than there are cells
        return np.arange(n_clusters)
    affinity = ((adjacency + adjacency.T) * 0.5).tocsr()
    method = SpectralClustering(
        n_clusters, affinity="precomputed", assign_labels="discretize", random_state=seed
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        return method.fit_predict(affinity)


# --- Communities of a graph -----------------------------------------------------------------------


def undirected(adjacency: sp.csr_matrix) -> sp.csr_matrix:
    """Return the graph that Leiden and Louvain share: each edge once, of weight 1, no loops.

    The adjacency (N, N) may be directed: two cells are joined if either lists the other. The result
    is the part above the diagonal, CSR float32 (N, N).
    """
    graph = sp.csr_matrix(sp.triu(adjacency + adjacency.T, k=1), dtype=np.float32)
    graph.data[:] = 1
    return graph


def leiden(graph: sp.csr_matrix, *, resolution: float, seed: int) -> np.ndarray:
    """Return labels (N,) by Leiden's modularity clustering, run until no cell moves.

    The graph is one of `undirected`. Source: Traag et al. 2019, by scanpy's `leiden` with igraph's
    implementation.
    """
    import anndata
    import scanpy as sc

    if graph.nnz == 0:  # scanpy cannot read such a graph
        return np.arange(graph.shape[0])
    cells = anndata.AnnData(shape=(graph.shape[0], 0))
    sc.tl.leiden(
        cells,
        resolution,
        adjacency=graph,
        random_state=seed,
        flavor="igraph",
        directed=False,
        n_iterations=-1,
    )
    return cells.obs["leiden"].to_numpy().astype(int)


def leiden_levels(
    graph: sp.csr_matrix, resolutions: Iterable[float], *, seed: int, iterations: int
) -> Iterator[np.ndarray]:
    """Yield labels (N,) by Leiden at each of some resolutions, after so many iterations.

    The graph is one of `undirected`. Source: as `leiden`; scanpy would make igraph's graph anew for
    each, of Python's tuples.
    """
    network = _network(graph)
    with _igraph_seed(seed):
        for resolution in resolutions:
            communities = network.community_leiden(
                "modularity", resolution=resolution, n_iterations=iterations
            )
            yield np.array(communities.membership)


def louvain(graph: sp.csr_matrix, *, resolution: float, seed: int) -> np.ndarray:
    """Return labels (N,) by Louvain's modularity clustering, cells in random order.

    The graph is one of `undirected`. Source: Blondel et al. 2008, by igraph's
    `community_multilevel`: it has the same modularity and resolution as its Leiden and is compiled;
    networkx's is Python, and scanpy's needs one more package (louvain).
    """
    with _igraph_seed(seed):
        return np.array(_network(graph).community_multilevel(resolution=resolution).membership)


def _network(graph: sp.csr_matrix) -> igraph.Graph:
    """Return igraph's graph of one of `undirected`."""
    import igraph

    edges = graph.tocoo()
    return igraph.Graph(n=graph.shape[0], edges=np.column_stack([edges.row, edges.col]))


@contextlib.contextmanager
def _igraph_seed(seed: int) -> Iterator[None]:
    """Have igraph take random numbers that a seed decides."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)  # igraph's own default


def at_k(graph: sp.csr_matrix, *, n_clusters: int, seed: int, partition: Partition) -> np.ndarray:
    """Return labels (N,) of `leiden` or `louvain` at a resolution that gives n_clusters.

    The logarithm of the resolution is bisected, with one seed throughout. The number of clusters
    grows with the resolution, but not without steps back, so that a number can be missed: then the
    nearest number that occurred is taken, the first of two that are equally near, with a warning.
    The graph is one of `undirected`.
    """
    low, high = LOG10_RESOLUTIONS
    best_labels, best_resolution, nearest = np.zeros(graph.shape[0], int), 0.0, -1
    for _ in range(TRIES):
        middle = (low + high) / 2
        labels = partition(graph, resolution=10**middle, seed=seed)
        number = int(labels.max()) + 1
        if nearest < 0 or abs(number - n_clusters) < abs(nearest - n_clusters):
            best_labels, best_resolution, nearest = labels, 10**middle, number
        if number == n_clusters:
            break
        low, high = (middle, high) if number < n_clusters else (low, middle)
    name = partition.__name__
    if nearest != n_clusters:
        sentence = "warning: %s: no resolution tried gives %d clusters, %d is the nearest number"
        log.warning(sentence, name, n_clusters, nearest)
    log.info("%-9s %d clusters at resolution %.4g", name, nearest, best_resolution)
    return best_labels


# --- Clusters compared ----------------------------------------------------------------------------


def mean_agreement(labels: np.ndarray, labelings: Sequence[np.ndarray]) -> float:
    """Return the mean adjusted Rand index of labels (N,) with each of some labelings, each (N,).

    Source: Hubert and Arabie 1985, scikit-learn's `adjusted_rand_score`.
    """
    return float(np.mean([adjusted_rand_score(labels, other) for other in labelings]))


def centers_of(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean of points (N, F) over each group that occurs: (C', F), with C' <= C."""
    return np.stack([points[labels == group].mean(axis=0) for group in np.unique(labels)])


def nearest_center(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the centre (C, F) that is nearest to each of the points (N, F), as labels (N,)."""
    return pairwise_distances_argmin(points, centers)


# --- One clustering of many -----------------------------------------------------------------------


def consensus(labelings: Sequence[np.ndarray], n_clusters: int) -> np.ndarray:
    """Return the consensus of partitions: cells that are mostly together stay together.

    The distance of two cells is the share of partitions that separate them. Clusters are merged by
    average linkage until there are C. Cells that no partition separates are one row with a weight,
    so that the cost is that of the U distinct rows of labels, and the result is that of all cells.
    If there are more than `LINKED_ROWS` rows, cells are drawn at random until they have so many,
    and linked; each other row goes to the cluster that is nearest to it on average. To link the
    rows of the most cells instead would leave out rare kinds: on 100,000 simulated cells of 40
    types that cost .1 of the ARI. A partition that contradicts the others loses by the vote, and an
    unstable algorithm, whose partitions contradict each other, counts less than a stable one.

    Parameters
    ----------
    labelings
        M partitions, labels from 0, each of shape (N,).
    n_clusters
        C; fewer come out only where there are fewer distinct rows.

    Returns
    -------
    Labels from 0, the largest cluster first, shape (N,).

    Source: Fred and Jain 2005, "Combining multiple clusterings using evidence accumulation".
    """
    table = np.column_stack(labelings).astype(np.int32)
    rows, row_of_cell, sizes = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    row_of_cell = row_of_cell.ravel()
    linked = np.arange(len(rows))
    if len(rows) > LINKED_ROWS:
        drawn = row_of_cell[np.random.default_rng(0).permutation(len(row_of_cell))]
        _, first = np.unique(drawn, return_index=True)
        enough = np.sort(first)[LINKED_ROWS - 1] + 1
        linked, of_linked = np.unique(drawn[:enough], return_counts=True)
        sizes = np.zeros(len(rows), int)
        sizes[linked] = of_linked
    distances = np.zeros((len(linked), len(linked)), np.float32)
    for column in rows[linked].T:
        distances += column[:, None] != column[None, :]
    merged = np.empty(len(rows), int)
    merged[linked] = average_linkage(distances / rows.shape[1], sizes[linked], n_clusters)
    others = np.setdiff1d(np.arange(len(rows)), linked)
    if len(others):
        merged[others] = _nearest_clusters(rows, sizes, merged, linked=linked, others=others)
    labels = merged[row_of_cell]
    by_size = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(by_size)[labels]


def _nearest_clusters(
    rows: np.ndarray,
    sizes: np.ndarray,
    clusters: np.ndarray,
    *,
    linked: np.ndarray,
    others: np.ndarray,
) -> np.ndarray:
    """Return for rows of labels (U, M) the cluster of linked rows that most partitions put near.

    `sizes` says how many cells a row stands for, `clusters` has the cluster of the linked rows;
    `linked` and `others` are positions of rows.
    """
    n_clusters = clusters[linked].max() + 1
    together = np.zeros((len(others), n_clusters))
    for column in rows.T:
        cells = np.zeros((column.max() + 1, n_clusters))  # by label and cluster
        np.add.at(cells, (column[linked], clusters[linked]), sizes[linked])
        together += cells[column[others]]
    of_cluster = np.bincount(clusters[linked], weights=sizes[linked], minlength=n_clusters)
    return (together / of_cluster).argmax(axis=1)


def average_linkage(distances: np.ndarray, sizes: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return groups of weighted points by average linkage (UPGMA), merged until C are left.

    Parameters
    ----------
    distances
        Symmetric, shape (U, U); overwritten.
    sizes
        How many cells each point stands for, shape (U,).
    n_clusters
        C.

    Returns
    -------
    Labels from 0, shape (U,).
    """
    np.fill_diagonal(distances, np.inf)
    weights = sizes.astype(np.float64)
    labels = np.arange(len(distances))
    nearest = distances.argmin(axis=1)
    lowest = distances[labels, nearest]
    for _ in range(len(distances) - n_clusters):
        one = int(lowest.argmin())
        other = int(nearest[one])
        total = weights[one] + weights[other]
        mean = (weights[one] * distances[one] + weights[other] * distances[other]) / total
        mean[[one, other]] = np.inf
        distances[one], distances[:, one] = mean, mean
        distances[other], distances[:, other] = np.inf, np.inf
        weights[one] = total
        labels[labels == other] = one
        # Only rows whose nearest was one of the two can have lost their minimum.
        stale = np.flatnonzero((nearest == one) | (nearest == other))
        nearest[stale] = distances[stale].argmin(axis=1)
        lowest[stale] = distances[stale, nearest[stale]]
        nearest[one] = distances[one].argmin()
        lowest[one] = distances[one, nearest[one]]
        lowest[other] = np.inf
        closer = distances[:, one] < lowest
        nearest[closer], lowest[closer] = one, distances[closer, one]
    return np.unique(labels, return_inverse=True)[1]
