"""Named ways of clustering the cells of one cached data set: functions of its views to labels.

What stands side by side is named in short: c for the components of the network's genes, l for those
of logarithms, z for the embedding; cm, lm and zm for the same in the metric of the neighbours of
`views.graph`. A *kind* is such names, as "c l z"; a *pool* is the consensus of the clusterings of
all halves of the genes in each of its kinds, as "c l z + cm lm", which is `views.consensus`.
Letters: N cells, D latent size, F features, C clusters, A algorithms. No way sees a true label; all
are told C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

import baselines
import clustering
import views
from neighbours import beside, neighbour_metric

if TYPE_CHECKING:
    import anndata as ad

SCANPY_GRAPH = "scanpy_connectivities"  # of obsp of the cached data
BASELINE, ADOPTED = "c l + cm lm", "c l z + cm lm"  # `baselines.no_network` and `views.consensus`


@dataclass
class Views:
    """All that is known of the cells of a set.

    Parameters
    ----------
    cells
        What `lab.prepare.slim` kept of the prepared data.
    halves
        Components and log components of each half of the genes, as `views.halves` yields them;
        None where the genes were not halved.
    z
        Embedding by a pretrained network, shape (N, D); None where no network is wanted.
    default
        Labels (N,) of the whole command; None where it was not run.
    n_clusters
        C.
    seed
        Of K-means, Leiden and whatever else is random.
    memory
        What was computed before: labels (N,) of ways by their names, and the clusterings of kinds.
    """

    cells: ad.AnnData
    halves: list[tuple[np.ndarray, np.ndarray]] | None
    z: np.ndarray | None
    default: np.ndarray | None
    n_clusters: int
    seed: int
    memory: dict[str, np.ndarray] = field(default_factory=dict)

    def points(self, kind: str, half: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """Return what a kind names, side by side (N, F), of all genes or of a half of them."""
        genes = half or tuple(views.views_of(self.cells).values())
        sources = dict(zip("clz", (*genes, self.z), strict=True))
        parts = []
        for name in kind.split():
            source = sources[name[0]]
            if source is None:
                raise ValueError("no network is cached: name one with --tag")
            in_metric = name.endswith("m")
            parts.append(neighbour_metric(source, views.graph(self.cells)) if in_metric else source)
        return beside(*parts)

    def clusterings(self, kind: str) -> np.ndarray:
        """Return the labels of each half of the genes in a kind, made once, shape (halves, A, N).

        The algorithms are those of `views.clusterings`, K-means first.
        """
        key = f"halves of {kind}"  # a pool of one kind has the kind's own name
        if key not in self.memory:
            if self.halves is None:
                raise ValueError("the genes were not halved: python -m lab.prepare --halves")
            labelings = [
                views.clusterings(
                    self.points(kind, half), n_clusters=self.n_clusters, seed=self.seed
                )
                for half in self.halves
            ]
            self.memory[key] = np.array(labelings, np.int16)
        return self.memory[key]

    def labels(self, way: str) -> np.ndarray:
        """Return labels (N,) by a way, computed once."""
        if way not in self.memory:
            self.memory[way] = WAYS[way](self)
        return self.memory[way]


Way = Callable[[Views], np.ndarray]


def whole_command(data: Views) -> np.ndarray:
    """Return the labels (N,) of the whole command as it is today."""
    if data.default is None:
        raise ValueError("the whole command was not run: python -m lab.prepare --runs")
    return data.default


def rival(name: str) -> Way:
    """Return the way of a method of `baselines.py` that needs nothing but what is cached."""
    function = baselines.METHODS[name].function
    return lambda data: function(data.cells, n_clusters=data.n_clusters, seed=data.seed)


def scanpy(data: Views) -> np.ndarray:
    """Return labels (N,) by Leiden at C clusters of the graph of `scanpy_steps.cells`."""
    graph = sp.triu(data.cells.obsp[SCANPY_GRAPH], k=1).tocsr()
    return clustering.at_k(
        graph, n_clusters=data.n_clusters, seed=data.seed, partition=clustering.leiden
    )


def pool(kinds: str, *, only_kmeans: bool = False) -> Way:
    """Return the way of the consensus of all halves' clusterings in kinds that "+" separates."""

    def way(data: Views) -> np.ndarray:
        made = [data.clusterings(kind) for kind in kinds.split(" + ")]
        labelings = np.stack(made, axis=1)  # (halves, kinds, A, N), in the order of views.consensus
        if only_kmeans:
            labelings = labelings[:, :, :1]
        return clustering.consensus([*labelings.reshape(-1, labelings.shape[-1])], data.n_clusters)

    return way


def kmeans(kind: str) -> Way:
    """Return the way of the suite's K-means in a kind of all genes."""
    return lambda data: clustering.kmeans(
        data.points(kind), n_clusters=data.n_clusters, seed=data.seed
    )


RIVALS: dict[str, Way] = {
    "default": whole_command,
    **{name: rival(name) for name in ("pca_kmeans", "leiden_k", "spectral")},
    "scanpy": scanpy,
}
LINEAR: dict[str, Way] = {
    **{kinds: pool(kinds) for kinds in ("cm lm", "c l", BASELINE)},
    f"{BASELINE}, K-means": pool(BASELINE, only_kmeans=True),
}
POOLS = (
    ADOPTED,
    "lm zm",
    "cm lm zm",
    "cm lm z",
    "c z + cm lm",
    "c l z + cm lm zm",
    "lm zm + cm lm",
    "c l z + cm lm zm + cm lm",
)
NETWORK: dict[str, Way] = {
    **{kinds: pool(kinds) for kinds in POOLS},
    "z": kmeans("z"),
    "joint": kmeans("z c"),
    "joint_m": kmeans("zm cm"),
}
WAYS: dict[str, Way] = RIVALS | LINEAR | NETWORK
