"""The notebook's door: what it gives is what the command gives, and its input stays as it is."""

import json
import shutil
import subprocess
import sys
import textwrap

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import NETWORK_FLAGS, TINY, eagerly, opened

import results
import sctag
from utils import InputError

FLAGS = NETWORK_FLAGS | {"no_report": True}
KEYS = {"X_pca", "X_sctag", "X_sctag_joint", "sctag_proba"}


@pytest.fixture(scope="module", autouse=True)
def _uncompiled():
    with eagerly():
        yield


@pytest.fixture(scope="module")
def adata(simulated):
    """The simulated data as a notebook holds them, with annotation of its own."""
    adata = ad.AnnData(sp.csr_matrix(simulated.counts, dtype=np.float32))
    adata.obs_names, adata.var_names = simulated.cells, simulated.genes
    adata.obs["batch"] = np.arange(adata.n_obs) % 2
    adata.layers["mine"] = adata.X * 2
    return adata


@pytest.fixture(scope="module")
def clustered(adata):
    return sctag.cluster(adata, 3, **FLAGS)


@pytest.fixture(scope="module")
def by_command(run, simulated, tmp_path_factory):
    out = tmp_path_factory.mktemp("door") / "out"
    return opened(
        run("--data", simulated.path, *TINY, "--n_clusters", "3", "--out", out, compiled=False), out
    )


def test_the_logarithms_have_arrays_of_their_own(clustered, adata):
    """What is done to the counts in place, as eliminate_zeros, leaves raw as it is."""
    for name in ("data", "indices", "indptr"):
        for counts in (clustered.X, adata.X):
            assert not np.shares_memory(getattr(clustered.raw.X, name), getattr(counts, name))


def test_the_result_is_the_commands(clustered, by_command):
    assert clustered.obs["sctag"].astype(int).tolist() == by_command.labels["cluster"].tolist()
    for key in KEYS:
        np.testing.assert_array_equal(clustered.obsm[key], by_command.adata.obsm[key])
    graphs = clustered.obsp["connectivities"], by_command.adata.obsp["connectivities"]
    assert (graphs[0] != graphs[1]).nnz == 0
    genes = clustered.var_names[clustered.var["sctag_gene"]]
    assert genes.tolist() == by_command.prepared.var_names.tolist()
    assert (clustered.raw.X != by_command.adata.raw.X).nnz == 0
    notes = {name: json.loads(note) for name, note in clustered.uns["sctag"].items()}
    assert {*notes, "data"} == {*by_command.adata.uns["sctag"]}
    assert notes["settings"]["hidden_dim"] == 16
    assert not set(sctag.OF_FILES) & set(notes["settings"])
    assert set(notes["environment"]["versions"]) == {"python", *results.PACKAGES}


def test_the_input_stays_as_it_is_and_the_copy_keeps_all_it_had(adata, clustered):
    assert list(adata.obs) == ["batch"]
    assert list(adata.layers) == ["mine"]
    assert [*adata.obsm, *adata.obsp, *adata.uns] == []
    assert clustered.shape == adata.shape
    assert (clustered.X != adata.X).nnz == 0
    assert list(clustered.obs) == ["batch", "sctag", "size_factor"]
    assert list(clustered.layers) == ["mine"]


def test_without_a_copy_the_input_gets_the_results(adata, clustered):
    own = adata.copy()
    assert sctag.cluster(own, 3, copy=False, **FLAGS) is own
    pd.testing.assert_series_equal(own.obs["sctag"], clustered.obs["sctag"])


