"""Data at the edge: each run finishes with finite numbers, or is refused in one sentence."""

import io

import anndata as ad
import conftest
import numpy as np
import pandas as pd
import pytest
from conftest import grouped_counts, ran, write_published
from scipy.sparse import csr_matrix

import predict
import preprocess

FEW = """
    --hidden_dim 8 --decoder_dims 8 --latent_dim 3 --pretrain_epochs 2 --maxiter 2
    --update_interval 1 --gpu_option -1
""".split()  # noqa: SIM905, as it is typed


def usual():
    return grouped_counts(60, 40).X.toarray().astype(np.float64)


def with_values(rows, columns, values):
    counts = usual()
    counts[rows, columns] = values
    return counts


def all_cells_but_one_alike():
    """The one cell has the same profile but for the rounding of half its counts."""
    rng = np.random.default_rng(0)
    counts = np.tile(rng.poisson(5, 40), (60, 1)).astype(np.float64)
    counts[0] = 10 * counts[0] + rng.integers(0, 2, 40)
    return counts


def depths_from_1_to_1e7():
    rates = usual() + 1
    counts = np.floor(rates / rates.sum(axis=1, keepdims=True) * np.logspace(0, 7, 60)[:, None])
    counts[counts.sum(axis=1) == 0, 0] = 1
    return counts


# Counts, and the flags with which they are at the edge; a run of each finishes.
FINISHED = {
    "two_genes": (lambda: usual()[:, [0, 20]], []),
    "one_gene_kept": (usual, ["--highly_genes", 1, "--log_genes", 1]),
    "no_second_view_of_one_gene": (usual, ["--highly_genes", 1, "--log_genes", 0]),
    "two_cells": (lambda: usual()[:2], ["--k_neighbors", 1]),
    "three_cells": (lambda: usual()[:3], ["--k_neighbors", 2]),
    "fewer_cells_than_components": (lambda: usual()[:17], []),
    "two_distinct_cells": (lambda: np.repeat(usual()[:2], 30, axis=0), []),
    "all_cells_but_one_alike": (all_cells_but_one_alike, []),
    "a_gene_with_nearly_all_counts": (lambda: with_values(slice(None), 0, 1e7), []),
    "a_cell_with_nearly_all_counts": (lambda: with_values(0, slice(None), 1e6), []),
    "constant_genes": (lambda: with_values(slice(None), slice(10, None), 3), []),
    "depths_from_1_to_1e7": (depths_from_1_to_1e7, []),
    "counts_up_to_2_to_the_32": (lambda: with_values([3, 4], [5, 6], [2.0**31, 2.0**32]), []),
    "zeros_and_ones": (lambda: np.minimum(usual(), 1), []),
    "one_count_a_cell": (lambda: np.eye(60), []),
    "cells_without_neighbours": (usual, ["--k_neighbors", 1]),
    "all_cells_are_neighbours": (usual, ["--k_neighbors", 59]),
    "one_component": (usual, ["--n_pcs", 1]),
}
# Data of which scanpy's bins of genes, or the loess of seurat_v3, cannot be made.
UNBINNED = {
    "two_genes": lambda: usual()[:, [0, 20]],
    "constant_genes": lambda: with_values(slice(None), slice(10, None), 3),
    "one_count_a_cell": lambda: np.eye(60),
    "three_genes_vary": lambda: with_values(slice(None), slice(3, None), 3),
}
QUICK = {"two_cells", "all_cells_but_one_alike", "counts_up_to_2_to_the_32"}
# What is changed of a run that clusters into two without a report.
RUNS = {
    "plain": ["--no_report", "--n_clusters", 2],
    "report": ["--n_clusters", 2],
    "official": ["--n_clusters", 2, "--variant", "official"],
    "estimated": ["--n_clusters", "auto"],
    "leiden": ["--resolution", 1],
}
TOO_FEW = {("two_cells", "estimated"), ("three_cells", "estimated")}  # for two halves


def runs():
    for case in FINISHED:
        for name in RUNS:
            quick = case in QUICK and name == "plain"
            if (case, name) not in TOO_FEW:
                yield pytest.param(case, name, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("case", "name"), [*runs()])
def test_a_run_finishes_with_finite_numbers(case, name, run, tmp_path):
    make, flags = FINISHED[case]
    counts = make()
    path, out = write_published(tmp_path / "data.h5", counts), tmp_path / "out"
    done = run("--data", path, "--out", out, *FEW, *flags, *RUNS[name], compiled=False)
    if done.status:  # Leiden makes one cluster of some data
        assert name == "leiden"
        assert "is too few, clustering needs 2 or more" in done.err
        return
    labels, adata = pd.read_csv(out / "labels.csv"), ad.read_h5ad(out / "sctag.h5ad")
    assert len(labels) == (counts.sum(axis=1) > 0).sum()
    assert (out / "report.html").exists() == ("--no_report" not in RUNS[name])
    for values in (adata.obsm["X_sctag"], adata.obsm["sctag_proba"], adata.obsm["X_pca"]):
        assert np.isfinite(values).all()
    assert labels["probability"].between(0, 1).all()
    flags = ["--model", out, "--data", path, "--out", tmp_path / "new", "--gpu_option", -1]
    predicted = ran(predict.main, flags, io.StringIO())
    if predicted.status:  # it says why: a directed graph without edges takes no new cells
        assert predicted.err.startswith("predict.py: error: ")
        assert predicted.err.count("\n") == 1
        return
    new = pd.read_csv(tmp_path / "new" / "labels.csv")
    assert np.isfinite(new[["cluster", "probability", "novelty"]].to_numpy()).all()


