"""Initial clusters: where the centres of the clustering phase come from, and how good they are.

No function here has a parameter for true labels.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.metrics import adjusted_rand_score, silhouette_score

import communities

# K-means keeps the best of this many starts. With 20 the optimum is missed on some data, so that
# its own seed moves the labels; more than 100 find nothing better (docs/recipe.md).
KMEANS_STARTS = 100
SILHOUETTE_CELLS = 2000  # whose distances to each other are computed


def kmeans(z: np.ndarray, *, n_clusters: int, seed: int) -> np.ndarray:
    """K-means of the embedding. z: (N, D). Returns labels (N,) in 0..C-1 (scikit-learn)."""
    with warnings.catch_warnings():
        # Fewer distinct points than clusters: the caller counts the clusters it gets and says so.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        return KMeans(n_clusters, n_init=KMEANS_STARTS, random_state=seed).fit_predict(z)


def spectral(adjacency: sp.csr_matrix, *, n_clusters: int, seed: int) -> np.ndarray:
    """Spectral clustering of the kNN graph, the official initialisation.

    adjacency: (N, N) binary; a directed graph enters as (A + A^T)/2, as scikit-learn does with a
    warning. Returns labels (N,). scikit-learn's `SpectralClustering`, labels by `discretize`.
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


def leiden(adjacency: sp.csr_matrix, *, n_clusters: int, seed: int) -> np.ndarray:
    """Leiden of the kNN graph at the resolution that gives n_clusters, or the nearest number.

    adjacency: (N, N) binary, directed or not. Returns labels (N,) (`communities.at_k`, which warns
    where no resolution gives that number).
    """
    graph = communities.undirected(adjacency)
    partition = communities.leiden
    return communities.at_k(graph, n_clusters=n_clusters, seed=seed, partition=partition)


def silhouette(points: np.ndarray, labels: np.ndarray, *, seed: int) -> float:
    """How distinct clusters are, -1 to 1: mean silhouette of (at most SILHOUETTE_CELLS) cells.

    points: (N, F), labels: (N,). 0 where it is not defined, for one cluster or N of them. Source:
    Rousseeuw 1987, scikit-learn's `silhouette_score`; it does not depend on the scale of points.
    """
    if not 1 < len(np.unique(labels)) < len(labels):
        return 0.0
    size = min(len(labels), SILHOUETTE_CELLS)
    return float(silhouette_score(points, labels, sample_size=size, random_state=seed))


def agreement(labelings: Sequence[np.ndarray]) -> float:
    """Mean adjusted Rand index (Hubert and Arabie 1985) of all pairs of two or more labelings."""
    pairs = itertools.combinations(labelings, 2)
    return float(np.mean([adjusted_rand_score(one, other) for one, other in pairs]))


def centers_of(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of z over each group that occurs. z: (N, D), labels: (N,). Returns (C', D), C' <= C."""
    return np.stack([z[labels == group].mean(axis=0) for group in np.unique(labels)])
