"""One data set in every format: the labels are the same, by the names of the cells."""

import gzip
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from conftest import TINY, opened

import readers

SHARED = Path(__file__).parents[2] / "shared" / "data"


def as_h5ad(adata, folder):
    ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]]).write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def as_logarithms_with_raw(adata, folder):
    """As scanpy's tutorial leaves it: X normalised, the counts in raw."""
    logs = ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]])
    logs.raw = logs.copy()
    logs.X = sp.csr_matrix(np.log1p(adata.X.toarray() / 3))
    logs.write_h5ad(folder / "logs.h5ad")
    return folder / "logs.h5ad"


def as_tenx(adata, folder):
    """Genes x cells in CSC, in the group of Cell Ranger 3."""
    matrix = sp.csc_matrix(adata.X.T)
    with h5py.File(folder / "filtered.h5", "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices
        group["indptr"], group["shape"] = matrix.indptr, np.array(matrix.shape, np.int32)
        group["barcodes"] = np.array(adata.obs_names, "S")
        names = np.array(adata.var_names, "S")
        group["features/id"], group["features/name"] = names, names
        kinds = ["Gene Expression"] * adata.n_vars
        group["features/feature_type"] = np.array(kinds, "S")
        group["features/genome"] = np.array(["GRCh38"] * adata.n_vars, "S")
    return folder / "filtered.h5"


def as_mtx(adata, folder):
    place = folder / "filtered_feature_bc_matrix"
    place.mkdir()
    with gzip.open(place / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, sp.coo_matrix(adata.X.T), field="integer")
    genes = pd.DataFrame(
        {"id": adata.var_names, "name": adata.var_names, "type": "Gene Expression"}
    )
    options = {"sep": "\t", "header": False, "index": False}
    genes.to_csv(place / "features.tsv.gz", **options)
    pd.Series(adata.obs_names).to_csv(place / "barcodes.tsv.gz", **options)
    return place


def as_loom(adata, folder):
    with h5py.File(folder / "cells.loom", "w") as file:
        file["matrix"] = adata.X.T.toarray()
        file["row_attrs/Gene"] = np.array(adata.var_names, "S")
        file["col_attrs/CellID"] = np.array(adata.obs_names, "S")
    return folder / "cells.loom"


def as_table(adata, folder):
    table = pd.DataFrame(adata.X.toarray().astype(int), adata.obs_names, adata.var_names)
    table.to_csv(folder / "cells.csv.gz")
    return folder / "cells.csv.gz"


def as_table_of_genes(adata, folder):
    table = pd.DataFrame(adata.X.toarray().astype(int), adata.obs_names, adata.var_names)
    table.T.to_csv(folder / "genes.tsv", sep="\t")
    return folder / "genes.tsv"


WRITERS = (
    *(as_h5ad, as_logarithms_with_raw, as_tenx, as_mtx, as_loom),
    *(as_table, as_table_of_genes),
)


def labels_of(run, path, out, *flags):
    ran = run("--data", path, *TINY, "--n_clusters", "3", *flags, "--out", out, compiled=False)
    return opened(ran, out).labels.set_index("cell")["cluster"]


@pytest.fixture(scope="module")
def published(run, simulated, tmp_path_factory):
    """The simulated data and the labels from the published layout."""
    out = tmp_path_factory.mktemp("published") / "out"
    return readers.read(simulated.path), labels_of(run, simulated.path, out)


@pytest.mark.parametrize("write", WRITERS)
def test_each_format_gives_the_labels_of_the_published_layout(write, run, published, tmp_path):
    adata, expected = published
    flags = ["--transpose"] if write is as_table_of_genes else []
    labels = labels_of(run, write(adata, tmp_path), tmp_path / "out", *flags)
    assert labels.to_dict() == expected.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Pollen", "Mix_CELseq2_5cl", "Zilionis_lung_800"])
def test_each_format_of_a_real_set_is_read_alike(name, tmp_path):
    """The matrix, the cells and the genes are the same, and so is all that is made of them."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the real data set shared/data/{name} beside the repository")
    adata = readers.read(SHARED / name / "data.h5")
    adata.X = adata.X.ceil()  # one set has expected counts, which no integer format holds
    for write in WRITERS:
        folder = tmp_path / write.__name__
        folder.mkdir()
        other = readers.read(write(adata, folder), transpose=write is as_table_of_genes or None)
        assert other.obs_names.tolist() == adata.obs_names.tolist(), write.__name__
        assert other.var_names.tolist() == adata.var_names.tolist(), write.__name__
        assert (other.X != adata.X).nnz == 0, write.__name__
