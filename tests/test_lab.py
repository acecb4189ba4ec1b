"""The laboratory: the metric, the rule of adoption, and a small cache from end to end."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from lab import consensus, judge, prepare, protocol, ways
from lab.metric import beside, neighbour_metric


@pytest.fixture
def line():
    """A ring of cells, each joined with the next, and their points in the plane."""
    rng = np.random.default_rng(0)
    n = 200
    graph = sp.csr_matrix((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    return rng.normal(size=(n, 2)) * [5.0, 1.0], graph.maximum(graph.T)


def test_neighbours_differ_equally_in_all_directions(line):
    points, graph = line
    mapped = neighbour_metric(points, graph, shrinkage=0.0)
    edges = sp.triu(graph, k=1).tocoo()
    steps = mapped[edges.row] - mapped[edges.col]
    np.testing.assert_allclose(steps.T @ steps / len(steps), np.eye(2), atol=1e-9)


def test_the_metric_undoes_a_linear_map(line):
    points, graph = line
    slanted = points @ np.array([[1.0, 0.7], [-0.2, 3.0]])
    before, after = (neighbour_metric(p, graph, shrinkage=0.0) for p in (points, slanted))
    distances = [np.linalg.norm(p[:100] - p[100:], axis=1) for p in (before, after)]
    np.testing.assert_allclose(*distances)


def test_shrinkage_of_one_only_scales(line):
    points, graph = line
    mapped = neighbour_metric(points, graph, shrinkage=1.0)
    ratio = mapped / points
    np.testing.assert_allclose(ratio, ratio[0, 0])


def test_a_metric_without_edges_changes_nothing():
    points = np.arange(6.0).reshape(3, 2)
    assert neighbour_metric(points, sp.csr_matrix((3, 3))) is points


def test_no_view_outweighs_another(line):
    points, _ = line
    joined = beside(points, 100 * points + 3, weights=(1.0, 0.5))
    variances = joined.var(axis=0)
    assert variances[:2].sum() == pytest.approx(1)
    assert variances[2:].sum() == pytest.approx(0.25)
    np.testing.assert_allclose(joined.mean(axis=0), 0, atol=1e-9)


def table(n_sets=20, **recipes):
    """A row a set; each recipe a score or one for each set."""
    index = [f"set{i:02}" for i in range(n_sets)]
    return pd.DataFrame(recipes, index=index)


def test_a_recipe_better_everywhere_is_adopted():
    verdict = protocol.judge(table(today=0.5, better=0.6, worse=0.4), "today")
    assert verdict.recipe == "better"
    assert verdict.adopted
    assert verdict.wins == (20, 20)
    assert verdict.summary()["mean gain without its best sets"] == pytest.approx(0.1)


def test_a_recipe_is_not_adopted_on_the_wins_of_a_better_one():
    verdict = protocol.judge(table(today=0.5, better=0.6, good=0.55), "today", recipe="good")
    assert verdict.summary()["median gain"] > 0
    assert not verdict.adopted


def test_a_lucky_set_adopts_nothing():
    """One set that gains .9 carries the mean over all, and loses on every half without it."""
    lucky = np.full(20, 0.49)
    lucky[3] = 1.4
    verdict = protocol.judge(table(today=0.5, lucky=lucky), "today")
    assert verdict.recipe == "lucky"
    assert verdict.wins == (0, 0)
    assert not verdict.adopted
    assert verdict.summary()["mean gain"] > 0 > verdict.summary()["median gain"]


def test_best_of_many_by_chance_adopts_nothing():
    rng = np.random.default_rng(1)
    noise = {f"recipe{i}": 0.5 + 0.1 * rng.normal(size=20) for i in range(40)}
    verdict = protocol.judge(table(today=0.5 + 0.1 * rng.normal(size=20), **noise), "today")
    summary = verdict.summary()
    assert summary["mean gain, half that chose"] > 0.04
    assert summary["mean gain, other half"] < summary["mean gain, half that chose"] / 2


def test_wins_without_a_positive_median_adopt_nothing():
    gains = np.where(np.arange(20) < 9, 0.3, -0.01)
    verdict = protocol.judge(table(today=0.5, half=0.5 + gains), "today")
    assert verdict.wins[0] >= protocol.WINS_NEEDED
    assert not verdict.adopted


def test_the_default_stays_among_equals():
    verdict = protocol.judge(table(other=0.5, today=0.5), "today")
    assert verdict.recipe == "today"
    assert verdict.wins == (0, 0)


def test_halvings_are_seeded_and_use_every_set_once():
    names = [f"set{i}" for i in range(21)]
    pairs = protocol.halves(names)
    assert len(pairs) == protocol.HALVINGS
    assert pairs == protocol.halves(names)
    assert pairs != protocol.halves(names, seed=1)
    for one, other in pairs:
        assert sorted(one + other) == sorted(names)
        assert (len(one), len(other)) == (10, 11)


def test_a_missing_score_and_few_sets_are_refused():
    scores = table(today=0.5, other=0.6)
    scores.iloc[2, 1] = np.nan
    with pytest.raises(ValueError, match="a score is missing"):
        protocol.judge(scores, "today")
    with pytest.raises(ValueError, match="3 sets are too few"):
        protocol.judge(table(3, today=0.5), "today")


def test_the_jaccard_graph_counts_common_neighbours():
    points = np.random.default_rng(0).normal(size=(60, 3))
    graph = ways.jaccard(points).toarray()
    lists = ways.knn(points, symmetric=False).toarray().astype(bool)
    for i, j in [(0, 1), (2, 9), (30, 50)]:
        expected = (lists[i] & lists[j]).sum() / (lists[i] | lists[j]).sum()
        assert graph[i, j] == pytest.approx(expected)
    assert not np.tril(graph).any()


def test_cache_and_judge_from_end_to_end(simulated, tmp_path, capsys, without_xla):
    cache, data_dir = tmp_path / "cache", tmp_path / "data"
    (data_dir / "easy").mkdir(parents=True)
    (data_dir / "easy" / "data.h5").write_bytes(simulated.path.read_bytes())
    words = "hidden_dim=16 decoder_dims=16 latent_dim=4 highly_genes=50 pretrain_epochs=60"
    flags = ["--cache", str(cache), "--data_dir", str(data_dir)]
    flags += ["--set", words, "--graph", "metric", "--tag", "small", "--runs", "--bags"]
    assert prepare.main(flags) == 0
    assert prepare.main(flags) == 0  # everything is there
    views, codes = judge.load(cache, "easy", "small", 1)
    assert views.z.shape == (120, 4)
    assert views.n_clusters == 3
    assert adjusted_rand_score(views.labels("joint_m"), codes) > 0.9
    csv = tmp_path / "table.csv"
    assert judge.main(["--cache", str(cache), "--tag", "small", "--csv", str(csv)]) == 0
    assert "joint_m" in capsys.readouterr().out
    assert set(pd.read_csv(csv).columns) == {"set", *ways.WAYS}


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
    labels = consensus.accumulate(labelings, 4)
    apart = np.mean([x[:, None] != x[None, :] for x in labelings], axis=0)
    tree = linkage(squareform(apart, checks=False), "average")
    assert adjusted_rand_score(labels, fcluster(tree, 4, "maxclust")) > 0.95
    assert adjusted_rand_score(labels, truth) > 0.9
    assert (np.diff(np.bincount(labels)) <= 0).all()


def test_consensus_follows_the_majority_and_keeps_what_it_must():
    one, other = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(consensus.accumulate([one, one, other], 3), one)
    np.testing.assert_array_equal(consensus.accumulate([other], 3), other)  # two rows are all
