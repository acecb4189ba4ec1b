"""The laboratory: the rule of adoption, the ways, and a small cache from end to end."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

import baselines
import neighbours
import preprocess
import views
from lab import judge, prepare, protocol, ways
from settings import Settings


def table(n_sets=20, **recipes):
    """A row a set; each recipe a score or one for each set."""
    index = [f"set{i:02}" for i in range(n_sets)]
    return pd.DataFrame(recipes, index=index)


def test_a_recipe_better_everywhere_is_adopted():
    verdict = protocol.judge(table(default=0.5, better=0.6, worse=0.4), "default")
    assert verdict.recipe == "better"
    assert verdict.adopted
    assert verdict.wins == (20, 20)
    assert verdict.summary()["mean gain without its best sets"] == pytest.approx(0.1)


def test_a_recipe_is_not_adopted_on_the_wins_of_a_better_one():
    verdict = protocol.judge(table(default=0.5, better=0.6, good=0.55), "default", recipe="good")
    assert verdict.summary()["median gain"] > 0
    assert not verdict.adopted


def test_a_lucky_set_adopts_nothing():
    """One set that gains .9 carries the mean over all, and loses on every half without it."""
    lucky = np.full(20, 0.49)
    lucky[3] = 1.4
    verdict = protocol.judge(table(default=0.5, lucky=lucky), "default")
    assert verdict.recipe == "lucky"
    assert verdict.wins == (0, 0)
    assert not verdict.adopted
    assert verdict.summary()["mean gain"] > 0 > verdict.summary()["median gain"]


def test_best_of_many_by_chance_adopts_nothing():
    rng = np.random.default_rng(1)
    noise = {f"recipe{i}": 0.5 + 0.1 * rng.normal(size=20) for i in range(40)}
    verdict = protocol.judge(table(default=0.5 + 0.1 * rng.normal(size=20), **noise), "default")
    summary = verdict.summary()
    assert summary["mean gain, half that chose"] > 0.04
    assert summary["mean gain, other half"] < summary["mean gain, half that chose"] / 2


def test_wins_without_a_positive_median_adopt_nothing():
    gains = np.where(np.arange(20) < 9, 0.3, -0.01)
    verdict = protocol.judge(table(default=0.5, half=0.5 + gains), "default")
    assert verdict.wins[0] >= protocol.WINS_NEEDED
    assert not verdict.adopted


def test_the_default_stays_among_equals():
    verdict = protocol.judge(table(other=0.5, default=0.5), "default")
    assert verdict.recipe == "default"
    assert verdict.wins == (0, 0)


def test_halvings_are_seeded_and_use_every_set_once():
    names = [f"set{i}" for i in range(21)]
    pairs = protocol.halvings(names)
    assert len(pairs) == protocol.HALVINGS
    assert pairs == protocol.halvings(names)
    assert pairs != protocol.halvings(names, seed=1)
    for one, other in pairs:
        assert sorted(one + other) == sorted(names)
        assert (len(one), len(other)) == (10, 11)


def test_a_missing_score_and_few_sets_are_refused():
    scores = table(default=0.5, other=0.6)
    scores.iloc[2, 1] = np.nan
    with pytest.raises(ValueError, match="a score is missing"):
        protocol.judge(scores, "default")
    with pytest.raises(ValueError, match="3 sets are too few"):
        protocol.judge(table(3, default=0.5), "default")


def test_the_table_of_means_and_gains():
    scores = table(4, default=0.5, better=[0.5, 0.6, 0.9, 0.7])
    scores = scores.assign(pca_kmeans=0.4, leiden_k=0.5, spectral=[0.7, 0.5, 0.5, 0.5])
    scores.index = ["Pollen", "Young", "Deng", "Klein_1000"]
    row = judge.summary(scores, "default").loc["better"]
    assert row["twelve"] == pytest.approx(0.55)
    assert row["others"] == pytest.approx(0.8)
    assert row["all"] == pytest.approx(0.675)
    assert row["median gain"] == pytest.approx(0.15)
    assert row["less two"] == pytest.approx(0.05)
    assert row["worst"] == pytest.approx(-0.2)
    assert row["on"] == "Pollen"


# --- The ways -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both():
    """Prepared counts of three groups of 30 cells that overlap, and what the laboratory keeps."""
    rng = np.random.default_rng(0)
    profiles = rng.lognormal(0, 0.25, (3, 150))
    truth = np.repeat(np.arange(3), 30)
    counts = ad.AnnData(sp.csr_matrix(rng.poisson(profiles[truth]).astype(np.float32)))
    prepared = preprocess.prepare(counts, Settings.of(highly_genes=60, n_pcs=8), seed=1)
    data = ways.Views(
        cells=prepare.slim(prepared, truth, seed=1),
        halves=[tuple(half) for half in views.halves(prepared, seed=2)],
        z=rng.normal(size=(90, 4)),
        default=None,
        n_clusters=4,
        seed=2,
    )
    return prepared, data


def test_points_are_what_a_kind_names(both):
    prepared, data = both
    c, logs = (prepared.obsm[name] for name in (views.COMPONENTS, views.LOGS))
    graph = views.graph(prepared)
    metric = neighbours.neighbour_metric(logs, graph)
    np.testing.assert_array_equal(data.points("c lm z"), neighbours.beside(c, metric, data.z))
    whole = views.features(prepared, metric=True)
    np.testing.assert_array_equal(data.points("cm lm"), whole)
    one, other = data.halves[3]
    in_half = neighbours.beside(neighbours.neighbour_metric(data.z, graph), one, other)
    np.testing.assert_array_equal(data.points("zm c l", data.halves[3]), in_half)


def test_the_adopted_pools_are_the_suites_own(both):
    prepared, data = both
    suite = {"n_clusters": 4, "seed": 2}
    adopted = views.consensus(prepared, data.z, metric=True, **suite).labels
    np.testing.assert_array_equal(data.labels(ways.ADOPTED), adopted)
    baseline = baselines.no_network(prepared, **suite)
    np.testing.assert_array_equal(data.labels(ways.BASELINE), baseline)
    assert (adopted != baseline).any()
    plain = views.consensus(prepared, None, metric=False, **suite).labels
    np.testing.assert_array_equal(data.labels("c l"), plain)


@pytest.mark.parametrize("name", ["pca_kmeans", "leiden_k", "spectral", "scanpy"])
def test_the_rivals_are_those_of_the_benchmark(both, name):
    prepared, data = both
    function = baselines.METHODS[{"scanpy": "scanpy_k"}.get(name, name)].function
    # Its graph is prepared by the seed of the data, 1, and cut by the seed of the ways, 2.
    expected = function(prepared, n_clusters=4, seed=2)
    assert adjusted_rand_score(data.labels(name), expected) == pytest.approx(1)


def test_a_pool_of_kmeans_alone_leaves_ward_out(both, monkeypatch):
    _, data = both
    taken = {}
    monkeypatch.setattr(
        ways.clustering, "consensus", lambda labelings, n: taken.update({n: labelings})
    )
    ways.pool("c l + cm lm", only_kmeans=True)(data)
    kinds = [data.clusterings("c l"), data.clusterings("cm lm")]
    assert kinds[0].shape == (views.HALVES, 2, 90)
    expected = [kind[half, 0] for half in range(views.HALVES) for kind in kinds]
    np.testing.assert_array_equal(taken[4], expected)


def test_many_pools_cluster_each_kind_once(both, monkeypatch):
    _, data = both
    data.memory.clear()
    calls = []
    clusterings = views.clusterings
    monkeypatch.setattr(
        views, "clusterings", lambda points, **k: calls.append(1) or clusterings(points, **k)
    )
    for way in ways.POOLS + tuple(ways.LINEAR):
        data.labels(way)
    kinds = {"c l z", "cm lm", "lm zm", "cm lm zm", "cm lm z", "c z", "c l"}
    assert len(calls) == len(kinds) * views.HALVES
    assert {f"halves of {kind}" for kind in kinds} <= set(data.memory)


def test_what_is_not_cached_is_named(both):
    _, data = both
    bare = ways.Views(data.cells, None, None, None, n_clusters=3, seed=1)
    for way, message in [("default", "--runs"), ("c l", "--halves"), ("z", "--tag")]:
        with pytest.raises(ValueError, match=message):
            bare.labels(way)


# --- From end to end ------------------------------------------------------------------------------


@pytest.fixture
def easy(simulated, tmp_path, without_xla):
    """Flags for a cache and a folder with one set, whose networks are small."""
    cache, data_dir = tmp_path / "cache", tmp_path / "data"
    (data_dir / "easy").mkdir(parents=True)
    (data_dir / "easy" / "data.h5").write_bytes(simulated.path.read_bytes())
    words = "hidden_dim=16 decoder_dims=16 latent_dim=4 highly_genes=50 pretrain_epochs=60"
    return cache, ["--cache", str(cache), "--data_dir", str(data_dir), "--set", words]


def test_cache_and_judge_from_end_to_end(easy, tmp_path, capsys, monkeypatch):
    cache, flags = easy
    assert prepare.main([*flags, "--tag", "small", "--runs", "--halves"]) == 0
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert prepare.main([*flags, "--tag", "small", "--runs", "--halves"]) == 0
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == written
    data, codes = judge.load(cache, "easy", "small", 1)
    assert data.z.shape == (120, 4)
    assert data.n_clusters == 3
    assert len(data.halves) == views.HALVES
    assert adjusted_rand_score(data.labels("joint_m"), codes) > 0.9
    csv = tmp_path / "table.csv"
    judged = ["--cache", str(cache), "--tag", "small", "--csv", str(csv)]
    assert judge.main(judged) == 0
    assert ways.ADOPTED in capsys.readouterr().out
    assert set(pd.read_csv(csv).columns) == {"set", *ways.WAYS}
    monkeypatch.setattr(views, "clusterings", None)  # all is cached
    assert judge.main(judged) == 0
    assert judge.main([*judged, "--ways", "joint", "z", "--again", "--against", "z"]) == 0
    assert judge.main(judged) == 0  # what was not asked for anew is still there


def test_networks_read_either_graph(easy):
    cache, flags = easy
    for graph in prepare.GRAPHS:
        assert prepare.main([*flags, "--tag", graph, "--graph", graph]) == 0
    one, other = (np.load(prepare.network_file(cache, "easy", g, 1))["z"] for g in prepare.GRAPHS)
    assert np.abs(one - other).max() > 1e-3
