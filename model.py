"""SCTAG: the layers joined, from the cell graph to the embedding and from it to three outputs.

Letters: N cells, G genes, D latent size, C clusters. One road to the embedding, `encode`, serves
pretraining, initialisation, clustering and prediction alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import keras
import numpy as np
import scipy.sparse as sp
import tensorflow as tf
from spektral.utils import normalized_adjacency

import losses
from layers import AdjacencyDecoder, FactoredLogits, InputDropout, SoftAssignment, TAGConv

WEIGHTS_FILE = "model.weights.h5"
ARCHITECTURE_FILE = "model.json"


class CountHeads(NamedTuple):
    """The last linear layer of the count decoder, not yet multiplied out.

    hidden: (N, H); kernel: (H, 3G) and bias: (3G,) of the heads log mean, raw dispersion and logit
    of pi, side by side.
    """

    hidden: tf.Tensor
    kernel: tf.Tensor
    bias: tf.Tensor


class NetworkState(NamedTuple):
    """What a network is at a moment: its seed, and the values of all variables in their order.

    They are the weights, and where the dropout is in its random numbers.
    """

    seed: int
    values: list[np.ndarray]


class GraphTensors(NamedTuple):
    """The constant inputs of the network.

    blocks: (N, B G) the input and its propagations [X, PX, ...]; propagation: sparse P (N, N);
    edges: the ones of the adjacency matrix.
    """

    blocks: tf.Tensor
    propagation: tf.SparseTensor
    edges: losses.Edges


def graph_tensors(
    adata: ad.AnnData, *, n_propagations: int, direction: str, dtype: str = "float32"
) -> GraphTensors:
    """The one place where the prepared data become tensors of the encoder.

    adata: X (N, G) scaled input, obsp["connectivities"] binary CSR (N, N). P = D^-1/2 A D^-1/2 with
    the row degree D for `direction` "ax", its transpose for "atx". As X and P never change, the
    propagations of the first layer are computed here, once. dtype: of the blocks, and so of the
    first layer's products.
    """
    adjacency = adata.obsp["connectivities"].tocsr()
    propagation = normalized_adjacency(adjacency).tocsr().astype(np.float32)
    if direction == "atx":
        propagation = propagation.T.tocsr()
    propagation.sort_indices()
    blocks = [np.asarray(adata.X, np.float32)]
    for _ in range(n_propagations):
        blocks.append(propagation @ blocks[-1])
    rows, cols = adjacency.nonzero()
    return GraphTensors(
        blocks=tf.cast(np.concatenate(blocks, axis=1), dtype),
        propagation=_sparse_tensor(propagation),
        edges=losses.Edges(tf.constant(rows, tf.int32), tf.constant(cols, tf.int32)),
    )


def _sparse_tensor(matrix: sp.csr_matrix) -> tf.SparseTensor:
    """A CSR matrix as a SparseTensor in row-major order."""
    coo = matrix.tocoo()
    indices = np.stack([coo.row, coo.col], axis=1).astype(np.int64)
    return tf.SparseTensor(indices, coo.data.astype(np.float32), coo.shape)


class SCTAG(keras.Model):
    """The scTAG network (Yu et al. 2022), every weight created at once for G genes.

    The centres come later, by `place_centers`: only the embedding tells where, and how many, they
    are. hidden_dim, latent_dim: channels of the two TAGConvs; decoder_dims: hidden layers of the
    count decoder; hops, repeated: see `layers.TAGConv`; dropout: rate on the (propagated) input,
    one mask entry for each cell, hop and gene; seed: of every initial weight and of the dropout;
    precision: "float32", or "mixed_bfloat16" for bfloat16 products in the first graph convolution
    and in the count decoder (weights, embedding and losses stay float32).
    """

    def __init__(
        self,
        *,
        n_genes: int,
        hidden_dim: int,
        latent_dim: int,
        decoder_dims: list[int],
        hops: int,
        repeated: bool,
        dropout: float,
        seed: int,
        precision: str = "float32",
    ) -> None:
        super().__init__(name="sctag")
        self.architecture = {
            "n_genes": n_genes,
            "hidden_dim": hidden_dim,
            "latent_dim": latent_dim,
            "decoder_dims": list(decoder_dims),
            "hops": hops,
            "repeated": repeated,
            "dropout": dropout,
            "seed": seed,
            "precision": precision,
        }
        seeds = keras.random.SeedGenerator(seed)
        glorot = keras.initializers.GlorotUniform(seed=seeds)

        def dense(units: int, name: str, activation: str | None = None) -> keras.layers.Dense:
            return keras.layers.Dense(
                units, activation, kernel_initializer=glorot, name=name, dtype=precision
            )

        def tag(channels: int, name: str, activation: str | None = None) -> TAGConv:
            return TAGConv(
                channels,
                hops=hops,
                repeated=repeated,
                activation=activation,
                kernel_initializer=glorot,
                name=name,
            )

        self.input_dropout = InputDropout(dropout, seed=seed)
        self.encoder_1 = tag(hidden_dim, "encoder_1", "relu")
        self.encoder_2 = tag(latent_dim, "encoder_2")
        self.graph_decoder = AdjacencyDecoder(kernel_initializer=glorot, name="graph_decoder")
        self.count_decoder = [
            dense(units, f"count_decoder_{i}", "relu") for i, units in enumerate(decoder_dims, 1)
        ]
        self.heads = [dense(n_genes, name) for name in ("mean", "dispersion", "pi")]
        self._build_layers(n_genes, hidden_dim, latent_dim, decoder_dims)

    def _build_layers(self, n_genes, hidden_dim, latent_dim, decoder_dims) -> None:
        """Create every weight now, in one order: the seed decides them, not the first call."""
        self.encoder_1.build([(None, n_genes), (None, None)])
        self.encoder_2.build([(None, hidden_dim), (None, None)])
        self.graph_decoder.build((None, latent_dim))
        width = latent_dim
        for layer, units in zip(self.count_decoder, decoder_dims, strict=True):
            layer.build((None, width))
            width = units
        for head in self.heads:
            head.build((None, width))
        self.built = True

    def place_centers(self, centers: np.ndarray, *, trainable: bool) -> None:
        """Start the clustering phase from centers (C, F); `trainable` as opposed to frozen.

        F: of what is clustered, the D dimensions of z or, with components beside it, more.
        """
        self.assignment = SoftAssignment(len(centers), trainable=trainable, name="assignment")
        self.assignment.build((None, centers.shape[1]))
        self.assignment.centers.assign(centers)

    def state(self) -> NetworkState:
        """A copy of all that training changes."""
        return NetworkState(self.architecture["seed"], [v.numpy() for v in self.variables])

    def restore(self, state: NetworkState) -> None:
        """Go back to what `state` returned; compiled steps stay valid. Not past `place_centers`."""
        self.architecture["seed"] = state.seed
        for variable, value in zip(self.variables, state.values, strict=True):
            variable.assign(value)

    def restart(self, seed: int) -> None:
        """Become the network that this seed begins with. Not after `place_centers`."""
        self.restore(SCTAG(**(self.architecture | {"seed": seed})).state())

    @property
    def product_dtype(self) -> str:
        """Of the large products: "float32" or "bfloat16"."""
        return self.heads[0].compute_dtype

    @property
    def n_propagations(self) -> int:
        """How many propagations of X the first layer reads besides X itself."""
        return max(self.encoder_1.exponents)

    def encode(self, graph: GraphTensors, *, training: bool) -> tf.Tensor:
        """The embedding z (N, D); `training` switches the input dropout on."""
        blocks = self.input_dropout(graph.blocks, training=training)
        hidden = self.encoder_1.call_on_blocks(blocks)  # (N, hidden_dim)
        return self.encoder_2([hidden, graph.propagation])

    def decode_graph(self, z: tf.Tensor) -> FactoredLogits:
        """Logits of the N x N graph as two factors (N, D + 1), from z (N, D)."""
        return self.graph_decoder(z)

    def decode_counts(self, z: tf.Tensor) -> CountHeads:
        """What the ZINB's three heads are made of, from z (N, D); see `losses.zinb_nll`."""
        hidden = tf.cast(z, self.product_dtype)
        for layer in self.count_decoder:
            hidden = layer(hidden)
        return CountHeads(
            hidden=hidden,
            kernel=tf.concat([head.kernel for head in self.heads], axis=1),
            bias=tf.concat([head.bias for head in self.heads], axis=0),
        )

    def assign(self, points: tf.Tensor) -> tf.Tensor:
        """Soft assignment q (N, C) of points (N, F) to the centres, once they are placed."""
        return self.assignment(points)

    def save(self, directory: Path) -> None:
        """Write weights and what is needed to rebuild the network into an existing directory."""
        architecture = self.architecture | {"centers": list(self.assignment.centers.shape)}
        (directory / ARCHITECTURE_FILE).write_text(json.dumps(architecture, indent=2) + "\n")
        self.save_weights(directory / WEIGHTS_FILE)


def load(directory: Path) -> SCTAG:
    """The network that `SCTAG.save` wrote; encodes the run's own prepared data to the same z."""
    architecture: dict[str, Any] = json.loads((directory / ARCHITECTURE_FILE).read_text())
    centers = np.zeros(architecture.pop("centers"))
    network = SCTAG(**architecture)
    network.place_centers(centers, trainable=True)
    network.load_weights(directory / WEIGHTS_FILE)
    return network
