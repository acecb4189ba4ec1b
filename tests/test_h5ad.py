"""AnnData's files and their kin: where the counts are, .h5mu, .zarr, and columns like ours."""

import logging
import shutil
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from test_readers import COUNTS, GENES, LABELS, annotated, check_content, refused

import readers
from formats import h5ad as formats_h5ad

LOGS = np.log1p(COUNTS).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cells.h5ad"


@pytest.fixture
def lines(monkeypatch, caplog):
    """Give the log lines so far."""
    monkeypatch.setattr(logging.getLogger("sctag"), "propagate", True)
    caplog.set_level(logging.INFO, "sctag")
    return lambda: [record.getMessage() for record in caplog.records]


def with_raw(x, raw, genes=GENES):
    """AnnData with x in X, and raw with genes of its own."""
    adata = annotated(x)
    adata.X = x
    adata.raw = ad.AnnData(raw, obs=adata.obs, var=pd.DataFrame(index=genes))
    return adata


# ---- where the counts are


def test_x_is_taken_where_it_holds_counts(path, lines):
    adata = with_raw(COUNTS.astype(np.float32), 2 * COUNTS)
    adata.layers["counts"] = 3 * COUNTS
    adata.write_h5ad(path)
    check_content(readers.read(path))
    assert lines() == []


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("x", [LOGS, -LOGS, LOGS * np.nan, COUNTS * 0.0, None])
def test_the_only_layer_of_counts_is_taken(path, lines, form, x):
    adata = with_raw(None if x is None else form(x.astype(np.float32)), form(LOGS))
    adata.layers["counts"] = form(COUNTS)
    adata.layers["logs"], adata.layers["mask"] = form(LOGS), form(COUNTS > 0)
    adata.write_h5ad(path)
    check_content(readers.read(path))
    state = "is absent" if x is None else "holds no whole counts"
    assert lines() == [f"read      the counts are those of layers/counts, as X {state}"]


def test_raw_is_taken_with_its_own_genes(path, lines):
    genes = ["g0", "g1", "g2", "g3"]
    counts = np.hstack([COUNTS, COUNTS[:, :1]])
    with_raw(LOGS, sp.csr_matrix(counts.astype(np.float32)), genes).write_h5ad(path)
    for options in ({}, {"layer": "raw"}):
        adata = readers.read(path, **options)
        np.testing.assert_array_equal(adata.X.toarray(), counts)
        assert adata.var_names.tolist() == genes
        assert readers.read_labels(adata, "cell_type1").tolist() == LABELS
    assert lines() == ["read      the counts are those of raw/X, as X holds no whole counts"]


def test_a_layer_called_raw_and_raw_itself(path):
    adata = with_raw(LOGS, 2 * COUNTS)
    adata.layers["raw"] = COUNTS
    adata.write_h5ad(path)
    refused(path, r"X holds no whole counts, and several .*: choose --layer from: raw, raw\.X$")
    check_content(readers.read(path, layer="raw"))
    assert readers.read(path, layer="raw.X").X.sum() == 2 * COUNTS.sum()
    assert readers.read(path, layer="X").X.max() == LOGS.max()


def test_raw_of_anndata_0_6(path):
    annotated(LOGS).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["raw.X"] = COUNTS
        names = [(name.encode(),) for name in GENES]
        file["raw.var"] = np.array(names, dtype=[("index", "S2")])
    check_content(readers.read(path))


def test_where_no_place_holds_counts_x_is_read(path, lines):
    adata = with_raw(LOGS, LOGS)
    adata.layers["half"] = COUNTS / 2
    adata.write_h5ad(path)
    np.testing.assert_array_equal(readers.read(path).X.toarray(), LOGS)
    assert lines() == []
    adata.X = None
    adata.write_h5ad(path)
    refused(path, "X is absent, and no other place holds whole counts .present: half, raw")


def test_counts_are_told_by_all_values_block_by_block(path, monkeypatch):
    monkeypatch.setattr(formats_h5ad, "BLOCK", 4)
    x = np.where(COUNTS == 5, 5.5, COUNTS)  # in the last row
    adata = annotated(x)
    adata.layers["nearly"], adata.layers["counts"] = sp.csr_matrix(x), sp.csr_matrix(COUNTS)
    adata.write_h5ad(path)
    check_content(readers.read(path))
    del adata.layers["counts"]
    adata.write_h5ad(path)
    np.testing.assert_array_equal(readers.read(path).X.toarray(), x)


