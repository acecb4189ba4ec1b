"""One step of training, and what all cells get at its weights, on the whole graph at once.

`subgraphs.py` has the same of a few parts of the graph. Letters: N cells, D latent size, C
clusters. No function here has a parameter for true labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import losses
from layers import FactoredLogits
from losses import StepLosses
from model import SCTAG
from settings import Objective
from tensors import TrainingData, join

# Takes the step of an epoch, counted from 1, towards the target distribution p (N, C) of the
# clustering phase, or with None before it; returns the losses that its gradient was taken of.
Step = Callable[[int, "tf.Tensor | None"], StepLosses]


def step_losses(
    network: SCTAG, data: TrainingData, p: tf.Tensor | None, objective: Objective
) -> StepLosses:
    """Return the losses at the network's weights, with input dropout on.

    The total is differentiable in all that can be trained. `p` is the target distribution of the
    clusters (N, C), or None in pretraining; the objective has the weights of the losses in their
    sum and the direction of the KL divergence.
    """
    z = network.encode(data.graph, training=True)
    adj = graph_loss(network, network.decode_graph(z), data, objective)
    return losses_of(network, z, adj, data, p, objective)


def losses_of(
    network: SCTAG,
    z: tf.Tensor,
    adj: tf.Tensor,
    data: Any,
    p: tf.Tensor | None,
    objective: Objective,
) -> StepLosses:
    """Return all losses of cells, of their embedding and of the loss of their graph.

    `data` has the reconstruction, the batches and the components of these cells.
    """
    zinb = data.reconstruction(network.decode_counts(z, data.batches))
    divergence = tf.constant(0.0)
    if p is not None:
        q = network.assign(join(z, data))
        divergence = losses.kl_divergence(p, q, direction=objective.kl)
    total = objective.w_adj * adj + objective.w_zinb * zinb + objective.w_kl * divergence
    return StepLosses(total=total, adj=adj, zinb=zinb, kl=divergence)


def graph_loss(
    network: SCTAG, logits: FactoredLogits, data: TrainingData, objective: Objective
) -> tf.Tensor:
    """Return the loss of the graph decoder that the objective names, a scalar.

    The random pairs of "jaccard" are new at each step; they follow the network's seed.
    """
    if objective.graph_loss == "mse":
        return losses.adjacency_mse(*logits, data.graph.edges, block_bytes=data.block_bytes)
    others = tf.random.stateless_uniform(
        data.closeness.shape,
        tf.cast(network.input_dropout.seed_generator.next(), tf.int32),
        maxval=logits.left.shape[0],
        dtype=tf.int32,
        alg="philox",
    )
    return losses.edge_cross_entropy(*logits, data.graph.edges, data.closeness, others)


class Taken(NamedTuple):
    """What a step has computed: its losses before the update, what else its cells have, gradients.

    The gradients are those of the total loss in each of the weights that can be trained.
    """

    losses: StepLosses
    messages: list[tf.Tensor]
    gradients: list[tf.Tensor]


def take_step(
    network: SCTAG,
    optimizer: keras.optimizers.Optimizer,
    compute: Callable[[], tuple[StepLosses, list[tf.Tensor]]],
) -> Taken:
    """Move the weights down the gradient of the total loss; return what was computed for it.

    `compute` returns the losses, and what else comes of their computation.
    """
    variables = network.trainable_variables
    with tf.GradientTape() as tape:
        computed, messages = compute()
    gradients = tape.gradient(computed.total, [v.value for v in variables])
    optimizer.apply(gradients, variables)
    return Taken(computed, messages, gradients)


def plain_step(
    network: SCTAG,
    data: TrainingData,
    objective: Objective,
    optimizer: keras.optimizers.Optimizer,
) -> Callable[[tf.Tensor | None], Taken]:
    """Return one full-batch step of an optimizer of `training.adam`, not compiled.

    The step takes the target distribution p (N, C) of the clustering phase, or None before it.
    """

    def step(p: tf.Tensor | None) -> Taken:
        return take_step(network, optimizer, lambda: (step_losses(network, data, p, objective), []))

    return step


def make_step(
    network: SCTAG,
    data: TrainingData,
    objective: Objective,
    optimizer: keras.optimizers.Optimizer,
) -> Callable[[tf.Tensor | None], StepLosses]:
    """Return `plain_step` compiled, its losses alone; both phases are made of it."""
    plain = plain_step(network, data, objective, optimizer)

    @tf.function(jit_compile=True, autograph=False)
    def step(p: tf.Tensor | None) -> StepLosses:
        return plain(p).losses

    return step


class WholeGraph:
    """Steps of all cells, and the embedding and the assignment of all cells at once."""

    steps_of_pass = 1

    def __init__(self, network: SCTAG, data: TrainingData) -> None:
        @tf.function(jit_compile=True, autograph=False)
        def assign() -> tf.Tensor:
            return network.assign(join(network.encode(data.graph, training=False), data))

        self.network, self.data, self.assign = network, data, assign
        self.remembered: list[tf.Variable] = []

    def begin(self) -> None:
        """Do nothing: no step depends on what another one has left but the weights."""

    def close(self) -> None:
        """Do nothing: nothing is gathered for steps to come."""

    def make_step(self, objective: Objective, optimizer: keras.optimizers.Optimizer) -> Step:
        """Return a compiled step of an optimizer of `training.adam`."""
        step = make_step(self.network, self.data, objective, optimizer)
        return lambda _, p: step(p)

    def encode(self) -> np.ndarray:
        """Return the embedding z (N, D) of every cell, dropout off."""
        return self.network.encode(self.data.graph, training=False).numpy()
