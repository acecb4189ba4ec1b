"""What one cluster more, or one fewer, would do to the clusters of a run.

Letters: N cells, F features that were clustered.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

EACH = 3  # changes of either kind that are listed
STARTS = 5  # of 2-means


def alternatives(points: np.ndarray, clusters: pd.Categorical, *, seed: int) -> pd.DataFrame:
    """Return which clusters would be joined, and which split, for one cluster fewer or more.

    One fewer joins the two clusters whose union raises the sum of squared distances to the centres
    least: Ward's criterion, n_a n_b / (n_a + n_b) |c_a - c_b|^2 for clusters of n_a and n_b cells
    with centres c_a and c_b (Ward 1963). One more splits the cluster in which 2-means lowers that
    sum most (bisecting K-means, Steinbach et al. 2000). Everything else stays: a new run with
    another number may move more cells.

    Parameters
    ----------
    points
        What was clustered, shape (N, F).
    clusters
        Cluster of each cell, shape (N,); cells without one are left out.
    seed
        Of 2-means.

    Returns
    -------
    At most three rows of each kind, the likeliest first, with the columns change ("join" or
    "split"), clusters (a list of one or two names), cells (a list of two sizes: of the clusters
    that are joined, or of the parts) and share, how much of the sum of squares of all cells around
    their common centre the change adds (join) or takes away (split).
    """
    import pandas as pd

    known = clusters.codes >= 0
    points = np.asarray(points, np.float64)[known]
    codes = clusters.codes[known]
    total = float(((points - points.mean(axis=0)) ** 2).sum()) or 1.0
    members = {code: points[codes == code] for code in np.unique(codes)}
    rows = _joined(members) + _split(members, seed)
    for row in rows:
        row["share"] /= total
        row["clusters"] = [str(clusters.categories[code]) for code in row["clusters"]]
    return pd.DataFrame(rows, columns=["change", "clusters", "cells", "share"])


def _joined(members: dict[int, np.ndarray]) -> list[dict[str, Any]]:
    """Return the cheapest unions of two clusters."""
    if len(members) < 3:  # one cluster is no clustering
        return []
    rows: list[dict[str, Any]] = []
    centers = {code: cells.mean(axis=0) for code, cells in members.items()}
    for first, second in combinations(members, 2):
        sizes = [len(members[first]), len(members[second])]
        apart = centers[first] - centers[second]
        cost = sizes[0] * sizes[1] / sum(sizes) * float(apart @ apart)
        row = {"change": "join", "clusters": [first, second], "cells": sizes, "share": cost}
        rows.append(row)
    return sorted(rows, key=lambda row: row["share"])[:EACH]


def _split(members: dict[int, np.ndarray], seed: int) -> list[dict[str, Any]]:
    """Return the splits of a cluster that lower the sum of squares most."""
    from sklearn.cluster import KMeans

    rows: list[dict[str, Any]] = []
    for code, cells in members.items():
        around = float(((cells - cells.mean(axis=0)) ** 2).sum())
        if (cells == cells[0]).all():
            continue
        halves = KMeans(2, n_init=STARTS, random_state=seed).fit(cells)
        sizes = sorted(np.bincount(halves.labels_).tolist(), reverse=True)
        gain = around - float(halves.inertia_)
        rows.append({"change": "split", "clusters": [code], "cells": sizes, "share": gain})
    return sorted(rows, key=lambda row: -row["share"])[:EACH]
