"""The rivals: each finds what is easy to find and keeps its promise on K; their command."""

import io
import json
import logging
import random
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import anndata as ad
import igraph
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from conftest import contents, ran, write_published
from sklearn.metrics import adjusted_rand_score

import baselines
import clustering
import preprocess
import results
import scanpy_steps
import settings
from baselines import METHODS
from perf import scvi_part
from settings import Settings
from utils import InputError

HERE = [name for name, method in METHODS.items() if not method.needs_scvi]
TO_K = [name for name in HERE if METHODS[name].needs_k]
SEARCHED = ["leiden_k", "louvain_k"]
FREE = ["leiden", "louvain"]
FILES = {"labels.csv", "metrics.json", "settings.json"}
ESTIMATED = {"n_clusters.json", "n_clusters.png"}  # where nobody says the number of clusters


def apply(name, adata, *, n_clusters=None, seed=1):
    return METHODS[name].function(adata, n_clusters=n_clusters, seed=seed)


def prepared_as(simulated, **changed):
    """The simulated counts as `train.py` prepares them, but for what is changed."""
    adata = ad.AnnData(sp.csr_matrix(simulated.counts, dtype=np.float32))
    return preprocess.prepare(adata, Settings(**changed), seed=1)


@pytest.fixture(scope="module")
def prepared(simulated):
    return prepared_as(simulated)


@pytest.fixture(scope="module")
def directed(simulated):
    return prepared_as(simulated, symmetric_graph=False)


def on_graph(edges, n):
    """An AnnData of n cells with this graph (pairs in one direction) and nothing else."""
    rows, columns = np.array(edges).T
    graph = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(n, n))
    return ad.AnnData(shape=(n, 0), obsp={"connectivities": graph})


def clique(cells):
    return [(a, b) for a in cells for b in cells if a < b]


@pytest.fixture
def warned(caplog, monkeypatch):
    """The suite's warnings; a command that ran before may have cut its logger off."""
    monkeypatch.setattr(logging.getLogger("sctag"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="sctag")
    return lambda: [record.getMessage() for record in caplog.records]


# --- The methods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["prepared", "directed"])
@pytest.mark.parametrize("name", TO_K)
def test_the_simulated_clusters_are_found(name, graph, simulated, warned, request):
    labels = apply(name, request.getfixturevalue(graph), n_clusters=3)
    assert adjusted_rand_score(simulated.labels, labels) > 0.95
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert labels.shape == (120,)
    assert labels.dtype.kind == "i"
    assert warned() == []


@pytest.mark.parametrize("graph", ["prepared", "directed"])
@pytest.mark.parametrize("name", FREE)
def test_the_default_resolution_ignores_k(name, graph, simulated, request):
    adata = request.getfixturevalue(graph)
    labels = apply(name, adata)
    np.testing.assert_array_equal(labels, apply(name, adata, n_clusters=7))
    assert adjusted_rand_score(simulated.labels, labels) > 0.95
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))


@pytest.mark.parametrize("name", FREE)
def test_the_default_resolution_finds_cliques(name):
    """Four cliques of eight in a ring: modularity at resolution 1 is highest for the cliques."""
    groups = [range(8 * i, 8 * i + 8) for i in range(4)]
    edges = [edge for group in groups for edge in clique(group)]
    edges += [(7, 8), (15, 16), (23, 24), (0, 31)]
    labels = apply(name, on_graph(edges, 32))
    assert adjusted_rand_score(np.repeat(range(4), 8), labels) == 1


@pytest.mark.parametrize("name", HERE)
def test_the_same_seed_gives_the_same_labels_and_the_input_is_left_alone(name, prepared):
    def state():
        x, graph = prepared.obsm["X_pca"], prepared.obsp["connectivities"]
        keys = [*prepared.obs, *prepared.uns, *prepared.obsm, *prepared.obsp, *prepared.layers]
        return keys, x.tobytes(), graph.data.tobytes(), graph.indices.tobytes()

    before = state()
    first = apply(name, prepared, n_clusters=4, seed=5)
    np.random.seed(0)  # the global generators are not what decides
    np.testing.assert_array_equal(first, apply(name, prepared, n_clusters=4, seed=5))
    assert state() == before


