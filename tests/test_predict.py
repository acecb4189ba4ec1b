"""Labels for new cells: the run's cells stay as they are, and no new cell changes another one."""

import io
import json
import shutil
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import TINY, contents, eagerly, grouped_counts, opened, prepared, ran
from sklearn.metrics import adjusted_rand_score

import predict
import sctag
from new_cells import novelty, prediction, preparing
from utils import InputError

N_NEW = 24


@pytest.fixture(scope="module", autouse=True)
def _uncompiled():
    with eagerly():
        yield


@pytest.fixture(scope="module")
def cells(simulated):
    """The simulated cells with their types: those that a run sees, and those that come later."""
    adata = ad.AnnData(sp.csr_matrix(simulated.counts, dtype=np.float32))
    adata.obs_names, adata.var_names = simulated.cells, simulated.genes
    adata.obs["cell_type1"] = simulated.labels
    return SimpleNamespace(known=adata[N_NEW:].copy(), new=adata[:N_NEW].copy())


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory):
    return tmp_path_factory.mktemp("predict")


def trained(run, cells, folder, name, *flags):
    path = folder / "known.h5ad"
    cells.known.write_h5ad(path)
    flags = ["--data", path, *TINY, "--out", folder / name, *flags]
    return opened(run(*flags, compiled=False), folder / name)


@pytest.fixture(scope="module")
def model(run, cells, folder):
    return trained(run, cells, folder, "run")


@pytest.fixture(scope="module")
def loaded(model):
    settings = prediction.settings_of(model.out)
    return SimpleNamespace(settings=settings, **prediction.load(model.out, settings)._asdict())


def by_command(*flags):
    return ran(predict.main, [*flags, "--gpu_option", "-1"], io.StringIO())


