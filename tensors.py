"""The one door from prepared data to tensors: what the encoder reads and what the decoder must fit.

Letters: N cells, G genes, P principal components, D latent size, F features that are clustered,
B batches.
`RECONSTRUCTIONS` is the table of what `--reconstruction` can name: another likelihood is one
function there, and its word among the choices of that setting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import anndata as ad
import numpy as np
import scipy.sparse as sp
import tensorflow as tf
from spektral.utils import normalized_adjacency

import batches
import likelihoods
import losses
import views
from devices import CACHE_BYTES
from layers import CountHeads, exponents_of
from settings import Architecture, Objective


class Reconstruction(Protocol):
    """How badly the counts are reconstructed, of one data set: a NamedTuple with a target.

    It is a function of the decoder's heads to a scalar to lower, a mean over cells, differentiable
    in all that the heads are made of.
    """

    @property
    def target(self) -> Any:
        """A tensor, or a NamedTuple of tensors, with a row for each cell."""

    def __call__(self, heads: CountHeads) -> tf.Tensor:
        """Return the mean loss of the heads of all cells."""

    def _replace(self, *, target: Any) -> Reconstruction:
        """Return the same with the target of other cells."""

    def target_of(self, values: Values) -> Any:
        """Return the target of other values, arrays in place of tensors."""


class GraphTensors(NamedTuple):
    """The constant inputs of the encoder, and the graph that its decoder must fit.

    Parameters
    ----------
    propagated
        The z-scores and their propagations [X, ÂX, ...] side by side, shape (N, B G).
    propagation
        Â as a sparse tensor (N, N).
    edges
        The ones of the adjacency matrix.
    """

    propagated: tf.Tensor
    propagation: tf.SparseTensor
    edges: losses.Edges


class TrainingData(NamedTuple):
    """All tensors of a run whose steps have all cells; `arrays.PartedData` is for other runs.

    Parameters
    ----------
    graph
        What the encoder reads.
    reconstruction
        The loss of the count decoder's heads on these data.
    block_bytes
        Bytes that a block's widest array may take on the device.
    components
        Principal components (N, P) that stand beside z where cells are assigned to centres; see
        `scaled_components`. P is 0 where z alone is clustered.
    batches
        A column for each batch with ones for its cells (N, B), which the count decoder reads. B is
        0 without batches.
    closeness
        How many neighbours the cells of each edge have in common, shape (E,), see `closeness_of`;
        of length 0 where the graph's loss does not ask for it.
    """

    graph: GraphTensors
    reconstruction: Reconstruction
    block_bytes: int
    components: tf.Tensor
    batches: tf.Tensor
    closeness: tf.Tensor

    def with_components(self, components: np.ndarray) -> TrainingData:
        """Return the same data with other components (N, P)."""
        return self._replace(components=tf.constant(components))


class Propagations(NamedTuple):
    """What the first layer reads, and the matrix by which it was made.

    Parameters
    ----------
    blocks
        The z-scores and their propagations X, ÂX, ..., each (N, G), float32.
    matrix
        Â, CSR float32 (N, N).
    """

    blocks: list[np.ndarray]
    matrix: sp.csr_matrix


def propagations(adata: ad.AnnData, architecture: Architecture) -> Propagations:
    """Return the propagated z-scores of prepared data.

    Â is D^-1/2 A D^-1/2 with the row degree D for `direction` "ax", its transpose for "atx". As X
    and Â never change, the propagations that the first layer reads are computed once, in advance.

    Parameters
    ----------
    adata
        X holds z-scores (N, G), `views.graph` the binary graph (N, N).
    architecture
        Decides how many propagations there are, and in which direction.
    """
    matrix = normalized_adjacency(views.graph(adata).tocsr()).tocsr().astype(np.float32)
    if architecture.direction == "atx":
        matrix = matrix.T.tocsr()
    matrix.sort_indices()
    exponents = exponents_of(architecture.hops, repeated=architecture.tag_blocks == "repeated")
    blocks = [np.asarray(adata.X, np.float32)]
    for _ in range(max(exponents)):
        blocks.append(matrix @ blocks[-1])
    return Propagations(blocks, matrix)


def graph_tensors(
    adata: ad.AnnData, architecture: Architecture, *, dtype: str = "float32"
) -> GraphTensors:
    """Return the encoder's inputs of prepared data, by `propagations`.

    `dtype` is that of the propagations, and so of the first layer's product.
    """
    made = propagations(adata, architecture)
    rows, cols = views.graph(adata).tocsr().nonzero()
    return GraphTensors(
        propagated=tf.cast(np.concatenate(made.blocks, axis=1), dtype),
        propagation=_sparse_tensor(made.matrix),
        edges=losses.Edges(tf.constant(rows, tf.int32), tf.constant(cols, tf.int32)),
    )


def closeness_of(adjacency: sp.csr_matrix, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return the Jaccard index of the neighbourhoods of pairs of cells, shape (pairs,), float32.

    It is over its 95 % quantile among the pairs, and at most 1: the closest pairs of any graph have
    1. The graph is binary, shape (N, N), the pairs are rows[i], cols[i], by row.
    """
    graph = (adjacency != 0).astype(np.float32)
    turned = graph.T.tocsr()
    common = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), views.EDGES):  # all products would fill the memory
        block = slice(start, start + views.EDGES)
        first, last = rows[block].min(), rows[block].max() + 1
        both = graph[first:last] @ turned
        common[block] = np.asarray(both[rows[block] - first, cols[block]]).ravel()
    degree = np.asarray(graph.sum(axis=1)).ravel()
    index = common / np.maximum(degree[rows] + degree[cols] - common, 1)
    largest = np.quantile(index, 0.95) if len(index) else 1.0
    return np.clip(index / max(largest, 1e-6), 0, 1).astype(np.float32)