@pytest.mark.parametrize("name", FREE)
def test_the_seed_decides(name):
    """A graph without structure, on which the order of the visits decides."""
    rng = np.random.default_rng(0)
    adata = on_graph(np.argwhere(np.triu(rng.random((100, 100)) < 0.1, 1)), 100)
    clusters = {tuple(apply(name, adata, seed=seed)) for seed in range(4)}
    assert len(clusters) > 1


def test_louvain_gives_igraph_its_generator_back(prepared):
    def drawn():
        random.seed(3)
        return igraph.Graph.Erdos_Renyi(n=50, p=0.5).get_edgelist()

    before = drawn()
    apply("louvain", prepared)
    assert drawn() == before


@pytest.mark.parametrize("n_clusters", [3, 4, 5, 6])
@pytest.mark.parametrize("name", SEARCHED)
def test_the_search_gives_k_clusters(name, n_clusters, prepared, warned):
    labels = apply(name, prepared, n_clusters=n_clusters)
    assert len(np.unique(labels)) == n_clusters
    assert warned() == []


@pytest.mark.parametrize(("asked", "nearest"), [(3, 2), (6, 2), (11, 12)])
@pytest.mark.parametrize("name", SEARCHED)
def test_the_nearest_number_is_given_and_said(name, asked, nearest, warned):
    """Two separate cliques of six: all cells of one gain from joining up to one resolution."""
    adata = on_graph(clique(range(6)) + clique(range(6, 12)), 12)
    assert len(np.unique(apply(name, adata, n_clusters=asked))) == nearest
    sentence = f"no resolution tried gives {asked} clusters, {nearest} is the nearest number"
    assert warned() == [f"warning: {name.removesuffix('_k')}: {sentence}"]


@pytest.mark.parametrize("name", SEARCHED)
def test_fewer_clusters_than_components_cannot_be(name, warned):
    adata = on_graph(clique(range(4)) + clique(range(4, 8)) + clique(range(8, 12)), 12)
    labels = apply(name, adata, n_clusters=2)
    assert adjusted_rand_score(np.repeat(range(3), 4), labels) == 1
    assert "gives 2 clusters, 3 is the nearest" in warned()[0]


@pytest.mark.parametrize("name", SEARCHED)
def test_the_search_is_short(name, monkeypatch):
    tries = []
    algorithm = METHODS[name].function.keywords["algorithm"]
    partition = getattr(clustering, algorithm)

    def counted(graph, *, resolution, seed):
        tries.append((resolution, seed))
        return partition(graph, resolution=resolution, seed=seed)

    counted.__name__ = partition.__name__
    monkeypatch.setattr(clustering, algorithm, counted)
    adata = on_graph(clique(range(6)) + clique(range(6, 12)), 12)
    apply(name, adata, n_clusters=5, seed=9)
    assert len(tries) == clustering.TRIES <= 30
    assert tries[0] == (1.0, 9)
    assert {seed for _, seed in tries} == {9}
    tries.clear()
    apply(name, adata, n_clusters=2, seed=9)
    assert len(tries) == 1