@pytest.fixture(scope="module")
def done(model, cells, folder):
    """What the command leaves for the new cells, one of which has no counts."""
    path = folder / "new.h5ad"
    new = cells.new.copy()
    new.X = sp.csr_matrix(new.X.toarray() * (np.arange(N_NEW) != 3)[:, None])
    new.layers["mine"] = new.X * 2
    new.obs["sctag"] = "own"
    new.write_h5ad(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        result = by_command("--model", model.out, "--data", path)
    assert result.status == 0, result.err
    out = model.out / "predicted-new"
    return SimpleNamespace(
        ran=result,
        out=out,
        labels=pd.read_csv(out / "labels.csv"),
        adata=ad.read_h5ad(out / "predicted.h5ad"),
        record=json.loads((out / "settings.json").read_text()),
        new=new,
    )


# --- What is right --------------------------------------------------------------------------------


def test_new_cells_of_the_types_of_the_run_get_its_clusters(model, cells, done):
    known = adjusted_rand_score(cells.known.obs["cell_type1"], model.labels["cluster"])
    labelled = done.labels["cluster"].notna()
    types = done.new.obs["cell_type1"].to_numpy()[labelled]
    new = adjusted_rand_score(types, done.labels["cluster"][labelled])
    assert known > 0.9
    assert new > 0.9
    assert done.ran.out.splitlines()[-1] == f"ACC= {1:.4f}, NMI= {1:.4f}, ARI= {1:.4f}"


def test_the_runs_cells_stay_and_a_new_cell_does_not_see_the_others(loaded, cells):
    reference, settings = loaded.reference, loaded.settings
    new = preparing.values_like(cells.new, reference, settings)
    z = prediction.encode(loaded.network, reference, new, settings)
    own = reference.obsm["X_sctag"]
    np.testing.assert_allclose(z[: reference.n_obs], own, atol=1e-6 * np.abs(own).max())
    for i in (0, 5, 23):
        alone = preparing.values_like(cells.new[[i]], reference, settings)
        single = prediction.encode(loaded.network, reference, alone, settings)
        np.testing.assert_allclose(single[-1], z[reference.n_obs + i], rtol=1e-4, atol=1e-5)


def test_one_by_one_is_all_together(model, loaded, cells):
    together = prediction.predict(cells.new, model.out, loaded.settings, where="X")
    for i in (0, 5, 23):
        alone = prediction.predict(cells.new[[i]], model.out, loaded.settings, where="X")
        assert alone.cells.tolist() == [0]
        for name in ("z", "points", "q", "novelty"):
            expected = getattr(together, name)[[i]]
            np.testing.assert_allclose(getattr(alone, name), expected, rtol=1e-3, atol=1e-4)


def test_the_embedding_of_a_new_cell_by_dense_matrices(loaded, cells):
    """Over the whole matrix of all cells, with the nearest sought one by one."""
    reference, network = loaded.reference, loaded.network
    new = preparing.values_like(cells.new, reference, loaded.settings)
    z = prediction.encode(network, reference, new, loaded.settings)
    maps = reference.uns["sctag_maps"]
    space, own = (np.hstack([x.obsm[key] @ maps[key] for key in maps]) for x in (reference, new))
    n = reference.n_obs
    graph = np.eye(n + N_NEW)
    graph[:n, :n] = reference.obsp["sctag_connectivities"].toarray()
    for i, point in enumerate(own):
        distances = ((space - point) ** 2).sum(axis=1)
        graph[n + i, np.argsort(distances)[: loaded.settings.k_neighbors - 1]] = 1
    degrees = graph.sum(axis=1)
    scaled = graph / np.sqrt(np.outer(degrees, degrees))
    x = np.concatenate([reference.X, new.X])

    def convolved(x, layer):
        first, second = (kernel.numpy() for kernel in layer.kernels())
        return x @ first + scaled @ x @ second + layer.linear.bias.numpy()

    hidden = np.maximum(convolved(x, network.encoder_1), 0)
    np.testing.assert_allclose(z, convolved(hidden, network.encoder_2), rtol=1e-3, atol=1e-4)


def test_what_was_clustered_of_the_runs_cells_comes_out_again(loaded):
    reference = loaded.reference
    points = prediction.clustered_points(reference, reference, reference.obsm["X_sctag"])
    joint = reference.obsm["X_sctag_joint"]
    np.testing.assert_allclose(points, joint, atol=1e-5 * np.abs(joint).max())


def test_a_run_without_components_in_its_clusters_takes_new_cells_too(run, cells, folder):
    plain = trained(run, cells, folder, "official", "--variant", "official")
    result = sctag.predict(plain.out, cells.new)
    assert set(result.obsm) == {"X_sctag", "sctag_proba"}
    assert result.obs["sctag"].notna().all()


# --- Cells that are unlike ------------------------------------------------------------------------


def test_cells_with_the_genes_of_others_are_unlike(model, cells, caplog):
    assert sctag.predict(model.out, cells.new).obs["sctag_unlike"].sum() <= 1
    strange = cells.new[:, np.random.default_rng(0).permutation(cells.new.n_vars)].copy()
    strange.var_names = cells.new.var_names
    assert "unlike" not in caplog.text
    assert sctag.predict(model.out, strange).obs["sctag_unlike"].mean() > 0.9
    assert "most of the new cells are unlike all cells of the run" in caplog.text


def test_missing_genes_do_not_make_cells_unlike(model, cells):
    fewer = cells.new[:, np.random.default_rng(0).permutation(200)[:130]].copy()
    whole, part = sctag.predict(model.out, cells.new), sctag.predict(model.out, fewer)
    assert part.obs["sctag_unlike"].sum() <= 2
    assert adjusted_rand_score(whole.obs["sctag"], part.obs["sctag"]) > 0.8


def test_the_profiles_and_deviances_of_a_run_are_those_of_its_counts():
    adata = grouped_counts()
    labels = np.arange(75) % 3
    data = prepared(adata)
    counts = adata.X.toarray().astype(float)
    np.testing.assert_array_equal(novelty.counts_of(data, slice(10, 75)).toarray(), counts[10:])
    known = novelty.profiles(data, labels, n_clusters=4)
    np.testing.assert_array_equal(known.totals[:, 3], 0)
    depth = np.median(counts.sum(axis=1))
    share = counts.sum(axis=0) / counts.sum()
    by_gene = np.zeros(20)
    for i, (x, label) in enumerate(zip(counts, labels, strict=True)):
        others = counts[(labels == label) & (np.arange(75) != i)].sum(axis=0) + depth * share
        p = others / others.sum()
        terms = 2 * np.where(x > 0, x * np.log(np.maximum(x, 1) / (x.sum() * p)), 0)
        assert known.cells[i] == pytest.approx(terms.sum())
        by_gene += terms
    assert known.genes.sum() == pytest.approx(known.cells.sum())
    profile = known.totals + depth * share[:, None]
    profile /= profile.sum(axis=0)
    expected = sum(counts[i].sum() * profile[:, labels[i]] for i in range(75))
    np.testing.assert_allclose(known.genes, by_gene + 2 * (expected - counts.sum(axis=0)))


def test_deviances_are_taken_apart_in_blocks(monkeypatch):
    data = prepared()
    smooth, labels = np.random.default_rng(0).uniform(1, 2, (20, 2)), np.arange(75) % 2
    whole = novelty.deviances(data, smooth, labels, own=False)
    monkeypatch.setattr(novelty, "ROWS", 10)
    for first, second in zip(
        whole, novelty.deviances(data, smooth, labels, own=False), strict=True
    ):
        np.testing.assert_allclose(first, second)


def test_the_depth_does_not_make_a_cell_unlike():
    """Deviances that grow with the depth, and differ more there: one in a hundred is beyond."""
    rng = np.random.default_rng(0)
    depths = np.exp(rng.normal(0, 1, 4000))
    values = 1000 * depths**0.8 * np.exp(rng.normal(0, 0.1 * depths**0.3))
    own, bound = novelty.standardised(values, values, depths, depths)
    assert np.mean(own > bound) == pytest.approx(0.01, abs=1e-3)
    for part in (depths < 0.5, depths > 2):
        assert 0.003 < np.mean(own[part] > bound) < 0.02
    beyond, _ = novelty.standardised(values[:1], values, np.array([1e9]), depths)
    assert np.isfinite(beyond).all()


# --- What is left, and what is refused ------------------------------------------------------------


def test_the_files_hold_the_whole_input_and_its_labels(done, model):
    assert sorted(contents(done.out)) == ["labels.csv", "predicted.h5ad", "settings.json"]
    assert (done.adata.X != done.new.X).nnz == 0
    assert (done.adata.layers["mine"] != done.new.layers["mine"]).nnz == 0
    assert done.adata.obs["sctag_before"].unique().tolist() == ["own"]
    columns = ["cell", "cluster", "probability", "novelty", "unlike"]
    assert done.labels.columns.tolist() == columns
    assert done.labels["cell"].tolist() == done.new.obs_names.tolist()
    empty = np.arange(N_NEW) == 3
    for name in ("cluster", "probability", "novelty"):
        assert done.labels[name].isna().tolist() == empty.tolist()
    for column in ("sctag", "sctag_probability", "sctag_novelty"):
        assert done.adata.obs[column].isna().tolist() == empty.tolist()
    for key in ("X_sctag", "X_sctag_joint", "sctag_proba"):
        assert np.isnan(done.adata.obsm[key]).all(axis=1).tolist() == empty.tolist()
    assert list(done.adata.obs["sctag"].cat.categories) == ["0", "1", "2"]
    assert done.record["model"]["folder"] == str(model.out)
    assert done.record["data"]["cells"] == N_NEW
    assert len(done.record["model"]["settings_sha256"]) == 64


def test_the_function_gives_what_the_command_gives(done, model):
    before = done.new.copy()
    result = sctag.predict(model.out, done.new)
    pd.testing.assert_frame_equal(result.obs, done.adata.obs, check_dtype=False)
    for key in ("X_sctag", "X_sctag_joint", "sctag_proba"):
        np.testing.assert_allclose(result.obsm[key], done.adata.obsm[key], rtol=1e-4, atol=1e-5)
    assert list(done.new.obs) == list(before.obs)
    again = sctag.predict(model.out, result)
    assert list(again.obs) == list(result.obs)


def test_a_second_prediction_asks_before_it_replaces_the_first(done, model):
    flags = ["--model", model.out, "--data", done.out.parent.parent / "new.h5ad"]
    refused = by_command(*flags)
    assert (refused.status, "pass --overwrite" in refused.err) == (2, True)
    own = by_command(*flags, "--out", model.out, "--overwrite")
    assert (own.status, "folder of the run itself" in own.err) == (2, True)
    other = by_command("--model", done.out, *flags[2:])
    assert (other.status, f"name the run itself, {model.out}" in other.err) == (2, True)


def renamed(cells, rename):
    other = cells.new.copy()
    other.var_names = [rename(name) for name in other.var_names]
    return other


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        (
            lambda name: f"x{name}",
            r"lacks 50 of the 50 genes .* its genes are called xgene0, xgene1",
        ),
        (str.upper, "differ only in upper and lower case"),
    ],
)
def test_genes_of_other_names_are_refused(rename, words, model, cells):
    with pytest.raises(ValueError, match=words):
        sctag.predict(model.out, renamed(cells, rename))


