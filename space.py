"""What is clustered: the embedding in a metric that it lacks, the principal components beside it.

Letters: N cells, D latent size, P components, F = D + P. Distances in z itself mean little: the
decoders read z through dense layers, so another network may stretch and slant z in any way and
decode the same counts from it. No function here has a parameter for true labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import tensorflow as tf

# Share of the mean variance that is added to every direction before the metric divides by it: one
# that hardly differs between neighbours is not to outweigh all others. From .03 to .3 the clusters
# are as good (docs/recipe.md).
SHRINKAGE = 0.1


class ClusterSpace(NamedTuple):
    """Where cells are assigned to centres: metric (D, D) that z is multiplied with, and components.

    components: (N, P), constants; P is 0 where the embedding alone is clustered.
    """

    metric: tf.Tensor
    components: tf.Tensor

    def points(self, z: tf.Tensor) -> tf.Tensor:
        """The embedding z (N, D) to what is clustered, (N, D + P)."""
        return tf.concat([z @ self.metric, self.components], axis=1)


def embedding_alone(n_cells: int, latent_dim: int) -> ClusterSpace:
    """The space of z itself, as published."""
    return ClusterSpace(tf.eye(latent_dim), tf.zeros([n_cells, 0]))


def with_metric(space: ClusterSpace, z: np.ndarray, adjacency: sp.csr_matrix) -> ClusterSpace:
    """The space with distances in z measured by the differences between neighbours."""
    metric = neighbour_metric(np.asarray(z, np.float64), adjacency)
    return space._replace(metric=tf.constant(metric, tf.float32))


def with_components(space: ClusterSpace, z: np.ndarray, components: np.ndarray) -> ClusterSpace:
    """The space with principal components beside z, centred, scaled to the total variance of z.

    The graph convolution smooths z over neighbours and has D dimensions for all that it must tell
    the decoders; the components keep what it leaves out. Joined, neither outweighs the other.
    z: (N, D) of the pretrained network, whose scale is arbitrary; components: (N, P).
    """
    scale = np.sqrt(total_variance(z) / max(total_variance(components), np.finfo(float).tiny))
    centred = components - components.mean(axis=0)
    return space._replace(components=tf.constant(scale * centred, tf.float32))


def neighbour_metric(z: np.ndarray, adjacency: sp.csr_matrix) -> np.ndarray:
    """The matrix M (D, D) for which z M has the same spread between neighbours in all directions.

    S = mean over edges of (z_i - z_j)(z_i - z_j)^T / 2, shrunk towards a multiple of I by
    `SHRINKAGE`; M = S^(-1/2), scaled so that z M has the total variance of z. Without shrinkage z L
    gives the same distances for every invertible L. z: (N, D); adjacency: (N, N) of the kNN graph,
    directed or not. I where no neighbours differ. Source: relevant component analysis (Bar-Hillel
    et al. 2005, JMLR 6), with the edges of the graph as its chunklets.
    """
    edges = adjacency - sp.diags_array(adjacency.diagonal())
    z = z - z.mean(axis=0)
    degree = np.asarray(edges.sum(axis=0)).ravel() + np.asarray(edges.sum(axis=1)).ravel()
    crossed = z.T @ (edges @ z)
    scatter = z.T @ (degree[:, None] * z) - crossed - crossed.T  # (D, D), by the graph's Laplacian
    mean_variance = np.trace(scatter) / len(scatter)
    if mean_variance <= np.finfo(np.float32).eps * total_variance(z):
        return np.eye(len(scatter))
    shrunk = scatter / mean_variance + SHRINKAGE * np.eye(len(scatter))
    variances, directions = np.linalg.eigh(shrunk)
    metric = (directions / np.sqrt(variances)) @ directions.T
    return metric * np.sqrt(total_variance(z) / total_variance(z @ metric))


def total_variance(points: np.ndarray) -> np.floating:
    """The variances of all columns, added up. points: (N, F)."""
    return points.var(axis=0).sum()