def test_undirected_joins_two_cells_once_if_either_lists_the_other():
    listed = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 1]]
    once = [[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    for adjacency in (sp.csr_matrix(listed), sp.csr_matrix(np.array(listed) * 0.5)):
        np.testing.assert_array_equal(clustering.undirected(adjacency).toarray(), once)


def test_a_directed_and_a_symmetric_graph_are_clustered_alike(directed, prepared):
    for name in (*SEARCHED, *FREE):
        first, second = (apply(name, adata, n_clusters=5) for adata in (directed, prepared))
        np.testing.assert_array_equal(first, second)


def test_leiden_is_scanpys_on_the_whole_symmetric_matrix(prepared):
    """Two roads: scanpy reads each edge twice then, which leaves modularity as it is."""
    graph = prepared.obsp["connectivities"].copy()
    graph.setdiag(0)
    graph.eliminate_zeros()
    other = ad.AnnData(shape=prepared.shape)
    how = {"flavor": "igraph", "directed": False, "n_iterations": -1, "random_state": 1}
    sc.tl.leiden(other, 1.0, adjacency=graph, **how)
    assert adjusted_rand_score(other.obs["leiden"], apply("leiden", prepared)) > 0.9


@pytest.mark.parametrize("name", FREE)
def test_cells_without_neighbours_are_clusters_of_their_own(name):
    assert apply(name, on_graph([(0, 0), (1, 1)], 4)).tolist() == [0, 1, 2, 3]


def test_too_few_distinct_points_are_said(warned):
    points = np.repeat([[0.0, 0.0], [1.0, 1.0]], 5, axis=0)
    adata = ad.AnnData(shape=(10, 0), obsm={"X_pca": points})
    assert len(np.unique(apply("pca_kmeans", adata, n_clusters=3))) == 2
    assert warned() == ["warning: K-means found 2 clusters, not 3"]


@pytest.mark.slow  # pynndescent takes long to compile
def test_scanpys_steps_in_large_data(prepared, monkeypatch):
    """From 8192 cells on scanpy searches with pynndescent, whose result it cannot read itself."""
    exact = scanpy_steps.cells(prepared, seed=1).obsp["connectivities"]
    monkeypatch.setattr(scanpy_steps, "EXACT", prepared.n_obs)
    approximate = scanpy_steps.cells(prepared, seed=1).obsp["connectivities"]
    assert abs(exact - approximate).sum() < 0.02 * exact.sum()


def test_a_number_that_is_known_is_not_prepared_for(prepared, monkeypatch):
    from estimation import Number

    monkeypatch.setattr(scanpy_steps, "cells", lambda *_, **__: pytest.fail("prepared"))
    known = Number(3, "given")
    assert baselines.decided(known, "scanpy_k", prepared, seed=1) is known
    found = Number(None, "found by the method")
    assert baselines.decided(found, "scanpy", prepared, seed=1) is found


@pytest.mark.parametrize("name", ["scanpy", "scanpy_k"])
def test_scanpy_needs_more_than_one_variable_gene(name):
    counts = np.full((40, 30), 5.0, np.float32)
    counts[:20, 0] = 9
    adata = preprocess.prepare(ad.AnnData(counts), Settings(), seed=1)
    with pytest.raises(InputError, match="need 2 variable genes, and it finds 1"):
        apply(name, adata, n_clusters=2)


def test_a_mixture_of_identical_cells_is_refused():
    points = np.repeat(np.random.default_rng(0).normal(0, 1e4, (5, 4)), 12, axis=0)
    adata = ad.AnnData(shape=(60, 0), obsm={"X_pca": points.astype(np.float32)})
    with pytest.raises(InputError, match="too many cells are alike"):
        apply("pca_mixture", adata, n_clusters=3)


# --- scVI, which is not installed -----------------------------------------------------------------


@pytest.fixture
def fake_scvi(monkeypatch, prepared):
    """A stand-in for scvi-tools: its embedding is the components, its calls are noted."""
    calls = SimpleNamespace(counts=None, trained=[], batches=None)

    class SCVI:
        @staticmethod
        def setup_anndata(adata, batch_key):
            calls.batches = None if batch_key is None else adata.obs[batch_key]
            adata.uns["_scvi_uuid"] = "written into its input"

        def __init__(self, adata):
            calls.counts = adata.X

        def train(self, **flags):
            calls.trained.append(flags)

        def get_latent_representation(self):
            assert calls.trained
            return prepared.obsm["X_pca"]

    scvi = ModuleType("scvi")
    scvi.settings, scvi.model = SimpleNamespace(seed=None), SimpleNamespace(SCVI=SCVI)
    scvi.calls, scvi.__version__ = calls, "9.9"
    monkeypatch.setitem(sys.modules, "scvi", scvi)
    return scvi


def test_scvi_reads_the_counts_and_leaves_its_input_alone(fake_scvi, prepared, simulated):
    labels = apply("scvi_kmeans", prepared, n_clusters=3, seed=4)
    assert adjusted_rand_score(simulated.labels, labels) > 0.95
    assert fake_scvi.settings.seed == 4
    assert fake_scvi.calls.trained == [{"enable_progress_bar": False}]
    assert fake_scvi.calls.counts is not prepared.layers["counts"]
    assert (fake_scvi.calls.counts != prepared.layers["counts"]).nnz == 0
    assert "_scvi_uuid" not in prepared.uns
    assert fake_scvi.calls.batches is None


def test_scvi_is_told_the_batches(fake_scvi, prepared):
    adata = prepared.copy()
    adata.obs["sctag_batch"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "a", "b"))
    apply("scvi_kmeans", adata, n_clusters=3)
    assert fake_scvi.calls.batches.tolist() == adata.obs["sctag_batch"].tolist()


def test_scvi_leiden_clusters_the_embedding_as_leiden_does_its_graph(fake_scvi, prepared):
    np.testing.assert_array_equal(apply("scvi_leiden", prepared), apply("leiden", prepared))


def test_scvi_is_trained_for_so_many_epochs_and_timed(fake_scvi, simulated, tmp_path):
    """As `perf.scale` has it: no more epochs than the default."""
    flags = ["--data", simulated.path, "--n_clusters", "labels", "--quiet"]
    for asked, epochs in ((["--epochs", "2"], 2), (["--epochs", "500"], 400), ([], 400)):
        out = tmp_path / str(len(fake_scvi.calls.trained))
        ended = ran(scvi_part.main, [*asked, "--", *flags, "--out", out], io.StringIO())
        assert ended.status == 0
        assert fake_scvi.calls.trained[-1]["max_epochs"] == epochs
        metrics = json.loads((out / "metrics.json").read_text())
        assert (metrics["epochs"], metrics["default_epochs"]) == (epochs, 400)
        assert metrics["n_clusters"] == 3
        assert {"read", "prepare", "set_up", "train", "cluster"} < metrics["seconds"].keys()


def test_scvis_default_number_of_epochs():
    cells = (500, 20_000, 30_000, 100_000, 10**6, 10**8)
    assert [scvi_part.default_epochs(n) for n in cells] == [400, 400, 267, 80, 8, 1]


@pytest.mark.parametrize("name", ["scvi_kmeans", "scvi_leiden"])
def test_without_scvi_the_function_says_how_to_install_it(name, prepared, monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(InputError, match="pip install scvi-tools"):
        apply(name, prepared, n_clusters=3)


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def command():
    """Run the command in this process; returns a `Ran`. The logger is as before afterwards."""

    def command(*flags):
        return ran(baselines.main, flags, io.StringIO())

    return command


@pytest.fixture
def done(command, tmp_path):
    """Run it where it must succeed, quietly; returns what it left, read."""

    def done(*flags):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        ran = command("--quiet", *flags, "--out", out)
        assert ran.status == 0, ran.err
        assert set(contents(out)) - ESTIMATED == FILES
        return SimpleNamespace(
            ran=ran,
            out=out,
            labels=pd.read_csv(out / "labels.csv"),
            metrics=json.loads((out / "metrics.json").read_text()),
            settings=json.loads((out / "settings.json").read_text()),
        )

    return done


@pytest.fixture
def refused(command, tmp_path):
    """Run it where it must refuse; returns its one sentence."""

    def refused(*flags, out=None):
        ran = command("--quiet", *flags, "--out", out or tmp_path / "out")
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("baselines.py: error: ")
        assert ran.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return ran.err

    return refused


@pytest.mark.parametrize("name", HERE)
def test_the_command_writes_what_the_function_gives(name, done, prepared, simulated):
    left = done("--method", name, "--data", simulated.path, "--seed", 1)
    labels = left.labels["cluster"].to_numpy()
    np.testing.assert_array_equal(labels, apply(name, prepared, n_clusters=3))
    assert list(left.labels) == ["cell", "cluster"]
    assert left.labels["cell"].tolist() == simulated.cells.tolist()
    metrics = left.metrics
    assert metrics["n_clusters"] == (3 if METHODS[name].needs_k else None)
    assert metrics["cluster_sizes"] == np.bincount(labels).tolist()
    assert metrics["clusters_found"] == len(np.unique(labels))
    ari = adjusted_rand_score(simulated.labels, labels)
    assert metrics["scores"]["ARI"] == pytest.approx(ari)
    assert set(metrics["scores"]) == {"ACC", "NMI", "ARI", "macro_F1"}
    assert set(metrics["seconds"]) == {"read", "prepare", "cluster", "write", "total"}
    assert metrics["peak_memory_mb"] > 50
    assert (metrics["cells"], metrics["genes"]) == (120, 200)
    assert f"ARI= {ari:.4f}" in left.ran.out
    assert left.ran.err == ""


def test_settings_json_has_what_repeats_the_run(done, simulated):
    flags = ["--data", simulated.path, "--seed", 7, "--k_neighbors", 9, "--variant", "official"]
    record = done("--method", "louvain", *flags).settings
    noted = record["settings"]
    assert set(noted) == {"method", *settings.used_by(*baselines.STAGES)}
    assert (noted["method"], noted["seed"], noted["k_neighbors"]) == ("louvain", 7, 9)
    assert (noted["n_pcs"], noted["symmetric_graph"]) == (50, False)  # official's
    assert noted["n_clusters"] is None
    assert set(record["versions"]) == {"python", *results.PACKAGES}
    assert len(record["data"]["sha256"]) == 64


def test_the_preparation_is_that_of_sctag_unless_another_is_asked_for(simulated):
    assert baselines.parse(["--method", "leiden"])[1] == Settings()
    _, given = baselines.parse(["--method", "leiden", "--n_pcs", "7"])
    assert given == Settings(n_pcs=7)


def test_permuted_labels_change_nothing_but_the_scores(done, simulated, tmp_path):
    permuted = np.random.default_rng(1).permutation(simulated.labels)
    whole = {"cells": simulated.cells, "genes": simulated.genes}
    path = write_published(tmp_path / "data.h5", simulated.counts, labels=permuted, **whole)
    base, other = (done("--method", "leiden_k", "--data", p) for p in (simulated.path, path))
    assert contents(base.out)["labels.csv"] == contents(other.out)["labels.csv"]
    clusters = other.labels["cluster"]
    assert other.metrics["scores"]["ARI"] == pytest.approx(adjusted_rand_score(permuted, clusters))
    assert other.metrics["scores"]["ARI"] < 0.5 < base.metrics["scores"]["ARI"]


def test_labels_follow_their_cells_when_empty_ones_go(done, simulated, tmp_path):
    counts = np.concatenate([np.zeros((2, 200), int), simulated.counts])
    labels = ["T", "of an empty cell alone", *simulated.labels]
    path = write_published(tmp_path / "data.h5", counts, labels=labels)
    left = done("--method", "leiden_k", "--data", path)
    assert (left.metrics["cells"], left.metrics["n_clusters"]) == (120, 3)
    assert left.metrics["scores"]["ARI"] > 0.95


def test_without_labels_k_is_estimated_for_the_methods_that_need_it_only(
    done, refused, simulated, tmp_path
):
    path = write_published(tmp_path / "data.h5", simulated.counts)
    flags = ["--method", "leiden_k", "--data", path]
    assert "--n_clusters" in refused(*flags, "--n_clusters", "labels")
    left = done("--method", "leiden", "--data", path)
    assert left.metrics["scores"] is None
    assert "cluster sizes" in left.ran.out
    assert not ESTIMATED & set(contents(left.out))
    left = done(*flags, "--n_clusters", 5)
    assert left.metrics["clusters_found"] == 5
    left = done(*flags)
    assert set(contents(left.out)) >= ESTIMATED
    assert (left.metrics["n_clusters"], left.metrics["clusters_found"]) == (3, 3)
    estimate = json.loads((left.out / "n_clusters.json").read_text())
    assert estimate["n_clusters"] == 3


def test_a_number_that_was_missed_is_warned_of(command, tmp_path, simulated, monkeypatch):
    monkeypatch.setattr(clustering, "LOG10_RESOLUTIONS", (-1.0, 0.0))
    flags = ["--method", "leiden_k", "--data", simulated.path, "--n_clusters", 100]
    ran = command(*flags, "--out", tmp_path / "out", "--quiet")
    assert ran.status == 0
    assert ran.err.startswith("warning: leiden: no resolution tried gives 100 clusters")
    assert ran.err.count("\n") == 1
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["n_clusters"] == 100 > metrics["clusters_found"]


def test_the_command_runs_scvi_where_it_is(done, simulated, fake_scvi):
    left = done("--method", "scvi_kmeans", "--data", simulated.path)
    assert left.settings["versions"]["scvi-tools"] == "9.9"
    assert left.metrics["scores"]["ARI"] > 0.95


BAD = {
    "unknown_method": (["--method", "kmeans"], "pca_kmeans"),
    "no_method": ([], "--method"),
    "one_cluster": (["--method", "spectral", "--n_clusters", "1"], "at least 2"),
    "no_number": (["--method", "spectral", "--n_clusters", "three"], "three"),
    "more_than_cells": (["--method", "leiden_k", "--n_clusters", "121"], "120 cells"),
    "too_many_neighbours": (["--method", "leiden", "--k_neighbors", "120"], "--k_neighbors 120"),
    "no_label_column": (["--method", "leiden", "--label_key", "type"], "'type'"),
    "of_the_network": (["--method", "leiden", "--hops", "1"], "--hops"),
    "of_the_network_by_default": (["--method", "leiden", "--w_kl", "1.5"], "--w_kl"),
    "of_the_network_switched_off": (
        ["--method", "leiden", "--no-train_centers"],
        "--no-train_centers is for train.py: no method here uses it",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_in_one_sentence(case, refused, simulated):
    flags, part = BAD[case]
    assert part in refused("--data", simulated.path, *flags)


def test_missing_scvi_is_refused_before_the_data_are_read(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi", None)
    message = refused("--method", "scvi_leiden", "--data", tmp_path / "missing.h5")
    assert "pip install scvi-tools" in message


def test_older_results_are_replaced_only_if_asked(refused, command, simulated, tmp_path):
    folder = tmp_path / "older"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text("older")
    flags = ["--method", "louvain", "--data", simulated.path]
    assert "--overwrite" in refused(*flags, out=folder)
    assert contents(folder) == dict.fromkeys(FILES, b"older")
    assert command(*flags, "--overwrite", "--out", folder).status == 0
    assert set(contents(folder)) == FILES
    assert b"older" not in contents(folder).values()


def test_nothing_of_a_run_of_train_stays_where_it_is_overwritten(
    refused, command, simulated, tmp_path
):
    folder = tmp_path / "sctag"
    folder.mkdir()
    for name in results.FILES:
        (folder / name).write_text("of train.py")
    flags = ["--method", "leiden", "--data", simulated.path]
    assert "--overwrite" in refused(*flags, out=folder)
    assert set(contents(folder)) == set(results.FILES)
    assert command(*flags, "--overwrite", "--out", folder).status == 0
    assert set(contents(folder)) == FILES


def in_a_process(request, script, *flags):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, flags)],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=True,
    )


SLOW = ["tensorflow", "keras", "spektral", "torch"]


def test_no_tensorflow_and_no_noise(request, simulated, tmp_path):
    script = f"""
import sys, baselines
for name in ("leiden_k", "spectral"):
    out = sys.argv[2] + name
    assert baselines.main(["--method", name, "--data", sys.argv[1], "--out", out, "--quiet"]) == 0
import clustering, igraph, preprocess, scores  # with these, all that any method imports
print({{*{SLOW}}} & {{*sys.modules}})
"""
    done = in_a_process(request, script, simulated.path, tmp_path / "out")
    assert done.stdout.splitlines()[-1] == "set()"
    assert done.stderr == ""


def test_help_names_the_methods_without_slow_imports(request):
    script = f"""
import sys, baselines
try:
    baselines.main(["--help"])
finally:
    print({{*{[*SLOW, "scanpy", "anndata", "sklearn", "igraph", "pandas"]}}} & {{*sys.modules}})
"""
    done = in_a_process(request, script)
    assert done.stdout.splitlines()[-1] == "set()"
    assert all(f"{name}:" in done.stdout for name in METHODS)
    assert "results/NAME/METHOD-seedS" in done.stdout
    assert "--hops" not in done.stdout