def test_cells_without_counts_of_the_runs_genes_are_refused(model, cells):
    nothing = cells.new.copy()
    nothing.X = nothing.X * 0
    with pytest.raises(InputError, match="counts"):
        sctag.predict(model.out, nothing)


def spoil(folder, name):
    """Have a run lack a file, or hold one that says something else."""
    record = json.loads((folder / "settings.json").read_text())
    if name == "version":
        record["settings"]["loops"] = 2
    if name == "directions":
        record["settings"] |= {"direction": "atx", "symmetric_graph": False}
    (folder / "settings.json").write_text(json.dumps(record) if name != "json" else "{")
    if name in ("prepared.h5ad", "model.weights.h5"):
        (folder / name).write_bytes(b"cut off")
    if name == "no_h5ad":
        (folder / "prepared.h5ad").unlink()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("version", "a run of an earlier version"),
        ("directions", "no cell lists a new one"),
        ("json", "damaged or of another version"),
        ("prepared.h5ad", "damaged or of another version"),
        ("model.weights.h5", "damaged or of another version"),
        ("no_h5ad", "lacks prepared.h5ad"),
    ],
)
def test_a_run_that_cannot_take_new_cells_says_why(name, words, model, cells, tmp_path):
    ignored = shutil.ignore_patterns("predicted-*")
    folder = shutil.copytree(model.out, tmp_path / "run", ignore=ignored)
    spoil(folder, name)
    with pytest.raises(InputError, match=words):
        sctag.predict(folder, cells.new)


def test_a_folder_without_a_run_is_said_in_one_sentence(tmp_path, folder, done):
    result = by_command("--model", tmp_path, "--data", folder / "new.h5ad")
    assert result.status == 2
    assert result.err.strip() == (
        f"predict.py: error: {tmp_path} holds no finished run of train.py: name its results folder"
    )
    with pytest.raises(ValueError, match=r"sctag\.predict\(folder, adata\)"):
        sctag.predict(done.new, tmp_path)
