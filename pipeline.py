"""The one pipeline: read, prepare, number of clusters, fit, score, write.

`train.py` and `baselines.py` run all of it on a file, `sctag.py` its middle on an AnnData of a
notebook. They differ in what fits: the network (`fit`) or a rival. Letters: N cells, D latent size,
F features that are clustered, C clusters. Slow imports stand where they are first needed, so that a
mistake is reported in the first second.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import results
import utils
from data_settings import LABEL_KEY
from results import Fitted, Trained
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


def read(settings: Settings) -> tuple[ad.AnnData, pd.Series | None, Path]:
    """Return the data of a file, their labels (N,) or None, and the path; log what they are.

    Raises
    ------
    InputError
        If the file cannot be read, or lacks a column of labels that was asked for.
    """
    import readers

    path = settings.data or readers.locate(settings.dataname, settings.data_dir)
    adata = readers.read(
        path,
        layer=settings.layer,
        genome=settings.genome,
        transpose=settings.transpose,
        whole=not settings.no_h5ad,
    )
    label_key = settings.label_key or LABEL_KEY
    cell_types = readers.read_labels(adata, label_key)
    if cell_types is None and (settings.label_key or settings.n_clusters == "labels"):
        present = ", ".join(map(str, adata.obs.columns)) or "none"
        advice = "" if settings.label_key else ", or the number of clusters with --n_clusters"
        problem = f"{path} has no column {label_key!r} in obs (present: {present})"
        if reason := adata.obs.attrs.get("left_out", {}).get(label_key):
            problem = f"{path}: the column {label_key!r} of obs cannot be read ({reason})"
        raise InputError(f"{problem}: name the column of the true labels with --label_key{advice}")
    labels = "no labels"
    if cell_types is not None and cell_types.notna().any():
        labels = f"{cell_types.nunique()} cell types in {label_key!r}"
        if cell_types.isna().any():
            labels += f" ({cell_types.isna().sum()} cells have none)"
    log.info("data      %s: %d cells, %d genes, %s", path, *adata.shape, labels)
    return adata, cell_types, path


def start_network(settings: Settings, n_genes: int) -> tuple[Any, utils.Device]:
    """Start TensorFlow on the device that was asked for; return a new network and the device."""
    device = utils.start_tensorflow(settings.gpu_option)
    missing = settings.gpu_option != "-1" and device.name == "CPU"
    log.info("device    %s%s", device.name, " (no GPU found)" if missing else "")
    from model import SCTAG

    with utils.tensorflow_session():
        network = SCTAG(settings, n_genes=n_genes, seed=settings.seed)
    return network, device


def fit(adata: ad.AnnData, number: Number, settings: Settings, stopwatch: Stopwatch) -> Fitted:
    """Cluster prepared data with scTAG: both training phases.

    Raises
    ------
    TrainingError
        If a loss is not finite.
    """
    with stopwatch("start_tensorflow"):
        network, device = start_network(settings, adata.n_vars)
        import clustering
        import tensors
        import training
        import views
    with utils.tensorflow_session():
        with stopwatch("pretrain"):
            data = tensors.training_data(
                adata,
                settings,
                settings,
                dtype=network.product_dtype,
                block_bytes=device.block_bytes,
            )
            phase = training.phases(settings)[0]
            pretraining = training.Pretraining(network, data, settings, phase, quiet=settings.quiet)
            history = pretraining.run(settings.seed)
            z = training.embed(network, data)
        with stopwatch("initial_clusters"):
            if settings.cluster_on == "joint":
                features = views.features(adata, metric=settings.neighbour_metric)
                data = tensors.with_components(data, features, z)
            points = tensors.join(z, data).numpy()
            number = number.estimated_on(points, views.graph(adata), seed=settings.seed)
            initial, notes = initial_clusters(adata, z, points, number, settings)
        network.place_centers(
            clustering.centers_of(points, initial), trainable=settings.train_centers
        )
        with stopwatch("cluster"):
            clustered = training.cluster(network, data, settings, settings, quiet=settings.quiet)
        z = training.embed(network, data)
    history += clustered.history
    # Without a clustering phase the initial clusters stay, of which the nearest centre may differ.
    labels = clustered.labels if settings.maxiter else initial
    return Fitted(
        labels=labels,
        number=number,
        metrics=notes
        | {
            "epochs": dict(Counter(row["phase"] for row in history)),
            "final_losses": {name: history[-1][name] for name in ("total", "adj", "zinb", "kl")},
        },
        trained=Trained(
            network=network,
            initial=initial,
            z=z,
            points=tensors.join(z, data).numpy(),
            q=clustered.q,
            history=history,
        ),
    )


def initial_clusters(
    adata: ad.AnnData, z: np.ndarray, points: np.ndarray, number: Number, settings: Settings
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the labels (N,) from which the clustering phase starts, and what is said of them.

    Parameters
    ----------
    adata
        Prepared data.
    z
        Embedding by the pretrained network, shape (N, D).
    points
        What is clustered, shape (N, F).
    number
        The number of clusters C; labels that came with it are taken as they are.
    settings
        `init` names the method.
    """
    import clustering
    import views

    notes: dict[str, Any] = {}
    assert number.n_clusters is not None
    if number.labels is not None:
        labels = number.labels
    elif settings.init == "consensus":
        labels, agreement = views.consensus(
            adata,
            z,
            metric=settings.neighbour_metric,
            n_clusters=number.n_clusters,
            seed=settings.seed,
        )
        notes["agreement"] = round(agreement, 4)
        log.info("consensus of clusterings that agree with it by a mean ARI of %.2f", agreement)
    elif settings.init == "kmeans":
        labels = clustering.kmeans(points, n_clusters=number.n_clusters, seed=settings.seed)
    else:
        graph = views.graph(adata)
        labels = clustering.spectral(graph, n_clusters=number.n_clusters, seed=settings.seed)
    if (found := len(np.unique(labels))) < number.n_clusters:
        name = settings.init
        log.warning("warning: %s found %d clusters, not %d", name, found, number.n_clusters)
    return labels, notes


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
    """
    stopwatch = Stopwatch()
    with results.staged(out_dir, overwrite=settings.overwrite) as staging:
        with stopwatch("read"):
            raw, cell_types, path = read(settings)
        with stopwatch("prepare"):
            import preprocess

            adata = preprocess.prepare(raw, settings, seed=settings.seed, where=str(path))
            if cell_types is not None:
                cell_types = cell_types.loc[adata.obs_names]
        with stopwatch("read"):
            source = {"path": str(path), "sha256": utils.sha256(path)}
        source |= {"cells": raw.n_obs, "genes": raw.n_vars}
        whole = None if settings.no_h5ad else _kept_cells(raw, adata)
        del raw
        if number is None:
            number = request_number(adata, cell_types, settings)
        fitted = fit(adata, number, settings, stopwatch)
        metrics = metrics_of(fitted, adata, cell_types)
        with stopwatch("write"):
            import annotated

            files = {}
            if fitted.trained is not None:
                annotated.annotate(adata, fitted, settings=notes, scores=metrics["scores"])
                if whole is not None:
                    genes = whole.var_names.get_indexer(adata.raw.var_names)
                    annotated.complete(adata, whole, np.arange(whole.n_obs), genes)
                    files = {results.DATA: whole, results.PREPARED: annotated.compact(adata)}
            results.write_run(staging, adata, fitted, files)
            record = {"settings": notes, "data": source} | results.environment()
            results.write_json(staging / results.SETTINGS, record)
        metrics["seconds"] = stopwatch.total()
        metrics["peak_memory_mb"] = round(utils.peak_memory_mb(), 1)
        results.write_json(staging / results.METRICS, metrics)
    return summarise(metrics, out_dir)


def _kept_cells(raw: ad.AnnData, prepared: ad.AnnData) -> ad.AnnData:
    """Return the cells of the input that were prepared, with all that the input has of them."""
    if raw.n_obs == prepared.n_obs:
        return raw
    return raw[prepared.obs_names].copy()


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