def test_the_suites_own_results_are_read_again(path, tmp_path):
    import conftest

    adata = conftest.prepared()
    adata.write_h5ad(path)
    again = readers.read(path)
    assert (adata.layers["counts"] != again.X).nnz == 0
    assert again.var_names.tolist() == adata.var_names.tolist()


# ---- MuData


def write_h5mu(path, *modalities):
    """The layout of MuData: an AnnData for each modality under mod."""
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "MuData"
        for name in modalities:
            ad.io.write_elem(file, f"mod/{name}", annotated())
    return path


@pytest.mark.parametrize("name", ["rna", "gex"])
def test_the_rna_of_mudata(tmp_path, lines, name):
    path = write_h5mu(tmp_path / "a.h5mu", "atac", name, "prot")
    check_content(readers.read(path))
    note = f"read      the modality {name} is read; others in the file: atac, prot"
    assert lines() == [note]
    refused(path, rf"mod/{name}: no layer 'counts'", layer="counts")


def test_mudata_without_rna(tmp_path):
    path = write_h5mu(tmp_path / "a.h5mu", "atac", "prot")
    refused(path, r"none of its modalities is called rna \(present: atac, prot\)")


# ---- zarr


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.filterwarnings("ignore")
def test_zarr(tmp_path, lines, version, form):
    path = tmp_path / "a.zarr"
    adata = with_raw(form(LOGS), form(COUNTS.astype(np.float32)))
    adata.obs["batch"] = ["a", "b", "a", "b"]
    with ad.settings.override(zarr_write_format=version):
        adata.write_zarr(path)
    adata = readers.read(path)
    check_content(adata)
    assert adata.obs["batch"].tolist() == ["a", "b", "a", "b"]
    assert lines() == ["read      the counts are those of raw/X, as X holds no whole counts"]
    refused(path, "no layer 'counts', choose --layer from: X, raw", layer="counts")
    shutil.rmtree(path / "obs")
    assert readers.read(path).obs_names.tolist() == ["cell_0", "cell_1", "cell_2", "cell_3"]


@pytest.mark.filterwarnings("ignore")
def test_zarr_that_is_damaged(tmp_path):
    path = tmp_path / "a.zarr"
    with ad.settings.override(zarr_write_format=2):
        annotated().write_zarr(path)
    (path / "X" / "0.0").write_bytes(b"no chunk")
    refused(path, "cannot be read")
    (path / ".zgroup").write_text("{")
    refused(path, "cannot be read")


def test_zarr_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "zarr.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "zarr", None)
    refused(tmp_path, "pip install zarr, or write the data as an .h5ad")


# ---- names and columns


def test_labels_that_are_the_text_nan_are_missing():
    adata = annotated()
    adata.obs["cell_type1"] = ["nan"] * 4
    assert readers.read_labels(adata, "cell_type1").tolist() == [None] * 4
    adata.obs["cell_type1"] = pd.Categorical(["T", "nan", "NaN", "<NA>"])
    assert readers.read_labels(adata, "cell_type1").tolist() == ["T", None, None, None]


def test_empty_and_repeated_names(path):
    adata = annotated()
    adata.var.index = ["", "g", "g"]
    adata.obs["cell_name"] = ["a", "b", "c", "d"]
    adata.obs.index = ["", "", "x", "x"]
    adata.write_h5ad(path)
    adata = readers.read(path)
    assert adata.var_names.tolist() == ["gene_0", "g", "g-1"]
    assert adata.var["gene_name"].tolist() == ["", "g", "g"]
    assert adata.obs_names.tolist() == ["cell_0", "cell_1", "x", "x-1"]
    assert adata.obs["cell_name_before"].tolist() == ["a", "b", "c", "d"]


def test_an_index_called_index(path):
    adata = annotated()
    adata.obs.index.name, adata.var.index.name = "_index", "index"
    adata.write_h5ad(path)
    check_content(readers.read(path))