def test_it_is_silent_unless_asked(adata, capfd):
    for _ in range(4):  # often enough for TensorFlow to warn of functions compiled again
        sctag.cluster(adata, 3, **FLAGS)
    assert capfd.readouterr() == ("", "")
    sctag.cluster(adata, 3, quiet=False, **FLAGS)
    out, _ = capfd.readouterr()
    assert "\nclusters  3 (given)\n" in out
    sctag.cluster(adata, 3, **FLAGS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_without_counts_and_repeated_names(adata, clustered, tmp_path):
    """Two empty cells among the others, and every name twice: the results stand at their cells."""
    empty = sp.csr_matrix((1, adata.n_vars), dtype=np.float32)
    counts = sp.vstack([empty, adata.X[:60], empty, adata.X[60:]]).tocsr()
    wider = ad.AnnData(counts)
    wider.obs_names = np.array([f"c{i // 2}" for i in range(122)])
    result = sctag.cluster(wider, 3, **FLAGS)
    is_empty = np.isin(np.arange(122), [0, 61])
    assert result.obs["sctag"].isna().to_numpy().tolist() == is_empty.tolist()
    kept = result.obs["sctag"][~is_empty].astype(int).to_numpy()
    np.testing.assert_array_equal(kept, clustered.obs["sctag"].astype(int))
    np.testing.assert_array_equal(result.obsm["X_sctag"][~is_empty], clustered.obsm["X_sctag"])
    assert np.isnan(result.obsm["X_sctag"][is_empty]).all()
    assert (np.diff(result.raw.X.indptr) == 0).tolist() == is_empty.tolist()
    neighbours = np.diff(result.obsp["connectivities"].indptr)
    assert (neighbours == 0).tolist() == is_empty.tolist()


def test_the_result_can_be_written_and_clustered_again(clustered, tmp_path):
    clustered.write_h5ad(tmp_path / "done.h5ad")
    again = sctag.cluster(ad.read_h5ad(tmp_path / "done.h5ad"), 3, **FLAGS)
    pd.testing.assert_series_equal(again.obs["sctag"], clustered.obs["sctag"])


def test_scanpys_next_step_takes_the_networks_graph(clustered, by_command):
    import scanpy as sc
    from scanpy._utils import NeighborsView

    import views

    for result in (clustered, by_command.adata):
        key = result.uns["neighbors"]["connectivities_key"]
        graph = views.graph(by_command.prepared)
        assert (graph != by_command.prepared.obsp["connectivities"]).nnz > 0
        assert (NeighborsView(result, "neighbors")["connectivities"] != graph).nnz == 0
        expected, cells = result.copy(), result.copy()
        sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False)
        sc.tl.leiden(
            expected, flavor="igraph", n_iterations=2, directed=False, adjacency=result.obsp[key]
        )
        assert cells.obs["leiden"].tolist() == expected.obs["leiden"].tolist()
        distances = result.obsp[result.uns["neighbors"]["distances_key"]]
        assert (distances.nnz, distances.diagonal().sum()) == (result.obsp[key].nnz - 120, 0)
        cells.obs["half"] = pd.Categorical(np.arange(120) % 2)
        sc.tl.paga(cells, groups="half")  # it reads the distances
        assert cells.uns["paga"]["connectivities"].nnz == 2


def test_what_a_notebook_has_under_these_names_is_kept(adata, clustered):
    own = adata.copy()
    own.obs["sctag"] = own.obs["batch"]
    own.obsm["X_pca"] = np.arange(240.0).reshape(120, 2)
    keys = {"connectivities_key": "connectivities", "distances_key": "distances"}
    own.uns["neighbors"] = keys | {"params": {}}
    own.obsp["connectivities"] = sp.identity(120, format="csr")
    own.obsp["distances"] = sp.identity(120, format="csr")
    own.uns["log1p"] = {"base": 2}
    own.uns["pca"] = {"variance_ratio": np.array([0.5, 0.1])}
    own.varm["PCs"] = np.ones((own.n_vars, 2))
    result = sctag.cluster(own, 3, **FLAGS)
    pd.testing.assert_series_equal(result.obs["sctag"], clustered.obs["sctag"])
    assert result.obs["sctag_before"].tolist() == own.obs["batch"].tolist()
    np.testing.assert_array_equal(result.obsm["X_pca_before"], own.obsm["X_pca"])
    assert result.obsp["connectivities_before"].nnz == 120
    before = result.uns["neighbors_before"]
    assert before["connectivities_key"] == "connectivities_before"
    assert before["distances_key"] == "distances_before"
    assert result.obsp["distances_before"].nnz == 120 < result.obsp["distances"].nnz
    # raw has natural logarithms, and X_pca is another
    assert not {"log1p", "pca"} & set(result.uns)
    assert {"log1p_before", "pca_before"} <= set(result.uns)
    assert set(result.varm) == {"PCs_before"}
    assert set(own.varm) == {"PCs"}
    again = sctag.cluster(result, 3, **FLAGS)
    assert set(again.obsm) == set(result.obsm)
    assert own.uns["neighbors"]["connectivities_key"] == "connectivities"


def test_what_other_settings_left_does_not_stay(clustered):
    assert "X_sctag_joint" in clustered.obsm
    plain = sctag.cluster(clustered, 3, **FLAGS | {"variant": "official"})
    assert set(plain.obsm) == {"X_pca", "X_sctag", "sctag_proba"}
    assert (plain.obsp["connectivities"] != clustered.obsp["connectivities"]).nnz > 0