REFUSED = {  # counts, flags, a part of the sentence
    "one_gene": (lambda: usual()[:, :1], [], "no gene varies"),
    "one_cell": (lambda: usual()[:1], ["--k_neighbors", 1], "only one cell has counts"),
    "one_cell_with_counts": (
        lambda: usual() * (np.arange(60) == 5)[:, None],
        [],
        "only one cell has counts",
    ),
    "identical_cells": (lambda: np.tile(usual()[:1], (60, 1)), [], "no gene varies"),
    "identical_profiles": (
        lambda: np.arange(1, 61)[:, None] * usual()[:1],
        [],
        "no gene varies",
    ),
    "only_constant_genes": (lambda: np.full((60, 40), 3.0), [], "no gene varies"),
    "fewer_cells_than_neighbours": (lambda: usual()[:15], [], "--k_neighbors 15 is not below"),
    "two_cells": (lambda: usual()[:2], [], "--k_neighbors 15 is not below"),
    "more_clusters_than_cells": (lambda: usual()[:20], ["--n_clusters", 21], "20 cells"),
    "more_than_a_cell_can_have": (lambda: with_values(3, 5, 1e10), [], "above 2^32"),
    "beyond_float32": (lambda: with_values(3, 5, 1e39), [], "above 2^32"),
    "no_gene_in_so_many_cells": (usual, ["--min_cells", 61], "lower --min_cells"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("variant", ["sctag", "official"])
def test_what_cannot_be_clustered_is_refused_in_one_sentence(case, variant, refused, tmp_path):
    make, flags, part = REFUSED[case]
    path = write_published(tmp_path / "data.h5", make())
    assert part in refused("--data", path, "--n_clusters", 2, "--variant", variant, *flags)


@pytest.mark.parametrize("case", ["two_cells", "three_cells"])
def test_a_number_is_not_estimated_of_two_or_three_cells(case, run, tmp_path):
    make, flags = FINISHED[case]
    path = write_published(tmp_path / "data.h5", make())
    done = run("--data", path, "--out", tmp_path / "out", *FEW, *flags, "--n_clusters", "auto",
               compiled=False)  # fmt: skip
    assert done.status == 2
    assert "cells are too few to estimate the number of clusters" in done.err


@pytest.mark.parametrize("n_clusters", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_more_clusters_than_distinct_cells(n_clusters, run, tmp_path):
    """As many clusters as there are distinct cells, or empty ones, which a warning counts."""
    path = write_published(tmp_path / "data.h5", np.repeat(usual()[:3], 20, axis=0))
    out = tmp_path / "out"
    done = run("--data", path, "--out", out, *FEW, "--no_report", "--n_clusters", n_clusters,
               compiled=False)  # fmt: skip
    assert done.status == 0
    assert pd.read_csv(out / "labels.csv")["cluster"].max() < n_clusters


@pytest.mark.parametrize("case", UNBINNED)
@pytest.mark.parametrize("method", ["seurat", "seurat_v3", "cell_ranger", "pearson"])
def test_genes_are_chosen_of_any_data(case, method):
    """Of two genes the loess of seurat_v3 would end the process by a segmentation fault."""
    adata = ad.AnnData(csr_matrix(UNBINNED[case]()))
    chosen = conftest.prepared(adata, gene_selection=method, highly_genes=1, log_genes=1)
    assert 1 <= chosen.n_vars <= adata.n_vars
    assert np.isfinite(chosen.X).all()


def test_genes_that_vary_by_rounding_are_scaled_as_in_float64():
    """Scanpy's variance of such a gene, a difference in float32, may be negative: NaN."""
    rng = np.random.default_rng(0)
    values = np.tile(rng.gamma(1, 1, 40).astype(np.float32), (60, 1))
    values[0] *= 1 + 1e-4 * rng.random(40, np.float32)
    values[:, :5] = rng.poisson(1, (60, 5))
    adata = ad.AnnData(csr_matrix(values))
    with pytest.warns(RuntimeWarning, match="invalid value"):  # as prepare() knows
        preprocess.scale(adata, clip=3.0)
    exact = values.astype(np.float64)
    mean, std = exact.mean(axis=0), exact.std(axis=0, ddof=1)
    np.testing.assert_allclose(adata.X, np.clip((exact - mean) / std, -3, 3), atol=1e-5)
    np.testing.assert_allclose(adata.var["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(adata.var["std"], std, rtol=1e-5)
