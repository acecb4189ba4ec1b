"""What a run leaves to be looked at: map, markers, doubts, report; in files and in a notebook."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from conftest import FILES, NETWORK_FLAGS, contents, eagerly, opened
from conftest import TINY as WITHOUT

import sctag
from outcome import annotated, overview

TINY = [flag for flag in WITHOUT if flag != "--no_report"]
FLAGS = NETWORK_FLAGS


@pytest.fixture(scope="module", autouse=True)
def _uncompiled():
    with eagerly():
        yield


@pytest.fixture(scope="module")
def types(tmp_path_factory, simulated):
    """A list of marker genes: those that are highest in each of the simulated types."""
    means = pd.DataFrame(simulated.counts, columns=simulated.genes)
    means = means.div(means.sum(axis=1), axis=0).groupby(simulated.labels).mean()
    path = tmp_path_factory.mktemp("types") / "types.csv"
    lines = []
    for name in means.index:
        ratio = means.loc[name] / means.drop(index=name).max()
        lines += [f"{name},{gene}" for gene in ratio.nlargest(8).index]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def by_command(run, simulated, types, tmp_path_factory):
    out = tmp_path_factory.mktemp("overview") / "out"
    flags = [*TINY, "--n_clusters", "3", "--markers", types, "--denoised"]
    return opened(run("--data", simulated.path, *flags, "--out", out, compiled=False), out)


@pytest.fixture(scope="module")
def in_notebook(simulated, types):
    adata = ad.AnnData(sp.csr_matrix(simulated.counts, dtype=np.float32))
    adata.obs_names, adata.var_names = simulated.cells, simulated.genes
    adata.obs["cell_type1"] = simulated.labels
    return sctag.cluster(adata, 3, markers=types, denoised=True, **FLAGS)


def test_the_files(by_command):
    of_page = {name for name in contents(by_command.out) if name.startswith("report_figures/")}
    others = set(contents(by_command.out)) - of_page
    assert others == FILES | {"cell_types.csv", "denoised.h5ad", "markers.csv", "report.html"}
    assert {f"report_figures/umap_cluster.{kind}" for kind in ("png", "svg")} <= of_page


def test_command_and_notebook_say_the_same(by_command, in_notebook):
    for key in ("X_umap", "sctag_proba"):
        np.testing.assert_array_equal(in_notebook.obsm[key], by_command.adata.obsm[key])
    for key in ("sctag_markers", "sctag_types"):
        expected = by_command.adata.uns[key].astype(str)
        assert in_notebook.uns[key].astype(str).equals(expected)
    np.testing.assert_array_equal(
        in_notebook.obs["sctag_uncertain"], by_command.adata.obs["sctag_uncertain"]
    )
    assert overview.note(in_notebook, "warnings") == overview.note(by_command.adata, "warnings")


def test_markers_are_scanpys_own_of_all_genes(by_command, simulated):
    table = pd.read_csv(by_command.out / "markers.csv", dtype={"cluster": str})
    cells = ad.AnnData(sp.csr_matrix(simulated.counts, dtype=np.float32))
    cells.var_names = simulated.genes
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    cells.obs["sctag"] = pd.Categorical(by_command.labels["cluster"].astype(str).to_numpy())
    sc.tl.rank_genes_groups(cells, "sctag", method="wilcoxon")
    for cluster, rows in table.groupby("cluster"):
        expected = sc.get.rank_genes_groups_df(cells, cluster).head(20)
        np.testing.assert_allclose(rows["score"].head(20), expected["scores"], rtol=1e-3)
        assert set(rows["gene"].head(20)) == set(expected["names"])


def test_types_are_suggested_by_their_markers(by_command):
    table = pd.read_csv(by_command.out / "cell_types.csv", dtype={"cluster": str})
    of_cluster = dict(zip(table["cluster"], table["best"], strict=True))
    cells = by_command.adata.obs
    majority = cells.groupby("sctag", observed=True)["cell_type1"].agg(lambda x: x.mode()[0])
    assert of_cluster == {str(name): str(label) for name, label in majority.items()}


def test_denoised_counts(by_command, in_notebook):
    denoised = ad.read_h5ad(by_command.out / "denoised.h5ad")
    assert denoised.var_names.tolist() == by_command.prepared.var_names.tolist()
    genes = in_notebook.var_names[in_notebook.var["sctag_gene"]]
    assert genes.tolist() == denoised.var_names.tolist()
    np.testing.assert_allclose(in_notebook.obsm["sctag_denoised"], denoised.X, rtol=1e-5)
    np.testing.assert_allclose(
        in_notebook.obsm["sctag_dropout"], denoised.layers["dropout"], rtol=1e-5
    )
    assert ((denoised.layers["dropout"] >= 0) & (denoised.layers["dropout"] <= 1)).all()


def test_what_the_decoder_expects_is_its_heads_in_plain_numpy(by_command):
    from model import load

    network = load(by_command.out)
    hidden = by_command.adata.obsm["X_sctag"]
    for layer in network.count_decoder:
        hidden = np.maximum(hidden @ layer.kernel.numpy() + layer.bias.numpy(), 0)
    mean, _, pi = (hidden @ head.kernel.numpy() + head.bias.numpy() for head in network.heads)
    denoised = ad.read_h5ad(by_command.out / "denoised.h5ad")
    np.testing.assert_allclose(denoised.X, np.exp(mean), rtol=1e-3)
    np.testing.assert_allclose(denoised.layers["dropout"], 1 / (1 + np.exp(-pi)), rtol=1e-3)


def test_the_report_of_a_notebook(in_notebook, tmp_path):
    page = sctag.report(in_notebook, label_key="cell_type1", name="mine")
    assert page._repr_html_().startswith("<iframe")
    text = page.save(tmp_path / "report.html").read_text()
    assert "mine" in text
    assert page.content.labels.tolist() == in_notebook.obs["cell_type1"].tolist()
    with pytest.raises(ValueError, match="no column 'type', choose from: cell_type1"):
        sctag.report(in_notebook, label_key="type")
    with pytest.raises(ValueError, match="has no outcome to report"):
        sctag.report(ad.AnnData(np.ones((3, 2))))


def test_cells_without_a_cluster_are_left_out_of_the_page(simulated):
    counts = simulated.counts.copy()
    counts[[3, 50]] = 0
    adata = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32))
    done = sctag.cluster(adata, 3, **FLAGS)
    assert np.isnan(done.obsm["X_umap"]).any(axis=1).nonzero()[0].tolist() == [3, 50]
    assert not done.obs["sctag_uncertain"].iloc[[3, 50]].any()
    page = overview.content(done, name="x")
    assert page.n_cells == 118
    genes = set(done.uns["sctag_markers"]["gene"])
    assert genes <= set(done.var_names)


def test_without_a_report_and_without_anndata(run, simulated, tmp_path):
    flags = ["--data", simulated.path, *TINY, "--n_clusters", "3", "--no_report", "--no_h5ad"]
    assert run(*flags, "--out", tmp_path / "out", compiled=False).status == 0
    assert set(contents(tmp_path / "out")) == FILES - {"sctag.h5ad", "prepared.h5ad"}


def test_overwriting_takes_the_figures_of_the_run_before_away(run, simulated, tmp_path):
    out = tmp_path / "out"
    flags = ["--data", simulated.path, *TINY, "--n_clusters", "3", "--out", out]
    assert run(*flags, compiled=False).status == 0
    assert (out / "report_figures" / "umap_cluster.png").exists()
    assert run(*flags, "--overwrite", "--no_report", compiled=False).status == 0
    assert not (out / "report_figures").exists()


def test_denoising_needs_a_decoder_of_counts(refused, simulated):
    message = refused("--data", simulated.path, *TINY, "--reconstruction", "mse", "--denoised")
    assert "--denoised is for a count decoder that fits counts" in message


def test_a_list_of_other_genes_is_refused(refused, simulated, tmp_path):
    (tmp_path / "types.csv").write_text("T cell,CD3D\nB cell,CD19\n")
    message = refused("--data", simulated.path, *TINY, "--markers", tmp_path / "types.csv")
    assert "none of the 2 marker genes" in message


@pytest.mark.parametrize(
    ("flags", "name", "words"),
    [
        (WITHOUT, "types.csv", "--markers is for the report, which --no_report leaves out"),
        (TINY, "none.csv", "none.csv: cannot be read (No such file or directory)"),
    ],
)
def test_types_that_cannot_be_suggested_are_refused_before_the_data_are_read(
    flags, name, words, refused, types
):
    message = refused("--data", "no.h5ad", *flags, "--markers", types.with_name(name))
    assert words in message


def test_notes_are_json(in_notebook):
    settings = json.loads(in_notebook.uns["sctag"]["settings"])
    assert settings["hidden_dim"] == 16
    assert annotated.points_of(in_notebook).shape[0] == in_notebook.n_obs
