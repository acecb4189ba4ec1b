"""Matrices of counts a block at a time: the same as what SciPy and anndata make at once."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import csr_blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few values; the default of a parameter is bound before."""
    for name in ("slices", "row_slices"):
        monkeypatch.setattr(getattr(csr_blocks, name), "__defaults__", (7,))


@pytest.fixture
def matrix():
    """Counts of 30 cells and 12 genes; cells 0, 5 and 29 have none, nor have genes 3 and 11."""
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.7, (30, 12)).astype(np.float32)
    dense[[0, 5, 29]] = 0
    dense[:, [3, 11]] = 0
    return sp.csr_matrix(dense)


def masks(matrix, cells=(), genes=()):
    """Masks without some cells and genes."""
    masks = [np.ones(length, bool) for length in matrix.shape]
    masks[0][[*cells]], masks[1][[*genes]] = False, False
    return masks


def assert_same(made, expected):
    """The same arrays, of the same types, in canonical form."""
    assert made.shape == expected.shape
    for name in ("data", "indices", "indptr"):
        array, other = getattr(made, name), getattr(expected, name)
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)
    assert sp.csr_matrix((made.data, made.indices, made.indptr), made.shape).has_canonical_format


def test_rows_are_cut_into_blocks_of_some_values(matrix):
    rows = [*csr_blocks.row_slices(matrix)]
    assert len(rows) > 3
    covered = np.concatenate([np.arange(some.start, some.stop) for some in rows])
    np.testing.assert_array_equal(covered, np.arange(30))
    for some in rows:
        block = csr_blocks.rows_of(matrix, some)
        assert_same(block, matrix[some])
        assert block.nnz <= 7 or block.shape[0] == 1
    assert [*csr_blocks.row_slices(sp.csr_matrix((0, 4)))] == [slice(0, 0)]


@pytest.mark.parametrize("cells", [(), (0, 5, 29), (1, 2, 28), range(30)])
@pytest.mark.parametrize("genes", [(), (3, 11), (0, 4), range(12)])
def test_a_subset_is_scipy_s(matrix, cells, genes):
    cells, genes = masks(matrix, cells, genes)
    before = matrix.copy()
    made = csr_blocks.subset(matrix, cells, genes)
    assert_same(made, matrix[np.flatnonzero(cells)][:, np.flatnonzero(genes)])
    assert_same(matrix, before)


def test_a_subset_shares_what_does_not_change(matrix):
    rows = csr_blocks.subset(matrix, masks(matrix, cells=(0, 5, 29))[0])
    assert np.shares_memory(rows.data, matrix.data)
    assert np.shares_memory(rows.indices, matrix.indices)
    columns = csr_blocks.subset(matrix, genes=masks(matrix, genes=(3, 11))[1])
    assert np.shares_memory(columns.data, matrix.data)
    assert not np.shares_memory(columns.indices, matrix.indices)


def test_rows_are_put_at_their_places_among_empty_ones(matrix):
    positions = np.array([*range(1, 12), *range(14, 33)])
    made = csr_blocks.spread_rows(matrix, positions, 35)
    expected = np.zeros((35, 12), np.float32)
    expected[positions] = matrix.toarray()
    assert_same(made, sp.csr_matrix(expected))
    assert np.shares_memory(made.data, matrix.data)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_, np.float64])
def test_a_matrix_in_csc_is_turned(matrix, kind, monkeypatch):
    monkeypatch.setattr(csr_blocks, "STORED", 20)
    by_columns = matrix.tocsc().astype(kind)
    made = csr_blocks.turned(by_columns)
    assert_same(made, by_columns.tocsr().astype(np.promote_types(kind, np.float32)))


def test_genes_are_cut_into_blocks_of_some_values(matrix):
    blocks = [*csr_blocks.gene_blocks(matrix, 40)]
    assert len(blocks) > 3
    assert_same(sp.hstack([block for _, block in blocks], format="csr"), matrix)
    for genes, block in blocks:
        assert_same(block, matrix[:, genes])
        assert block.nnz <= 40 or block.shape[1] == 1
    stored = csr_blocks.stored_of_genes(matrix)
    np.testing.assert_array_equal(stored, (matrix.toarray() != 0).sum(axis=0))


def test_means_are_rounded_as_those_of_scipy():
    rng = np.random.default_rng(1)
    dense = rng.lognormal(0, 3, (400, 9)) * (rng.random((400, 9)) < 0.4)
    matrix = sp.csr_matrix(dense.astype(np.float32))
    means = csr_blocks.column_means(matrix)
    assert means.dtype == np.float32
    np.testing.assert_array_equal(means, np.asarray(matrix.mean(axis=0)).ravel())


def test_values_are_changed_in_blocks():
    values = np.arange(40.0)
    roots = csr_blocks.converted(values, np.float32, np.sqrt)
    np.testing.assert_array_equal(roots, np.sqrt(values).astype(np.float32))
    copy = csr_blocks.converted(values, np.float64)
    assert not np.shares_memory(copy, values)


@pytest.mark.parametrize("cells", [(), (0, 5, 29), (1, 2, 28)])
def test_some_of_an_anndata_is_what_anndata_makes_of_it(matrix, cells):
    adata = ad.AnnData(matrix)
    adata.obs["type"] = pd.Categorical([*"abc"] * 10)
    adata.layers["zeros"] = matrix.tocsc()
    adata.layers["counts"] = matrix * 2
    adata.layers["dense"] = matrix.toarray()
    adata.obsm["X_umap"] = np.arange(60.0).reshape(30, 2)
    adata.obsp["graph"] = sp.eye(30, format="csr")
    adata.uns["note"] = "text"
    adata.raw = adata
    before, (of_cells, genes) = adata.copy(), masks(matrix, cells, (3, 7))
    made, expected = csr_blocks.some_of(adata, of_cells, genes), adata[of_cells, genes].copy()
    assert_same(made.X, expected.X)
    assert_same(made.layers["counts"], expected.layers["counts"])
    for one, other in ((made, expected), (adata, before)):
        assert [*one.layers] == ["zeros", "counts", "dense"]
        assert one.X.shape == one.shape
        for key in one.layers:
            assert (one.layers[key] != other.layers[key]).sum() == 0
        pd.testing.assert_frame_equal(one.obs, other.obs)
        np.testing.assert_array_equal(one.obsm["X_umap"], other.obsm["X_umap"])
        assert (one.obsp["graph"] != other.obsp["graph"]).nnz == 0
        assert one.uns == other.uns
        assert (one.raw.X != other.raw.X).nnz == 0
