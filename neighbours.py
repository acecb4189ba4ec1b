"""The kNN graph of cells, and distances in which neighbours differ equally in all directions.

Letters: N cells, F features, P components. Nothing here knows TensorFlow or a true label.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors

from data_settings import Preparation
from utils import InputError

log = logging.getLogger("sctag")

SHRINKAGE = 0.1
EDGES = 2**18  # whose differences are held at a time
# Lists in which a cell's neighbours are sought, where the search is not exact. Of 50,000 cells,
# made of two real data sets, 12 have 98.5 and 99.5 % of the neighbours, 16 have 99.4 and 99.8 %.
PROBES = 16
RECALL_CELLS = 200  # of which the neighbours are sought exactly too, where the search is not exact
ROUNDING = 1e-4  # share by which two ways to compute a distance may differ


def nearest_others(points: np.ndarray, *, k: int, exact: bool, seed: int) -> np.ndarray:
    """Return the k nearest other cells of each cell, euclidean, as indices (N, k) in no order.

    Points are (N, P). The exact search is scikit-learn's, in time N^2; the other one is
    `nearest_in_lists`, in time about N^1.5, which the seed decides and which misses a few
    neighbours.
    """
    if exact:
        return NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    return nearest_in_lists(points, k=k, seed=seed)


def nearest_in_lists(points: np.ndarray, *, k: int, seed: int) -> np.ndarray:
    """Return k near other cells of each cell, euclidean, as indices (N, k) in no order.

    K-means places sqrt(N) centres, and each cell is listed at the nearest one. The neighbours of a
    cell are sought in the lists of the `PROBES` centres nearest to it, exactly and by scikit-learn.
    Where these have fewer than k others, they are sought among all cells. No pair is compared
    twice but for those, so that it takes at most about as long as the exact search.

    Parameters
    ----------
    points
        Shape (N, P).
    k
        How many other cells, below N.
    seed
        Decides the centres, and so which neighbours are missed. The number of threads decides
        nothing, unless cells are equally near.

    Source: the inverted file of Jegou, Douze and Schmid (2011), without their quantisation of the
    points, as faiss has it in `IndexIVFFlat`.
    """
    n_cells, n_lists = len(points), math.isqrt(len(points))
    # Of K-means's two kinds in scikit-learn this one adds up in the same order on all threads.
    means = MiniBatchKMeans(
        n_lists,
        init="random",
        n_init=1,
        max_iter=1,
        max_no_improvement=None,
        random_state=seed,
    )
    centers = means.fit(points).cluster_centers_
    search = NearestNeighbors(n_neighbors=min(PROBES, n_lists), algorithm="brute").fit(centers)
    probes = search.kneighbors(points, return_distance=False)
    nearest = np.full((n_cells, k), -1)
    distances = np.full((n_cells, k), np.inf)
    listings = _rows_by_value(probes[:, :1], n_lists), _rows_by_value(probes, n_lists)
    for listed, cells in zip(*listings, strict=True):
        if len(listed):
            _take_nearer(nearest, distances, points, cells=cells, among=listed)
    lacking = np.flatnonzero(np.isinf(distances).any(axis=1))
    if len(lacking):
        distances[lacking] = np.inf
        _take_nearer(nearest, distances, points, cells=lacking, among=np.arange(n_cells))
    return nearest


def _rows_by_value(values: np.ndarray, n_values: int) -> list[np.ndarray]:
    """Return for each value from 0 the rows of (N, V) that have it; a row has it once at most."""
    n_rows, width = values.shape
    pattern = sp.csr_matrix(
        (np.ones(values.size, np.int8), values.ravel(), np.arange(0, values.size + 1, width)),
        shape=(n_rows, n_values),
    ).tocsc()
    return np.split(pattern.indices, pattern.indptr[1:-1])


def _take_nearer(
    nearest: np.ndarray,
    distances: np.ndarray,
    points: np.ndarray,
    *,
    cells: np.ndarray,
    among: np.ndarray,
) -> None:
    """Put those among other cells that are nearer into the k nearest of cells, in place.

    `nearest` and `distances` are (N, k) of all cells; `cells` and `among` are indices.
    """
    k = nearest.shape[1]
    # One more than k, as the cell itself may be one of them.
    search = NearestNeighbors(n_neighbors=min(k + 1, len(among)), algorithm="brute")
    lengths, columns = search.fit(points[among]).kneighbors(points[cells])
    others = among[columns]
    lengths[others == cells[:, None]] = np.inf
    lengths = np.hstack([distances[cells], lengths])
    others = np.hstack([nearest[cells], others])
    best = np.argpartition(lengths, k - 1, axis=1)[:, :k]
    distances[cells] = np.take_along_axis(lengths, best, axis=1)
    nearest[cells] = np.take_along_axis(others, best, axis=1)


def recall(points: np.ndarray, graph: sp.csr_matrix, *, seed: int) -> float:
    """Return the share of the nearest neighbours of some cells that a kNN graph of points has.

    `RECALL_CELLS` cells are drawn by the seed, and their neighbours sought exactly. Of equally near
    cells any will do.

    Parameters
    ----------
    points
        Shape (N, P).
    graph
        Of `knn_graph`, directed, in whose rows the cells themselves are listed.
    seed
        Decides the cells.
    """
    cells = np.random.default_rng(seed).permutation(len(points))[:RECALL_CELLS]
    k = graph.indptr[1] - graph.indptr[0]
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points)
    farthest = search.kneighbors(points[cells])[0].max(axis=1)  # the cell itself is the nearest
    listed = graph[cells].indices.reshape(len(cells), k)
    distances = np.linalg.norm(points[listed] - points[cells][:, None], axis=2)
    return float((distances <= (1 + ROUNDING) * farthest[:, None]).mean())


def knn_graph(
    points: np.ndarray, *, k: int, symmetric: bool, exact: bool, seed: int
) -> sp.csr_matrix:
    """Return the binary kNN graph of cells, CSR float32 (N, N).

    A row lists the cell itself and its k - 1 nearest others by `nearest_others`. If `symmetric`,
    two cells are joined if either lists the other; otherwise the graph is directed, with k ones in
    each row, as published. Raises InputError unless k < N.
    """
    n_cells = len(points)
    if k >= n_cells:
        raise InputError(
            f"--k_neighbors {k} is not below the number of cells ({n_cells}): choose a smaller one"
        )
    # Among identical cells a search need not return the cell itself: it is added instead.
    columns = np.arange(n_cells)[:, None]  # (N, 1)
    if k > 1:
        others = nearest_others(points, k=k - 1, exact=exact, seed=seed)
        columns = np.concatenate([columns, others], axis=1)  # (N, k)
    ones = np.ones(n_cells * k, np.float32)
    rows = np.arange(0, n_cells * k + 1, k)
    graph = sp.csr_matrix((ones, columns.ravel(), rows), shape=(n_cells, n_cells))
    graph.sort_indices()
    return symmetrised(graph) if symmetric else graph


def symmetrised(graph: sp.csr_matrix) -> sp.csr_matrix:
    """Return the graph (N, N) in which two cells are joined if either lists the other."""
    graph = graph.maximum(graph.T).tocsr()
    graph.sort_indices()
    return graph


def nearest_of(points: np.ndarray, others: np.ndarray, *, k: int) -> sp.csr_matrix:
    """Return which k of other cells are the nearest of each cell, CSR float32 (N, N').

    Points are (N, P), those of the others (N', P) with k <= N'. The distance is euclidean, the
    search scikit-learn's, which is exact.
    """
    if k == 0:
        return sp.csr_matrix((len(points), len(others)), dtype=np.float32)
    search = NearestNeighbors(n_neighbors=k).fit(others)
    return sp.csr_matrix(search.kneighbors_graph(points), dtype=np.float32)


def graph_of(points: np.ndarray, preparation: Preparation, *, seed: int) -> sp.csr_matrix:
    """Return the kNN graph of points (N, P) that the settings ask for, and log what it is like."""
    exact = len(points) <= preparation.exact_knn_cells
    graph = knn_graph(points, k=preparation.k_neighbors, symmetric=False, exact=exact, seed=seed)
    search = ""
    if not exact:
        search = f"approximate (recall {recall(points, graph, seed=seed):.1%}), "
    if preparation.symmetric_graph:
        graph = symmetrised(graph)
    neighbours = np.diff(graph.indptr)
    log.info(
        "graph     %d cells, %d edges, %s%s, %.1f neighbours a cell (%d to %d)",
        len(points),
        graph.nnz,
        search,
        "symmetric" if preparation.symmetric_graph else "directed",
        graph.nnz / len(points),
        neighbours.min(),
        neighbours.max(),
    )
    return graph


# --- The metric of neighbours' differences --------------------------------------------------------


def metric_map(
    points: np.ndarray, graph: sp.csr_matrix, *, shrinkage: float = SHRINKAGE
) -> np.ndarray:
    """Return the linear map (F, F) after which neighbours differ by as much in every direction.

    It is S^-1/2, where S is the covariance of the differences along the edges of the graph, shrunk
    towards a multiple of the identity of the same trace. Directions in which neighbours differ
    much, such as depth or the cell cycle, count less after it; those in which only distant cells
    differ count more. But for the shrinkage the distances do not change when the points are mapped
    linearly beforehand.

    Parameters
    ----------
    points
        One row a cell, shape (N, F).
    graph
        Adjacency of the cells, shape (N, N), of which only the pattern is used: two cells are
        neighbours if either lists the other.
    shrinkage
        Share of the identity in S, from 0 to 1; at 1 the points are only scaled.

    Returns
    -------
    The map, to be applied from the right. Without an edge, or if no neighbours differ, the
    identity.

    Source: relevant component analysis (Bar-Hillel et al. 2005) with edges in place of chunklets.
    """
    edges = sp.triu(graph.maximum(graph.T), k=1).tocoo()
    covariance = np.zeros((points.shape[1], points.shape[1]))
    for start in range(0, edges.nnz, EDGES):
        block = slice(start, start + EDGES)
        steps = points[edges.row[block]] - points[edges.col[block]]
        covariance += steps.T.astype(np.float64) @ steps
    covariance /= max(edges.nnz, 1)
    identity = np.eye(len(covariance))
    level = np.trace(covariance) / len(covariance)
    if level == 0:
        return identity
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * level * identity)
    values = np.maximum(values, np.finfo(np.float64).eps * values[-1])
    return (vectors / np.sqrt(values)) @ vectors.T


def neighbour_metric(points: np.ndarray, graph: sp.csr_matrix) -> np.ndarray:
    """Return points (N, F) in the metric of neighbours' differences; see `metric_map`."""
    return points @ metric_map(points, graph)


def beside(*views: np.ndarray) -> np.ndarray:
    """Return views of the same cells side by side, centred, each with total variance 1.

    So no view outweighs another. Views are (N, F_i), the result is (N, sum of F_i).
    """
    parts = []
    for view in views:
        centred = view - view.mean(axis=0)
        total = max(centred.var(axis=0).sum(), np.finfo(np.float64).tiny)
        parts.append(centred / np.sqrt(total))
    return np.hstack(parts)
