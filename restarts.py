"""Restarts: networks pretrained from different weights, and the one that a run goes on with.

Which optimum a network ends in is chance. A run with few cells pretrains several, clusters each and
keeps the one whose clusters are the most distinct (docs/recipe.md, Restarts). Letters: N cells, F
features that are clustered, C clusters. No function here has a parameter for true labels.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np

import clustering
import communities
import estimation
import training
from model import SCTAG, NetworkState
from settings import Settings
from utils import TrainingError

log = logging.getLogger("sctag")


class Start(NamedTuple):
    """A pretrained network and the clusters that the clustering phase would start from.

    data: with the components if they are clustered; initial: (N,) labels; centers: (C, F); history:
    a row of losses an epoch; silhouette: of the clusters.
    """

    network: NetworkState
    data: training.TrainingData
    initial: np.ndarray
    centers: np.ndarray
    history: list[dict]
    silhouette: float


class Starts(NamedTuple):
    """What pretraining leaves: one `Start` for each network that did not diverge, at least one.

    seeds: of all networks; n_clusters: as given, or estimated on the first of the starts, which
    `estimate` describes.
    """

    seeds: list[int]
    starts: list[Start]
    n_clusters: int
    estimate: estimation.Estimate | None


def network_seeds(seed: int, n: int) -> list[int]:
    """n seeds of networks: that of the run, and others that it decides."""
    others = np.random.SeedSequence(seed).generate_state(n - 1)
    return [seed, *map(int, others)]


def pretrain(
    network: SCTAG,
    data: training.TrainingData,
    adata,
    n_clusters: int | None,
    settings: Settings,
    *,
    weights: training.Weights,
    stopwatch,
) -> Starts:
    """Pretrain a network from each seed in turn, and cluster what it makes of the cells.

    n_clusters: None estimates it on the first network, for all of them: silhouettes of different
    numbers cannot be compared. A network that diverges is left out with a warning; TrainingError if
    all do.
    """
    seeds = network_seeds(settings.seed, settings.n_restarts(adata.n_obs))
    pretrain_from = training.pretraining(
        network,
        data,
        epochs=settings.pretrain_epochs,
        learning_rate=settings.pretrain_lr,
        schedule=settings.lr_schedule,
        tolerance=settings.pretrain_tol,
        weights=weights,
        quiet=settings.quiet,
    )
    starts, estimate, failure = [], None, None
    for number, seed in enumerate(seeds, 1):
        try:
            with stopwatch("pretrain"):
                history = pretrain_from(seed)
                z = training.embed(network, data)
        except TrainingError as error:
            failure = error
            if len(seeds) > 1:
                log.warning("warning: restart %d of %d is left out: %s", number, len(seeds), error)
            continue
        with stopwatch("initial_clusters"):
            here = data
            if settings.cluster_on == "joint":
                here = training.with_components(data, adata.obsm["X_pca"], z)
            points = training.join(z, here).numpy()
            if n_clusters is None:
                graph = adata.obsp["connectivities"]
                estimate = estimation.estimate_n_clusters(points, graph, seed=settings.seed)
                n_clusters = estimate.n_clusters
            of_graph = settings.resolution is not None or settings.init != "kmeans"
            if of_graph and starts:  # the graph is the same whatever the network
                initial = starts[0].initial
            else:
                initial = initial_clusters(adata, points, n_clusters, settings)
            silhouette = clustering.silhouette(points, initial, seed=settings.seed)
        centers = clustering.centers_of(points, initial)
        starts.append(Start(network.state(), here, initial, centers, history, silhouette))
        if len(seeds) > 1:
            log.info("restart   %d of %d: silhouette %.3f", number, len(seeds), silhouette)
    if not starts:
        raise failure
    return Starts(seeds, starts, n_clusters, estimate)


def initial_clusters(adata, points: np.ndarray, n_clusters: int, settings: Settings) -> np.ndarray:
    """Labels (N,) that the clustering phase starts from: of points (N, F), or of the graph."""
    graph, seed = adata.obsp["connectivities"], settings.seed
    if settings.resolution is not None:
        edges = communities.undirected(graph)
        labels = communities.leiden(edges, resolution=settings.resolution, seed=seed)
    elif settings.init == "kmeans":
        labels = clustering.kmeans(points, n_clusters=n_clusters, seed=seed)
    elif settings.init == "spectral":
        labels = clustering.spectral(graph, n_clusters=n_clusters, seed=seed)
    else:
        labels = clustering.leiden(graph, n_clusters=n_clusters, seed=seed)
    if (found := len(np.unique(labels))) < n_clusters:
        log.warning("warning: %s found %d clusters, not %d", settings.init, found, n_clusters)
    return labels


def choose(found: Starts) -> tuple[Start, dict[str, Any]]:
    """The start whose clusters are the most distinct, and what `metrics.json` says of all.

    Of networks that diverged the silhouette is None.
    """
    starts = found.starts
    kept = max(starts, key=lambda start: start.silhouette)  # the first of equals
    silhouettes = {start.network.seed: round(start.silhouette, 4) for start in starts}
    said = {"seeds": found.seeds, "kept": kept.network.seed}
    said |= {"silhouettes": [silhouettes.get(seed) for seed in found.seeds], "agreement": None}
    if len(starts) > 1:
        said["agreement"] = round(clustering.agreement([start.initial for start in starts]), 4)
        log.info(
            "restarts  go on with %d of %d; their clusters agree with a mean ARI of %.2f",
            *(found.seeds.index(kept.network.seed) + 1, len(found.seeds), said["agreement"]),
        )
    return kept, said
