"""New cells as the network of a finished run reads them: its genes, its scale, its components.

Letters: N cells, G genes kept, P principal components. Nothing here knows TensorFlow or a true
label.
"""

from __future__ import annotations

import json
import logging

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import batches
import preprocess
import views
from data_settings import Preparation
from neighbours import graph_of
from utils import InputError

log = logging.getLogger("sctag")


def prepare_like(
    adata: ad.AnnData,
    reference: ad.AnnData,
    preparation: Preparation,
    *,
    seed: int,
    where: str = "X",
) -> ad.AnnData:
    """Return new data prepared as a reference was, with a graph that joins them among themselves.

    See `values_like`, of which the parameters are; the seed is that of an approximate graph.
    """
    prepared = values_like(adata, reference, preparation, where=where)
    prepared.obsp["connectivities"] = graph_of(prepared.obsm["X_pca"], preparation, seed=seed)
    if views.MAPS in reference.uns:
        views.add_mapped_graph(prepared, reference.uns[views.MAPS], preparation, seed=seed)
    return prepared


def values_like(
    adata: ad.AnnData, reference: ad.AnnData, preparation: Preparation, *, where: str = "X"
) -> ad.AnnData:
    """Return new data with the genes, the scale and the components of a reference, cell by cell.

    Depths, over the genes that counted in the reference's, are divided by its median depth, genes
    scaled by the reference's mean and standard deviation, and the components made by the linear map
    that takes the reference's z-scores to its components (least squares, since the loadings of a
    randomised PCA are only close to it). Genes are matched by name. One that is missing has the
    reference's mean in every cell, and the median depth is multiplied by the share of the
    reference's counts that the genes have which are there.

    Parameters
    ----------
    adata
        Raw counts of all genes in X, cells x genes; cells without counts are left out.
    reference
        Prepared data, as `preprocess.prepare` returned them or as a run wrote them.
    preparation
        The settings with which the reference was prepared.
    where
        What X is called in an error message.

    Returns
    -------
    The z-scores of the reference's G genes in X, obs["size_factor"], the components in obsm, those
    of the logarithms where the reference has them, and in raw the logarithms of all genes that the
    two have in common.

    Raises
    ------
    InputError
        If X does not hold raw counts, or lacks more than half of the G genes, or if the reference
        has batches: what Harmony takes from cells is no map that other cells could be given to.
    """
    batches.refuse(reference)
    matrix = preprocess.checked_counts(adata, preparation, where)
    _check_genes(reference, adata, where)
    means = reference.raw.var[views.MEAN_COUNT]  # of the genes with counts in enough cells
    shared = means.index[means.index.isin(adata.var_names)]
    matrix = matrix[:, adata.var_names.get_indexer(shared)]
    depth = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    has_counts = depth > 0
    share = means[shared].sum() / means.sum()
    factors = depth[has_counts] / (json.loads(reference.uns["sctag"]["median_depth"]) * share)
    raw = sp.csr_matrix(matrix[has_counts].multiply(1 / factors[:, None])).log1p()

    def logarithms(genes: pd.Index, mean: np.ndarray) -> np.ndarray:
        positions = shared.get_indexer(genes)
        values = np.tile(np.asarray(mean, np.float64), (len(factors), 1))
        values[:, positions >= 0] = raw[:, positions[positions >= 0]].toarray()
        return values

    std = np.where(reference.var["std"] == 0, 1.0, reference.var["std"])
    mean = reference.var["mean"].to_numpy()
    x = (logarithms(reference.var_names, mean) - mean) / std
    if preparation.clip is not None:
        x = np.clip(x, -preparation.clip, preparation.clip)
    prepared = ad.AnnData(
        x.astype(np.float32), obs=adata.obs[has_counts].copy(), var=reference.var.copy()
    )
    prepared.obs["size_factor"] = factors
    prepared.raw = ad.AnnData(raw, obs=prepared.obs[[]], var=pd.DataFrame(index=shared))
    reference_x = np.asarray(reference.X, np.float64)
    center = reference_x.mean(axis=0)
    loadings = np.linalg.lstsq(reference_x - center, reference.obsm["X_pca"])[0]  # (G, P)
    prepared.obsm["X_pca"] = (x - center) @ loadings
    if views.LOGS in reference.obsm:
        genes = reference.raw.var[reference.raw.var[views.LOG_GENES]]
        values = logarithms(genes.index, genes[views.LOG_MEAN])
        prepared.obsm[views.LOGS] = views.log_components_like(values, reference)
    return prepared


def _check_genes(reference: ad.AnnData, adata: ad.AnnData, where: str) -> None:
    """Log how many genes of the network the data lack; InputError if more than half of them."""
    genes = reference.var_names
    missing = genes[~genes.isin(adata.var_names)]
    if not len(missing):
        return
    lacks = f"{where} lacks {len(missing)} of the {len(genes)} genes that the run used"
    lacks += f", such as {', '.join(missing[:3])}"
    if 2 * len(missing) <= len(genes):
        log.warning("warning: %s: their mean in the run is taken in their place", lacks)
        return
    advice = f"its genes are called {', '.join(adata.var_names[:3])}, give the same names"
    if missing.str.upper().isin(adata.var_names.str.upper()).any():
        advice = "some differ only in upper and lower case, give the same names"
    raise InputError(f"{lacks}: {advice}")