def everything(**changes):
    """An AnnData with something in each of its parts."""
    adata = annotated()
    n, g = adata.shape
    adata.obsm["X_mine"] = np.arange(2.0 * n).reshape(n, 2)
    adata.obsm["frame"] = pd.DataFrame({"a": range(n)}, index=adata.obs_names)
    adata.varm["loadings"] = np.ones((g, 3))
    adata.obsp["near"] = sp.identity(n, format="csr")
    adata.varp["related"] = sp.identity(g, format="csr")
    adata.layers["spliced"] = adata.X * 2
    adata.uns["colours"] = {"a": np.array(["red"]), "n": 3}
    for name, value in changes.items():
        setattr(adata, name, value)
    return adata


PARTS = ("layers", "obsm", "varm", "obsp", "varp")


def test_everything_comes_along_where_it_is_asked_for(path):
    adata = everything()
    adata.write_h5ad(path)
    whole, plain = readers.read(path, whole=True), readers.read(path)
    for part in PARTS:
        assert set(getattr(whole, part)) == set(getattr(adata, part))
        assert not len(getattr(plain, part))
    np.testing.assert_array_equal(whole.obsm["X_mine"], adata.obsm["X_mine"])
    assert whole.obsm["frame"]["a"].tolist() == list(range(adata.n_obs))
    np.testing.assert_array_equal(dense(whole.layers["spliced"]), dense(adata.layers["spliced"]))
    assert whole.uns["colours"]["n"] == 3
    assert not plain.uns


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def test_x_is_kept_as_a_layer_where_the_counts_are_in_another(path):
    adata = everything()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(dense(adata.X))
    adata.write_h5ad(path)
    whole = readers.read(path, layer="counts", whole=True)
    np.testing.assert_array_equal(dense(whole.X), dense(adata.layers["counts"]))
    np.testing.assert_array_equal(dense(whole.layers["counts"]), dense(whole.X))
    np.testing.assert_allclose(dense(whole.layers["X_before"]), dense(adata.X))


def test_raw_comes_along_where_the_result_has_none_of_its_own(path, lines):
    adata = everything()
    adata.raw = adata.copy()
    part = adata[:, :2].copy()
    part.write_h5ad(path)
    assert readers.read(path, whole=True).raw is None
    assert "raw (the result's own has the logarithms" in "".join(lines())
    whole = readers.read(path, whole=True, raw=True)
    assert whole.shape == part.shape
    np.testing.assert_array_equal(dense(whole.raw.X), dense(adata.X))
    assert whole.raw.var_names.tolist() == adata.var_names.tolist()
    assert set(whole.raw.varm) == set(adata.varm)
    assert readers.read(path, layer="raw", whole=True, raw=True).raw is None  # it is X


def test_what_is_of_other_genes_than_the_counts_is_left_out_and_named(path, lines):
    adata = everything()
    adata.raw = adata.copy()
    part = adata[:, :2].copy()
    part.X = np.log1p(dense(part.X))
    part.layers.clear()
    part.write_h5ad(path)
    whole = readers.read(path, whole=True)
    assert whole.n_vars == adata.n_vars
    assert set(whole.obsm) == {"X_mine", "frame"}
    assert not whole.layers
    assert not whole.varm
    (line,) = [line for line in lines() if "not kept in the result" in line]
    assert "X (its shape is not that of the data)" in line
    assert "varm/loadings" in line


def test_an_element_that_cannot_be_read_is_named_and_the_others_come(path, lines):
    adata = everything()
    adata.write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["obsm/X_mine"].attrs["encoding-type"] = "of-the-future"
        file["uns/colours"].attrs["encoding-type"] = "of-the-future"
    whole = readers.read(path, whole=True)
    assert set(whole.obsm) == {"frame"}
    (line,) = [line for line in lines() if "not kept in the result" in line]
    assert "obsm/X_mine (anndata" in line
    assert "uns/colours" in line


def test_genes_are_named_by_a_column(path):
    adata = annotated()
    adata.var["symbol"] = pd.Categorical(["CD3D", "CD3D", None])
    adata.write_h5ad(path)
    named = readers.read(path, gene_key="symbol")
    assert named.var_names.tolist() == ["CD3D", "CD3D-1", GENES[2]]
    assert named.var["gene_id"].tolist() == list(GENES)
    refused(path, "column 'name' of var, of --gene_key, is not there: symbol", gene_key="name")
