"""The estimated number of clusters: its criteria by hand, their median on groups that are there."""

import numpy as np
import pytest
import scipy.sparse as sp

import estimation
import neighbours
from utils import InputError


def blobs(n_groups, size, *, spread=0.3, seed=0):
    """Gaussian groups of `size` points, 10 apart along their own axis each, and their graph."""
    rng = np.random.default_rng(seed)
    centres = 10 * np.eye(n_groups)
    points = np.repeat(centres, size, axis=0) + rng.normal(0, spread, (n_groups * size, n_groups))
    graph = neighbours.knn_graph(
        points.astype(np.float32), k=10, symmetric=True, exact=True, seed=0
    )
    return points, graph


@pytest.mark.parametrize("n_groups", [2, 4, 7])
def test_separate_groups_are_counted(n_groups):
    points, graph = blobs(n_groups, 60)
    estimate = estimation.estimate_n_clusters(points, graph, seed=1)
    assert estimate.n_clusters == n_groups
    assert estimate.criteria["calinski_harabasz"] == n_groups
    assert estimate.criteria["spectrum"] == n_groups
    # as many eigenvalues are 1 as there are components
    np.testing.assert_allclose(estimate.eigenvalues[:n_groups], 1.0, atol=1e-6)
    assert estimate.eigenvalues[n_groups] < 0.999
    assert [row["k"] for row in estimate.curves] == list(range(2, min(25, 6 * n_groups) + 1))
    again = estimation.estimate_n_clusters(points, graph, seed=1)
    assert again == estimate


def test_the_choice_is_the_median():
    points, graph = blobs(3, 50, spread=2.5)
    estimate = estimation.estimate_n_clusters(points, graph, seed=1)
    assert len(estimate.criteria) == 5
    assert estimate.n_clusters == sorted(estimate.criteria.values())[2]


def test_the_curves_are_drawn(tmp_path):
    points, graph = blobs(4, 60)
    estimate = estimation.estimate_n_clusters(points, graph, seed=1)
    estimation.plot(estimate, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_every_number_that_is_said_is_logged_with_its_scores(caplog):
    points, graph = blobs(4, 60, spread=2.5)
    with caplog.at_level("INFO", logger="sctag"):
        estimate = estimation.estimate_n_clusters(points, graph, seed=1)
    lines = [line.split(maxsplit=2) for line in caplog.messages if line.startswith("candidate")]
    assert [int(k) for _, k, _ in lines] == sorted(set(estimate.criteria.values()))
    for _, k, scores in lines:
        row = estimate.curves[int(k) - 2]
        shown = dict(score.split() for score in scores.split(", "))
        assert set(shown) == set(row) - {"k"}
        for name, value in shown.items():
            assert float(value) == pytest.approx(row[name], rel=1e-3)


def test_few_cells_have_few_candidates():
    points, graph = blobs(2, 7)
    estimate = estimation.estimate_n_clusters(points, graph, seed=0)
    assert [row["k"] for row in estimate.curves] == [2]
    assert estimate.n_clusters == 2


def test_three_cells_have_no_two_halves():
    with pytest.raises(InputError, match=r"3 cells are too few .* --n_clusters"):
        estimation.estimate_n_clusters(np.eye(3), sp.csr_matrix(np.ones((3, 3))), seed=0)


def test_cells_that_are_all_alike_give_two():
    graph = sp.csr_matrix(np.ones((60, 60)))
    estimate = estimation.estimate_n_clusters(np.zeros((60, 3)), graph, seed=0)
    assert estimate.n_clusters == 2


def test_only_a_sample_is_tried_in_large_data(monkeypatch):
    monkeypatch.setattr(estimation, "SAMPLE", 120)
    points, graph = blobs(4, 100)
    estimate = estimation.estimate_n_clusters(points, graph, seed=0)
    assert estimate.n_clusters == 4
    assert estimate.curves[-1]["k"] == 12


def test_prediction_strength_by_hand():
    clusters = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    predicted = np.array([5, 5, 5, 4, 3, 3, 3, 9])
    # Cluster 0 keeps 3 of its 6 pairs, cluster 1 all, cluster 2 has none.
    assert estimation.prediction_strength(predicted, clusters) == 0.5
    assert estimation.prediction_strength(np.arange(3), np.arange(3)) == 0


def test_the_elbow_by_hand():
    assert estimation.elbow(np.array([10.0, 4.0, 3.0, 2.0, 1.0])) == 1
    assert estimation.elbow(np.array([10.0, 9.0, 8.0, 0.0])) == 0
    assert estimation.elbow(np.array([1.0, 1.0, 1.0])) == 0


@pytest.mark.parametrize("n_cells", [8, 80])  # both ways to find eigenvalues
def test_the_spectrum_of_a_ring_is_known(n_cells):
    """A directed ring, each cell its own neighbour too: eigenvalues cos(2 pi j / N)."""
    ring = sp.csr_matrix(np.eye(n_cells) + np.roll(np.eye(n_cells), 1, axis=1))
    expected = np.sort(np.cos(2 * np.pi * np.arange(n_cells) / n_cells))[::-1]
    computed = estimation.spectrum(ring)
    np.testing.assert_allclose(computed, expected[: len(computed)], atol=1e-6)
    assert len(computed) == min(n_cells, estimation.EIGENVALUES)
