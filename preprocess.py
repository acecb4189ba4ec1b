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
import views
from data_settings import Preparation
from formats import raw_counts
from neighbours import graph_of
from utils import InputError

log = logging.getLogger("sctag")

# A gene whose normalised values differ by less than this share of them is constant: float32 rounds
# each value to about 1e-7 of it.
CONSTANT = 1e-5
# Share of the squared mean below which a variance by scanpy, the difference of two sums in float32,
# is a rounding error: its relative precision is about 1e-7. No gene of whole data is near it.
ROUNDED_VARIANCE = 1e-6
# What takes the place of a way to choose genes that fails on the data: pearson never does.
INSTEAD = {"seurat_v3": "seurat", "seurat": "pearson", "cell_ranger": "pearson"}
LOESS_GENES = 4  # 0.3 of fewer, scanpy's span of the loess of seurat_v3, is less than one gene


def drop_empty(adata: ad.AnnData, *, min_cells: int = 1) -> ad.AnnData:
    """Return the data without the genes that too few cells have, and the cells without counts.

    X is canonical sparse counts, cells x genes. A gene goes if it has counts in fewer than
    `min_cells` cells, a cell if it has none in the genes that stay. The log says how many went; the
    data themselves are returned if nothing is to go. Raises InputError if nothing is left.
    """
    genes = np.bincount(adata.X.indices, minlength=adata.n_vars) >= min_cells
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
    return adata[cells, genes].copy()


def normalise(adata: ad.AnnData) -> ad.AnnData:
    """Return new data with log(1 + count / size factor) in X and the counts in a layer.

    The size factor, obs["size_factor"], is a cell's depth over the median depth (scanpy's
    `normalize_total` without a target, the official `normalize_per_cell`); uns["sctag"] keeps the
    median depth, and var["mean_count"] the mean count of each gene. The logarithm is natural. Of
    the given data, whose X is counts, only X, obs and var are taken.
    """
    normalised = ad.AnnData(
        adata.X.copy(), obs=adata.obs.copy(), var=adata.var.copy(), layers={"counts": adata.X}
    )
    depth = np.asarray(adata.X.sum(axis=1), dtype=np.float64).ravel()
    normalised.obs["size_factor"] = depth / np.median(depth)
    normalised.uns["sctag"] = {"median_depth": json.dumps(float(np.median(depth)))}
    totals = np.asarray(adata.X.sum(axis=0, dtype=np.float64)).ravel()
    normalised.var[views.MEAN_COUNT] = totals / adata.n_obs
    sc.pp.normalize_total(normalised)
    sc.pp.log1p(normalised)
    del normalised.uns["log1p"]  # scanpy's own note; anndata before 0.12 cannot read it
    return normalised


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
    full = np.flatnonzero(np.bincount(adata.X.indices, minlength=adata.n_vars) == adata.n_obs)
    if not len(full):
        return ~constant
    values = adata.X[:, full]
    lowest, highest = values.min(axis=0).toarray().ravel(), values.max(axis=0).toarray().ravel()
    constant[full] = highest - lowest <= CONSTANT * highest
    if constant.all():
        raise InputError(
            f"no gene varies: each of the {adata.n_vars} genes with counts has the same "
            "normalised value in all cells, give data of more genes"
        )
    if constant.any():
        log.info("dropped   %d genes that are the same in all cells", constant.sum())
    return ~constant