def _sparse_tensor(matrix: sp.csr_matrix) -> tf.SparseTensor:
    """Return a CSR matrix as a SparseTensor in row-major order."""
    coo = matrix.tocoo()
    indices = np.stack([coo.row, coo.col], axis=1).astype(np.int64)
    return tf.SparseTensor(indices, coo.data.astype(np.float32), coo.shape)


def training_data(
    adata: ad.AnnData,
    architecture: Architecture,
    objective: Objective,
    *,
    dtype: str = "float32",
    block_bytes: int = CACHE_BYTES,
) -> TrainingData:
    """Return the tensors on which a network is trained, from data that `preprocess` prepared.

    Parameters
    ----------
    adata
        Prepared data.
    architecture, dtype
        See `graph_tensors`.
    objective
        Decides what the count decoder must fit.
    block_bytes
        Bytes that a block's widest array may take on the device.
    """
    graph = graph_tensors(adata, architecture, dtype=dtype)
    make = RECONSTRUCTIONS[objective.reconstruction]
    reconstruction = make(values_of(adata, objective), objective, block_bytes=block_bytes)
    closeness = np.zeros(0, np.float32)
    if objective.graph_loss == "jaccard":
        closeness = closeness_of(views.graph(adata).tocsr(), *map(np.asarray, graph.edges))
    return TrainingData(
        graph,
        reconstruction,
        block_bytes,
        components=tf.zeros([adata.n_obs, 0]),
        batches=tf.constant(batches.one_hot(adata)),
        closeness=tf.constant(closeness),
    )


