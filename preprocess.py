"""Counts to what the network reads: genes chosen, scaled, principal components, kNN graph.

Letters: N cells, G genes kept, P principal components. Nothing here knows TensorFlow or a true
label; the matrix stays sparse until the G genes are chosen. The result has the keys that scanpy
users know: layers["counts"], obs["size_factor"], X (scaled), obsm["X_pca"], obsp["connectivities"],
and raw (logarithms of all genes). What is not of scanpy has names of its own, in `views.py` and
`batches.py`.
"""

from __future__ import annotations

import json
import logging
import warnings

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from sklearn.decomposition import PCA

import batches
import csr_blocks
import scratch
import views
from data_settings import Preparation
from formats import raw_counts
from gene_choice import VariableGenes
from neighbours import graph_of
from utils import InputError

log = logging.getLogger("sctag")

# A gene whose normalised values differ by less than this share of them is constant: float32 rounds
# each value to about 1e-7 of it.
CONSTANT = 1e-5
# Share of the squared mean below which a variance by scanpy, the difference of two sums in float32,
# is a rounding error: its relative precision is about 1e-7. No gene of whole data is near it.
ROUNDED_VARIANCE = 1e-6


def drop_empty(adata: ad.AnnData, *, min_cells: int = 1) -> ad.AnnData:
    """Return the data without the genes that too few cells have, and the cells without counts.

    X is canonical sparse counts, cells x genes. A gene goes if it has counts in fewer than
    `min_cells` cells, a cell if it has none in the genes that stay. The log says how many went; the
    data themselves are returned if nothing is to go. Raises InputError if nothing is left.
    """
    genes = csr_blocks.stored_of_genes(adata.X) >= min_cells
    cells = adata.X @ genes.astype(np.float32) > 0
    if not adata.X.nnz:
        raise InputError("every count is zero: there is nothing to cluster")
    if genes.all() and cells.all():
        return adata
    if not genes.any():
        raise InputError(f"no gene has counts in {min_cells} cells: lower --min_cells")
    rarely = "" if min_cells == 1 else f" with counts in fewer than {min_cells} cells"
    lost = (~genes).sum(), rarely, (~cells).sum()
    log.info("dropped   %d genes%s and %d cells without counts", *lost)
    return csr_blocks.some_of(adata, cells, genes)


def normalise(adata: ad.AnnData) -> ad.AnnData:
    """Return new data with log(1 + count / size factor) in X and the counts in a layer.

    The size factor, obs["size_factor"], is a cell's depth over the median depth (scanpy's
    `normalize_total` without a target, the official `normalize_per_cell`); uns["sctag"] keeps the
    median depth, and var["mean_count"] the mean count of each gene. The logarithm is natural. Of
    the given data, whose X is counts, only X, obs and var are taken; both matrices share the
    positions of the counts.
    """
    normalised = ad.AnnData(
        csr_blocks.with_values(adata.X, _logarithms(adata.X)),
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        layers={"counts": adata.X},
    )
    depth = np.asarray(adata.X.sum(axis=1), dtype=np.float64).ravel()
    normalised.obs["size_factor"] = depth / np.median(depth)
    normalised.uns["sctag"] = {"median_depth": json.dumps(float(np.median(depth)))}
    totals = np.asarray(adata.X.sum(axis=0, dtype=np.float64)).ravel()
    normalised.var[views.MEAN_COUNT] = totals / adata.n_obs
    return normalised


def _logarithms(counts: sp.csr_matrix) -> np.ndarray:
    """Return what scanpy makes of the stored counts (N, G), in their order, a block at a time."""
    rows = [*csr_blocks.row_slices(counts)]
    blocks = (csr_blocks.rows_of(counts, some).astype(np.float64) for some in rows)
    depths = np.concatenate([np.asarray(block.sum(axis=1)).ravel() for block in blocks])
    target = np.median(depths.astype(counts.dtype))
    values = scratch.empty(counts.nnz, counts.dtype)
    for some in rows:
        block = ad.AnnData(csr_blocks.rows_of(counts, some))
        sc.pp.normalize_total(block, target_sum=target)
        sc.pp.log1p(block)
        values[counts.indptr[some.start] : counts.indptr[some.stop]] = block.X.data
    return values


def varying_genes(adata: ad.AnnData) -> np.ndarray:
    """Return, as a mask, the genes whose normalised value is not the same in all cells.

    Another gene says nothing, and its z-scores would be rounding errors of any size. X is the
    logarithms that `normalise` makes. The log says how many genes are constant.

    Raises
    ------
    InputError
        If no gene varies.
    """
    constant = np.zeros(adata.n_vars, bool)
    # A gene with a zero somewhere is not constant: only the others are looked at.
    full = np.flatnonzero(csr_blocks.stored_of_genes(adata.X) == adata.n_obs)
    if not len(full):
        return ~constant
    lowest, highest = np.full(len(full), np.inf), np.zeros(len(full))
    for rows in csr_blocks.row_slices(adata.X):
        values = csr_blocks.rows_of(adata.X, rows)[:, full].toarray()
        lowest = np.minimum(lowest, values.min(axis=0))
        highest = np.maximum(highest, values.max(axis=0))
    constant[full] = highest - lowest <= CONSTANT * highest
    if constant.all():
        raise InputError(
            f"no gene varies: each of the {adata.n_vars} genes with counts has the same "
            "normalised value in all cells, give data of more genes"
        )
    if constant.any():
        log.info("dropped   %d genes that are the same in all cells", constant.sum())
    return ~constant


