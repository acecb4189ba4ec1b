"""The command itself: on the embedded real data as a user runs it, then on simulated files."""

import dataclasses
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import (
    FILES,
    TINY,
    Ran,
    assert_same_clustering,
    contents,
    opened,
    write_published,
)
from sklearn.metrics import adjusted_rand_score

import results
from settings import Settings

SCORE_LINE = r"ACC= [01]\.\d{4}, NMI= [01]\.\d{4}, ARI= -?[01]\.\d{4}"


# --- The embedded real data, in a process of its own ----------------------------------------------


@pytest.fixture(scope="module")
def real(request, tmp_path_factory):
    """The README's command on the embedded data, of few epochs; every other setting its default."""
    out = tmp_path_factory.mktemp("real") / "out"
    flags = ["--dataname", "pbmc68k_reduced", "--pretrain_epochs", "5", "--maxiter", "3"]
    quieting = {"TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES", "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "train.py", *flags, "--out", str(out)],
        cwd=request.config.rootpath,
        env={name: value for name, value in os.environ.items() if name not in quieting},
        capture_output=True,
        text=True,
        check=False,
    )
    return opened(Ran(done.returncode, done.stdout, done.stderr), out)


def test_stderr_has_no_noise(real):
    """Nothing but the suite's own doubts about these clusters, of a network of five epochs."""
    doubt = (
        r"warning: (the clusters follow depth:|\d+% of the cells are uncertain:|clusters [\d, and]+"
    )
    doubt += " are uncertain:).*"
    assert all(re.fullmatch(doubt, line) for line in real.ran.err.splitlines())


def test_the_console_says_what_was_done_and_ends_with_the_scores(real):
    lines = real.ran.out.splitlines()
    assert re.fullmatch(SCORE_LINE, lines[-1])
    assert "700 cells, 765 genes, 10 cell types in 'cell_type1'" in lines[0]
    starts = [line.split()[0] for line in lines[:-1]]
    assert starts == [
        *("data", "genes", "graph", "graph", "clusters", "device"),
        *["pretrain"] * 5,
        "consensus",
        *["cluster"] * 3,
        *("results", "sizes"),
    ]
    reports = [line for line in lines if line.startswith(("pretrain ", "cluster "))]
    loss = r" +-?\d+\.\d{5}"
    for line in reports:
        assert re.fullmatch(rf"\w+ +\d+/[53]  zinb{loss}  adj{loss}  kl{loss} +\d+\.\d s", line), (
            line
        )
    assert len({len(line) for line in reports}) == 1  # aligned
    if "CPU" in lines[5]:
        assert real.ran.out.count("no GPU found") == 1


def test_every_file_is_there_and_no_other(real):
    figures = {name for name in contents(real.out) if name.startswith("report_figures/")}
    assert set(contents(real.out)) - figures == FILES | {"markers.csv", "report.html"}
    assert {"report_figures/umap_cluster.png", "report_figures/umap_cluster.svg"} <= figures


def test_labels_csv(real):
    labels, proba = real.labels, real.adata.obsm["sctag_proba"]
    assert list(labels) == ["cell", "cluster", "probability"]
    assert len(labels) == 700
    assert labels["cell"].tolist() == real.adata.obs_names.tolist()
    assert labels["cluster"].tolist() == proba.argmax(axis=1).tolist()
    assert labels["probability"].between(0, 1, inclusive="right").all()
    np.testing.assert_allclose(labels["probability"], proba.max(axis=1), rtol=1e-5)


