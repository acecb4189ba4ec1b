"""Large arrays lie in files without a name; what is made of them is the same as in memory."""

import errno
import os
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import TINY, contents, grouped_counts, prepared

import csr_blocks
import folders
import free_memory
import pipeline
import preprocess
import readers
import scratch
from settings import Settings
from utils import InputError


@pytest.fixture
def small(monkeypatch):
    """Arrays of 64 bytes are large, and blocks are of a few values; notes how many are mapped."""
    monkeypatch.setattr(scratch, "LARGE", 64)
    for name in ("slices", "row_slices"):
        monkeypatch.setattr(getattr(csr_blocks, name), "__defaults__", (50,))


def mapped_arrays(matrix):
    return [scratch.is_mapped(getattr(matrix, name)) for name in ("data", "indices")]


def test_only_large_arrays_of_a_run_lie_in_files(tmp_path, small):
    assert not scratch.is_mapped(scratch.empty(100, np.float32))
    with scratch.within(tmp_path):
        assert not scratch.is_mapped(scratch.empty(15, np.float32))
        array = scratch.empty(16, np.float32)
        assert scratch.is_mapped(array)
        assert scratch.is_mapped(np.asarray(array)[3:])
        assert [*tmp_path.iterdir()] == []
        array[:] = range(16)
        scratch.give_back()
        assert array.sum() == 120
        assert array.dtype == np.float32
        assert scratch.empty(0, np.int32).shape == (0,)
    assert not scratch.is_large(10**9)
    assert array.sum() == 120  # the file is there as long as its array


def test_what_is_large_depends_on_free_memory(tmp_path, monkeypatch):
    with scratch.within(tmp_path):
        for free, bound in ((None, 2**30), (2**40, 2**30), (2**31, 2**27)):
            monkeypatch.setattr(free_memory, "available", lambda free=free: free)
            assert scratch.is_large(bound)
            assert not scratch.is_large(bound - 1)


def test_a_full_disk_is_a_sentence(tmp_path, small, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with scratch.within(tmp_path), pytest.raises(InputError, match="choose another folder"):
        scratch.empty(100, np.float32)
    assert [*tmp_path.iterdir()] == []


@pytest.fixture(params=["h5ad", "integers", "dense", "zarr", "csc"])
def file(request, tmp_path):
    """Counts in a file, of which some cells and genes have none."""
    adata = grouped_counts(n_genes=40)
    dense = adata.X.toarray()
    dense[[2, 50]] = 0
    dense[:, [5, 39]] = 0
    if request.param == "dense":
        adata.X = dense
    elif request.param == "csc":
        adata.X = sp.csc_matrix(dense)
    else:
        adata.X = sp.csr_matrix(dense.astype(np.int32 if request.param == "integers" else "f4"))
    path = tmp_path / ("cells.zarr" if request.param == "zarr" else "cells.h5ad")
    if request.param == "zarr":
        pytest.importorskip("zarr")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata's, of versions of zarr
            adata.write_zarr(path)
        return path
    adata.write_h5ad(path)
    if request.param == "integers":  # as 10x and others number the columns
        with h5py.File(path, "r+") as opened:
            indices = opened["X/indices"][()].astype(np.int64)
            del opened["X/indices"]
            opened["X/indices"] = indices
    return path


def test_prepared_data_are_those_of_memory(file, tmp_path, small):
    settings = Settings.of(data=[file], highly_genes=20, log_genes=25, n_pcs=5, k_neighbors=6)

    def prepare():
        raw = pipeline.read(settings).adata
        made = preprocess.prepare(raw, settings, seed=1)
        return raw, made, pipeline._kept_cells(raw, made)

    in_memory = prepare()
    with folders.staged(tmp_path / "out", overwrite=False) as staging:
        in_files = prepare()
        assert [*staging.iterdir()] == []
    for one, other in zip(in_files, in_memory, strict=True):
        layers = [one.X, *one.layers.values()], [other.X, *other.layers.values()]
        for matrix, expected in zip(*layers, strict=True):
            assert matrix.dtype == expected.dtype
            assert (matrix != expected).sum() == 0
        assert one.obs.equals(other.obs)
        assert one.var.equals(other.var)
    assert all(mapped_arrays(in_files[0].X))
    assert all(mapped_arrays(in_files[2].X))
    made, expected = in_files[1], in_memory[1]
    assert all(mapped_arrays(made.raw.X))
    for name in ("data", "indices", "indptr"):
        array, other = getattr(made.raw.X, name), getattr(expected.raw.X, name)
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)
    np.testing.assert_array_equal(made.obsm["X_pca_logs"], expected.obsm["X_pca_logs"])
    assert made.raw.var.equals(expected.raw.var)


