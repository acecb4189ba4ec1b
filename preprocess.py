"""Counts to what the network reads: genes chosen, scaled, principal components, kNN graph.

Letters: N cells, G genes kept. Nothing here knows TensorFlow or a true label; the matrix stays
sparse until the G genes are chosen. Keys of the result, those that scanpy users know:
layers["counts"], obs["size_factor"], X (scaled), obsm["X_pca"], obsp["connectivities"].
"""

from __future__ import annotations

import logging
import warnings

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from utils import InputError

log = logging.getLogger("sctag")


def drop_empty(adata: ad.AnnData) -> ad.AnnData:
    """Without the genes, then the cells, that have no counts, as published; says how many went.

    adata: X (cells, genes) sparse counts. Raises InputError if nothing is left.
    """
    genes = np.asarray(adata.X.sum(axis=0)).ravel() > 0
    cells = np.asarray(adata.X.sum(axis=1)).ravel() > 0
    if not cells.any():
        raise InputError("every count is zero: there is nothing to cluster")
    if genes.all() and cells.all():
        return adata
    log.info("dropped   %d genes and %d cells without counts", (~genes).sum(), (~cells).sum())
    return adata[cells, genes].copy()


def normalise(adata: ad.AnnData) -> ad.AnnData:
    """Counts to layers["counts"]; X becomes log(1 + count / size factor), natural logarithm.

    The size factor, obs["size_factor"], is a cell's depth over the median depth (scanpy's
    `normalize_total` without a target, the official `normalize_per_cell`).
    """
    adata.layers["counts"] = adata.X.copy()
    depth = np.asarray(adata.X.sum(axis=1), dtype=np.float64).ravel()
    adata.obs["size_factor"] = depth / np.median(depth)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    return adata


def select_genes(adata: ad.AnnData, *, n_genes: int, method: str) -> ad.AnnData:
    """The n_genes most variable genes, or all of them where there are not more; says which.

    method: "seurat" and "cell_ranger" rank the dispersion of X, "seurat_v3" and "pearson" the
    standardised variance and the variance of Pearson residuals of the counts: scanpy's
    `highly_variable_genes` and its experimental namesake. `seurat_v3` fits a loess that can fail on
    shallow data; `seurat` then takes its place, with a sentence.
    """
    if n_genes >= adata.n_vars:
        log.info("genes     all %d kept (%d were asked for)", adata.n_vars, n_genes)
        return adata
    if method == "seurat_v3":
        try:
            _mark_variable_genes(adata, n_genes, method)
        except ValueError as error:
            log.warning("warning: seurat_v3 failed on these data (%s); using seurat", error)
            method = "seurat"
            _mark_variable_genes(adata, n_genes, method)
    else:
        _mark_variable_genes(adata, n_genes, method)
    chosen = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    log.info("genes     %d of %d kept (%s)", chosen.n_vars, adata.n_vars, method)
    return chosen


def _mark_variable_genes(adata: ad.AnnData, n_genes: int, method: str) -> None:
    """Set var["highly_variable"] by one of scanpy's methods."""
    if method == "pearson":
        sc.experimental.pp.highly_variable_genes(
            adata, flavor="pearson_residuals", layer="counts", n_top_genes=n_genes
        )
    elif method == "seurat_v3":
        sc.pp.highly_variable_genes(adata, flavor=method, layer="counts", n_top_genes=n_genes)
    else:
        sc.pp.highly_variable_genes(adata, flavor=method, n_top_genes=n_genes)


def scale(adata: ad.AnnData, *, clip: float | None) -> ad.AnnData:
    """X as dense float32 z-scores of each gene, clipped to +-clip (scanpy's `scale`)."""
    adata.X = adata.X.toarray().astype(np.float32)
    sc.pp.scale(adata, max_value=clip)
    return adata


