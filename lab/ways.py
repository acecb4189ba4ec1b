"""Named ways of clustering the cells of one cached data set: functions of its views to labels.

Letters: N cells, P components, D latent size, C clusters. No way sees a true label; all are told C.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import AgglomerativeClustering, KMeans

import clustering
import neighbours
from neighbours import beside, neighbour_metric

K_NEIGHBORS = 15
BAG_STARTS = 10  # of K-means on a half of the genes


class Views:
    """All that is known of the cells of a set; what is derived from it is computed once.

    Parameters
    ----------
    components
        Principal components of the network's genes, shape (N, P).
    logs, seurat
        Components of the logarithms of 2000 genes, chosen by Pearson residuals or as scanpy does.
    graph
        The kNN graph of the components, symmetric, shape (N, N).
    bags
        Components and log components of random halves of the genes, each (bags, N, P); None where
        the genes were not halved.
    z
        Embedding by a pretrained network, shape (N, D); None where no network is wanted.
    default
        Labels (N,) of the whole command; None where it was not run.
    n_clusters
        C.
    seed
        Of K-means, Leiden and whatever else is random.
    """

    def __init__(
        self,
        *,
        components: np.ndarray,
        logs: np.ndarray,
        seurat: np.ndarray,
        graph: sp.csr_matrix,
        bags: tuple[np.ndarray, np.ndarray] | None,
        z: np.ndarray | None,
        default: np.ndarray | None,
        n_clusters: int,
        seed: int,
    ) -> None:
        self.components, self.logs, self.seurat = components, logs, seurat
        self.graph, self.default = graph, default
        self._z, self._bags = z, bags
        self.n_clusters, self.seed = n_clusters, seed
        self.memory: dict[str, np.ndarray] = {}

    @property
    def z(self) -> np.ndarray:
        """The embedding, shape (N, D)."""
        if self._z is None:
            raise ValueError("no network is cached: name one with --tag")
        return self._z

    @cached_property
    def components_m(self) -> np.ndarray:
        """The components in the metric of the graph sought again in their first metric."""
        return neighbour_metric(self.components, self.graph_m)

    @cached_property
    def graph_m(self) -> sp.csr_matrix:
        """The kNN graph of the components in their metric."""
        return knn(neighbour_metric(self.components, self.graph))

    @cached_property
    def log_graph_m(self) -> sp.csr_matrix:
        """The kNN graph of the log components in their metric."""
        return knn(neighbour_metric(self.logs, knn(self.logs)))

    @cached_property
    def logs_m(self) -> np.ndarray:
        """The log components in the metric of their own graph, sought again once."""
        return neighbour_metric(self.logs, self.log_graph_m)

    @cached_property
    def bags_m(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Components and log components of each half of the genes, in the metric of all genes."""
        if self._bags is None:
            raise ValueError("the genes were not halved: python -m lab.prepare --bags")
        return [
            (neighbour_metric(one, self.graph_m), neighbour_metric(other, self.log_graph_m))
            for one, other in zip(*self._bags, strict=True)
        ]

    @cached_property
    def z_m(self) -> np.ndarray:
        """The embedding in the metric of the components' new graph."""
        return neighbour_metric(self.z, self.graph_m)

    def labels(self, way: str) -> np.ndarray:
        """Return labels (N,) by a way, computed once."""
        if way not in self.memory:
            self.memory[way] = WAYS[way](self)
        return self.memory[way]


Way = Callable[[Views], np.ndarray]


def knn(points: np.ndarray, *, symmetric: bool = True) -> sp.csr_matrix:
    """Return the exact kNN graph of points, of as many neighbours as the suite's default."""
    return neighbours.knn_graph(points, k=K_NEIGHBORS, symmetric=symmetric, exact=True, seed=0)


def jaccard(points: np.ndarray) -> sp.csr_matrix:
    """Return edges between cells with common neighbours, weighted by their lists' Jaccard index.

    A list is a cell's nearest cells, itself included. The result (N, N) is the part above the
    diagonal, as `clustering.leiden` reads it. Source: PhenoGraph (Levine et al. 2015).
    """
    lists = knn(points, symmetric=False)
    common = sp.triu(lists @ lists.T, k=1).tocsr()
    common.data = common.data / (2 * K_NEIGHBORS - common.data)
    return common.astype(np.float32)


def kmeans(views: Views, points: np.ndarray) -> np.ndarray:
    """Return labels by the suite's K-means."""
    return clustering.kmeans(points, n_clusters=views.n_clusters, seed=views.seed)


