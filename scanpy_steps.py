"""What a user of scanpy does by its tutorials: variable genes, components, a graph of neighbours.

Letters: N cells. Nothing here knows TensorFlow or a true label; slow packages are imported where
they are first needed, because `baselines.py` imports this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import batches
from utils import InputError

if TYPE_CHECKING:
    import anndata as ad
    import scipy.sparse as sp

GENES, COMPONENTS, NEIGHBORS = 2000, 50, 15  # as scanpy's tutorials have them
EXACT = 8_192  # cells below which scanpy's search for neighbours is exact


def search_for(n_cells: int, *, k: int, seed: int) -> Any:
    """Return the `transformer` with which scanpy's `neighbors` searches so many cells.

    Below 8192 cells it is None, for scanpy's own exact search. Beyond it is pynndescent's with the
    parameters that scanpy 1.11 gives it, whose result is a `csr_matrix`: pynndescent 0.7 returns a
    `csr_array`, of which scanpy 1.11 asks what only a `csr_matrix` has.
    """
    if n_cells < EXACT:
        return None
    import scipy.sparse as sp
    from pynndescent import PyNNDescentTransformer

    class Search(PyNNDescentTransformer):
        def fit_transform(self, points: np.ndarray, y: None = None, **fit: Any) -> sp.csr_matrix:
            return sp.csr_matrix(super().fit_transform(points, y, **fit))

    trees = min(64, 5 + round(n_cells**0.5 / 20))
    rounds = max(5, round(np.log2(n_cells)))
    return Search(n_neighbors=k, random_state=seed, n_trees=trees, n_iters=rounds, n_jobs=1)


def cells(adata: ad.AnnData, *, seed: int) -> ad.AnnData:
    """Return the cells as scanpy's tutorials prepare them, from the logarithms of all genes.

    2000 variable genes by scanpy's default (`seurat`), 50 principal components of their logarithms,
    which are not scaled, and the weighted graph of 15 neighbours: obsm["X_pca"] and
    obsp["connectivities"] of the result. Of data with batches the genes are chosen within them, and
    Harmony corrects the components. Source: scanpy's `highly_variable_genes`, `pca`, `neighbors`.
    """
    import os
    import warnings

    import scanpy as sc

    # umap-learn, which weighs the graph, imports TensorFlow where that is installed, aloud.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    prepared = adata.raw.to_adata()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own, on tiny data
        n_genes, key = min(GENES, prepared.n_vars), batches.key_of(prepared)
        sc.pp.highly_variable_genes(prepared, n_top_genes=n_genes, batch_key=key)
        n_variable = int(prepared.var["highly_variable"].sum())
        available = min(COMPONENTS, prepared.n_obs - 1, n_variable - 1)
        if available < 1:
            raise InputError(
                f"scanpy's usual steps need 2 variable genes, and it finds {n_variable}: give data "
                "of more genes, or choose another --method"
            )
        sc.pp.pca(prepared, n_comps=available, mask_var="highly_variable", random_state=seed)
        batches.correct(prepared, "X_pca", seed=seed)
        k = min(NEIGHBORS, prepared.n_obs - 1)
        search = search_for(prepared.n_obs, k=k, seed=seed)
        sc.pp.neighbors(prepared, n_neighbors=k, transformer=search, random_state=seed)
    return prepared


def graph(adata: ad.AnnData, *, seed: int) -> Any:
    """Return the weighted edges of `cells`, the part above the diagonal, CSR (N, N)."""
    import scipy.sparse as sp

    return sp.triu(cells(adata, seed=seed).obsp["connectivities"], k=1).tocsr()
