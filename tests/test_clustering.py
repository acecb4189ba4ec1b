"""Initial clusters and their centres."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

import clustering


def test_kmeans_finds_separate_groups_and_repeats_itself():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(m, 0.1, (20, 3)) for m in (-2, 0, 2)]).astype(np.float32)
    labels = clustering.kmeans(z, n_clusters=3, seed=5)
    groups = labels.reshape(3, 20)
    assert (groups == groups[:, :1]).all()
    assert len(np.unique(labels)) == 3
    np.testing.assert_array_equal(labels, clustering.kmeans(z, n_clusters=3, seed=5))


def test_kmeans_of_fewer_points_than_clusters_returns_what_there_is():
    z = np.repeat(np.array([[0.0, 0.0], [1.0, 1.0]]), 4, axis=0)
    labels = clustering.kmeans(z, n_clusters=3, seed=0)
    assert len(np.unique(labels)) == 2
    assert clustering.centers_of(z, labels).shape == (2, 2)


def test_spectral_cuts_a_directed_graph_where_it_is_thin():
    """Two directed cliques of five cells, joined by one edge."""
    clique = np.triu(np.ones((5, 5)))
    graph = np.kron(np.eye(2), clique)
    graph[4, 5] = 1
    labels = clustering.spectral(sp.csr_matrix(graph), n_clusters=2, seed=1)
    assert set(labels[:5]) != set(labels[5:])
    assert len(set(labels[:5])) == len(set(labels[5:])) == 1


def test_agreement_is_the_mean_over_the_labelings():
    one, other = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])  # their ARI is -.5
    assert clustering.mean_agreement(one, [one, 1 - one]) == 1.0
    assert clustering.mean_agreement(one, [one, other]) == pytest.approx((1 - 0.5) / 2)


def test_centers_are_means_of_the_groups_that_occur():
    z = np.array([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0]])
    np.testing.assert_array_equal(
        clustering.centers_of(z, np.array([0, 0, 2])), [[1.0, 2.0], [5.0, 5.0]]
    )


def test_consensus_is_average_linkage_of_all_cells():
    """Over the distinct rows, weighted, it is what scipy finds over every cell."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), [60, 30, 20, 10])
    labelings = []
    for _ in range(7):
        labels = truth.copy()
        moved = rng.random(len(truth)) < 0.15
        labels[moved] = rng.integers(0, 4, moved.sum())
        labelings.append(rng.permutation(4)[labels])
    labels = clustering.consensus(labelings, 4)
    apart = np.mean([x[:, None] != x[None, :] for x in labelings], axis=0)
    tree = linkage(squareform(apart, checks=False), "average")
    assert adjusted_rand_score(labels, fcluster(tree, 4, "maxclust")) > 0.95
    assert adjusted_rand_score(labels, truth) > 0.9
    assert (np.diff(np.bincount(labels)) <= 0).all()


def test_consensus_follows_the_majority_and_keeps_what_it_must():
    one, other = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(clustering.consensus([one, one, other], 3), one)
    np.testing.assert_array_equal(clustering.consensus([other], 3), other)  # two rows are all


def test_rows_that_are_not_linked_go_to_the_nearest_cluster(monkeypatch):
    """Of 400 cells most rows of labels are rare; linking the 60 commonest loses hardly a cell."""
    rng = np.random.default_rng(3)
    truth = np.repeat(np.arange(3), [200, 120, 80])
    labelings = []
    for _ in range(16):
        moved = rng.random(400) < 0.25
        labelings.append(np.where(moved, rng.integers(0, 3, 400), truth))
    whole = clustering.consensus(labelings, 3)
    assert len(np.unique(np.column_stack(labelings), axis=0)) > 100
    monkeypatch.setattr(clustering, "LINKED_ROWS", 60)
    partly = clustering.consensus(labelings, 3)
    assert adjusted_rand_score(whole, partly) > 0.95
    assert adjusted_rand_score(truth, partly) > 0.95


def test_a_rare_kind_is_among_the_rows_that_are_linked(monkeypatch):
    """The 60 rows of the most cells are all of the two large groups."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), [2_000, 2_000, 200])
    labelings = []
    for _ in range(24):
        moved = rng.random(len(truth)) < np.where(truth == 2, 0.3, 0.1)
        labelings.append(np.where(moved, rng.integers(0, 3, len(truth)), truth))
    monkeypatch.setattr(clustering, "LINKED_ROWS", 60)
    labels = clustering.consensus(labelings, 3)
    assert np.bincount(labels[truth == 2], minlength=3)[2] > 190
    assert adjusted_rand_score(truth, labels) > 0.95


def test_rows_of_all_clusters_are_linked_where_hardly_two_cells_have_the_same(monkeypatch):
    """In the order of the rows the first 60 would all be of the first group of one partition."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 100)
    labelings = [truth]
    for _ in range(16):
        moved = rng.random(400) < 0.4
        labelings.append(np.where(moved, rng.integers(0, 4, 400), truth))
    assert len(np.unique(np.column_stack(labelings), axis=0)) > 390
    monkeypatch.setattr(clustering, "LINKED_ROWS", 60)
    assert adjusted_rand_score(truth, clustering.consensus(labelings, 4)) > 0.95


def test_the_nearest_center_is_that_of_the_least_distance():
    rng = np.random.default_rng(0)
    points, centers = rng.normal(size=(40, 3)), rng.normal(size=(5, 3))
    expected = [np.argmin([np.linalg.norm(point - c) for c in centers]) for point in points]
    np.testing.assert_array_equal(clustering.nearest_center(points, centers), expected)