def test_layers_and_raw_beside_the_counts_are_mapped_too(tmp_path, small):
    adata = grouped_counts()
    adata.layers["counts"] = adata.X.astype(np.int32)
    adata.X = np.log1p(adata.X / 3)
    adata.layers["columns"] = adata.X.tocsc()
    adata.raw = adata
    adata.write_h5ad(tmp_path / "cells.h5ad")
    expected = readers.read(tmp_path / "cells.h5ad", layer="counts", whole=True, raw=True)
    with scratch.within(tmp_path):
        made = readers.read(tmp_path / "cells.h5ad", layer="counts", whole=True, raw=True)
    assert [*made.layers] == [*expected.layers] == ["X_before", "columns", "counts"]
    for name, matrix in (*made.layers.items(), ("raw", made.raw.X)):
        other = expected.raw.X if name == "raw" else expected.layers[name]
        assert type(matrix) is type(other)
        assert matrix.dtype == other.dtype
        assert (matrix != other).nnz == 0
        assert all(mapped_arrays(matrix)), name


def test_positions_that_32_bits_cannot_hold_are_refused_as_ever(tmp_path, small):
    path = tmp_path / "cells.h5ad"
    grouped_counts().write_h5ad(path)
    with h5py.File(path, "r+") as opened:
        indices = opened["X/indices"][()].astype(np.int64)
        indices[7] = 2**32
        del opened["X/indices"]
        opened["X/indices"] = indices
    with pytest.raises(InputError, match="do not make a CSR matrix") as in_memory:
        readers.read(path)
    with scratch.within(tmp_path), pytest.raises(InputError) as in_files:
        readers.read(path)
    assert str(in_files.value) == str(in_memory.value)


def test_some_cells_of_mapped_counts_are_mapped(tmp_path, small):
    with scratch.within(tmp_path):
        counts = grouped_counts()
        adata = ad.AnnData(csr_blocks.subset(counts.X, counts.X.sum(axis=1).A1 > 60))
        assert all(mapped_arrays(adata.X))
        kept = csr_blocks.some_of(adata, np.arange(adata.n_obs) % 3 > 0)
        assert all(mapped_arrays(kept.X))


def test_a_notebook_s_arrays_are_in_memory(small):
    assert not any(mapped_arrays(prepared().raw.X))


def files_of(out):
    """The files of a run but those that say when, where and after which other networks it ran."""
    left_out = ("settings.json", "metrics.json", "report.html", "model.weights.h5")
    names = {name for name in contents(out) if name not in left_out and "h5ad" not in name}
    return {name: content for name, content in contents(out).items() if name in names}


def test_a_run_leaves_the_same_files(base, tiny, simulated, small):
    mapped = tiny("--data", simulated.path)
    assert files_of(mapped.out) == files_of(base.out)
    for name in ("adata", "prepared"):
        one, other = getattr(mapped, name), getattr(base, name)
        assert [*one.layers] == [*other.layers]
        matrices = [(one.X, other.X), (one.raw.X, other.raw.X)]
        matrices += [(one.layers[key], other.layers[key]) for key in one.layers]
        for matrix, expected in matrices:
            assert type(matrix) is type(expected)
            assert matrix.dtype == expected.dtype
            assert (matrix != expected).sum() == 0
        for key in other.obsm:
            np.testing.assert_array_equal(one.obsm[key], other.obsm[key])


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, InputError("no")])
def test_nothing_stays_of_a_run_that_ends_early(ended_by, run, simulated, small, monkeypatch):
    made = []
    empty = scratch.empty

    def noted(length, kind):
        array = empty(length, kind)
        made.append(scratch.is_mapped(array))
        return array

    def end(*_, **__):
        raise ended_by

    monkeypatch.setattr(scratch, "empty", noted)
    monkeypatch.setattr(preprocess, "add_pca", end)
    out = Path(simulated.path).parent / "early"
    try:
        ran = run("--data", simulated.path, *TINY, "--out", out)
        assert ran.status != 0
    except KeyboardInterrupt:
        pass
    assert sum(made) > 2
    assert not out.exists()


def test_genes_among_other_features_of_10x_are_mapped(tmp_path, small):
    counts = grouped_counts().X.astype(np.int32)
    types = np.array([b"Gene Expression", b"Antibody Capture"] * 10)
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indptr"] = counts.data, counts.indptr.astype(np.int64)
        group["indices"] = counts.indices.astype(np.int64)  # those of features, cell by cell
        group["shape"] = [20, 75]
        group["barcodes"] = [f"cell{i}".encode() for i in range(75)]
        names = [f"gene{i}".encode() for i in range(20)]
        group["features/name"], group["features/id"] = names, names
        group["features/feature_type"] = types
    with scratch.within(tmp_path):
        made = readers.read(tmp_path / "cells.h5")
    assert all(mapped_arrays(made.X))
    np.testing.assert_array_equal(made.X.toarray(), counts.toarray()[:, ::2])
