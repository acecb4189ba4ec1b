"""Preprocessing against plain NumPy, and on data with less than was asked for."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import prepared

import gene_choice
import preprocess
from data_settings import Preparation
from new_cells import preparing
from utils import InputError


def counts(n_cells=50, n_genes=80, seed=0):
    """Three groups of cells, each with genes of its own; sparse float32."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.6, 1.0, n_genes) * np.ones((n_cells, 1))
    for group in range(3):
        rate[group::3, group * 5 : group * 5 + 5] += 6.0
    depth = rng.uniform(0.5, 2.0, (n_cells, 1))
    return ad.AnnData(sp.csr_matrix(rng.poisson(rate * depth).astype(np.float32)))


def prepare(adata, **changes):
    settings = {"highly_genes": 30, "clip": None, "n_pcs": 10, "k_neighbors": 5}
    return prepared(adata, seed=1, **(settings | changes))


def test_drop_empty_takes_genes_then_cells_and_keeps_the_names_together():
    matrix = np.array([[1, 0, 2], [0, 0, 0], [0, 0, 3]], dtype=np.float32)
    adata = ad.AnnData(sp.csr_matrix(matrix))
    adata.obs_names, adata.var_names = ["a", "empty", "c"], ["x", "none", "z"]
    kept = preprocess.drop_empty(adata)
    assert list(kept.obs_names) == ["a", "c"]
    assert list(kept.var_names) == ["x", "z"]
    with pytest.raises(InputError, match="every count is zero"):
        preprocess.drop_empty(ad.AnnData(sp.csr_matrix((3, 3), dtype=np.float32)))


def test_genes_that_few_cells_have_are_left_out_if_asked(caplog):
    caplog.set_level("INFO", logger="sctag")
    adata = ad.AnnData(sp.csr_matrix(np.array([[5, 1, 1], [0, 1, 2], [0, 0, 3]], np.float32)))
    assert list(preprocess.drop_empty(adata).var_names) == ["0", "1", "2"]
    assert list(preprocess.drop_empty(adata, min_cells=2).var_names) == ["1", "2"]
    assert "1 genes with counts in fewer than 2 cells and 0 cells" in caplog.text
    with pytest.raises(InputError, match="lower --min_cells"):
        preprocess.drop_empty(adata, min_cells=4)
    alone = ad.AnnData(sp.csr_matrix(np.array([[9, 0], [0, 1], [0, 1]], np.float32)))
    assert preprocess.drop_empty(alone, min_cells=2).shape == (2, 1)  # a cell has none left
    assert prepare(counts(), min_cells=25, highly_genes=10**6).n_vars < 80


def test_normalise_is_log_of_counts_over_size_factors():
    adata = counts()
    dense = adata.X.toarray().astype(np.float64)
    normalised = preprocess.normalise(adata)
    depth = dense.sum(axis=1)
    factor = depth / np.median(depth)
    np.testing.assert_allclose(normalised.obs["size_factor"], factor)
    np.testing.assert_allclose(normalised.X.toarray(), np.log1p(dense / factor[:, None]), rtol=1e-5)
    np.testing.assert_array_equal(normalised.layers["counts"].toarray(), dense)


def test_scale_is_a_z_score_with_the_sample_deviation_then_a_clip():
    matrix = np.random.default_rng(0).normal(3, 2, (30, 4)).astype(np.float32)
    z = (matrix - matrix.mean(0)) / matrix.std(0, ddof=1)
    for clip in (None, 1.0):
        adata = ad.AnnData(sp.csr_matrix(matrix))
        preprocess.scale(adata, clip=clip)
        expected = z if clip is None else np.clip(z, -clip, clip)
        np.testing.assert_allclose(adata.X, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["seurat", "seurat_v3", "cell_ranger", "pearson"])
