"""The laboratory: the rule of adoption, and a small cache from end to end."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from lab import judge, prepare, protocol, ways


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
