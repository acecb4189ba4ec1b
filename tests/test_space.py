"""What is clustered: the metric of the embedding, and the components beside it."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import pdist

import space


def graph_of(edges, n_cells, *, itself=True):
    """Binary (N, N) graph with these directed edges, and each cell its own neighbour or not."""
    rows, columns = np.transpose(edges)
    graph = sp.csr_matrix((np.ones(len(edges)), (rows, columns)), shape=(n_cells, n_cells))
    return (graph + sp.eye(n_cells) if itself else graph).tocsr()


@pytest.fixture
def cells():
    """z (60, 3) of three directions of very different spread, and a directed graph of its cells."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 3)) * [10.0, 1.0, 0.3] + [5.0, 0.0, -2.0]
    edges = {(i, int(j)) for i in range(60) for j in rng.choice(60, 4, replace=False) if i != j}
    return z, graph_of(sorted(edges), 60)


def scatter_between_neighbours(points, graph):
    """The mean of (x_i - x_j)(x_i - x_j)^T / 2, edge by edge."""
    found = []
    for i, j in zip(*graph.nonzero(), strict=True):
        difference = points[i] - points[j]
        found += [np.outer(difference, difference) / 2] if i != j else []
    return np.mean(found, axis=0)


def test_four_cells_that_can_be_drawn(monkeypatch):
    """Neighbours lie 4 apart in the first direction and 1 in the second: the metric evens that."""
    monkeypatch.setattr(space, "SHRINKAGE", 0.0)
    z = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0], [0.0, 1.0]])
    square = graph_of([(0, 1), (1, 2), (2, 3), (3, 0)], 4)
    metric = space.neighbour_metric(z, square)
    # Variances are 4 and 1/4; the metric divides by 4 and 1, then restores their sum, 17/4.
    factor = np.sqrt((4 + 1 / 4) / (1 / 4 + 1 / 4))
    np.testing.assert_allclose(metric, factor * np.diag([1 / 4, 1]), atol=1e-12)


def test_without_shrinkage_neighbours_differ_as_much_in_every_direction(cells, monkeypatch):
    monkeypatch.setattr(space, "SHRINKAGE", 0.0)
    z, graph = cells
    found = scatter_between_neighbours(z @ space.neighbour_metric(z, graph), graph)
    np.testing.assert_allclose(found, found[0, 0] * np.eye(3), atol=1e-9 * found[0, 0])


def test_the_metric_is_that_of_the_scatter_edge_by_edge(cells):
    z, graph = cells
    scatter = scatter_between_neighbours(z, graph)
    shrunk = scatter + space.SHRINKAGE * np.trace(scatter) / 3 * np.eye(3)
    metric = space.neighbour_metric(z, graph)
    whitened = metric @ shrunk @ metric
    np.testing.assert_allclose(whitened, whitened[0, 0] * np.eye(3), atol=1e-9 * whitened[0, 0])
    np.testing.assert_allclose(metric, metric.T)
    assert space.total_variance(z @ metric) == pytest.approx(space.total_variance(z))


def test_distances_do_not_depend_on_how_the_network_slants_its_embedding(cells, monkeypatch):
    monkeypatch.setattr(space, "SHRINKAGE", 0.0)
    z, graph = cells
    slanted = z @ np.array([[0.2, 0.1, 0.0], [0.0, 3.0, 0.4], [0.3, 0.0, 5.0]])

    def distances(z, *, measured):
        points = z @ space.neighbour_metric(z, graph) if measured else z
        return pdist(points) / np.sqrt(space.total_variance(points))

    def change(*, measured):
        return np.abs(distances(z, measured=measured) - distances(slanted, measured=measured)).max()

    assert change(measured=True) < 1e-9
    assert change(measured=False) > 1


def test_no_metric_where_no_neighbours_differ():
    alone = sp.eye(4).tocsr()
    z = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(space.neighbour_metric(z, alone), np.eye(2))
    pairs = graph_of([(0, 1), (2, 3)], 4)
    apart = np.array([[0.0, 0.0], [0.0, 0.0], [1e6, 3.0], [1e6, 3.0]])
    np.testing.assert_array_equal(space.neighbour_metric(apart, pairs), np.eye(2))
    np.testing.assert_array_equal(space.neighbour_metric(np.ones((4, 2)), pairs), np.eye(2))


def test_a_direction_without_any_spread_stays_finite(cells):
    z, graph = cells
    z = np.concatenate([z, np.full((60, 1), 7.0)], axis=1)
    assert np.isfinite(space.neighbour_metric(z, graph)).all()


def test_the_embedding_alone_is_left_as_it_is(cells):
    z = cells[0].astype(np.float32)
    np.testing.assert_array_equal(space.embedding_alone(*z.shape).points(z), z)


def test_components_join_z_centred_and_with_the_same_total_variance(cells):
    z, graph = cells[0].astype(np.float32), cells[1]
    components = np.random.default_rng(1).normal(3, 2, size=(60, 5)).astype(np.float32)
    joint = space.with_components(space.embedding_alone(*z.shape), z, components)
    points = joint.points(z).numpy()
    np.testing.assert_array_equal(points[:, :3], z)
    added = points[:, 3:]
    np.testing.assert_allclose(added.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(space.total_variance(added), space.total_variance(z), rtol=1e-4)
    ratio = added / (components - components.mean(axis=0))
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-2)

    measured = space.with_metric(joint, z, graph).points(z).numpy()
    np.testing.assert_array_equal(measured[:, 3:], added)
    expected = z @ space.neighbour_metric(z.astype(np.float64), graph)
    np.testing.assert_allclose(measured[:, :3], expected, rtol=1e-4, atol=1e-4)
