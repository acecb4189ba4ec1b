"""The scorer against brute force and numbers worked out by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

import scores


def labels(values):
    return pd.Series(list(values), dtype=object)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n_types", "n_clusters"), [(4, 4), (3, 5), (5, 3)])
def test_acc_is_the_best_over_all_one_to_one_matches(seed, n_types, n_clusters):
    rng = np.random.default_rng(seed)
    true, computed = rng.integers(0, n_types, 40), rng.integers(0, n_clusters, 40)
    size = max(n_types, n_clusters)
    best = max(
        np.mean(np.array(match)[computed] == true) for match in itertools.permutations(range(size))
    )
    assert scores.score(labels(true.astype(str)), computed)["ACC"] == pytest.approx(best)


def test_perfect_clusters_score_one_whatever_their_names():
    computed = scores.score(labels("aabbbc"), np.array([7, 7, 0, 0, 0, 3]))
    assert computed == pytest.approx({"ACC": 1, "NMI": 1, "ARI": 1, "macro_F1": 1})


def test_macro_f1_moves_with_the_rare_class():
    """98 cells right and 2 of a rare class swallowed: F1 of 98/99 * 2 / ... and of 0."""
    true = labels(["common"] * 98 + ["rare"] * 2)
    computed = scores.score(true, np.zeros(100, int))
    f1_common = 2 * 0.98 / (0.98 + 1)
    assert computed["ACC"] == pytest.approx(0.98)
    assert computed["macro_F1"] == pytest.approx(f1_common / 2)
    assert computed["ARI"] == pytest.approx(0)


def test_cells_without_a_label_are_left_out():
    true = labels(["a", None, "b", "a", None, "b"])
    computed = np.array([0, 1, 1, 0, 0, 1])
    assert scores.score(true, computed) == scores.score(labels("abab"), np.array([0, 1, 0, 1]))