def scaled_components(features: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return principal components (N, P) that stand beside z, each view of the total variance of z.

    The graph convolution smooths z over neighbours and has D dimensions for all that it must tell
    the decoders; the components keep what it leaves out. Side by side, neither outweighs the other.

    Parameters
    ----------
    features
        Components of each view, the views beside each other, each with total variance 1, shape
        (N, P); see `views.features`.
    z
        Embedding by the pretrained network, whose scale is arbitrary, shape (N, D).
    """
    return (np.sqrt(z.var(axis=0).sum()) * features).astype(np.float32)


def join(z: tf.Tensor, data: Any) -> tf.Tensor:
    """Return what is clustered (N, F): z (N, D) and the data's components beside it."""
    return tf.concat([z, data.components], axis=1)


def points_of(z: np.ndarray, data: Any) -> np.ndarray:
    """Return what is clustered (N, F) as an array; see `join`."""
    return np.concatenate([z, np.asarray(data.components)], axis=1)


# --- What the count decoder must fit --------------------------------------------------------------


class Values(NamedTuple):
    """What the count decoder is fitted to.

    Parameters
    ----------
    matrix
        Counts, CSR, or z-scores, dense, of the shape (N, G).
    size_factor
        Positive factors of the cells, shape (N,); None for z-scores.
    """

    matrix: Any
    size_factor: np.ndarray | None

    def of(self, cells: np.ndarray) -> Values:
        """Return the values of some cells, by their positions."""
        return Values(
            self.matrix[cells], None if self.size_factor is None else self.size_factor[cells]
        )

    def dense(self) -> np.ndarray:
        """Return the counts or z-scores as an array (N, G)."""
        return self.matrix.toarray() if sp.issparse(self.matrix) else self.matrix


def values_of(adata: ad.AnnData, objective: Objective) -> Values:
    """Return what the count decoder must fit of prepared data: counts, or z-scores as published."""
    if objective.reconstruction != "mse" and objective.zinb_target == "counts":
        return Values(adata.layers["counts"], adata.obs["size_factor"].to_numpy())
    return Values(np.asarray(adata.X), None)


class ZINBReconstruction(NamedTuple):
    """The ZINB loss of one data set, as a function of the decoder's heads; see `zinb_nll`."""

    target: likelihoods.ZINBTarget
    clip: str
    block_bytes: int

    def __call__(self, heads: CountHeads) -> tf.Tensor:
        """Return the mean negative log-likelihood in nats."""
        return likelihoods.zinb_nll(
            self.target, *heads, clip=self.clip, block_bytes=self.block_bytes
        )

    def target_of(self, values: Values) -> likelihoods.ZINBTarget:
        """Return the target of other values, as arrays."""
        return likelihoods.zinb_arrays(values.dense(), values.size_factor)


def zinb_reconstruction(
    values: Values, objective: Objective, *, block_bytes: int
) -> ZINBReconstruction:
    """Return the ZINB loss of counts or z-scores."""
    target = likelihoods.zinb_target(values.dense(), values.size_factor)
    return ZINBReconstruction(target, objective.zinb_clip, block_bytes)


class NBReconstruction(ZINBReconstruction):
    """The loss of a negative binomial without zero inflation; see `likelihoods.nb_nll`."""

    def __call__(self, heads: CountHeads) -> tf.Tensor:
        """Return the mean negative log-likelihood in nats."""
        return likelihoods.nb_nll(self.target, *heads, clip=self.clip, block_bytes=self.block_bytes)


def nb_reconstruction(
    values: Values, objective: Objective, *, block_bytes: int
) -> NBReconstruction:
    """Return the loss of a negative binomial, with the options of the ZINB."""
    return NBReconstruction(*zinb_reconstruction(values, objective, block_bytes=block_bytes))


class SquaredError(NamedTuple):
    """The squared error of one data set's z-scores, as a function of the decoder's heads."""

    target: tf.Tensor

    def __call__(self, heads: CountHeads) -> tf.Tensor:
        """Return the mean over all cells and genes; see `mean_square`."""
        return likelihoods.mean_square(self.target, *heads)

    def target_of(self, values: Values) -> np.ndarray:
        """Return the target of other values, as an array."""
        return np.asarray(values.matrix, np.float32)


def mse_reconstruction(values: Values, objective: Objective, *, block_bytes: int) -> SquaredError:
    """Return the squared error of z-scores; no setting changes it."""
    return SquaredError(tf.constant(values.matrix, tf.float32))


RECONSTRUCTIONS: dict[str, Callable[..., Any]] = {
    "zinb": zinb_reconstruction,
    "nb": nb_reconstruction,
    "mse": mse_reconstruction,
}
