"""The size of data, by which `memory.py` estimates what a run takes, before and after preparation.

Letters: N cells, G genes kept, L log genes, E edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import scratch
from settings import Settings

if TYPE_CHECKING:
    import anndata as ad

# Edges of a cell for each neighbour asked for: either lists the other in a symmetric graph.
SYMMETRIC = 1.8


class Size(NamedTuple):
    """What of the data decides how much memory a run takes.

    Parameters
    ----------
    cells
        N.
    stored
        Counts above zero.
    kept, log_genes
        G and L.
    kept_stored
        Counts above zero of the genes kept.
    edges
        E, of the network's graph.
    mapped
        Of the stored counts, those that lie in files.
    """

    cells: int
    stored: int
    kept: int
    log_genes: int
    kept_stored: int
    edges: int
    mapped: int = 0


def size_of_counts(adata: ad.AnnData, settings: Settings) -> Size:
    """Return the size of raw counts that are still to be prepared; the edges are estimated."""
    stored = _stored(adata.X)
    kept = min(settings.highly_genes, adata.n_vars)
    share = kept / max(adata.n_vars, 1)
    per_cell = settings.k_neighbors * (SYMMETRIC if settings.symmetric_graph else 1.0)
    return Size(
        cells=adata.n_obs,
        stored=stored,
        kept=kept,
        log_genes=min(settings.log_genes, adata.n_vars),
        # Variable genes have more counts than others.
        kept_stored=int(stored * min(1.0, 1.5 * share)),
        edges=int(adata.n_obs * per_cell),
        mapped=_mapped(adata.X),
    )


def size_of_prepared(adata: ad.AnnData, settings: Settings) -> Size:
    """Return the size of data that `preprocess.prepare` has made."""
    import views

    return Size(
        cells=adata.n_obs,
        stored=adata.raw.X.nnz,
        kept=adata.n_vars,
        log_genes=min(settings.log_genes, adata.raw.shape[1]),
        kept_stored=adata.layers["counts"].nnz,
        edges=views.graph(adata).nnz,
        mapped=_mapped(adata.raw.X),
    )


def _stored(matrix: object) -> int:
    """Return how many numbers of a matrix, sparse or dense, are not zero."""
    stored = getattr(matrix, "nnz", None)
    return int(np.count_nonzero(np.asarray(matrix))) if stored is None else int(stored)


def _mapped(matrix: object) -> int:
    """Return how many stored values of a matrix lie in a file: all or none."""
    data = getattr(matrix, "data", None)
    return len(data) if isinstance(data, np.ndarray) and scratch.is_mapped(data) else 0
