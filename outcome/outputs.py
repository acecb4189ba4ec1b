"""What a run writes: its outcome put into the input, looked at, and laid into files.

`results.py` says how files get to their folder, `annotated.py` what an AnnData gets, `overview.py`
what a person looks at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import console
import results
from outcome import annotated, overview

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from results import Fitted
    from settings import Settings


def write(
    staging: Path,
    prepared: ad.AnnData,
    fitted: Fitted,
    settings: Settings,
    *,
    whole: ad.AnnData | None,
    cell_types: pd.Series | None,
    record: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """Write every file of a run but settings.json and metrics.json, which end it.

    Parameters
    ----------
    staging
        Folder of the files.
    prepared, fitted
        Prepared data, which get the outcome in place, and the outcome.
    settings
        Decide which files there are.
    whole
        The same cells with everything of the input, which get the outcome in place; None where no
        AnnData is wanted.
    cell_types
        True labels (N,), which the page of the run shows beside the clusters.
    record, metrics
        The contents of settings.json, and of metrics.json as far as they are known.
    """
    files: dict[str, ad.AnnData] = {}
    if fitted.trained is not None:
        annotated.annotate(prepared, fitted, metrics=metrics, **record)
        adata = prepared
        if whole is not None:
            genes = whole.var_names.get_indexer(prepared.raw.var_names)
            annotated.complete(prepared, whole, np.arange(whole.n_obs), genes)
            files = {results.DATA: whole, results.PREPARED: annotated.compact(prepared)}
            adata = whole
        if settings.denoised:
            with_pi = settings.reconstruction == "zinb"
            expected = fitted.trained.expected
            files[results.DENOISED] = annotated.denoised(prepared, expected, with_pi=with_pi)
        if not settings.no_report:
            overview.add(adata, settings)
            with console.status("making the report", quiet=settings.quiet):
                page = overview.content(adata, name=settings.name, labels=cell_types)
                overview.write(staging, adata, page)
    with console.status("writing the files", quiet=settings.quiet):
        results.write_run(staging, prepared, fitted, files)
