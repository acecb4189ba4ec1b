"""The one pipeline: read, prepare, number of clusters, fit, score, write.

`train.py` and `baselines.py` run all of it on a file, `sctag.py` its middle on an AnnData of a
notebook. They differ in what fits: the network (`fitting.fit`) or a rival. Letters: N cells. Slow
imports stand where they are first needed, so that a mistake is reported in the first second.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import batches
import console
import folders
import memory
import repetition
import results
import room
import threads
import utils
from results import Fitted
from settings import Settings
from utils import InputError, Stopwatch

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from estimation import Number

log = logging.getLogger("sctag")

# Clusters prepared data with the number of clusters that was asked for.
Fit = Callable[["ad.AnnData", "Number", Settings, Stopwatch], Fitted]


# --- Steps ----------------------------------------------------------------------------------------


class Data(NamedTuple):
    """What a run starts from.

    Parameters
    ----------
    adata
        Raw counts of the cells that go in, cells x genes.
    cell_types
        True labels of all cells that were read, by name, for the scores only; None without any.
    where
        What the data are called in messages.
    source
        What settings.json says of the data: path, SHA-256, and the size before cells were chosen.
    """

    adata: ad.AnnData
    cell_types: pd.Series | None
    where: str
    source: dict[str, Any]


def read(settings: Settings, *, raw: bool = False) -> Data:
    """Return the data of one or several files without the cells left out; log what they are.

    Parameters
    ----------
    settings
        Which files, what of them, and which cells.
    raw
        Whether the raw of a file comes along, for a result that has none of its own.

    Raises
    ------
    InputError
        If a file cannot be read or lacks a column of labels that was asked for, or if no cell is
        left.
    """
    with utils.importing():
        import csr_blocks
        import readers
        from inputs import samples, selection, true_labels

    table, request = true_labels.table(settings), selection.request(settings)
    given = settings.data or [readers.locate(settings.dataname, settings.data_dir)]
    paths, where = samples.paths_of(given), samples.shown(given)
    adata = samples.read(
        paths,
        layer=settings.layer,
        genome=settings.genome,
        transpose=settings.transpose,
        gene_key=settings.gene_key,
        whole=not settings.no_h5ad,
        raw=raw,
    )
    needed = settings.n_clusters == "labels"
    cell_types = true_labels.of(adata, settings, table, needed=needed, where=where)
    if cell_types is not None and settings.batch_key == cell_types.name:
        raise InputError(
            f"{where}: the column {cell_types.name!r} of obs has the true labels, which only the "
            "scores may use: name another with --batch_key, or the labels' with --label_key"
        )
    labels = true_labels.described(cell_types)
    log.info("data      %s: %d cells, %d genes, %s", where, *adata.shape, labels)
    source = samples.record(paths) | {"cells": adata.n_obs, "genes": adata.n_vars}
    for name, path in (("labels_file", settings.labels), ("cells_file", settings.cells)):
        if path is not None:
            source[name] = samples.record([path])
    cells = selection.kept(adata, settings, request, seed=settings.seed)
    if not cells.all():
        adata = csr_blocks.some_of(adata, cells)
    return Data(adata, cell_types, where, source)


def score(cell_types: pd.Series | None, labels: np.ndarray) -> dict[str, float] | None:
    """Return the scores of clusters against true labels, None if there are none."""
    if cell_types is None or not cell_types.notna().any():
        return None
    import scores

    return scores.score(cell_types, labels)


def metrics_of(fitted: Fitted, adata: ad.AnnData, cell_types: pd.Series | None) -> dict[str, Any]:
    """Return the scores, sizes and settings of the outcome that metrics.json holds."""
    trained, n_clusters = fitted.trained, fitted.number.n_clusters
    metrics: dict[str, Any] = {"scores": score(cell_types, fitted.labels)}
    sizes = np.bincount(fitted.labels)
    expected = len(sizes)  # a rival's labels have no gaps
    if trained is not None:
        metrics["initial_scores"] = score(cell_types, trained.initial)
        sizes = np.bincount(fitted.labels, minlength=trained.q.shape[1])
        expected = n_clusters or len(sizes)
    if batches.key_of(adata) is not None:
        points = adata.obsm["X_pca"] if trained is None else trained.points
        metrics["batches"] = batches.measures(adata, points, fitted.labels)
    metrics |= {
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "n_clusters": n_clusters,
        "n_clusters_source": fitted.number.source,
        "cluster_sizes": sizes.tolist(),
        "empty_clusters": expected - int((sizes > 0).sum()),
    }
    return metrics | fitted.metrics


# --- The whole ------------------------------------------------------------------------------------


def run(
    settings: Settings,
    fit: Fit,
    *,
    out_dir: Path,
    notes: dict[str, Any],
    number: Number | None = None,
    with_network: bool = False,
    earlier: repetition.Earlier | None = None,
) -> str:
    """Run the whole job, from file to results folder; return the line that the command ends with.

    Parameters
    ----------
    settings
        All that decides the run.
    fit
        Clusters the prepared data.
    out_dir
        Folder of the results: every file appears there whole, or none.
    notes
        What settings.json records as the run's settings.
    number
        The number of clusters, where the method finds its own; None for what the settings ask for.
    with_network
        Whether the fit trains a network, for which there must be memory, and which must have room.
    earlier
        The run that is repeated, if any: the log says what differs from it.
    """
    stopwatch, quiet = Stopwatch(), settings.quiet
    limits = contextlib.ExitStack()
    with folders.staged(out_dir, overwrite=settings.overwrite) as staging, limits:
        with stopwatch("read"), console.status("reading the data", quiet=quiet):
            raw, cell_types, where, source = read(settings)
        if with_network:
            memory.check_counts(raw, settings)
        if earlier is not None:
            repetition.log_differences(earlier, settings, source)
        with stopwatch("prepare"), console.status("preparing the data", quiet=quiet):
            with utils.importing():
                import preprocess
                from inputs import selection

            limits.enter_context(threads.suited_to(raw.n_obs))
            adata = preprocess.prepare(raw, settings, seed=settings.seed, where=where)
            selection.warn_of_poor_cells(raw)
            if settings.markers is not None:
                from annotation.cell_types import check

                check(adata.raw.var, settings.markers)
            if cell_types is not None:
                cell_types = cell_types.loc[adata.obs_names]
        whole = None if settings.no_h5ad else _kept_cells(raw, adata)
        del raw
        if number is None:
            number = request_number(adata, cell_types, settings)
        if with_network:
            room.check(staging, adata, whole, settings, n_clusters=number.n_clusters)
        fitted = fit(adata, number, settings, stopwatch)
        metrics = metrics_of(fitted, adata, cell_types)
        record = {"settings": notes, "data": source, "environment": results.environment()}
        metrics["seconds"] = stopwatch.total()
        with stopwatch("write"), folders.writing(staging):
            from outcome import outputs

            outputs.write(
                staging,
                adata,
                fitted,
                settings,
                whole=whole,
                cell_types=cell_types,
                record=record,
                metrics=metrics,
            )
            record |= record.pop("environment")
            results.write_json(staging / results.SETTINGS, record)
        metrics["seconds"] = stopwatch.total()
        metrics["peak_memory_mb"] = round(utils.peak_memory_mb(), 1)
        with folders.writing(staging):
            results.write_json(staging / results.METRICS, metrics)
    return summarise(metrics, out_dir)


def _kept_cells(raw: ad.AnnData, prepared: ad.AnnData) -> ad.AnnData:
    """Return the cells of the input that were prepared, with all that the input has of them."""
    import csr_blocks

    if raw.n_obs == prepared.n_obs:
        return raw
    return csr_blocks.some_of(raw, raw.obs_names.isin(prepared.obs_names))


def request_number(adata: ad.AnnData, cell_types: pd.Series | None, settings: Settings) -> Number:
    """Return the number of clusters that the settings ask for; of the labels only their number."""
    import estimation
    import views

    n_cell_types = None if cell_types is None else cell_types.nunique() or None
    return estimation.requested_number(
        settings,
        views.graph(adata),
        n_cell_types=n_cell_types,
        seed=settings.seed,
    )


def summarise(metrics: dict[str, Any], out_dir: Path) -> str:
    """Log where the results are and what they cost; return the score line, or the sizes."""
    seconds, memory = metrics["seconds"]["total"], metrics["peak_memory_mb"]
    log.info("results   %s (%.1f s, %.0f MiB at the peak)", out_dir, seconds, memory)
    if metrics.get("empty_clusters"):
        log.warning(
            "warning: %d of the %d clusters ended empty",
            metrics["empty_clusters"],
            metrics["n_clusters"],
        )
    sizes = ", ".join(f"{i}: {n}" for i, n in enumerate(metrics["cluster_sizes"]))
    if metrics["scores"] is None:
        return f"cluster sizes: {sizes}"
    log.info("sizes     %s", sizes)
    return "ACC= {ACC:.4f}, NMI= {NMI:.4f}, ARI= {ARI:.4f}".format(**metrics["scores"])
