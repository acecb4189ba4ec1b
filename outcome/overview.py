"""What a person looks at after a run: a map of the cells, markers, types, doubts, and the report.

All of it is made of an AnnData with the keys of a run (`annotated.complete`), whether a command has
read it from a file or a notebook holds it. Cells without a cluster are left out. Letters: N cells.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import console
import spreadsheet
from outcome import annotated
from report import Content

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from settings import Settings

log = logging.getLogger("sctag")

MARKERS, TYPES = "sctag_markers", "sctag_types"  # keys of uns


def add(adata: ad.AnnData, settings: Settings) -> None:
    """Set, in place, what the page of a run shows beside the clusters themselves.

    obsm["X_umap"] (N, 2) and obs["sctag_uncertain"]; uns["rank_genes_groups"], as scanpy keeps
    markers, and uns["sctag_markers"] with those that `markers.csv` lists; uns["sctag_types"] where
    `settings.markers` names a list of marker genes. The log warns of clusters that follow depth,
    damage or a batch, and uns["sctag"] keeps the sentences.

    Raises
    ------
    InputError
        If the list of marker genes cannot be read, or has none of the genes.
    """
    from annotation import cell_types, markers, projection, quality

    known, logs = clustered(adata)
    clusters = adata.obs["sctag"].array[known]
    points = annotated.points_of(adata)[known]
    with console.status("drawing the map of the cells (UMAP)", quiet=settings.quiet):
        umap = projection.umap(points, n_neighbors=settings.k_neighbors, seed=settings.seed)
    adata.obsm["X_umap"] = annotated.spread(umap, np.flatnonzero(known), adata.n_obs)
    uncertain = np.zeros(adata.n_obs, bool)
    uncertain[known] = quality.uncertain(adata.obsm["sctag_proba"][known])
    adata.obs["sctag_uncertain"] = uncertain
    with console.status("ranking the marker genes", quiet=settings.quiet):
        ranked = markers.rank(logs, clusters)
    adata.uns[MARKERS] = ranked.table
    if ranked.entry is not None:
        adata.uns["rank_genes_groups"] = ranked.entry
    if settings.markers is not None:
        sets = cell_types.read_sets(settings.markers)
        adata.uns[TYPES] = cell_types.suggest(logs, clusters, sets)
    warnings = quality.warnings_of(
        _measured(adata, known, logs),
        clusters,
        batches=_column(adata, settings.batch_key, known),
        proba=adata.obsm["sctag_proba"][known],
        agreement=note(adata, "metrics").get("agreement"),
    )
    for sentence in warnings:
        log.warning("warning: %s", sentence)
    adata.uns["sctag"] = dict(adata.uns["sctag"]) | {"warnings": json.dumps(warnings)}


def clustered(adata: ad.AnnData) -> tuple[np.ndarray, ad.AnnData]:
    """Return which cells have a cluster (N,), and the logarithms of all genes of these cells.

    Where all cells have one the logarithms are those in raw, not a copy.
    """
    import anndata

    known = adata.obs["sctag"].notna().to_numpy()
    raw = adata.raw
    logs = anndata.AnnData(
        raw.X if known.all() else raw.X[known], obs=adata.obs[[]][known], var=raw.var
    )
    logs.obs_names_make_unique()
    logs.var_names_make_unique()
    return known, logs


def note(adata: ad.AnnData, name: str) -> Any:
    """Return one of the notes of a run, JSON text in uns["sctag"]; {} where it is not there."""
    return json.loads(adata.uns["sctag"].get(name, "{}"))


def _column(adata: ad.AnnData, key: str | None, known: np.ndarray) -> pd.Series | None:
    return None if key is None or key not in adata.obs else adata.obs[key][known]


def _measured(adata: ad.AnnData, known: np.ndarray, logs: ad.AnnData) -> Any:
    from annotation import quality

    return quality.measure(logs, adata.obs["size_factor"].to_numpy()[known])


def content(
    adata: ad.AnnData, *, name: str, labels: pd.Series | np.ndarray | None = None
) -> Content:
    """Return what the page of a run shows, of an AnnData that `add` has completed.

    Parameters
    ----------
    adata
        With the keys of a run.
    name
        What the data are called.
    labels
        Known cell types (N,), for the map and the confusion matrix.
    """
    import pandas as pd

    import results
    from estimation import Estimate
    from report import alternatives

    known, logs = clustered(adata)
    settings, environment = note(adata, "settings"), note(adata, "environment")
    clusters = adata.obs["sctag"].array[known]
    measured = _measured(adata, known, logs)
    estimate = note(adata, "estimate")
    types = adata.uns.get(TYPES)
    metrics = note(adata, "metrics")
    return Content(
        name=name,
        version=results.suite_version(),
        settings=settings,
        source=note(adata, "data") or {"cells": adata.n_obs, "genes": adata.n_vars},
        environment=environment,
        metrics=metrics,
        cells=adata.obs_names[known].to_numpy(),
        clusters=clusters,
        proba=adata.obsm["sctag_proba"][known],
        uncertain=adata.obs["sctag_uncertain"].to_numpy(bool)[known],
        umap=adata.obsm["X_umap"][known],
        depth=measured.depth,
        mito=measured.mitochondrial,
        labels=None if labels is None else pd.Series(np.asarray(labels, object)[known]),
        batches=_column(adata, settings.get("batch_key"), known),
        logs=logs,
        markers=adata.uns[MARKERS],
        suggestions=None if types is None else types.rename(columns=OF_SUGGESTIONS),
        estimate=Estimate(**estimate) if estimate else None,
        splits=alternatives.alternatives(
            annotated.points_of(adata)[known], clusters, seed=settings.get("seed", 1)
        ),
        history=note(adata, "history") or (),
        mixing=metrics.get("batches"),
        warnings=note(adata, "warnings") or (),
    )


# What the page calls the columns of `annotation.cell_types.suggest`.
OF_SUGGESTIONS = {"suggestion": "cell_type", "best_score": "score", "best_genes": "genes"}


def write(folder: Path, adata: ad.AnnData, page: Content) -> None:
    """Write markers.csv, cell_types.csv where types were asked for, report.html and figures/."""
    from report import page as pages
    from results import MARKERS_FILE, TYPES_FILE

    for key, name in ((MARKERS, MARKERS_FILE), (TYPES, TYPES_FILE)):
        if key in adata.uns:
            spreadsheet.write(folder / name, adata.uns[key])
    pages.write(folder, page)