def test_sctag_h5ad_has_the_keys_that_scanpy_users_know(real, request):
    adata = real.adata
    assert adata.shape == (700, 765)
    assert adata.obs["sctag"].astype(int).tolist() == real.labels["cluster"].tolist()
    assert adata.obs["sctag"].cat.categories.tolist() == [str(i) for i in range(10)]
    assert adata.obsm["X_sctag"].shape == (700, 15)
    assert adata.obsm["sctag_proba"].shape == (700, 10)
    np.testing.assert_allclose(adata.obsm["sctag_proba"].sum(axis=1), 1, rtol=1e-5)
    assert adata.obsm["X_pca"].shape == (700, real.settings["settings"]["n_pcs"])
    assert adata.obsp["connectivities"].shape == (700, 700)
    assert np.unique(adata.obsp["connectivities"].data).tolist() == [1.0]
    assert adata.obs["size_factor"].gt(0).all()
    for value in (real.prepared.X, adata.obsm["X_sctag"], adata.obsm["X_pca"]):
        assert np.isfinite(value).all()
    assert adata.var_names[adata.var["sctag_gene"]].tolist() == real.prepared.var_names.tolist()
    assert adata.raw.shape == (700, 765)
    with h5py.File(request.config.rootpath / "data/pbmc68k_reduced/data.h5") as file:
        pieces = [file[f"exprs/{name}"][:] for name in ("data", "indices", "indptr")]
        genes = file["var_names"].asstr()[:]
        cell_types = file["obs/cell_type1"].asstr()[:]
    raw = pd.DataFrame(sp.csr_matrix(tuple(pieces), shape=(700, 765)).toarray(), columns=genes)
    np.testing.assert_array_equal(adata.X.toarray(), raw[adata.var_names])
    factors = adata.obs["size_factor"].to_numpy()[:, None]
    np.testing.assert_allclose(adata.raw.X.toarray(), np.log1p(raw / factors), rtol=1e-4)
    assert adata.obs["cell_type1"].tolist() == cell_types.tolist()


def test_uns_describes_the_run(real):
    notes = {name: json.loads(note) for name, note in real.adata.uns["sctag"].items()}
    assert notes["settings"] == real.settings["settings"]
    assert notes["metrics"]["scores"] == real.metrics["scores"]
    assert len(notes["history"]) == len(real.history)


def test_metrics_json(real):
    metrics = real.metrics
    printed = dict(re.findall(r"(\w+)= (-?[\d.]+)", real.last_line))
    assert {name: f"{metrics['scores'][name]:.4f}" for name in printed} == printed
    assert set(metrics["scores"]) == set(metrics["initial_scores"])
    assert set(metrics["scores"]) == {"ACC", "NMI", "ARI", "macro_F1"}
    assert (metrics["cells"], metrics["genes"], metrics["n_clusters"]) == (700, 500, 10)
    sizes = np.bincount(real.labels["cluster"], minlength=10)
    assert metrics["cluster_sizes"] == sizes.tolist()
    assert metrics["empty_clusters"] == (sizes == 0).sum()
    assert metrics["epochs"] == {"pretrain": 5, "cluster": 3}
    last = real.history.iloc[-1]
    for name, value in metrics["final_losses"].items():
        assert value == pytest.approx(last[name], rel=1e-6)
    assert {"read", "prepare", "pretrain", "cluster", "total"} <= set(metrics["seconds"])
    assert all(seconds >= 0 for seconds in metrics["seconds"].values())
    assert metrics["seconds"]["total"] == max(metrics["seconds"].values())
    assert 100 < metrics["peak_memory_mb"] < 100_000


