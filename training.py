"""The two training phases: pretraining of the autoencoder, then KL clustering.

Letters: N cells, D latent size, F features that are clustered, C clusters. Full batch, one compiled
step for each phase; no function here has a parameter for true labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import losses
from epochs import History, PhaseLog, Watch
from layers import FactoredLogits
from losses import StepLosses
from model import SCTAG, assign_all
from settings import Objective, Training
from snapshots import Keep, PhaseRun, Snapshot, Stepper
from tensors import TrainingData, join
from utils import TrainingError

WINDOW = 25  # epochs over which losses are averaged before they are compared: dropout is noisy
STEADY_UPDATES = 3  # updates of p in a row that must leave the labels alone before clustering stops


class Phase(NamedTuple):
    """The length and the learning rate of one of the two phases.

    The phase has at most `epochs` epochs, and ends when less than the share `tolerance` changes: of
    the loss in pretraining, of the labels in clustering (0: never). The schedule is "constant", or
    "cosine" for a rate that falls to 0 at the last epoch.
    """

    epochs: int
    learning_rate: float
    tolerance: float = 0.0
    schedule: str = "constant"


def phases(training: Training) -> tuple[Phase, Phase]:
    """Return the phase of pretraining and the phase of clustering that the settings ask for."""
    schedule = training.lr_schedule
    return (
        Phase(training.pretrain_epochs, training.pretrain_lr, training.pretrain_tol, schedule),
        Phase(training.maxiter, training.cluster_lr, training.cluster_tol, schedule),
    )


def step_losses(
    network: SCTAG, data: TrainingData, p: tf.Tensor | None, objective: Objective
) -> StepLosses:
    """Return the losses at the network's weights, with input dropout on.

    The total is differentiable in all that can be trained. `p` is the target distribution of the
    clusters (N, C), or None in pretraining; the objective has the weights of the losses in their
    sum and the direction of the KL divergence.
    """
    z = network.encode(data.graph, training=True)
    graph_logits = network.decode_graph(z)
    adj = graph_loss(network, graph_logits, data, objective)
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


def adam(network: SCTAG, phase: Phase, share: float = 1.0) -> keras.optimizers.Optimizer:
    """Return a new Adam optimizer of the weights of the network that can be trained.

    Its rate is a share of that of the phase. A cosine schedule ends at the last epoch that the
    phase allows, so it wants a phase that is not stopped before. Source: Loshchilov and Hutter
    2017, equation 5, without restarts.
    """
    rate = phase.learning_rate * share
    if phase.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, phase.epochs)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(network.trainable_variables)
    return optimizer


def plain_step(
    network: SCTAG,
    data: TrainingData,
    objective: Objective,
    optimizer: keras.optimizers.Optimizer,
) -> Callable[[tf.Tensor | None], tuple[StepLosses, list[tf.Tensor]]]:
    """Return one full-batch step of an optimizer of `adam`, not compiled.

    The step takes the target distribution p (N, C) of the clustering phase, or None before it. It
    updates the weights, and returns the losses before the update and their total's gradient in each
    of the weights that can be trained.
    """
    variables = network.trainable_variables

    def step(p: tf.Tensor | None) -> tuple[StepLosses, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            values_of_losses = step_losses(network, data, p, objective)
        gradients = tape.gradient(values_of_losses.total, [v.value for v in variables])
        optimizer.apply(gradients, variables)
        return values_of_losses, gradients

    return step


def make_step(
    network: SCTAG,
    data: TrainingData,
    objective: Objective,
    optimizer: keras.optimizers.Optimizer,
) -> Callable[[tf.Tensor | None], StepLosses]:
    """Return `plain_step` compiled, without the gradients; both phases are made of it."""
    plain = plain_step(network, data, objective, optimizer)

    @tf.function(jit_compile=True)
    def step(p: tf.Tensor | None) -> StepLosses:
        return plain(p)[0]

    return step


class Pretraining:
    """Pretraining of encoder and decoders on the graph and the counts, from any seed's weights.

    The step is compiled once for all seeds, and each seed begins anew, whatever came before.

    Parameters
    ----------
    network, data, objective
        What is trained, on what, and by which losses.
    phase
        It ends early when the mean total loss of `WINDOW` epochs is less than the share
        `phase.tolerance` below that of the `WINDOW` epochs before.
    quiet
        Whether there is no progress bar.
    watch
        Gets the losses while training runs; see `epochs.tensorboard`.
    """

    def __init__(
        self,
        network: SCTAG,
        data: TrainingData,
        objective: Objective,
        phase: Phase,
        *,
        quiet: bool,
        watch: Watch | None = None,
    ) -> None:
        self.network, self.data, self.objective = network, data, objective
        self.phase, self.quiet, self.watch = phase, quiet, watch
        self.stepper = self._new_stepper(1.0)
        self.fresh = [variable.numpy() for variable in self.stepper.variables]

    def run(self, seed: int, *, start: Snapshot | None = None, keep: Keep | None = None) -> History:
        """Leave the network pretrained from this seed's weights and return its losses.

        Parameters
        ----------
        seed
            Of the weights and the dropout.
        start
            Where an earlier run of the seed had come to; None for the beginning.
        keep
            Gets the snapshots; see `snapshots.PhaseRun`.

        Raises
        ------
        TrainingError
            If a loss is not finite, also at a tenth of the learning rate.
        """
        self.network.restart(seed)
        assign_all(self.stepper.variables, self.fresh)
        phase_log = PhaseLog("pretrain", self.phase.epochs, quiet=self.quiet, watch=self.watch)
        run = PhaseRun(phase_log, self.network, self._stepper_at, keep=keep)
        return run.run(self._reason_to_stop, start=start)

    def _stepper_at(self, rate: float) -> Stepper:
        return self.stepper if rate == 1 else self._new_stepper(rate)

    def _new_stepper(self, rate: float) -> Stepper:
        optimizer = adam(self.network, self.phase, rate)
        step = make_step(self.network, self.data, self.objective, optimizer)
        return Stepper(optimizer, lambda _: step(None))

    def _reason_to_stop(self, history: History) -> str | None:
        tolerance = self.phase.tolerance
        if not tolerance or len(history) % WINDOW or len(history) < 2 * WINDOW:
            return None
        totals = [row["total"] for row in history[-2 * WINDOW :]]
        before, now = np.mean(totals[:WINDOW]), np.mean(totals[WINDOW:])
        gain = (before - now) / abs(before)
        if gain >= tolerance:
            return None
        return f"the loss fell by {gain:.2%} in {WINDOW} epochs, less than {tolerance:.2%}"


def embed(network: SCTAG, data: TrainingData) -> np.ndarray:
    """Return the embedding z (N, D) of every cell, dropout off; TrainingError if not finite."""
    return _finite(network.encode(data.graph, training=False).numpy(), "the embedding")


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    """Return the values if all are finite, else raise TrainingError.

    A step's losses are taken before its update, so none of them tells of the last update.
    """
    if not np.isfinite(values).all():
        raise TrainingError(f"{what} is not finite after training: try a lower learning rate")
    return values


class Clustered(NamedTuple):
    """The end of the clustering phase: labels (N,), q (N, C), a row of losses an epoch."""

    labels: np.ndarray
    q: np.ndarray
    history: History


class _Assignment:
    """The assignment q of the cells to the centres and its target p, refreshed at intervals."""

    def __init__(self, network: SCTAG, data: TrainingData) -> None:
        @tf.function(jit_compile=True)
        def assign() -> tf.Tensor:
            return network.assign(join(network.encode(data.graph, training=False), data))

        self.assign = assign
        self.q: tf.Tensor | None = None
        self.p: tf.Tensor | None = None
        self.changed: list[float] = []  # share of cells with a new label, at each refresh but one

    def refresh(self) -> None:
        """Take q of the present weights, and p of it."""
        before, self.q = self.q, self.assign()
        self.p = losses.target_distribution(self.q)
        if before is not None:
            moved = np.argmax(before, axis=1) != np.argmax(self.q, axis=1)
            self.changed.append(float(np.mean(moved)))

    def reason_to_stop(self, tolerance: float) -> str | None:
        """Return why the phase may stop: the labels have settled, or None."""
        last = self.changed[-STEADY_UPDATES:]
        if len(last) < STEADY_UPDATES or max(last) >= tolerance:
            return None
        return (
            f"at each of the last {STEADY_UPDATES} updates of p less than {tolerance:.2%} of the "
            "cells changed cluster"
        )


def cluster(
    network: SCTAG,
    data: TrainingData,
    objective: Objective,
    training: Training,
    *,
    quiet: bool,
    watch: Watch | None = None,
    start: Snapshot | None = None,
    keep: Keep | None = None,
) -> Clustered:
    """Sharpen the clusters, from centres that are already placed.

    The phase ends early when the labels have settled: at `STEADY_UPDATES` refreshes of p in a row
    less than the share `cluster_tol` of the cells has changed its label (the stopping rule of DEC
    and scDeepCluster, made patient). Without epochs (`maxiter` 0) nothing changes.

    Parameters
    ----------
    network, data, objective
        What is trained, on what, and by which losses.
    training
        Length and rate of the phase; how often p is refreshed; whether the labels come from the q
        of the final weights, or of the last refresh (epoch 296 of 300 by default, as published).
    quiet
        Whether there is no progress bar.
    watch
        Gets the losses while training runs; see `epochs.tensorboard`.
    start, keep
        Where an earlier run had come to, and what gets the snapshots; see `snapshots.PhaseRun`.

    Raises
    ------
    TrainingError
        If a loss is not finite, also at a tenth of the learning rate, or the assignment is not.
    """
    phase = phases(training)[1]
    assignment = _Assignment(network, data)

    def stepper_at(rate: float) -> Stepper:
        optimizer = adam(network, phase, rate)
        step = make_step(network, data, objective, optimizer)

        def one_epoch(epoch: int) -> StepLosses:
            if (epoch - 1) % training.update_interval == 0:
                assignment.refresh()
            return step(assignment.p)

        return Stepper(optimizer, one_epoch)

    def reason_to_stop(_: History) -> str | None:
        return assignment.reason_to_stop(phase.tolerance)

    phase_log = PhaseLog("cluster", phase.epochs, quiet=quiet, watch=watch)
    run = PhaseRun(phase_log, network, stepper_at, targets=assignment, keep=keep)
    history = run.run(reason_to_stop, start=start)
    q = _finite(assignment.assign().numpy(), "the assignment")
    if training.final_labels == "refresh" and assignment.q is not None:
        q = assignment.q.numpy()
    return Clustered(labels=q.argmax(axis=1), q=q, history=history)
