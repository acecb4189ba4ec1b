"""One clustering from many of the same cells: evidence accumulation by average linkage.

Letters: N cells, M partitions, U distinct rows of labels, C clusters. No true label enters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def accumulate(labelings: Sequence[np.ndarray], n_clusters: int) -> np.ndarray:
    """Return the consensus of partitions: cells that are mostly together stay together.

    The distance of two cells is the share of partitions that separate them. Clusters are merged by
    average linkage until there are C. Cells that no partition separates are one row with a weight,
    so that the cost is that of the U distinct rows of labels, and the result is that of all cells.
    A partition that contradicts the others loses by the vote, and an unstable algorithm, whose
    partitions contradict each other, counts less than a stable one.

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
    rows, row_of_cell, sizes = np.unique(
        np.column_stack(labelings), axis=0, return_inverse=True, return_counts=True
    )
    distances = np.zeros((len(rows), len(rows)), np.float32)
    for column in rows.T:
        distances += column[:, None] != column[None, :]
    merged = average_linkage(distances / rows.shape[1], sizes, n_clusters)
    labels = merged[row_of_cell.ravel()]
    by_size = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(by_size)[labels]


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
