"""The most variable genes: those that scanpy's own function chooses of all genes at once."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from conftest import grouped_counts

import batches
import gene_choice
import preprocess


def normalised(n_batches=1):
    """Logarithms and counts; of several batches the last has cells of a group of its own."""
    adata = preprocess.drop_empty(grouped_counts(n_genes=90))
    if n_batches > 1:
        codes = np.minimum(np.arange(adata.n_obs) // 20, n_batches - 1)
        adata.obs[batches.COLUMN] = pd.Categorical(codes.astype(str))
    return preprocess.normalise(adata)


def scanpy_s(adata, n_genes):
    """What the pipeline asked scanpy for when it had all counts at once."""
    key = batches.key_of(adata)
    clip = np.sqrt(adata.n_obs / adata.obs[key].nunique()) if key else None
    return sc.experimental.pp.highly_variable_genes(
        adata,
        flavor="pearson_residuals",
        layer="counts",
        clip=clip,
        batch_key=key,
        n_top_genes=n_genes,
        inplace=False,
    )


@pytest.mark.parametrize("n_batches", [1, 3])
@pytest.mark.parametrize("stored", [1, 300, 10**9])
def test_residuals_of_blocks_of_genes_are_those_of_scanpy(n_batches, stored, monkeypatch):
    monkeypatch.setattr(gene_choice, "STORED", stored)
    monkeypatch.setattr(gene_choice, "MOST_BLOCKS", 10**9)
    adata = normalised(n_batches)
    variable = gene_choice.VariableGenes(adata, "pearson")
    for n_genes in (1, 7, 40, adata.n_vars - 1):
        table = scanpy_s(adata, n_genes)
        np.testing.assert_array_equal(variable.chosen(n_genes), table["highly_variable"])
    variances = variable.residual_variances.mean(axis=0)
    np.testing.assert_allclose(variances, table["residual_variances"], rtol=1e-5)
    if stored == 10**9:
        np.testing.assert_array_equal(variances, table["residual_variances"])


def test_no_block_is_so_small_that_there_are_many(monkeypatch):
    sizes = []
    gene_blocks = gene_choice.csr_blocks.gene_blocks

    def noted(counts, stored):
        sizes.append(stored)
        return gene_blocks(counts, stored)

    monkeypatch.setattr(gene_choice.csr_blocks, "gene_blocks", noted)
    monkeypatch.setattr(gene_choice, "STORED", 1)
    counts = normalised().layers["counts"]
    gene_choice.residual_variances(counts)
    assert sizes == [counts.nnz // gene_choice.MOST_BLOCKS]


def test_genes_of_equal_variance_are_chosen_as_scanpy_does():
    """Of genes that are alike, those that scanpy's two sorts put first."""
    adata = normalised()
    for name in ("X", "counts"):
        matrix = adata.X if name == "X" else adata.layers[name]
        dense = matrix.toarray()
        dense[:, 1::2] = dense[:, :1]
        if name == "X":
            adata.X = type(matrix)(dense)
        else:
            adata.layers[name] = type(matrix)(dense)
    for n_genes in (3, 20, 60):
        chosen = gene_choice.VariableGenes(adata, "pearson").chosen(n_genes)
        np.testing.assert_array_equal(chosen, scanpy_s(adata, n_genes)["highly_variable"])


def test_batches_of_few_cells_have_no_say():
    adata = normalised(3)
    codes = adata.obs[batches.COLUMN].astype(str).to_numpy()
    codes[:4] = "few"
    adata.obs[batches.COLUMN] = pd.Categorical(codes)
    chosen = gene_choice.VariableGenes(adata, "pearson").chosen(20)
    without = adata[4:].copy()
    expected = gene_choice.VariableGenes(without, "pearson").chosen(20)
    np.testing.assert_array_equal(chosen, expected)
