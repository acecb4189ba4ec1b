"""Communities of a graph: Leiden and Louvain, at a resolution or at a number of clusters.

N is the number of cells. Used by the rivals, as a start of the clustering phase and to estimate the
number of clusters; no function here has a parameter for true labels.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

log = logging.getLogger("sctag")

DEFAULT_RESOLUTION = 1.0  # scanpy's, at which modularity is the classical one
LOG10_RESOLUTIONS = -4.0, 4.0  # from one cluster a component to one a cell, in most data
TRIES = 20  # halve that range to a factor of 1.00002, where only chance is left


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


def at_k(graph: sp.csr_matrix, *, n_clusters: int, seed: int, partition: Callable) -> np.ndarray:
    """`leiden` or `louvain` at a resolution that gives n_clusters, or the nearest found, said.

    graph: of `undirected`. Bisection of the resolution's logarithm, with one seed throughout. The
    number of clusters grows with the resolution, but not without steps back, so that one can be
    missed; of two numbers that are equally near, the first found counts. Returns labels (N,).
    """
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
