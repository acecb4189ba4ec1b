"""The two training phases: pretraining of the autoencoder, then KL clustering.

Letters: N cells, D latent size, F features that are clustered, C clusters. One compiled step for
each phase, of all cells (`whole_graph.py`) or of a few parts of a large graph (`subgraphs.py`); an
epoch is one such step. No function here has a parameter for true labels.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import losses
from arrays import PartedData
from distributed import SharedSubGraphs
from epochs import CHECK_EVERY, History, PhaseLog, Watch
from losses import StepLosses
from model import SCTAG, assign_all
from settings import Objective, Training
from snapshots import Keep, PhaseRun, Snapshot, Stepper
from subgraphs import SubGraphs
from tensors import TrainingData
from utils import TrainingError
from whole_graph import WholeGraph

Data = TrainingData | PartedData  # of steps of all cells, or of sub-graphs

WINDOW = 25  # epochs over which losses are averaged before they are compared: dropout is noisy
UPDATES_OF_PASS = 4  # of p, at most: each takes q of all cells
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


def road_of(network: SCTAG, data: Data) -> WholeGraph | SubGraphs:
    """Return what takes steps on the data and encodes all cells: at once, or by sub-graphs.

    Where the data have a strategy its devices share the steps.
    """
    if not isinstance(data, PartedData):
        return WholeGraph(network, data)
    return SubGraphs(network, data) if data.strategy is None else SharedSubGraphs(network, data)


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


class Pretraining:
    """Pretraining of encoder and decoders on the graph and the counts, from any seed's weights.

    The step is compiled once for all seeds, and each seed begins anew, whatever came before.

    Parameters
    ----------
    network, data, objective
        What is trained, on what, and by which losses.
    phase
        It ends early when the mean total loss of `WINDOW` epochs, or of a pass if that has more, is
        less than the share `phase.tolerance` below that of as many epochs before.
    quiet
        Whether there is no progress bar.
    watch
        Gets the losses while training runs; see `epochs.tensorboard`.
    """

    def __init__(
        self,
        network: SCTAG,
        data: Data,
        objective: Objective,
        phase: Phase,
        *,
        quiet: bool,
        watch: Watch | None = None,
    ) -> None:
        self.network, self.road, self.objective = network, road_of(network, data), objective
        self.phase, self.quiet, self.watch = phase, quiet, watch
        # A window of steps of sub-graphs has a pass at least.
        passed = -(-self.road.steps_of_pass // CHECK_EVERY) * CHECK_EVERY
        self.window = max(WINDOW, passed)
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
        self.road.begin()
        phase_log = PhaseLog("pretrain", self.phase.epochs, quiet=self.quiet, watch=self.watch)
        run = PhaseRun(phase_log, self.network, self._stepper_at, keep=keep)
        with contextlib.closing(self.road):
            return run.run(self._reason_to_stop, start=start)

    def _stepper_at(self, rate: float) -> Stepper:
        return self.stepper if rate == 1 else self._new_stepper(rate)

    def _new_stepper(self, rate: float) -> Stepper:
        optimizer = adam(self.network, self.phase, rate)
        step = self.road.make_step(self.objective, optimizer)
        return Stepper(optimizer, lambda epoch: step(epoch, None), self.road.remembered)

    def _reason_to_stop(self, history: History) -> str | None:
        tolerance, window = self.phase.tolerance, self.window
        if not tolerance or len(history) % window or len(history) < 2 * window:
            return None
        totals = [row["total"] for row in history[-2 * window :]]
        before, now = np.mean(totals[:window]), np.mean(totals[window:])
        gain = (before - now) / abs(before)
        if gain >= tolerance:
            return None
        return f"the loss fell by {gain:.2%} in {window} epochs, less than {tolerance:.2%}"


def embed(network: SCTAG, data: Data) -> np.ndarray:
    """Return the embedding z (N, D) of every cell, dropout off; TrainingError if not finite."""
    return _finite(road_of(network, data).encode(), "the embedding")


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

    def __init__(self, road: WholeGraph | SubGraphs) -> None:
        self.assign = road.assign
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
    data: Data,
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
    less than the share `cluster_tol` of the cells, times the root of the steps of a pass, has
    changed its label (the stopping rule of DEC and scDeepCluster, made patient). Without epochs
    (`maxiter` 0) nothing changes.

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
    phase, road = phases(training)[1], road_of(network, data)
    assignment = _Assignment(road)
    interval = max(training.update_interval, -(-road.steps_of_pass // UPDATES_OF_PASS))
    # The gradient of a part of the cells is noisier by this root, and so are the labels.
    tolerance = phase.tolerance * float(np.sqrt(road.steps_of_pass))

    def stepper_at(rate: float) -> Stepper:
        optimizer = adam(network, phase, rate)
        step = road.make_step(objective, optimizer)

        def one_epoch(epoch: int) -> StepLosses:
            if (epoch - 1) % interval == 0:
                assignment.refresh()
            return step(epoch, assignment.p)

        return Stepper(optimizer, one_epoch, road.remembered)

    def reason_to_stop(_: History) -> str | None:
        return assignment.reason_to_stop(tolerance)

    phase_log = PhaseLog("cluster", phase.epochs, quiet=quiet, watch=watch)
    run = PhaseRun(phase_log, network, stepper_at, targets=assignment, keep=keep)
    with contextlib.closing(road):
        history = run.run(reason_to_stop, start=start)
    q = _finite(assignment.assign().numpy(), "the assignment")
    if training.final_labels == "refresh" and assignment.q is not None:
        q = assignment.q.numpy()
    return Clustered(labels=q.argmax(axis=1), q=q, history=history)
