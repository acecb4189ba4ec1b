"""The scorer: the one place that true labels reach."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score


def match_clusters(cell_types: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The cell type that the Hungarian method matches to each cell's cluster, -1 for none.

    cell_types, clusters: (N,) codes from 0. The one-to-one match with the most cells in agreement
    (scipy's `linear_sum_assignment`). Returns (N,).
    """
    table = np.zeros((clusters.max() + 1, cell_types.max() + 1), dtype=np.int64)
    np.add.at(table, (clusters, cell_types), 1)
    matched_type = np.full(len(table), -1)
    rows, cols = linear_sum_assignment(table, maximize=True)
    matched_type[rows] = cols
    return matched_type[clusters]


def score(cell_types: pd.Series, clusters: np.ndarray) -> dict[str, float]:
    """ACC, NMI, ARI and macro F1 of clusters against true labels, each at most 1.

    cell_types: (N,) strings, missing values allowed: those cells are left out; clusters: (N,)
    labels. ACC and macro F1 (unweighted mean over the cell types, so that rare ones count) follow
    the Hungarian match; NMI (arithmetic mean) and ARI are scikit-learn's.
    """
    known = cell_types.notna().to_numpy()
    true = pd.factorize(cell_types[known])[0]
    found = pd.factorize(np.asarray(clusters)[known])[0]
    matched = match_clusters(true, found)
    return {
        "ACC": float(np.mean(matched == true)),
        "NMI": float(normalized_mutual_info_score(true, found)),
        "ARI": float(adjusted_rand_score(true, found)),
        "macro_F1": float(
            f1_score(true, matched, labels=np.unique(true), average="macro", zero_division=0)
        ),
    }
