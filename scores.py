"""The scorer: the one place that true labels reach."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score


def match_clusters(cell_types: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the cell type that the Hungarian method matches to each cell's cluster, -1 for none.

    Both arguments are codes from 0, shape (N,), as is the result. The match is one to one, with the
    most cells in agreement. Source: scipy's `linear_sum_assignment`.
    """
    table = np.zeros((clusters.max() + 1, cell_types.max() + 1), dtype=np.int64)
    np.add.at(table, (clusters, cell_types), 1)
    matched_type = np.full(len(table), -1)
    rows, cols = linear_sum_assignment(table, maximize=True)
    matched_type[rows] = cols
    return matched_type[clusters]


def score(cell_types: pd.Series, clusters: np.ndarray) -> dict[str, float]:
    """Return ACC, NMI, ARI and macro F1 of clusters against true labels, each at most 1.

    ACC and macro F1 (the unweighted mean over the cell types, so that rare ones count) follow the
    Hungarian match; NMI (normalised by the arithmetic mean) and ARI are scikit-learn's.

    Parameters
    ----------
    cell_types
        True labels, shape (N,). Cells whose label is missing are left out.
    clusters
        Labels of the clusters, shape (N,).
    """
    known = cell_types.notna().to_numpy()
    true = pd.factorize(cell_types[known])[0]
    groups = pd.factorize(np.asarray(clusters)[known])[0]
    matched = match_clusters(true, groups)
    return {
        "ACC": float(np.mean(matched == true)),
        "NMI": float(normalized_mutual_info_score(true, groups)),
        "ARI": float(adjusted_rand_score(true, groups)),
        "macro_F1": float(
            f1_score(true, matched, labels=np.unique(true), average="macro", zero_division=0)
        ),
    }