def test_settings_json(real, request):
    record = real.settings
    assert set(record["settings"]) == {field.name for field in dataclasses.fields(Settings)}
    assert record["settings"]["dataname"] == "pbmc68k_reduced"
    assert record["settings"]["pretrain_epochs"] == 5
    assert record["settings"]["seed"] == 1
    assert set(record["versions"]) == {"python", *results.PACKAGES}
    data = (request.config.rootpath / "data/pbmc68k_reduced/data.h5").read_bytes()
    assert record["data"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert (record["data"]["cells"], record["data"]["genes"]) == (700, 765)


def test_history_csv(real):
    history = real.history
    assert list(history) == ["phase", "epoch", "total", "adj", "zinb", "kl"]
    assert list(zip(history["phase"], history["epoch"], strict=True)) == [
        *(("pretrain", epoch) for epoch in range(1, 6)),
        *(("cluster", epoch) for epoch in range(1, 4)),
    ]
    assert np.isfinite(history[["total", "adj", "zinb", "kl"]]).all(axis=None)
    total = 0.1 * history["adj"] + history["zinb"] + 1.5 * history["kl"]
    np.testing.assert_allclose(history["total"], total, rtol=1e-5)
    assert history["zinb"].iloc[-1] < 0.9 * history["zinb"].iloc[0]
    assert history.query("phase == 'pretrain'")["kl"].eq(0).all()
    assert history.query("phase == 'cluster'")["kl"].gt(0).all()


def test_the_saved_model_encodes_and_assigns_as_the_run_did(real):
    from model import load
    from tensors import graph_tensors

    network = load(real.out)
    graph = graph_tensors(real.prepared, network.architecture)
    z = network.encode(graph, training=False)
    np.testing.assert_allclose(z, real.adata.obsm["X_sctag"], rtol=1e-4, atol=1e-4)
    joint = real.adata.obsm["X_sctag_joint"]
    np.testing.assert_array_equal(joint[:, : z.shape[1]], real.adata.obsm["X_sctag"])
    q = network.assign(joint)
    np.testing.assert_allclose(q, real.adata.obsm["sctag_proba"], rtol=1e-3, atol=1e-4)


# --- Both variants, and the seed ------------------------------------------------------------------


@pytest.fixture(scope="module")
def fractional(simulated, tmp_path_factory):
    """The simulated file with expected counts, as from RSEM: rounding up gives its counts back."""
    counts = simulated.counts.astype(float)
    at = np.nonzero(counts)
    counts[at] -= np.where(np.arange(len(at[0])) % 10 == 0, 0.25, 0)
    path = tmp_path_factory.mktemp("fractional") / "data.h5"
    return write_published(
        path, counts, labels=simulated.labels, cells=simulated.cells, genes=simulated.genes
    )


@pytest.fixture(scope="module")
def learn(run, tmp_path_factory):
    """Run a small network until it has learned the simulated clusters, compiled as for users."""

    def learn(*flags):
        out = tmp_path_factory.mktemp("learn") / "out"
        sizes = ["--hidden_dim", 32, "--decoder_dims", 32, "--latent_dim", 8]
        epochs = ["--pretrain_epochs", 60, "--maxiter", 20]
        more = ["--highly_genes", 100, "--gpu_option", -1, "--out", out]
        return opened(run(*sizes, *epochs, *more, *flags), out)

    return learn


@pytest.fixture(scope="module")
def learned(learn, simulated):
    return learn("--data", simulated.path)


@pytest.fixture(scope="module")
def official(learn, fractional):
    return learn("--data", fractional, "--variant", "official")


def test_sctag_finds_the_simulated_clusters(learned):
    assert learned.ran.err == ""
    assert learned.metrics["scores"]["ARI"] > 0.9


def test_official_finds_the_simulated_clusters(official):
    assert official.metrics["scores"]["ARI"] > 0.9
    # X and its blocks are plain z-scores, the graph has 15 ones a row
    assert np.diff(official.adata.obsp["connectivities"].indptr).tolist() == [15] * 120
    assert len(official.history) == 80


def test_official_rounds_up_what_is_not_whole_with_a_warning(official, simulated):
    assert official.ran.err.count("\n") == 1
    assert re.search(r"^warning: .* are not whole and were rounded up$", official.ran.err)
    genes = [simulated.genes.tolist().index(gene) for gene in official.prepared.var_names]
    np.testing.assert_array_equal(
        official.prepared.layers["counts"].toarray(), simulated.counts[:, genes]
    )


def test_the_same_seed_gives_the_same_bytes(learned, learn, simulated):
    assert_same_clustering(learned, learn("--data", simulated.path))


def test_the_consensus_says_how_far_its_clusterings_agree(learned):
    assert 0.5 < learned.metrics["agreement"] <= 1
    assert "\nconsensus of clusterings that agree" in learned.ran.out


# --- What the result depends on -------------------------------------------------------------------


def test_scores_are_finite_and_at_most_one(base):
    for scores in (base.metrics["scores"], base.metrics["initial_scores"]):
        assert all(math.isfinite(value) and value <= 1 for value in scores.values())


def test_another_seed_gives_another_embedding(base, tiny, simulated):
    other = tiny("--data", simulated.path, "--seed", "2")
    z, other_z = base.adata.obsm["X_sctag"], other.adata.obsm["X_sctag"]
    assert z.shape == other_z.shape
    assert np.abs(z - other_z).max() > 0.01


def test_permuted_labels_change_nothing_but_the_scores(base, tiny, simulated, tmp_path):
    permuted = np.random.default_rng(1).permutation(simulated.labels)
    path = write_published(
        tmp_path / "data.h5",
        simulated.counts,
        labels=permuted,
        cells=simulated.cells,
        genes=simulated.genes,
    )
    other = tiny("--data", path)
    assert_same_clustering(base, other)
    pd.testing.assert_frame_equal(base.history, other.history)
    assert base.metrics["scores"] != other.metrics["scores"]
    true_ari = adjusted_rand_score(permuted, other.labels["cluster"])
    assert other.metrics["scores"]["ARI"] == pytest.approx(true_ari)


def test_without_labels_the_clusters_are_the_same_and_quiet_prints_their_sizes_only(
    base, tiny, simulated, tmp_path
):
    path = write_published(
        tmp_path / "data.h5", simulated.counts, cells=simulated.cells, genes=simulated.genes
    )
    other = tiny("--data", path, "--n_clusters", "3", "--quiet")
    assert_same_clustering(base, other)
    assert other.metrics["scores"] is None
    assert other.metrics["initial_scores"] is None
    assert json.loads(other.adata.uns["sctag"]["metrics"])["scores"] is None
    sizes = ", ".join(f"{i}: {n}" for i, n in enumerate(base.metrics["cluster_sizes"]))
    assert other.ran == Ran(0, f"cluster sizes: {sizes}\n", "")


def test_the_clusters_do_not_depend_on_labels_being_read_for_their_number(base, tiny, simulated):
    other = tiny("--data", simulated.path, "--n_clusters", "3", "--quiet")
    assert_same_clustering(base, other)
    assert other.ran == Ran(0, base.last_line + "\n", "")


def test_h5ad_with_the_counts_in_a_layer(base, tiny, simulated, tmp_path):
    adata = ad.AnnData(
        sp.csr_matrix(np.log1p(simulated.counts), dtype=np.float32),
        obs=pd.DataFrame({"cell_type1": pd.Categorical(simulated.labels)}, index=simulated.cells),
        var=pd.DataFrame(index=simulated.genes),
        layers={"counts": sp.csr_matrix(simulated.counts)},
    )
    adata.write_h5ad(tmp_path / "brain.h5ad")
    other = tiny("--data", tmp_path / "brain.h5ad", "--layer", "counts")
    assert_same_clustering(base, other)
    assert other.metrics["scores"] == base.metrics["scores"]


def test_round_counts_lets_sctag_go_on(base, tiny, fractional):
    other = tiny("--data", fractional, "--round_counts", "--quiet")
    assert_same_clustering(base, other)
    assert re.fullmatch(r"warning: .* were rounded up\n", other.ran.err)
    assert other.ran.out == base.last_line + "\n"


def test_its_own_output_is_an_input(base, tiny):
    other = tiny("--data", base.out / "sctag.h5ad")
    assert_same_clustering(base, other)
    assert {"X_sctag", "X_pca"} <= set(other.adata.obsm)
    assert not any(key.endswith("_before") for key in other.adata.obsm)
    assert other.labels["cell"].tolist() == base.labels["cell"].tolist()


def test_a_terminal_gets_a_progress_bar_of_each_phase_with_its_losses(run, simulated, tmp_path):
    flags = [*TINY, "--pretrain_epochs", "30", "--maxiter", "30", "--out", tmp_path / "out"]
    ran = run("--data", simulated.path, *flags, compiled=False, terminal=True)
    assert ran.status == 0
    for phase in ("pretrain", "cluster"):
        assert re.search(rf"\r{phase} *: +\d+%.*/30 .*zinb=\d+\.\d+, adj=\d.*, kl=\d", ran.err), (
            phase
        )
    assert re.fullmatch(SCORE_LINE, ran.out.splitlines()[-1])


def test_without_labels_the_number_of_clusters_is_estimated_and_drawn(tiny, simulated, tmp_path):
    path = write_published(
        tmp_path / "data.h5", simulated.counts, cells=simulated.cells, genes=simulated.genes
    )
    done = tiny("--data", path)
    assert done.metrics["n_clusters"] == 3
    assert adjusted_rand_score(simulated.labels, done.labels["cluster"]) > 0.9
    assert re.search(r"^estimate  elbow \d+, .*\nclusters  3 \(the median", done.ran.out, re.M)
    estimate = json.loads((done.out / "n_clusters.json").read_text())
    assert estimate["n_clusters"] == np.median([*estimate["criteria"].values()]) == 3
    assert [row["k"] for row in estimate["curves"]] == list(range(2, 13))
    assert (done.out / "n_clusters.png").read_bytes().startswith(b"\x89PNG")
    labelled = tiny("--data", simulated.path, "--n_clusters", "auto")
    assert_same_clustering(done, labelled)


def test_the_resolution_decides_the_number_of_clusters(tiny, base, simulated):
    done = tiny("--data", simulated.path, "--resolution", "1", "--maxiter", "0")
    assert done.metrics["n_clusters"] == 3
    assert adjusted_rand_score(simulated.labels, done.labels["cluster"]) > 0.9
    more = tiny("--data", simulated.path, "--resolution", "5", "--maxiter", "0")
    assert more.metrics["n_clusters"] > 3
    assert not (base.out / "n_clusters.json").exists()


def test_one_cluster_at_a_low_resolution_is_refused(run, simulated, tmp_path):
    out = tmp_path / "out"
    flags = [*TINY, "--resolution", "1e-6", "--k_neighbors", "60", "--out", out]
    ran = run("--data", simulated.path, *flags, compiled=False)
    assert ran.status == 2
    assert re.search(r"1 cluster \(Leiden at resolution 1e-06\).* raise --resolution\n$", ran.err)
    assert not out.exists()


@pytest.mark.parametrize("init", ["consensus", "kmeans", "spectral"])
def test_without_the_clustering_phase_the_initial_clusters_stay(init, tiny, simulated):
    flags = ["--maxiter", "0", "--init", init, "--final_labels", "refresh"]
    done = tiny("--data", simulated.path, *flags)
    assert done.metrics["scores"] == done.metrics["initial_scores"]
    assert set(done.history["phase"]) == {"pretrain"}
    assert done.labels["cluster"].nunique() == 3
    assert done.adata.obsm["sctag_proba"].shape == (120, 3)


def test_the_squared_error_can_stand_in_for_the_zinb(base, tiny, simulated):
    other = tiny("--data", simulated.path, "--reconstruction", "mse")
    x = np.asarray(other.prepared.X)
    # At first the mean head is near zero, so the loss is near the mean square of the z-scores.
    first = other.history.zinb[0]
    assert first == pytest.approx(np.mean(x**2), rel=0.1)
    assert other.history.zinb.iloc[-1] < first
    assert base.history.zinb[0] != pytest.approx(first, rel=0.01)


def test_a_negative_binomial_can_stand_in_for_the_zinb(base, tiny, simulated):
    other = tiny("--data", simulated.path, "--reconstruction", "nb")
    assert np.isfinite(other.history.zinb).all()
    assert other.history.zinb[0] != pytest.approx(base.history.zinb[0], rel=0.01)


def test_the_graph_decoder_can_learn_to_tell_neighbours(base, tiny, simulated):
    flags = ["--graph_loss", "jaccard", "--pretrain_epochs", "40", "--pretrain_lr", "0.01"]
    other = tiny("--data", simulated.path, *flags)
    pretraining = other.history.query("phase == 'pretrain'")["adj"]
    assert pretraining.iloc[-5:].mean() < 0.97 * pretraining.iloc[:5].mean()
    again = tiny("--data", simulated.path, *flags)
    np.testing.assert_array_equal(again.adata.obsm["X_sctag"], other.adata.obsm["X_sctag"])


def test_as_many_clusters_as_cells(tiny, simulated, tmp_path):
    path = write_published(tmp_path / "data.h5", simulated.counts[:20])
    for variant in ("sctag", "official"):
        done = tiny("--data", path, "--n_clusters", "20", "--variant", variant)
        assert done.metrics["n_clusters"] == 20
        assert sum(done.metrics["cluster_sizes"]) == 20


# --- Awkward data: few cells and genes, repeated names, empty cells, missing labels ---------------


@pytest.fixture(scope="module")
def awkward(tiny, simulated, tmp_path_factory):
    """One run on all of it: 36 cells and 40 genes with counts, 4 cells and 3 genes without."""
    counts = simulated.counts[:36, :40].astype(np.float64)  # integral floats are counts
    labels = simulated.labels[:36].astype(object)
    labels[5] = "alone"
    labels[[8, 20]] = ""
    empty_cells, empty_genes = [0, 7, 7, 30], [0, 11, 40]  # positions to insert before
    counts = np.insert(counts, empty_cells, 0.0, axis=0)
    counts = np.insert(counts, empty_genes, 0.0, axis=1)
    labels = np.insert(labels, empty_cells, "ghost")
    cells = np.array([f"cell{i // 2}" for i in range(40)])
    genes = np.array([f"gene{i // 2}" for i in range(43)])
    path = tmp_path_factory.mktemp("awkward") / "data.h5"
    write_published(path, counts, labels=labels, cells=cells, genes=genes)
    done = tiny("--data", path, "--highly_genes", "500", "--n_pcs", "50")
    kept = counts.sum(axis=1) > 0
    assert kept.sum() == 36
    done.expected = SimpleNamespace(
        counts=counts[kept][:, counts.sum(axis=0) > 0], labels=labels[kept], cells=cells[kept]
    )
    return done


def test_what_is_missing_is_said(awkward):
    out = awkward.ran.out
    assert awkward.ran.err == ""
    assert "40 cells, 43 genes, 5 cell types in 'cell_type1' (2 cells have none)" in out
    assert "3 genes and 4 cells without counts" in out
    assert "all 40 kept (500 were asked for)" in out
    assert "36 components (50 were asked for)" in out
    assert "clusters  4 (of the labels)" in out  # the label of empty cells alone is none


def test_labels_follow_their_cells_when_empty_ones_go(awkward):
    expected = awkward.expected
    np.testing.assert_array_equal(awkward.prepared.layers["counts"].toarray(), expected.counts)
    kept_types = awkward.adata.obs["cell_type1"].astype(object).fillna("")
    assert kept_types.tolist() == expected.labels.tolist()
    known = expected.labels != ""
    ari = adjusted_rand_score(expected.labels[known], awkward.labels["cluster"][known])
    assert awkward.metrics["scores"]["ARI"] == pytest.approx(ari)


def test_repeated_names_are_made_unique_and_kept(awkward):
    assert awkward.adata.obs["cell_name"].tolist() == awkward.expected.cells.tolist()
    assert awkward.adata.obs_names.is_unique
    assert awkward.adata.var_names.is_unique
    assert awkward.labels["cell"].tolist() == awkward.adata.obs_names.tolist()


def test_everything_has_the_size_of_what_was_left(awkward):
    assert awkward.prepared.shape == (36, 40)
    assert awkward.adata.shape == (36, 43)
    assert awkward.adata.raw.shape == (36, 40)
    assert awkward.adata.obsm["X_pca"].shape == (36, 36)
    assert len(awkward.labels) == awkward.metrics["cells"] == 36
    assert sum(awkward.metrics["cluster_sizes"]) == 36
    assert (awkward.settings["data"]["cells"], awkward.settings["data"]["genes"]) == (40, 43)


def test_annotation_that_anndata_would_not_write_does_not_break_the_end(tiny, simulated, tmp_path):
    path = write_published(
        tmp_path / "data.h5", simulated.counts, labels=simulated.labels, _index=np.arange(120)
    )
    assert len(tiny("--data", path).labels) == 120


def test_unique_nullable_strings_do_not_break_the_end(tiny, simulated, tmp_path):
    """As pandas 3 makes them by default; anndata leaves only those that repeat to categoricals."""
    barcodes = pd.array(simulated.cells, dtype="string")
    obs = pd.DataFrame({"cell_type1": simulated.labels, "barcode": barcodes}, simulated.cells)
    with ad.settings.override(allow_write_nullable_strings=True):
        ad.AnnData(simulated.counts, obs=obs).write_h5ad(tmp_path / "brain.h5ad")
    done = tiny("--data", tmp_path / "brain.h5ad")
    assert done.adata.obs["barcode"].tolist() == simulated.cells.tolist()