def variable_genes(adata: ad.AnnData, *, n_genes: int, method: str) -> np.ndarray:
    """Return which genes are the most variable, as a mask of all genes (bool).

    Parameters
    ----------
    adata
        Data that `normalise` has made; var["highly_variable"] is set in it.
    n_genes
        How many genes are chosen; all if there are not more. Of data with batches these are the
        genes that are among the most variable in most batches, as scanpy's `batch_key` has it;
        batches of very few cells have no say (`batches.large_enough`).
    method
        "seurat" and "cell_ranger" rank the dispersion of X, "seurat_v3" and "pearson" the
        standardised variance and the variance of Pearson residuals of the counts: scanpy's
        `highly_variable_genes` and its experimental namesake. `seurat_v3` fits a loess that can
        fail on shallow data, the first two need bins of genes that differ; where one fails that of
        `INSTEAD` takes its place, with a warning.
    """
    if n_genes >= adata.n_vars:
        return np.ones(adata.n_vars, bool)
    large = batches.large_enough(adata)
    cells = adata if large.all() else adata[large].copy()
    while True:
        try:
            _mark_variable_genes(cells, n_genes, method)
            if cells.var["highly_variable"].any():
                break
            raise ValueError("it chooses no gene")
        except (IndexError, ValueError) as error:
            if method not in INSTEAD:
                raise
            sentence = "warning: %s failed on these data (%s); using %s"
            log.warning(sentence, method, str(error).partition(":")[0], INSTEAD[method])
            method = INSTEAD[method]
    if cells is not adata:
        adata.var = cells.var
    return adata.var["highly_variable"].to_numpy()


def _check_loess(adata: ad.AnnData) -> None:
    """Raise ValueError where too few genes vary for the loess of seurat_v3, which would crash.

    Its window is 0.3 of the genes whose counts vary within a batch: without a gene in it,
    scikit-misc 0.5 ends the process by a segmentation fault.
    """
    counts = adata.layers["counts"]
    names = adata.obs[batches.COLUMN] if batches.key_of(adata) else np.zeros(adata.n_obs)
    for name in np.unique(names):
        batch = counts[np.flatnonzero(names == name)]
        varying = (batch.max(axis=0) != batch.min(axis=0)).sum()
        if varying < LOESS_GENES:
            raise ValueError(f"{varying} genes vary, it needs {LOESS_GENES} or more")


def select_genes(adata: ad.AnnData, *, n_genes: int, method: str) -> ad.AnnData:
    """Return new data of the genes that `variable_genes` chooses, and log how many they are."""
    chosen = variable_genes(adata, n_genes=n_genes, method=method)
    if chosen.all():
        log.info("genes     all %d kept (%d were asked for)", adata.n_vars, n_genes)
    else:
        log.info("genes     %d of %d kept (%s)", chosen.sum(), adata.n_vars, method)
    return adata[:, chosen].copy()


def _mark_variable_genes(adata: ad.AnnData, n_genes: int, method: str) -> None:
    """Set var["highly_variable"] by one of scanpy's methods, within batches where there are any."""
    options = {"n_top_genes": n_genes, "batch_key": batches.key_of(adata)}
    if method == "pearson":
        # Scanpy would clip the residuals of all batches at the root of the size of the first.
        clip = None
        if batches.key_of(adata):
            clip = np.sqrt(adata.n_obs / adata.obs[batches.COLUMN].nunique())
        sc.experimental.pp.highly_variable_genes(
            adata, flavor="pearson_residuals", layer="counts", clip=clip, **options
        )
    elif method == "seurat_v3":
        _check_loess(adata)
        sc.pp.highly_variable_genes(adata, flavor=method, layer="counts", **options)
    else:
        sc.pp.highly_variable_genes(adata, flavor=method, **options)


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
        varying = normalised if varies.all() else normalised[:, varies].copy()
        method = preparation.gene_selection
        prepared = select_genes(varying, n_genes=preparation.highly_genes, method=method)
        prepared.raw = normalised
        scale(prepared, clip=preparation.clip)
        add_pca(prepared, n_pcs=preparation.n_pcs, seed=seed)
        batches.correct(prepared, views.COMPONENTS, seed=seed)
        if preparation.log_genes:
            log_genes = varies.copy()
            log_genes[varies] = variable_genes(
                varying, n_genes=preparation.log_genes, method=method
            )
            views.add_log_components(prepared, log_genes, seed=seed)
            batches.correct(prepared, views.LOGS, seed=seed)
    prepared.obsp["connectivities"] = graph_of(prepared.obsm["X_pca"], preparation, seed=seed)
    views.add_graph(prepared, preparation, seed=seed)
    return prepared
