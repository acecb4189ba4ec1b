"""Initial clusters: where the centres of the clustering phase come from.

No function here has a parameter for true labels.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans, SpectralClustering

import communities

# K-means keeps the best of this many starts. With 20 the optimum is missed on some data, so that
# its own seed moves the labels; more than 100 find nothing better (docs/recipe.md).
KMEANS_STARTS = 100


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


def centers_of(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of z over each group that occurs. z: (N, D), labels: (N,). Returns (C', D), C' <= C."""
    return np.stack([z[labels == group].mean(axis=0) for group in np.unique(labels)])