def add_pca(adata: ad.AnnData, *, n_pcs: int, seed: int) -> None:
    """Set obsm["X_pca"] (N, n_pcs), by scikit-learn; of fewer components where data are fewer."""
    available = min(n_pcs, *adata.shape)
    if available < n_pcs:
        log.info("pca       %d components (%d were asked for)", available, n_pcs)
    adata.obsm["X_pca"] = PCA(available, random_state=seed).fit_transform(adata.X)


def nearest_others(points: np.ndarray, *, k: int, exact: bool, seed: int) -> np.ndarray:
    """The k nearest other cells of each cell, euclidean: indices (N, k), in no particular order.

    points: (N, F); exact by scikit-learn, in blocks, in time N^2; otherwise by pynndescent, in time
    about N log N, which misses a few neighbours and is decided by the seed. It is asked for twice
    as many as are taken: of just as many it misses one in ten in large data.
    """
    if exact:
        return NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    from pynndescent import NNDescent

    asked = min(2 * (k + 1), len(points))
    found = NNDescent(points, n_neighbors=asked, random_state=seed).neighbor_graph[0]
    # Nearest first; the cell itself, where it was found, goes to the end and is cut off.
    itself = found == np.arange(len(points))[:, None]
    return np.take_along_axis(found, np.argsort(itself, axis=1, kind="stable"), axis=1)[:, :k]


def knn_graph(
    points: np.ndarray, *, k: int, symmetric: bool, exact: bool, seed: int
) -> sp.csr_matrix:
    """Binary kNN graph, CSR float32 (N, N): a row lists the k nearest cells, the cell itself first.

    points: (N, F); exact, seed: see `nearest_others`. `symmetric` joins two cells if either lists
    the other; otherwise the graph is directed with k ones in each row, as published. Raises
    InputError unless k < N.
    """
    n_cells = len(points)
    if k >= n_cells:
        raise InputError(
            f"--k_neighbors {k} is not below the number of cells ({n_cells}): choose a smaller one"
        )
    # Among identical cells a search need not return the cell itself: it is added instead.
    columns = np.arange(n_cells)[:, None]  # (N, 1)
    if k > 1:
        others = nearest_others(points, k=k - 1, exact=exact, seed=seed)
        columns = np.concatenate([columns, others], axis=1)  # (N, k)
    ones = np.ones(n_cells * k, np.float32)
    rows = np.arange(0, n_cells * k + 1, k)
    graph = sp.csr_matrix((ones, columns.ravel(), rows), shape=(n_cells, n_cells))
    if symmetric:
        graph = graph.maximum(graph.T).tocsr()
    graph.sort_indices()
    return graph


def prepare(
    adata: ad.AnnData,
    *,
    n_genes: int,
    gene_selection: str,
    clip: float | None,
    n_pcs: int,
    k: int,
    symmetric: bool,
    exact_knn_cells: int,
    seed: int,
) -> ad.AnnData:
    """Checked counts to the prepared AnnData that the module's docstring describes.

    adata: X (cells, genes) sparse raw counts; exact_knn_cells: the kNN graph is exact for up to so
    many cells, approximate beyond. Raises InputError where the data cannot be clustered.
    """
    with warnings.catch_warnings():
        # Scanpy's own housekeeping on tiny or repetitive data; what matters is logged here.
        warnings.simplefilter("ignore")
        adata = normalise(drop_empty(adata))
        adata = scale(select_genes(adata, n_genes=n_genes, method=gene_selection), clip=clip)
        add_pca(adata, n_pcs=n_pcs, seed=seed)
    exact = adata.n_obs <= exact_knn_cells
    graph = knn_graph(adata.obsm["X_pca"], k=k, symmetric=symmetric, exact=exact, seed=seed)
    adata.obsp["connectivities"] = graph
    log.info(
        "graph     %d cells, %d edges, %s%s, %.1f neighbours a cell (%d to %d)",
        adata.n_obs,
        graph.nnz,
        "" if exact else "approximate, ",
        "symmetric" if symmetric else "directed",
        graph.nnz / adata.n_obs,
        np.diff(graph.indptr).min(),
        np.diff(graph.indptr).max(),
    )
    return adata
