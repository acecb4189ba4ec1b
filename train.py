"""The command: cluster the cells of one file with scTAG and leave the results in a folder.

Read this file first. It says when things happen; what they are is said by the modules that it
calls, in the order of the data: readers, preprocess, model (layers, losses), training, restarts
(clustering, estimation), scores, results. Slow imports stand where they are first needed, so that a
mistake is reported in the first second.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import results
import utils
from settings import Settings, parse_settings
from utils import InputError

log = logging.getLogger("sctag")


class Stopwatch:
    """Seconds of each phase of a run, by name."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str):
        """Time a block under the name `phase`; blocks of one name add up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.seconds.get(phase, 0.0) + time.perf_counter() - start
            self.seconds[phase] = round(seconds, 3)

    def total(self) -> dict[str, float]:
        """The phases, and `total` since the stopwatch was made."""
        return self.seconds | {"total": round(time.perf_counter() - self.start, 3)}


def read(settings: Settings):
    """AnnData of checked counts, its labels (N,) or None, and which file it was; says so."""
    import readers

    path = settings.data or readers.locate(settings.dataname, settings.data_dir)
    adata = readers.read(path, layer=settings.layer)
    adata.X, warning = readers.check_counts(
        adata.X,
        round_counts=settings.round_counts,
        where=str(path),
    )
    if warning:
        log.warning("warning: %s", warning)
    label_key = settings.label_key or "cell_type1"
    cell_types = readers.read_labels(adata, label_key)
    if cell_types is None and (settings.label_key or settings.n_clusters == "labels"):
        present = ", ".join(map(str, adata.obs.columns)) or "none"
        advice = "" if settings.label_key else ", or the number of clusters with --n_clusters"
        raise InputError(
            f"{path} has no column {label_key!r} in obs (present: {present}): "
            f"name the column of the true labels with --label_key{advice}"
        )
    labels = "no labels"
    if cell_types is not None:
        labels = f"{cell_types.nunique()} cell types in {label_key!r}"
        if cell_types.isna().any():
            labels += f" ({cell_types.isna().sum()} cells have none)"
    log.info("data      %s: %d cells, %d genes, %s", path, *adata.shape, labels)
    source = {"path": str(path), "sha256": utils.sha256(path)}
    return adata, cell_types, source | {"cells": adata.n_obs, "genes": adata.n_vars}


def prepare(adata, cell_types, settings: Settings):
    """The prepared AnnData (`preprocess.prepare`), and the labels of the cells that it keeps."""
    import preprocess

    adata = preprocess.prepare(
        adata,
        n_genes=settings.highly_genes,
        gene_selection=settings.gene_selection,
        clip=settings.clip,
        n_pcs=settings.n_pcs,
        k=settings.k_neighbors,
        symmetric=settings.symmetric_graph,
        exact_knn_cells=settings.exact_knn_cells,
        seed=settings.seed,
    )
    return adata, None if cell_types is None else cell_types.loc[adata.obs_names]


def count_clusters(settings: Settings, cell_types, adata) -> tuple[int | None, str]:
    """The number of clusters, openly, and where it is from; None: it is still to be estimated.

    Raises InputError for a number that cannot be used.
    """
    has_labels = cell_types is not None and cell_types.notna().any()
    if settings.resolution is not None:
        if settings.n_clusters is not None:
            raise InputError(
                "--n_clusters and --resolution both decide the number of clusters: give one of them"
            )
        import communities

        graph = communities.undirected(adata.obsp["connectivities"])
        how = {"resolution": settings.resolution, "seed": settings.seed}
        n_clusters = communities.leiden(graph, **how).max() + 1
        source, advice = f"Leiden at resolution {settings.resolution:g}", "raise --resolution"
    elif settings.n_clusters == "labels" or (settings.n_clusters is None and has_labels):
        n_clusters = cell_types.nunique()
        source, advice = "of the labels", "give the number with --n_clusters, or auto"
    elif settings.n_clusters in (None, "auto"):
        return None, "estimated"
    else:
        n_clusters, source, advice = settings.n_clusters, "given", ""
    if n_clusters < 2:
        raise InputError(
            f"{n_clusters} cluster ({source}) is too few, clustering needs 2 or more: {advice}"
        )
    if n_clusters > adata.n_obs:
        raise InputError(
            f"--n_clusters {n_clusters} is more than the {adata.n_obs} cells that are left: "
            "choose a smaller number"
        )
    log.info("clusters  %d (%s)", n_clusters, source)
    return int(n_clusters), source


def start_network(settings: Settings, n_genes: int):
    """TensorFlow on the device that was asked for, said once; returns the network, the device."""
    device = utils.start_tensorflow(settings.gpu_option)
    missing = settings.gpu_option != "-1" and device.name == "CPU"
    log.info("device    %s%s", device.name, " (no GPU found)" if missing else "")
    from model import SCTAG

    network = SCTAG(
        n_genes=n_genes,
        hidden_dim=settings.hidden_dim,
        latent_dim=settings.latent_dim,
        decoder_dims=settings.decoder_dims,
        hops=settings.hops,
        repeated=settings.tag_blocks == "repeated",
        dropout=settings.dropout,
        seed=settings.seed,
        precision=settings.precision,
    )
    return network, device


class Fitted(NamedTuple):
    """What training leaves. N cells, D latent size, F features that are clustered.

    n_clusters: as asked for, counted or estimated; estimate: `estimation.Estimate`, None if it was
    not needed; restarts: what `metrics.json` says of them; initial: (N,) labels before the
    clustering phase; z: (N, D); points: (N, F), z with the components beside it if they were
    clustered too; clustered: `training.Clustered`.
    """

    network: Any
    n_clusters: int
    estimate: Any
    restarts: dict[str, Any]
    initial: np.ndarray
    z: np.ndarray
    points: np.ndarray
    clustered: Any


def fit(adata, n_clusters: int | None, settings: Settings, stopwatch: Stopwatch) -> Fitted:
    """Both training phases on prepared data; n_clusters: None if it is to be estimated."""
    with stopwatch("start_tensorflow"):
        network, device = start_network(settings, adata.n_vars)
        import restarts
        import training
    weights = training.Weights(adj=settings.w_adj, zinb=settings.w_zinb, kl=settings.w_kl)
    with stopwatch("pretrain"):
        data = training.training_data(
            adata,
            network,
            direction=settings.direction,
            zinb_target=settings.zinb_target,
            zinb_clip=settings.zinb_clip,
            reconstruction=settings.reconstruction,
            block_bytes=device.block_bytes,
        )
    given = (network, data, adata, n_clusters, settings)
    starts = restarts.pretrain(*given, weights=weights, stopwatch=stopwatch)
    kept, said_of_restarts = restarts.choose(starts)
    pretrained = kept.pretrained
    network.restore(pretrained.network)
    network.place_centers(kept.centers, trainable=settings.train_centers)
    with stopwatch("cluster"):
        clustered = training.cluster(
            network,
            pretrained.data,
            epochs=settings.maxiter,
            learning_rate=settings.cluster_lr,
            schedule=settings.lr_schedule,
            tolerance=settings.cluster_tol,
            weights=weights,
            kl=settings.kl,
            update_interval=settings.update_interval,
            final_labels=settings.final_labels,
            quiet=settings.quiet,
        )
    clustered.history[:0] = pretrained.history
    if not settings.maxiter:  # a start other than K-means is not always the nearest centre
        clustered = clustered._replace(labels=kept.initial)
    z = training.embed(network, data)
    return Fitted(
        network,
        starts.n_clusters,
        starts.estimate,
        said_of_restarts,
        kept.initial,
        z,
        training.join(z, pretrained.data).numpy(),
        clustered,
    )


def score_all(cell_types, **labelings: np.ndarray) -> dict[str, dict[str, float] | None]:
    """Scores of each labeling by name, None for all if there are no labels to score against."""
    if cell_types is None or not cell_types.notna().any():
        return dict.fromkeys(labelings)
    import scores

    return {name: scores.score(cell_types, labels) for name, labels in labelings.items()}


def run(settings: Settings) -> str:
    """The whole job, from file to results folder; returns the line that the command ends with."""
    stopwatch = Stopwatch()
    with results.staged(settings.out_dir, overwrite=settings.overwrite) as staging:
        with stopwatch("read"):
            adata, cell_types, source = read(settings)
        with stopwatch("prepare"):
            adata, cell_types = prepare(adata, cell_types, settings)
        n_clusters, source_of_number = count_clusters(settings, cell_types, adata)

        fitted = fit(adata, n_clusters, settings, stopwatch)
        clustered, n_clusters = fitted.clustered, fitted.n_clusters

        scored = score_all(cell_types, initial_scores=fitted.initial, scores=clustered.labels)
        with stopwatch("write"):
            described = settings.to_json()
            notes = {"settings": described, "scores": scored["scores"]}
            notes["history"] = clustered.history
            found = {"labels": clustered.labels, "q": clustered.q}
            results.annotate(adata, z=fitted.z, points=fitted.points, notes=notes, **found)
            results.write_tables(staging, adata, clustered.history)
            write_estimate(staging, fitted.estimate)
            fitted.network.save(staging)
            record = {"settings": described, "data": source} | results.environment()
            results.write_json(staging / results.SETTINGS, record)
        sizes = np.bincount(clustered.labels, minlength=clustered.q.shape[1])
        last = clustered.history[-1]
        metrics = scored | {
            "cells": adata.n_obs,
            "genes": adata.n_vars,
            "n_clusters": n_clusters,
            "n_clusters_source": source_of_number,
            "cluster_sizes": sizes.tolist(),
            "empty_clusters": n_clusters - int((sizes > 0).sum()),
            "restarts": fitted.restarts,
            "epochs": dict(Counter(row["phase"] for row in clustered.history)),
            "final_losses": {name: last[name] for name in ("total", "adj", "zinb", "kl")},
            "seconds": stopwatch.total(),
            "peak_memory_mb": round(utils.peak_memory_mb(), 1),
        }
        results.write_json(staging / results.METRICS, metrics)
    return summarise(metrics, settings.out_dir)


def write_estimate(staging: Path, estimate) -> None:
    """The criteria of an estimated number of clusters, as numbers and drawn; nothing for None."""
    if estimate is None:
        return
    import estimation

    results.write_json(staging / results.ESTIMATE, estimate._asdict())
    estimation.plot(estimate, staging / results.CURVES)


def summarise(metrics: dict, out_dir: Path) -> str:
    """Say where the results are and what they cost; returns the score line, or the sizes."""
    seconds, memory = metrics["seconds"]["total"], metrics["peak_memory_mb"]
    log.info("results   %s (%.1f s, %.0f MiB at the peak)", out_dir, seconds, memory)
    if metrics["empty_clusters"]:
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


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 (training failed) or 2 (unusable input)."""
    settings = parse_settings(argv)
    return utils.run_command("train.py", lambda: run(settings), quiet=settings.quiet)


if __name__ == "__main__":
    sys.exit(main())