def test_a_layer_and_a_dense_matrix_are_counts_too(adata, clustered):
    scaled = ad.AnnData(np.log1p(adata.X.toarray()), layers={"counts": adata.X.toarray()})
    result = sctag.cluster(scaled, 3, layer="counts", **FLAGS)
    np.testing.assert_array_equal(result.obs["sctag"].to_numpy(), clustered.obs["sctag"].to_numpy())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hop": 2}, "no setting 'hop', did you mean hops"),
        ({"n_clusters": 1}, "n_clusters must be at least 2"),
        ({"n_clusters": "labels"}, "give a number, or None"),
        ({"n_clusters": 3, "resolution": 1.0}, "give one of them"),
        ({"out": "here"}, "out is for files, by the command"),
        ({"layer": "counts"}, "no layer 'counts', choose from: mine"),
        ({"variant": "published"}, "variant must be one of"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"k_neighbors": 120}, "^k_neighbors 120 is not below the number of cells"),
        ({"n_clusters": 121}, "^n_clusters 121 is more than the 120 cells"),
    ],
)
def test_what_cannot_be_used_is_a_value_error(changes, words, adata):
    with pytest.raises(ValueError, match=words):
        sctag.cluster(adata, **changes)


@pytest.mark.parametrize("change", [np.log1p, lambda x: x - 1.0, lambda x: x * 0])
def test_values_are_checked_as_a_files_are(change, adata):
    with pytest.raises(InputError, match=r"adata\.X: |every count is zero"):
        sctag.cluster(ad.AnnData(change(adata.X.toarray())), 3)


def test_what_is_no_anndata_is_told_so(by_command, adata):
    with pytest.raises(ValueError, match="an AnnData is needed, not str: read a file with scanpy"):
        sctag.cluster("cells.h5ad")
    with pytest.raises(ValueError, match="an AnnData is needed, not ndarray"):
        sctag.embed(by_command.out, adata.X.toarray())
    with pytest.raises(ValueError, match=r"sctag\.embed\(folder, adata\)"):
        sctag.embed(adata, by_command.out)


@pytest.mark.parametrize("function", [sctag.embed, sctag.predict])
def test_a_finished_run_refuses_in_words_of_python_too(function, by_command, adata):
    with pytest.raises(InputError, match="name it with layer") as refused:
        function(by_command.out, ad.AnnData(adata.X.log1p(), var=adata.var))
    assert "--" not in str(refused.value)


def test_embed_gives_the_runs_own_embedding(adata, by_command):
    before = adata.copy()
    z = sctag.embed(by_command.out, adata)
    np.testing.assert_allclose(z, by_command.adata.obsm["X_sctag"], rtol=1e-4, atol=1e-4)
    shuffled = adata[::-1, np.random.default_rng(0).permutation(adata.n_vars)]
    other = sctag.embed(str(by_command.out), shuffled.copy())
    np.testing.assert_allclose(other[::-1], z, rtol=1e-3, atol=1e-3)
    assert (adata.X != before.X).nnz == 0


def test_embed_of_cells_without_counts_is_missing(adata, by_command):
    counts = adata.X[:50].toarray()
    counts[7] = 0
    part = ad.AnnData(counts, var=adata.var)
    z = sctag.embed(by_command.out, part)
    assert np.isnan(z).all(axis=1).tolist() == [i == 7 for i in range(50)]


def test_embed_refuses_what_does_not_fit(adata, by_command, tmp_path):
    with pytest.raises(ValueError, match="holds no finished run"):
        sctag.embed(tmp_path, adata)
    other = adata.copy()
    other.var_names = [f"other{i}" for i in range(other.n_vars)]
    with pytest.raises(ValueError, match="lacks 50 of the 50 genes"):
        sctag.embed(by_command.out, other)


def test_embed_refuses_a_run_of_an_earlier_version(adata, by_command, tmp_path):
    folder = shutil.copytree(by_command.out, tmp_path / "old")
    record = json.loads((folder / "settings.json").read_text())
    record["settings"]["networks"] = "auto"
    (folder / "settings.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="a run of an earlier version: run it again"):
        sctag.embed(folder, adata)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_embed_numbers_repeated_genes_as_a_run_does(adata, by_command):
    repeated = ad.AnnData(sp.hstack([adata.X, adata.X[:, :1]]).tocsr())
    repeated.var_names = [*adata.var_names, adata.var_names[0]]
    assert sctag.embed(by_command.out, repeated).shape == by_command.adata.obsm["X_sctag"].shape


def test_tensorflow_and_keras_may_be_in_use_already(request):
    """Two CPU devices and a float64 Keras, in a process of its own; both are left as they were."""
    script = """
    import os
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf, keras
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    keras.config.set_floatx("float64")
    print(tf.reduce_sum(tf.ones([2, 2])).numpy())
    import anndata, numpy, sctag
    counts = numpy.random.default_rng(0).poisson(3, (60, 40)).astype("float32")
    done = sctag.cluster(anndata.AnnData(counts), 3, pretrain_epochs=2, maxiter=1,
                         hidden_dim=8, decoder_dims=[8])
    print(done.obsm["X_sctag"].dtype, keras.config.floatx(), os.environ["CUDA_VISIBLE_DEVICES"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["4.0", "float32 float64 -1"]
