"""The views of the cells, their graph, and the consensus over halves of the genes."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

import clustering
import neighbours
import preprocess
import views
from settings import Settings

SETTINGS = Settings.of(highly_genes=60, log_genes=120, n_pcs=8)


@pytest.fixture(scope="module")
def groups():
    """Prepared counts of three groups of 50 cells, whose depths vary much."""
    rng = np.random.default_rng(0)
    profiles = rng.lognormal(0, 0.5, (3, 200))
    truth = np.repeat(np.arange(3), 50)
    mean = profiles[truth] * rng.lognormal(0, 0.6, (150, 1))
    counts = ad.AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.float32)))
    return preprocess.prepare(counts, SETTINGS, seed=1), truth


def test_the_log_components_are_those_of_the_chosen_logarithms(groups):
    prepared, _ = groups
    chosen = prepared.raw.var[views.LOG_GENES].to_numpy()
    assert chosen.sum() == 120
    values = prepared.raw.X[:, chosen].toarray()
    centred = values - values.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * scale)[:, : views.LOG_COMPONENTS]
    computed = prepared.obsm[views.LOGS]
    # Each component but for its sign; the seventh and later ones are noise of nearly equal size.
    for one, other in zip(computed.T[:6], expected.T, strict=False):
        assert abs(np.corrcoef(one, other)[0, 1]) > 0.99
    loadings = prepared.raw.varm[views.LOG_LOADINGS]
    assert not loadings[~chosen].any()
    np.testing.assert_allclose(centred @ loadings[chosen], computed, atol=1e-3)
    np.testing.assert_allclose(views.log_components_like(values, prepared), computed, atol=1e-3)


@pytest.mark.parametrize("method", ["seurat", "pearson"])
def test_log_genes_are_chosen_alike_however_many_genes_are_scaled(method):
    """Where all are, the logarithms from which they are chosen must not have become z-scores."""
    rng = np.random.default_rng(0)
    mean = rng.lognormal(0, 1, 200) * rng.lognormal(0, 0.5, (80, 200))
    counts = ad.AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.float32)))
    few, all_ = (
        preprocess.prepare(
            counts,
            Settings.of(highly_genes=number, log_genes=40, gene_selection=method),
            seed=1,
        )
        for number in (199, 200)
    )
    chosen = few.raw.var[views.LOG_GENES]
    assert chosen.sum() == 40
    np.testing.assert_array_equal(all_.raw.var[views.LOG_GENES], chosen)
    assert "highly_variable" not in all_.var  # of the log genes it would be


def test_the_graph_is_of_both_views_in_the_metric_of_the_first_graph(groups):
    prepared, _ = groups
    plain = prepared.obsp["connectivities"]
    mapped = [
        neighbours.neighbour_metric(prepared.obsm[name], plain)
        for name in (views.COMPONENTS, views.LOGS)
    ]
    points = neighbours.beside(*mapped)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    graph = views.graph(prepared)
    assert (graph != plain).nnz > 0
    for cell in range(0, 150, 13):
        nearest = np.argsort(distances[cell])[: SETTINGS.k_neighbors]
        assert set(nearest) <= set(graph[cell].indices)


@pytest.mark.parametrize("kind", ["both views", "components alone"])
def test_distances_along_the_edges_are_those_of_the_space_of_neighbours(groups, kind, monkeypatch):
    prepared = groups[0].copy()
    if kind == "both views":
        points = views.mapped(prepared, prepared.uns[views.MAPS])
    else:
        del prepared.obsp[views.GRAPH], prepared.uns[views.MAPS]
        points = prepared.obsm[views.COMPONENTS]
    monkeypatch.setattr(views, "EDGES", 1000)
    edges = views.graph(prepared).toarray() - np.eye(150)
    expected = np.linalg.norm(points[:, None] - points[None], axis=2) * edges
    distances = views.graph_distances(prepared)
    assert distances.nnz == edges.sum() > 2000
    np.testing.assert_allclose(distances.toarray(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("log_genes", "neighbour_metric", "another"),
    [(0, False, False), (0, True, True), (120, False, True)],
)
def test_there_is_a_second_graph_only_where_it_differs(log_genes, neighbour_metric, another):
    rng = np.random.default_rng(0)
    counts = ad.AnnData(sp.csr_matrix(rng.poisson(1.0, (60, 150)).astype(np.float32)))
    settings = Settings.of(
        highly_genes=40, n_pcs=5, log_genes=log_genes, neighbour_metric=neighbour_metric
    )
    prepared = preprocess.prepare(counts, settings, seed=1)
    assert (views.GRAPH in prepared.obsp) == another
    expected = prepared.obsp[views.GRAPH if another else "connectivities"]
    assert (views.graph(prepared) != expected).nnz == 0


def test_features_are_the_views_side_by_side(groups):
    prepared, _ = groups
    plain = views.features(prepared, metric=False)
    expected = neighbours.beside(prepared.obsm[views.COMPONENTS], prepared.obsm[views.LOGS])
    np.testing.assert_array_equal(plain, expected)
    metric = views.features(prepared, metric=True)
    assert metric.shape == plain.shape
    n = prepared.obsm[views.COMPONENTS].shape[1]
    edges = sp.triu(views.graph(prepared), k=1).tocoo()
    for points in (metric[:, :n], metric[:, n:]):
        assert points.var(axis=0).sum() == pytest.approx(1)
        steps = points[edges.row] - points[edges.col]
        values = np.linalg.eigvalsh(steps.T @ steps)
        assert values[-1] < 12 * values[0]  # it is shrunk: not all directions are quite equal


def test_halves_are_of_half_the_genes_and_seeded(groups):
    prepared, _ = groups
    once, again, other = (list(views.halves(prepared, seed=seed)) for seed in (1, 1, 2))
    assert len(once) == views.HALVES
    for (one, logs), (same, _), (different, _) in zip(once, again, other, strict=True):
        assert (one.shape, logs.shape) == ((150, 8), (150, views.LOG_COMPONENTS_OF_HALF))
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - different).max() > 0.01
    whole = prepared.obsm["X_pca"].var(axis=0).sum()
    assert all(0.2 * whole < half[0].var(axis=0).sum() < 0.8 * whole for half in once)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("with_z", [False, True])
def test_the_consensus_finds_the_groups(groups, metric, with_z):
    prepared, truth = groups
    z = np.random.default_rng(1).normal(size=(150, 4)) if with_z else None
    found = views.consensus(prepared, z, metric=metric, n_clusters=3, seed=1)
    assert adjusted_rand_score(truth, found.labels) > 0.9
    assert 0.3 < found.agreement <= 1
    again = views.consensus(prepared, z, metric=metric, n_clusters=3, seed=1)
    np.testing.assert_array_equal(found.labels, again.labels)


def test_the_consensus_of_few_distinct_cells_says_nothing():
    """Every cell ten times: K-means finds fewer clusters than it must, which is no warning."""
    rng = np.random.default_rng(0)
    cells = np.repeat(rng.poisson(2.0, (5, 60)), 10, axis=0)
    counts = ad.AnnData(sp.csr_matrix(cells.astype(np.float32)))
    prepared = preprocess.prepare(counts, SETTINGS, seed=1)
    labels = views.consensus(prepared, None, metric=False, n_clusters=7, seed=1).labels
    assert adjusted_rand_score(np.repeat(np.arange(5), 10), labels) > 0.7


def test_what_the_consensus_is_of(groups, monkeypatch):
    """K-means and Ward of each half, once with z beside it and once in the metric."""
    prepared, _ = groups
    taken = []
    monkeypatch.setattr(
        clustering, "consensus", lambda labelings, n: taken.extend(labelings) or labelings[0]
    )
    z = np.zeros((150, 2))
    views.consensus(prepared, z, metric=True, n_clusters=4, seed=1)
    assert len(taken) == views.HALVES * 2 * 2


def test_of_many_cells_a_sample_is_clustered_and_the_others_follow(groups, monkeypatch):
    prepared, labels = groups
    samples = []
    kmeans = clustering.kmeans
    monkeypatch.setattr(
        clustering, "kmeans", lambda points, **of: samples.append(points) or kmeans(points, **of)
    )
    monkeypatch.setattr(views, "SAMPLE", 60)
    made = views.consensus(prepared, None, metric=False, n_clusters=4, seed=1)
    assert {len(points) for points in samples} == {60}
    assert adjusted_rand_score(made.labels, labels) > 0.9
    points = prepared.obsm["X_pca"]
    chosen = np.arange(0, 150, 2)
    for of_all, of_chosen in zip(
        views.clusterings(points, n_clusters=4, seed=1, sample=chosen),
        views.clusterings(points[chosen], n_clusters=4, seed=1),
        strict=True,
    ):
        centers = np.stack([points[chosen][of_chosen == c].mean(axis=0) for c in range(4)])
        distances = ((points[:, None] - centers[None]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(of_all, distances.argmin(axis=1))


def test_the_published_preparation_has_one_view_and_one_graph():
    rng = np.random.default_rng(0)
    counts = ad.AnnData(sp.csr_matrix(rng.poisson(1.0, (60, 90)).astype(np.float32)))
    prepared = preprocess.prepare(counts, Settings.of("official", highly_genes=30), seed=1)
    assert [*views.views_of(prepared)] == ["X_pca"]
    assert [*prepared.obsp] == ["connectivities"]
    assert views.MAPS not in prepared.uns