def test_every_gene_selection_finds_the_marker_genes(method):
    """The first 15 of 600 genes are on in one group of cells only, at the mean of any gene."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(2.0, 2.0, 600) * np.ones((240, 1))
    for gene in range(15):
        on = np.arange(240) % 3 == gene % 3
        rate[:, gene] *= np.where(on, 3.0, 0.0)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    chosen = prepare(adata, gene_selection=method, highly_genes=40)
    assert chosen.n_vars == 40
    assert len({str(gene) for gene in range(15)} & set(chosen.var_names)) >= 12


def test_seurat_v3_gives_way_where_its_loess_fails(monkeypatch, caplog):
    chosen_by = gene_choice.VariableGenes.chosen_by

    def failing(variable, method, n_genes):
        if method == "seurat_v3":
            raise ValueError("reciprocal condition number")
        return chosen_by(variable, method, n_genes)

    monkeypatch.setattr(gene_choice.VariableGenes, "chosen_by", failing)
    chosen = prepare(counts(), gene_selection="seurat_v3")
    assert chosen.n_vars == 30
    assert "seurat_v3 failed" in caplog.text
    np.testing.assert_array_equal(chosen.var_names, prepare(counts()).var_names)


def test_the_threshold_decides_between_exact_and_approximate(caplog):
    caplog.set_level("INFO", logger="sctag")
    prepare(counts(), exact_knn_cells=50)
    assert "approximate" not in caplog.text
    prepare(counts(), exact_knn_cells=49)
    assert "approximate" in caplog.text


def test_prepared_data_have_the_promised_keys():
    done = prepare(counts())
    assert done.shape == (50, 30)
    assert done.X.dtype == np.float32
    assert done.obsm["X_pca"].shape == (50, 10)
    assert done.obsp["connectivities"].shape == (50, 50)
    assert sp.issparse(done.layers["counts"])
    np.testing.assert_array_equal(np.diff(done.obsp["connectivities"].indptr), 5)
    assert set(done.uns) & {"log1p", "hvg"} <= {"hvg"}  # no leftover that older anndata cannot read


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_the_input_is_left_as_it_is_and_a_second_call_gives_the_same(form):
    adata = counts()
    adata.X = adata.X if form == "sparse" else adata.X.toarray()
    before = adata.copy()
    first, second = prepare(adata), prepare(adata)
    assert (adata.X != before.X).sum() == 0
    assert [*adata.obs, *adata.var, *adata.uns, *adata.layers, *adata.obsm] == []
    np.testing.assert_array_equal(first.X, second.X)


def test_prepared_data_are_refused_as_counts():
    with pytest.raises(InputError, match=r"X: .*negative"):
        prepare(prepare(counts()))


def test_normalised_values_are_refused():
    adata = counts()
    adata.X = np.log1p(adata.X.toarray())
    with pytest.raises(InputError, match="look normalised"):
        prepare(adata)


def test_a_constant_gene_is_left_out_and_counted(caplog):
    """Equal depths, so that a gene of equal counts is constant after normalisation too."""
    caplog.set_level("INFO", logger="sctag")
    rng = np.random.default_rng(0)
    matrix = np.array([rng.permutation(np.arange(12)) for _ in range(30)], np.float32)
    matrix = np.hstack([matrix, np.full((30, 2), 7.0, np.float32)])
    done = prepare(ad.AnnData(sp.csr_matrix(matrix)))
    assert done.n_vars == 12
    assert np.isfinite(done.X).all()
    assert "2 genes that are the same in all cells" in caplog.text
    with pytest.raises(InputError, match="no gene varies"):
        prepare(ad.AnnData(sp.csr_matrix(matrix[:, 12:])))


def test_data_prepared_like_themselves_are_the_same():
    """For more cells than genes, and for fewer, where the components leave more to chance."""
    for adata in (counts(200, 60), counts(40, 90)):
        reference = prepare(adata, highly_genes=50, clip=2.0)
        changes = {"highly_genes": 50, "clip": 2.0, "n_pcs": 10, "k_neighbors": 5}
        preparation = Preparation(symmetric_graph=False, **changes)
        again = preparing.prepare_like(adata, reference, preparation, seed=1)
        np.testing.assert_allclose(again.X, reference.X, atol=1e-5)
        np.testing.assert_allclose(again.obsm["X_pca"], reference.obsm["X_pca"], atol=1e-4)
        graphs = again.obsp["connectivities"], reference.obsp["connectivities"]
        assert (graphs[0] != graphs[1]).nnz == 0
        part = preparing.prepare_like(adata[:30], reference, preparation, seed=1)
        np.testing.assert_allclose(part.X, reference.X[:30], atol=1e-5)
        assert part.obsp["connectivities"].shape == (30, 30)


def test_genes_of_too_few_cells_do_not_count_in_the_depths_of_other_data_either():
    adata = counts(60, 60)
    adata.X = adata.X.toarray()
    adata.X[:, 59] = 0
    adata.X[:3, 59] = 200  # left out with its counts
    reference = prepare(adata, highly_genes=40, min_cells=5)
    assert reference.raw.n_vars < 60
    preparation = Preparation(highly_genes=40, clip=None, k_neighbors=5, min_cells=5)
    again = preparing.prepare_like(adata, reference, preparation, seed=1)
    np.testing.assert_allclose(again.obs["size_factor"], reference.obs["size_factor"])
    np.testing.assert_allclose(again.X, reference.X, atol=1e-5)


def test_data_prepared_like_others_must_have_half_of_their_genes(caplog):
    adata = counts()
    reference = prepare(adata)
    lacking = adata[:, ~adata.var_names.isin(reference.var_names[:16])].copy()
    with pytest.raises(InputError, match="lacks 16 of the 30 genes"):
        preparing.prepare_like(lacking, reference, Preparation(), seed=1)
    lacking = adata[:, ~adata.var_names.isin(reference.var_names[:15])].copy()
    preparing.values_like(lacking, reference, Preparation())
    assert "lacks 15 of the 30 genes" in caplog.text


def test_a_gene_that_is_missing_counts_as_its_mean_and_not_in_the_depths():
    adata = counts(200, 60)
    adata.X = adata.X.toarray()
    adata.X[:, 7] = 50 + np.arange(200) % 3  # much of all counts
    preparation = Preparation(highly_genes=60, log_genes=40, clip=None, k_neighbors=5)
    reference = preprocess.prepare(adata, preparation, seed=1)
    whole = preparing.values_like(adata, reference, preparation)
    lacking = adata[:, adata.var_names != adata.var_names[7]].copy()
    part = preparing.values_like(lacking, reference, preparation)
    gene = reference.var_names.get_loc(adata.var_names[7])
    np.testing.assert_allclose(part.X[:, gene], 0, atol=1e-5)
    share = 1 - adata.X[:, 7].sum() / adata.X.sum()
    depths = lacking.X.sum(axis=1) / (np.median(adata.X.sum(axis=1)) * share)
    np.testing.assert_allclose(part.obs["size_factor"], depths, rtol=1e-6)
    assert np.median(part.obs["size_factor"] / whole.obs["size_factor"]) == pytest.approx(
        1, abs=0.1
    )
    shared = reference.raw.var_names.drop(adata.var_names[7])  # two genes have no counts
    assert part.raw.var_names.tolist() == shared.tolist()
    logs = np.log1p(lacking.X / depths[:, None])
    kept = [name for name in reference.var_names if name != adata.var_names[7]]
    columns = lacking.var_names.get_indexer(kept)
    mean, std = (reference.var.loc[kept, name].to_numpy() for name in ("mean", "std"))
    z_scores = part.X[:, reference.var_names.isin(kept)]
    np.testing.assert_allclose(z_scores, (logs[:, columns] - mean) / std, atol=1e-4)


def test_what_is_fewer_than_asked_for_is_used_and_said(caplog):
    caplog.set_level("INFO", logger="sctag")
    done = prepare(counts(n_genes=40), highly_genes=2000, n_pcs=50)
    assert done.n_vars == 40
    assert done.obsm["X_pca"].shape == (50, 40)
    assert "all 40 kept (2000 were asked for)" in caplog.text
    assert "40 components (50 were asked for)" in caplog.text


def test_preparation_repeats_itself():
    first, second = prepare(counts()), prepare(counts())
    np.testing.assert_array_equal(first.obsm["X_pca"], second.obsm["X_pca"])
    assert (first.obsp["connectivities"] != second.obsp["connectivities"]).nnz == 0