def leiden(views: Views, graph: sp.csr_matrix) -> np.ndarray:
    """Return labels by Leiden at C clusters of the weighted edges above the diagonal."""
    return clustering.at_k(
        graph, n_clusters=views.n_clusters, seed=views.seed, partition=clustering.leiden
    )


def today(views: Views) -> np.ndarray:
    """Return the labels of the whole command as it is today."""
    if views.default is None:
        raise ValueError("the whole command was not run: python -m lab.prepare --runs")
    return views.default


def spectral(views: Views) -> np.ndarray:
    """Return labels by spectral clustering of the graph."""
    return clustering.spectral(views.graph, n_clusters=views.n_clusters, seed=views.seed)


def kmeans_of(points: Callable[[Views], np.ndarray]) -> Way:
    """Return the way of K-means of points made of the views."""
    return lambda views: kmeans(views, points(views))


def leiden_of(points: Callable[[Views], np.ndarray]) -> Way:
    """Return the way of Leiden of the Jaccard graph of points made of the views."""
    return lambda views: leiden(views, jaccard(points(views)))


def ward(views: Views, points: np.ndarray) -> np.ndarray:
    """Return labels by Ward's linkage, whose memory grows with the square of the cells."""
    return AgglomerativeClustering(views.n_clusters).fit_predict(points)


def bagged(points: Callable[[Views, np.ndarray, np.ndarray], np.ndarray]) -> Way:
    """Return the way of the consensus of K-means and Ward over random halves of the genes.

    `points` makes what is clustered of the views and a half's two sets of components. K-means has
    fewer starts than elsewhere: where it misses the optimum, the other halves outvote it.
    """

    def way(views: Views) -> np.ndarray:
        labelings = []
        for one, other in views.bags_m:
            of_half = points(views, one, other)
            starts = KMeans(views.n_clusters, n_init=BAG_STARTS, random_state=views.seed)
            labelings += [starts.fit_predict(of_half), ward(views, of_half)]
        return clustering.consensus(labelings, views.n_clusters)

    return way


def three_algorithms(points: Callable[[Views], np.ndarray]) -> Way:
    """Return the way of the consensus of K-means, Ward and Leiden of the same points."""

    def way(views: Views) -> np.ndarray:
        made = points(views)
        labelings = [kmeans(views, made), ward(views, made), leiden(views, jaccard(made))]
        return clustering.consensus(labelings, views.n_clusters)

    return way


RIVALS: dict[str, Way] = {
    "today": today,
    "pca_kmeans": kmeans_of(lambda v: v.components),
    "leiden_k": lambda v: leiden(v, clustering.undirected(v.graph)),
    "spectral": spectral,
    "scanpy": lambda v: leiden(v, clustering.undirected(knn(v.seurat))),
}
LINEAR: dict[str, Way] = {
    "components_m": kmeans_of(lambda v: v.components_m),
    "logs_m": kmeans_of(lambda v: v.logs_m),
    "two views": kmeans_of(lambda v: beside(v.components_m, v.logs_m)),
    "two views .7": kmeans_of(lambda v: beside(v.components_m, v.logs_m, weights=(1, 0.7))),
    "leiden components_m": leiden_of(lambda v: v.components_m),
    "leiden two views": leiden_of(lambda v: beside(v.components_m, v.logs_m)),
    "three two views": three_algorithms(lambda v: beside(v.components_m, v.logs_m)),
    "bagged two views": bagged(lambda v, one, other: beside(one, other)),
}
NETWORK: dict[str, Way] = {
    "z": kmeans_of(lambda v: v.z),
    "joint": kmeans_of(lambda v: beside(v.z, v.components)),
    "joint_m": kmeans_of(lambda v: beside(v.z_m, v.components_m)),
    "three views .7": kmeans_of(
        lambda v: beside(v.z_m, v.components_m, v.logs_m, weights=(1, 1, 0.7))
    ),
    "leiden joint_m": leiden_of(lambda v: beside(v.z_m, v.components_m)),
    "three joint_m": three_algorithms(lambda v: beside(v.z_m, v.components_m)),
    "bagged z and logs": bagged(lambda v, one, other: beside(other, v.z_m)),
    "bagged three views": bagged(lambda v, one, other: beside(one, other, v.z_m)),
}
WAYS: dict[str, Way] = RIVALS | LINEAR | NETWORK
