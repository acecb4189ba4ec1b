"""An AnnData to work on beside a notebook's own, which gets the outcome at the end, whole.

So a call that an error or an interruption ends leaves no half of its outcome behind.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import utils

if TYPE_CHECKING:
    import anndata as ad


def workspace_of(adata: ad.AnnData) -> ad.AnnData:
    """Return an AnnData with the annotation of another, which stays as it is; without matrices.

    obs and var are copies, and the arrays of obsm, varm and obsp and the entries of uns are shared.
    """
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that repeat, as those of a notebook may
        work = anndata.AnnData(
            obs=adata.obs.copy(),
            var=adata.var.copy(),
            **{part: dict(getattr(adata, part)) for part in ("obsm", "varm", "obsp")},
        )
        work.uns = dict(adata.uns)
    return work


def take_over(target: ad.AnnData, work: ad.AnnData) -> None:
    """Put all of a workspace but matrices into the AnnData that it was made of; it must have raw.

    An interruption waits until all is there. The logarithms get arrays of their own: those of the
    counts, which they share, are the notebook's to change.
    """
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        logs = anndata.AnnData(work.raw.X.copy(), obs=work.obs[[]], var=work.raw.var)
        with utils.interruptions_held():
            target.raw = logs
            for part in ("obs", "var", "obsm", "varm", "obsp", "uns"):
                setattr(target, part, getattr(work, part))
