"""The embedded data set is what data/README.md says, and its script makes exactly it."""

import importlib.util

import h5py
import numpy as np
import pytest

from utils import sha256


@pytest.fixture(scope="module")
def script(request):
    path = request.config.rootpath / "data" / "make_pbmc68k_reduced.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_file_is_as_documented(script):
    with h5py.File(script.OUTPUT) as file:
        assert sorted(file) == ["exprs", "obs", "obs_names", "uns", "var", "var_names"]
        data, indices, indptr, shape = (
            file[f"exprs/{piece}"][:] for piece in ("data", "indices", "indptr", "shape")
        )
        labels, cells, genes = (
            file[name][:] for name in ("obs/cell_type1", "obs_names", "var_names")
        )
    assert shape.tolist() == [700, 765]
    assert (data.dtype, indices.dtype, indptr.dtype, shape.dtype) == (
        np.int16,
        np.int32,
        np.int32,
        np.int64,
    )
    assert data.min() == 1  # zeros are not stored
    assert data.max() == 259
    assert indptr[0] == 0
    assert indptr[-1] == len(data) == len(indices)
    assert indices.min() >= 0
    assert indices.max() < 765
    assert [names.dtype.kind for names in (labels, cells, genes)] == ["S", "S", "S"]
    assert len(np.unique(cells)) == 700
    assert len(np.unique(genes)) == 765
    assert len(labels) == 700
    assert len(np.unique(labels)) == 10


def test_script_remakes_the_committed_bytes(script, tmp_path, capsys):
    remade = tmp_path / "new_folder" / "data.h5"
    script.main(remade)
    assert capsys.readouterr().out.count("\n") == 1
    assert [path.name for path in remade.parent.iterdir()] == ["data.h5"]
    assert sha256(remade) == sha256(script.OUTPUT), (
        "other bytes: another HDF5 or zlib than in requirements.lock, or another scanpy"
    )


def test_script_refuses_a_source_that_is_not_counts(script):
    adata = script.sc.datasets.pbmc68k_reduced()
    adata.obs["n_counts"] *= 1.01
    with pytest.raises(AssertionError, match="not whole counts"):
        script.recover_counts(adata)
