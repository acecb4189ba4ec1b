"""The kNN graph of cells, and the metric of neighbours' differences."""

import numpy as np
import pytest
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

import neighbours
from neighbours import beside, metric_map, neighbour_metric
from utils import InputError


def knn_graph(points, **changes):
    settings = {"symmetric": False, "exact": True, "seed": 1} | changes
    return neighbours.knn_graph(points, **settings)


@pytest.mark.parametrize("symmetric", [False, True])
def test_knn_graph_against_all_distances(symmetric):
    points = np.random.default_rng(0).normal(size=(40, 3))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest = np.argsort(distance, axis=1)[:, :6]  # the cell itself is at 0
    expected = np.zeros((40, 40))
    np.put_along_axis(expected, nearest, 1.0, axis=1)
    if symmetric:
        expected = np.maximum(expected, expected.T)
    graph = knn_graph(points, k=6, symmetric=symmetric)
    assert graph.dtype == np.float32
    np.testing.assert_array_equal(graph.toarray(), expected)


@pytest.mark.parametrize("exact", [True, False])
def test_knn_graph_of_identical_cells_keeps_each_cell_in_its_own_row(exact):
    graph = knn_graph(np.zeros((8, 2)), k=3, exact=exact).toarray()
    np.testing.assert_array_equal(graph.diagonal(), 1)
    np.testing.assert_array_equal(graph.sum(axis=1), 3)


def test_approximate_neighbours_are_nearly_the_exact_ones_and_repeat_themselves():
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 3, (8, 20))
    points = (centers[rng.integers(0, 8, 3000)] + rng.normal(size=(3000, 20))).astype(np.float32)
    exact = knn_graph(points, k=15)
    approximate = knn_graph(points, k=15, exact=False)
    np.testing.assert_array_equal(approximate.diagonal(), 1)
    np.testing.assert_array_equal(np.diff(approximate.indptr), 15)
    assert exact.multiply(approximate).nnz / exact.nnz > 0.99
    assert (approximate != knn_graph(points, k=15, exact=False)).nnz == 0


def test_the_recall_is_the_share_of_the_nearest_that_a_graph_has():
    points = np.random.default_rng(0).normal(size=(120, 3))
    graph = knn_graph(points, k=9, exact=True)
    assert neighbours.recall(points, graph, seed=1) == 1
    far = np.argsort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, -2:]
    for cell, others in enumerate(far):
        row = graph.indices[9 * cell : 9 * cell + 9]
        row[np.flatnonzero(row != cell)[:2]] = others
    assert neighbours.recall(points, graph, seed=1) == pytest.approx(7 / 9)


@pytest.mark.parametrize("probes", [2, 100])
@pytest.mark.parametrize("k", [2, 60, 99])
def test_lists_that_hold_too_few_or_all_cells_give_the_exact_neighbours(monkeypatch, k, probes):
    """Of 100 cells there are 10 lists: any two have fewer than 60, all together have 100.

    Only two neighbours, sought in two lists, may be missed.
    """
    monkeypatch.setattr(neighbours, "PROBES", probes)
    points = np.random.default_rng(0).normal(size=(100, 5))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = neighbours.nearest_others(points, k=k, exact=False, seed=1)
    expected = np.sort(np.argsort(distance, axis=1)[:, :k], axis=1)
    agrees = (np.sort(nearest, axis=1) == expected).all(axis=1)
    if (k, probes) == (2, 2):
        assert 0 < agrees.mean() < 1
    else:
        assert agrees.all()


def test_the_number_of_threads_does_not_change_approximate_neighbours():
    points = np.random.default_rng(0).normal(size=(4000, 10)).astype(np.float32)
    graphs = []
    for threads in (1, 3):
        with threadpool_limits(threads):
            graphs.append(knn_graph(points, k=15, exact=False))
    assert (graphs[0] != graphs[1]).nnz == 0


def test_the_seed_decides_which_neighbours_are_missed():
    points = np.random.default_rng(0).normal(size=(2000, 10))
    first, second = (knn_graph(points, k=15, exact=False, seed=seed) for seed in (1, 2))
    assert 0 < (first != second).nnz < 0.2 * first.nnz


def test_k_must_be_below_the_number_of_cells():
    points = np.random.default_rng(0).normal(size=(5, 2))
    assert knn_graph(points, k=4).nnz == 20
    with pytest.raises(InputError, match=r"--k_neighbors 5 .* number of cells \(5\)"):
        knn_graph(points, k=5)


@pytest.fixture
def line():
    """A ring of cells, each joined with the next, and their points in the plane."""
    rng = np.random.default_rng(0)
    n = 200
    graph = sp.csr_matrix((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    return rng.normal(size=(n, 2)) * [5.0, 1.0], graph.maximum(graph.T)


def test_neighbours_differ_equally_in_all_directions(line):
    points, graph = line
    mapped = points @ metric_map(points, graph, shrinkage=0.0)
    edges = sp.triu(graph, k=1).tocoo()
    steps = mapped[edges.row] - mapped[edges.col]
    np.testing.assert_allclose(steps.T @ steps / len(steps), np.eye(2), atol=1e-9)


def test_the_metric_undoes_a_linear_map(line):
    points, graph = line
    slanted = points @ np.array([[1.0, 0.7], [-0.2, 3.0]])
    before, after = (p @ metric_map(p, graph, shrinkage=0.0) for p in (points, slanted))
    distances = [np.linalg.norm(p[:100] - p[100:], axis=1) for p in (before, after)]
    np.testing.assert_allclose(*distances)


def test_shrinkage_of_one_only_scales(line):
    points, graph = line
    mapped = points @ metric_map(points, graph, shrinkage=1.0)
    ratio = mapped / points
    np.testing.assert_allclose(ratio, ratio[0, 0])


def test_a_directed_graph_has_the_metric_of_its_symmetric_one(line):
    """Else the order of the cells would decide which of its edges count."""
    points, _ = line
    expected = metric_map(points, knn_graph(points, k=4, symmetric=True))
    np.testing.assert_array_equal(metric_map(points, knn_graph(points, k=4)), expected)


def test_a_metric_without_edges_changes_nothing():
    points = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(neighbour_metric(points, sp.csr_matrix((3, 3))), points)


def test_no_view_outweighs_another(line):
    points, _ = line
    joined = beside(points, 100 * points + 3)
    variances = joined.var(axis=0)
    assert variances[:2].sum() == pytest.approx(1)
    assert variances[2:].sum() == pytest.approx(1)
    np.testing.assert_allclose(joined.mean(axis=0), 0, atol=1e-9)
