"""The scTAG network: the layers joined, from the cell graph to the embedding and to three outputs.

Letters: N cells, G genes, B batches, D latent size, C clusters, F features that are clustered. One
road to the embedding, `encode`, serves pretraining, initialisation, clustering and prediction.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import likelihoods
import supervise
from formats import bounds
from layers import (
    AdjacencyDecoder,
    CountHeads,
    FactoredLogits,
    InputDropout,
    SoftAssignment,
    TAGConv,
)
from settings import Architecture
from tensors import GraphTensors

WEIGHTS_FILE = "model.weights.h5"
BLOCK_CELLS = 4096  # whose counts are decoded at a time
HDF5_BYTES = 2**18  # that a file of weights has beside them, at most
ARCHITECTURE_FILE = "model.json"


class NetworkState(NamedTuple):
    """The state of a network: its seed, and the values of all its variables in their order.

    The variables are the weights, and where the dropout is in its random numbers.
    """

    seed: int
    values: list[np.ndarray]


class ExpectedCounts(NamedTuple):
    """What the count decoder expects of each cell and gene, both of shape (N, G).

    Parameters
    ----------
    mean
        Mean of the negative binomial for a cell of the median depth, without zero inflation.
    pi
        Probability that a count is lost, and a zero stands in its place.
    """

    mean: np.ndarray
    pi: np.ndarray


class SCTAG(keras.Model):
    """The scTAG network (Yu et al. 2022), with every weight created at once.

    The cluster centres come later, by `place_centers`: only the embedding tells where, and how
    many, they are.

    Parameters
    ----------
    architecture
        Shape of the network, with `hops` and `tag_blocks` as in `layers.TAGConv`. Dropout acts on
        the propagated input, with one entry of its mask for each cell, hop and gene. With
        "mixed_bfloat16" the products of the first graph convolution and of the count decoder are
        made in bfloat16; weights, embedding and losses stay float32.
    n_genes
        G, the number of genes.
    seed
        Decides every initial weight and the dropout.
    n_batches
        B, the number of batches that the count decoder tells apart; 0 for data without batches.
    """

    def __init__(
        self, architecture: Architecture, *, n_genes: int, seed: int, n_batches: int = 0
    ) -> None:
        super().__init__(name="sctag")
        self.architecture = part_of(architecture)
        self.n_genes, self.n_batches, self.seed = n_genes, n_batches, seed
        seeds = keras.random.SeedGenerator(seed)
        glorot = keras.initializers.GlorotUniform(seed=seeds)

        def dense(units: int, name: str, activation: str | None = None) -> keras.layers.Dense:
            return keras.layers.Dense(
                units,
                activation,
                kernel_initializer=glorot,
                name=name,
                dtype=architecture.precision,
            )

        def tag(channels: int, name: str, activation: str | None = None) -> TAGConv:
            return TAGConv(
                channels,
                hops=architecture.hops,
                repeated=architecture.tag_blocks == "repeated",
                activation=activation,
                kernel_initializer=glorot,
                name=name,
            )

        self.input_dropout = InputDropout(architecture.dropout, seed=seed)
        self.encoder_1 = tag(architecture.hidden_dim, "encoder_1", "relu")
        self.encoder_2 = tag(architecture.latent_dim, "encoder_2")
        self.graph_decoder = AdjacencyDecoder(kernel_initializer=glorot, name="graph_decoder")
        self.count_decoder = [
            dense(units, f"count_decoder_{i}", "relu")
            for i, units in enumerate(architecture.decoder_dims, 1)
        ]
        self.heads = [dense(n_genes, name) for name in ("mean", "dispersion", "pi")]
        self._build_layers()

    def _build_layers(self) -> None:
        """Create every weight now, in one order: the seed decides them, not the first call."""
        self.encoder_1.build([(None, self.n_genes), (None, None)])
        self.encoder_2.build([(None, self.architecture.hidden_dim), (None, None)])
        width = self.architecture.latent_dim
        self.graph_decoder.build((None, width))
        width += self.n_batches
        for layer, units in zip(self.count_decoder, self.architecture.decoder_dims, strict=True):
            layer.build((None, width))
            width = units
        for head in self.heads:
            head.build((None, width))
        self.built = True

    def place_centers(self, centers: np.ndarray, *, trainable: bool) -> None:
        """Place the cluster centres from which the clustering phase starts.

        Parameters
        ----------
        centers
            Shape (C, F): F is D, or more where components are clustered beside z.
        trainable
            Whether the centres are trained, as opposed to frozen.
        """
        self.assignment = SoftAssignment(len(centers), trainable=trainable, name="assignment")
        self.assignment.build((None, centers.shape[1]))
        self.assignment.centers.assign(centers)

    def state(self) -> NetworkState:
        """Return a copy of all that training changes."""
        return NetworkState(self.seed, [variable.numpy() for variable in self.variables])

    def restore(self, state: NetworkState) -> None:
        """Go back to a state that `state` returned; compiled steps stay valid.

        Not to be called after `place_centers`, which adds a variable.
        """
        self.seed = state.seed
        assign_all(self.variables, state.values)

    def restart(self, seed: int) -> None:
        """Become the network that a seed begins with. Not to be called after `place_centers`."""
        sizes = {"n_genes": self.n_genes, "n_batches": self.n_batches}
        self.restore(SCTAG(self.architecture, **sizes, seed=seed).state())

    @property
    def product_dtype(self) -> str:
        """The dtype of the large products: "float32" or "bfloat16"."""
        return self.heads[0].compute_dtype

    def encode(self, graph: GraphTensors, *, training: bool) -> tf.Tensor:
        """Return the embedding z (N, D); `training` switches the input dropout on."""
        propagated = self.input_dropout(graph.propagated, training=training)
        hidden = self.encoder_1.call_on_propagated(propagated)  # (N, hidden_dim)
        return self.encoder_2([hidden, graph.propagation])

    def decode_graph(self, z: tf.Tensor) -> FactoredLogits:
        """Return the logits of the N x N graph as two factors (N, D + 1), from z (N, D)."""
        return self.graph_decoder(z)

    def decode_counts(self, z: tf.Tensor, batches: tf.Tensor | None = None) -> CountHeads:
        """Return what the three heads of the count decoder are made of.

        It reads z (N, D) and, beside it, a column of ones and zeros for each batch (N, B), if the
        network was made for data with batches. So z need not say what only tells batches apart.
        """
        inputs = z if batches is None else tf.concat([z, batches], axis=1)  # (N, D + B)
        hidden = tf.cast(inputs, self.product_dtype)
        for layer in self.count_decoder:
            hidden = layer(hidden)
        return CountHeads(
            hidden=hidden,
            kernel=tf.concat([head.kernel for head in self.heads], axis=1),
            bias=tf.concat([head.bias for head in self.heads], axis=0),
        )

    def expected_counts(self, z: np.ndarray, batches: np.ndarray) -> ExpectedCounts:
        """Return what the count decoder expects, computed in blocks of `BLOCK_CELLS` cells.

        Parameters
        ----------
        z
            Embedding, shape (N, D).
        batches
            A column for each batch with ones for its cells, shape (N, B).
        """
        parts = []
        for start in range(0, len(z), BLOCK_CELLS):
            rows = slice(start, start + BLOCK_CELLS)
            heads = self.decode_counts(tf.constant(z[rows]), tf.constant(batches[rows]))
            output = tf.cast(heads.hidden @ tf.cast(heads.kernel, heads.hidden.dtype), tf.float32)
            log_mean, _, pi = tf.split(output + heads.bias, 3, axis=1)
            mean = tf.exp(tf.clip_by_value(log_mean, *likelihoods.LOG_MEAN_RANGE))
            parts.append((mean.numpy(), tf.sigmoid(pi).numpy()))
        return ExpectedCounts(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def assign(self, points: tf.Tensor) -> tf.Tensor:
        """Return the soft assignment q (N, C) of points (N, F) to the centres, once placed."""
        return self.assignment(points)

    def save(self, folder: Path) -> None:
        """Write the weights and what is needed to rebuild the network into an existing folder.

        Raises OSError if the disk is full or fails. Room for the weights is taken beforehand:
        where a file of HDF5 cannot be closed, the whole process may break off.
        """
        description: dict[str, Any] = dataclasses.asdict(self.architecture)
        description |= {"n_genes": self.n_genes, "n_batches": self.n_batches, "seed": self.seed}
        description["centers"] = list(self.assignment.centers.shape)
        (folder / ARCHITECTURE_FILE).write_text(json.dumps(description, indent=2) + "\n")
        size = sum(4 * int(np.prod(variable.shape)) for variable in self.variables)
        with open(folder / WEIGHTS_FILE, "wb") as file:
            file.write(bytes(size + HDF5_BYTES))
        self.save_weights(folder / WEIGHTS_FILE)


def assign_all(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Give each variable its value; ValueError if there are more of either."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def part_of(architecture: Architecture) -> Architecture:
    """Return the settings of the architecture alone, of a run's settings."""
    names = [field.name for field in dataclasses.fields(Architecture)]
    return Architecture(**{name: getattr(architecture, name) for name in names})


def load(folder: Path) -> SCTAG:
    """Return the network that `SCTAG.save` wrote; it encodes the run's own prepared data to z."""
    description: dict[str, Any] = json.loads((folder / ARCHITECTURE_FILE).read_text())
    centers = np.zeros(description.pop("centers"))
    n_batches = description.pop("n_batches", 0)  # networks of earlier versions knew none
    n_genes, seed = description.pop("n_genes"), description.pop("seed")
    network = SCTAG(Architecture(**description), n_genes=n_genes, n_batches=n_batches, seed=seed)
    network.place_centers(centers, trainable=True)
    weights = folder / WEIGHTS_FILE
    with supervise.reading(weights):
        bounds.check_hdf5(weights)
        network.load_weights(weights)
    return network
