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


class Pretrained(NamedTuple):
    """A pretrained network and what it makes of the cells.

    data: with the components if they are clustered; points: (N, F), what is clustered; history: a
    row of losses an epoch.
    """

    network: NetworkState
    data: training.TrainingData
    points: np.ndarray
    history: list[dict]


class Start(NamedTuple):
    """A pretrained network and the clusters that the clustering phase would start from.

    initial: (N,) labels; centers: (C, F); silhouette: of the clusters.
    """

    pretrained: Pretrained
    initial: np.ndarray
    centers: np.ndarray
    silhouette: float

    @property
    def seed(self) -> int:
        """That the network began with."""
        return self.pretrained.network.seed


class Starts(NamedTuple):
    """What pretraining leaves: one `Start` for each network that did not diverge, at least one.

    seeds: of all networks; n_clusters: as given, or estimated on all of the starts, which
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
    """Pretrain a network from each seed in turn, and cluster what each makes of the cells.

    n_clusters: None estimates it on all networks at once, one number for all of them: silhouettes
    of different numbers cannot be compared. A network that diverges is left out with a warning;
    TrainingError if all do.
    """
    seeds = network_seeds(settings.seed, settings.n_restarts(adata.n_obs))
    with stopwatch("pretrain"):
        networks = _pretrain_all(network, data, adata, seeds, settings, weights=weights)
    with stopwatch("initial_clusters"):
        estimate = None
        if n_clusters is None:
            embeddings = [found.points for found in networks]
            graph = adata.obsp["connectivities"]
            estimate = estimation.estimate_n_clusters(embeddings, graph, seed=settings.seed)
            n_clusters = estimate.n_clusters
        starts = []
        of_graph = settings.resolution is not None or settings.init != "kmeans"
        for found in networks:
            if of_graph and starts:  # the graph is the same whatever the network
                initial = starts[0].initial
            else:
                initial = initial_clusters(adata, found.points, n_clusters, settings)
            silhouette = clustering.silhouette(found.points, initial, seed=settings.seed)
            centers = clustering.centers_of(found.points, initial)
            starts.append(Start(found, initial, centers, silhouette))
    return Starts(seeds, starts, n_clusters, estimate)


def _pretrain_all(
    network: SCTAG,
    data: training.TrainingData,
    adata,
    seeds: list[int],
    settings: Settings,
    *,
    weights: training.Weights,
) -> list[Pretrained]:
    """The networks that do not diverge, at least one, in the order of their seeds."""
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
    networks, failure = [], None
    for number, seed in enumerate(seeds, 1):
        if len(seeds) > 1:
            log.info("restart   %d of %d", number, len(seeds))
        try:
            history = pretrain_from(seed)
            z = training.embed(network, data)
        except TrainingError as error:
            failure = error
            if len(seeds) > 1:
                log.warning("warning: restart %d of %d is left out: %s", number, len(seeds), error)
            continue
        here = data
        if settings.cluster_on == "joint":
            here = training.with_components(data, adata.obsm["X_pca"], z)
        points = training.join(z, here).numpy()
        networks.append(Pretrained(network.state(), here, points, history))
    if not networks:
        raise failure
    return networks


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
    silhouettes = {start.seed: round(start.silhouette, 4) for start in starts}
    said = {"seeds": found.seeds, "kept": kept.seed}
    said |= {"silhouettes": [silhouettes.get(seed) for seed in found.seeds], "agreement": None}
    if len(found.seeds) > 1:
        shown = ("-" if value is None else f"{value:.3f}" for value in said["silhouettes"])
        log.info("restarts  silhouettes %s", ", ".join(shown))
    if len(starts) > 1:
        said["agreement"] = round(clustering.agreement([start.initial for start in starts]), 4)
        log.info(
            "restarts  go on with %d of %d; their clusters agree with a mean ARI of %.2f",
            *(found.seeds.index(kept.seed) + 1, len(found.seeds), said["agreement"]),
        )
    return kept, said