def select_genes(adata: ad.AnnData, variable: VariableGenes, *, n_genes: int) -> ad.AnnData:
    """Return new data of the most variable genes, and log how many they are."""
    chosen = variable.chosen(n_genes)
    if chosen.all():
        log.info("genes     all %d kept (%d were asked for)", adata.n_vars, n_genes)
    else:
        log.info("genes     %d of %d kept (%s)", chosen.sum(), adata.n_vars, variable.method)
    return adata[:, chosen].copy()


def scale(adata: ad.AnnData, *, clip: float | None) -> None:
    """Set X to dense float32 z-scores of each gene, clipped to ±clip (scanpy's `scale`).

    var["mean"] and var["std"] keep what the z-scores were made with. Genes that vary by little more
    than rounding, as where nearly all cells are the same, are scaled in float64: their variance by
    scanpy may be negative.
    """
    values = adata.X
    adata.X = values.toarray().astype(np.float32)
    sc.pp.scale(adata, max_value=clip)
    mean, std = (adata.var[name].to_numpy(copy=True) for name in ("mean", "std"))
    rounded = ~(std**2 > ROUNDED_VARIANCE * mean**2)  # also where it is NaN
    if rounded.any():
        exact = values[:, rounded].toarray().astype(np.float64)
        mean[rounded], std[rounded] = exact.mean(axis=0), exact.std(axis=0, ddof=1)
        limit = np.inf if clip is None else clip
        z_scores = np.clip((exact - mean[rounded]) / std[rounded], -limit, limit)
        adata.X[:, rounded] = z_scores
        adata.var["mean"], adata.var["std"] = mean, std


def add_pca(adata: ad.AnnData, *, n_pcs: int, seed: int) -> None:
    """Set obsm["X_pca"] (N, P) by scikit-learn's PCA: n_pcs components, or as many as there are."""
    available = min(n_pcs, *adata.shape)
    if available < n_pcs:
        log.info("pca       %d components (%d were asked for)", available, n_pcs)
    adata.obsm["X_pca"] = PCA(available, random_state=seed).fit_transform(adata.X)


def checked_counts(adata: ad.AnnData, preparation: Preparation, where: str) -> sp.csr_matrix:
    """Return X as canonical counts, rounded up if that is asked for, with a warning."""
    matrix = raw_counts.canonical(adata.X, where)
    matrix, warning = raw_counts.check(matrix, round_counts=preparation.round_counts, where=where)
    if warning:
        log.warning("warning: %s", warning)
    return matrix


def prepare(
    adata: ad.AnnData, preparation: Preparation, *, seed: int, where: str = "X"
) -> ad.AnnData:
    """Return new, prepared data, with the keys that the module's docstring lists.

    Parameters
    ----------
    adata
        Raw counts in X, cells x genes, sparse or dense; it is not changed. Its obs and var come
        along.
    preparation
        Choice of genes, scaling, components and graph.
    seed
        Of the components and of an approximate graph.
    where
        What X is called in an error message.

    Raises
    ------
    InputError
        If X does not hold raw counts, or the data cannot be clustered.
    """
    matrix = checked_counts(adata, preparation, where)
    with warnings.catch_warnings():
        # Scanpy's own housekeeping on tiny or repetitive data; what matters is logged here.
        warnings.simplefilter("ignore")
        raw = ad.AnnData(matrix, obs=adata.obs, var=adata.var)
        raw = drop_empty(raw, min_cells=preparation.min_cells)
        if raw.n_obs < 2:
            raise InputError(f"{where}: only one cell has counts, clustering needs 2 or more")
        if preparation.batch_key is not None:
            batches.add_batches(raw, preparation.batch_key, where)
        normalised = normalise(raw)
        varies = varying_genes(normalised)
        varying = normalised if varies.all() else csr_blocks.some_of(normalised, genes=varies)
        variable = VariableGenes(varying, preparation.gene_selection)
        prepared = select_genes(varying, variable, n_genes=preparation.highly_genes)
        prepared.raw = normalised
        scale(prepared, clip=preparation.clip)
        add_pca(prepared, n_pcs=preparation.n_pcs, seed=seed)
        batches.correct(prepared, views.COMPONENTS, seed=seed)
        if preparation.log_genes:
            log_genes = varies.copy()
            log_genes[varies] = variable.chosen(preparation.log_genes)
            views.add_log_components(prepared, log_genes, seed=seed)
            batches.correct(prepared, views.LOGS, seed=seed)
    prepared.obsp["connectivities"] = graph_of(prepared.obsm["X_pca"], preparation, seed=seed)
    views.add_graph(prepared, preparation, seed=seed)
    return prepared
