"""Distances in which neighbours differ equally in all directions, and views side by side.

Letters: N cells, F features. Every function is pure and knows no true label.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

SHRINKAGE = 0.1


def neighbour_metric(
    points: np.ndarray, graph: sp.csr_matrix, *, shrinkage: float = SHRINKAGE
) -> np.ndarray:
    """Return the points mapped so that neighbours differ by as much in every direction.

    The result is Z S^-1/2, where S is the covariance of the differences along the edges of the
    graph, shrunk towards a multiple of the identity of the same trace. Directions in which
    neighbours differ much, such as depth or the cell cycle, count less; those in which only
    distant cells differ count more. But for the shrinkage the distances do not change when the
    points are mapped linearly beforehand.

    Parameters
    ----------
    points
        Z, one row a cell, shape (N, F).
    graph
        Symmetric adjacency of the cells, shape (N, N); only its pattern is used.
    shrinkage
        Share of the identity in S, from 0 to 1; at 1 the points are only scaled.

    Returns
    -------
    The mapped points, shape (N, F). Without an edge, or if no neighbours differ, the points as
    they are.

    Source: relevant component analysis (Bar-Hillel et al. 2005) with edges in place of chunklets.
    """
    edges = sp.triu(graph, k=1).tocoo()
    steps = points[edges.row] - points[edges.col]
    covariance = steps.T.astype(np.float64) @ steps / max(len(steps), 1)
    n_features = len(covariance)
    level = np.trace(covariance) / n_features
    if level == 0:
        return points
    covariance = (1 - shrinkage) * covariance + shrinkage * level * np.eye(n_features)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, np.finfo(np.float64).eps * values[-1])
    return points @ (vectors / np.sqrt(values)) @ vectors.T


def beside(*views: np.ndarray, weights: tuple[float, ...] | None = None) -> np.ndarray:
    """Return views of the same cells side by side, centred, each of total variance weight^2.

    Parameters
    ----------
    *views
        Points of shape (N, F_i).
    weights
        One for each view; None for 1 throughout, so that no view outweighs another.

    Returns
    -------
    Points of shape (N, sum of F_i).
    """
    parts = []
    for view, weight in zip(views, weights or (1.0,) * len(views), strict=True):
        centred = view - view.mean(axis=0)
        total = max(centred.var(axis=0).sum(), np.finfo(np.float64).tiny)
        parts.append(weight * centred / np.sqrt(total))
    return np.hstack(parts)
