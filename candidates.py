"""Candidates: networks pretrained from different weights, of which one goes on to be clustered.

Which optimum a network ends in is chance. A run with few cells pretrains several, clusters the
cells by each and keeps the one whose clusters are the most distinct (docs/recipe.md, Restarts).
Letters: N cells, F features that are clustered, C clusters. No function here has a parameter for
true labels.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import anndata as ad
import numpy as np

import clustering
import tensors
import training
from estimation import Number
from model import SCTAG, NetworkState
from settings import Settings
from tensors import TrainingData
from utils import Stopwatch, TrainingError

log = logging.getLogger("sctag")


class PretrainedNetwork(NamedTuple):
    """A pretrained network and what it makes of the cells.

    Parameters
    ----------
    state
        The network's weights.
    data
        The tensors of the run, with the components if they are clustered.
    points
        What is clustered, shape (N, F).
    history
        A row of losses an epoch.
    """

    state: NetworkState
    data: TrainingData
    points: np.ndarray
    history: training.History


class Candidate(NamedTuple):
    """A pretrained network and the clusters from which the clustering phase would start.

    Parameters
    ----------
    network
        The pretrained network.
    labels
        Initial clusters, shape (N,).
    centers
        Their centres, shape (C, F).
    silhouette
        How distinct they are, from -1 to 1.
    """

    network: PretrainedNetwork
    labels: np.ndarray
    centers: np.ndarray
    silhouette: float

    @property
    def seed(self) -> int:
        """The seed that the network began with."""
        return self.network.state.seed


class Candidates(NamedTuple):
    """The candidates of a run.

    Parameters
    ----------
    seeds
        Of all networks, those that diverged among them.
    candidates
        One for each network that did not diverge, at least one.
    number
        The number of clusters: one for all, since silhouettes of different numbers cannot be
        compared.
    """

    seeds: list[int]
    candidates: list[Candidate]
    number: Number


def network_seeds(seed: int, n: int) -> list[int]:
    """Return n seeds of networks: that of the run, and others that it decides."""
    others = np.random.SeedSequence(seed).generate_state(n - 1)
    return [seed, *map(int, others)]


def make_candidates(
    network: SCTAG,
    data: TrainingData,
    adata: ad.AnnData,
    number: Number,
    settings: Settings,
    stopwatch: Stopwatch,
) -> Candidates:
    """Pretrain a network from each seed in turn, and cluster the cells by each.

    Parameters
    ----------
    network
        It is pretrained again and again; afterwards it has the weights of the last seed.
    data, adata
        Tensors of the run, and the prepared data that they were made of.
    number
        The number of clusters; if it is to be estimated, that is done on all networks at once.
    settings
        Decide how many networks there are, how they are trained, and how cells are clustered.
    stopwatch
        Takes the time of both parts.

    Raises
    ------
    TrainingError
        If all networks diverge. One that diverges among others is left out with a warning.
    """
    seeds = network_seeds(settings.seed, settings.n_networks(adata.n_obs))
    with stopwatch("pretrain"):
        pretrained = _pretrain(network, data, adata, seeds, settings)
    adjacency = adata.obsp["connectivities"]
    with stopwatch("initial_clusters"):
        number = number.estimated_on(
            [each.points for each in pretrained], adjacency, seed=settings.seed
        )
        assert number.n_clusters is not None
        labels = number.labels  # of Leiden, or, where the graph alone decides, of the first network
        candidates = []
        for each in pretrained:
            if labels is None or (number.labels is None and settings.init == "kmeans"):
                labels = clustering.initial_clusters(
                    each.points,
                    adjacency,
                    method=settings.init,
                    n_clusters=number.n_clusters,
                    seed=settings.seed,
                )
            silhouette = clustering.silhouette(each.points, labels, seed=settings.seed)
            centers = clustering.centers_of(each.points, labels)
            candidates.append(Candidate(each, labels, centers, silhouette))
    return Candidates(seeds, candidates, number)


def _pretrain(
    network: SCTAG,
    data: TrainingData,
    adata: ad.AnnData,
    seeds: list[int],
    settings: Settings,
) -> list[PretrainedNetwork]:
    """Return the networks that do not diverge, at least one, in the order of their seeds."""
    phase = training.phases(settings)[0]
    pretraining = training.Pretraining(network, data, settings, phase, quiet=settings.quiet)
    pretrained = []
    failure = TrainingError("there is no network to pretrain")
    for number, seed in enumerate(seeds, 1):
        if len(seeds) > 1:
            log.info("network   %d of %d", number, len(seeds))
        try:
            history = pretraining.run(seed)
            z = training.embed(network, data)
        except TrainingError as error:
            failure = error
            if len(seeds) > 1:
                log.warning("warning: network %d of %d is left out: %s", number, len(seeds), error)
            continue
        joined = data
        if settings.cluster_on == "joint":
            joined = tensors.with_components(data, adata.obsm["X_pca"], z)
        points = tensors.join(z, joined).numpy()
        pretrained.append(PretrainedNetwork(network.state(), joined, points, history))
    if not pretrained:
        raise failure
    return pretrained


def choose(made: Candidates) -> tuple[Candidate, dict[str, Any]]:
    """Return the candidate with the most distinct clusters, and what metrics.json says of all.

    That is the seeds, the one kept, the silhouettes (None of networks that diverged), and how far
    the candidates' clusters agree (mean ARI; None of a single one).
    """
    kept = max(made.candidates, key=lambda candidate: candidate.silhouette)  # the first of equals
    silhouettes = {each.seed: round(each.silhouette, 4) for each in made.candidates}
    summary: dict[str, Any] = {
        "seeds": made.seeds,
        "kept": kept.seed,
        "silhouettes": [silhouettes.get(seed) for seed in made.seeds],
        "agreement": None,
    }
    if len(made.seeds) > 1:
        shown = ("-" if value is None else f"{value:.3f}" for value in summary["silhouettes"])
        log.info("networks  silhouettes %s", ", ".join(shown))
    if len(made.candidates) > 1:
        agreement = clustering.agreement([each.labels for each in made.candidates])
        summary["agreement"] = round(agreement, 4)
        log.info(
            "networks  go on with %d of %d; their clusters agree with a mean ARI of %.2f",
            made.seeds.index(kept.seed) + 1,
            len(made.seeds),
            agreement,
        )
    return kept, summary
