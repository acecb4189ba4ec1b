"""A phase of training that can go back to the state after an epoch, in memory or from a file.

At every look at the losses the state is copied. If a loss is no longer finite the phase goes back
to the last copy and on from there at a lower rate; `checkpoints.py` writes copies to disk.
Letters: N cells, C clusters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from epochs import History, NotFiniteError, PhaseLog, run_epochs
from losses import StepLosses
from model import SCTAG, assign_all
from utils import TrainingError

log = logging.getLogger("sctag")

LOWERED = 0.1  # share of the learning rate that is left after a loss that is not finite


class Snapshot(NamedTuple):
    """All that the epochs of a phase to come depend on, after one of its epochs.

    Parameters
    ----------
    phase, epoch
        The name of the phase, and the last epoch that is in the state; 0 before the first.
    rate
        The share of the learning rate at which the phase goes on: 1, or `LOWERED`.
    history
        A row of losses for each epoch of the phase so far.
    network, optimizer
        The values of their variables, in their order; among the network's are its dropout's random
        numbers, after the optimizer's are the messages that steps of sub-graphs remember.
    assignment
        Of the clustering phase q and p, each (N, C), once they are there.
    changed
        Of the clustering phase the share of cells with a new label, at each update of p but one.
    """

    phase: str
    epoch: int
    rate: float
    history: History
    network: list[np.ndarray]
    optimizer: list[np.ndarray]
    assignment: list[np.ndarray]
    changed: list[float]


Keep = Callable[[Snapshot], None]  # gets the snapshot of each look at the losses


class Targets(Protocol):
    """What the clustering phase carries from epoch to epoch beside the weights."""

    q: Any  # a tensor, or None as long as there is none
    p: Any
    changed: list[float]


class Stepper(NamedTuple):
    """An optimizer of the network, and what takes its step at an epoch and returns the losses.

    `remembered` is what steps of sub-graphs leave for others; see `subgraphs.SubGraphs`.
    """

    optimizer: keras.optimizers.Optimizer
    one_epoch: Callable[[int], StepLosses]
    remembered: list[tf.Variable]

    @property
    def variables(self) -> list[keras.Variable | tf.Variable]:
        """What is remembered, and the variables of the optimizer but its rate, the stepper's."""
        of_optimizer = [v for v in self.optimizer.variables if v.name != "learning_rate"]
        return [*of_optimizer, *self.remembered]


class PhaseRun:
    """A phase of training that can go back to a snapshot, or on from one.

    Parameters
    ----------
    phase_log
        Gets the losses.
    network
        What is trained.
    stepper_at
        Returns a new stepper, at a share of the phase's learning rate.
    targets
        Of the clustering phase, whose attributes are set when the phase goes back.
    keep
        Is called with each snapshot: one before the first epoch, one at each look at the losses.
    """

    def __init__(
        self,
        phase_log: PhaseLog,
        network: SCTAG,
        stepper_at: Callable[[float], Stepper],
        *,
        targets: Targets | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.phase_log, self.network, self.stepper_at = phase_log, network, stepper_at
        self.targets, self.keep = targets, keep
        self.rate, self.stepper = 1.0, stepper_at(1.0)
        self.last: Snapshot  # taken where the phase begins, or the one from which it goes on

    def run(
        self, reason_to_stop: Callable[[History], str | None], *, start: Snapshot | None = None
    ) -> History:
        """Run the phase from its first epoch, or on from a snapshot, and return its history.

        A loss or a weight that is not finite sends the phase back to the last snapshot, once, and
        on at a tenth of the learning rate. A phase that goes on from a snapshot ends with the bits
        with which it ends without a break.

        Parameters
        ----------
        reason_to_stop
            Reads the history at each look at the losses; returns why the phase may stop, or None.
        start
            The snapshot from which the phase goes on; None for its beginning.

        Raises
        ------
        TrainingError
            If a loss or a weight is not finite again.
        """
        if start is None:
            self._look(0)
        else:
            self._go_to(start)
        while True:
            try:
                return run_epochs(self.phase_log, self._one_epoch, reason_to_stop, self._look)
            except NotFiniteError as failure:
                self._lower_rate(failure)

    def _one_epoch(self, epoch: int) -> StepLosses:
        return self.stepper.one_epoch(epoch)

    def _look(self, epoch: int) -> None:
        """Take a snapshot after an epoch whose losses are finite."""
        self.last = self._taken(epoch)
        if self.keep is not None:
            self.keep(self.last)

    def _lower_rate(self, failure: NotFiniteError) -> None:
        """Go back to the last snapshot, and on at a lower rate; TrainingError where it is that."""
        last = self.last
        if last.rate < 1:
            raise TrainingError(
                f"{failure}, also after going back to epoch {last.epoch} and on at a tenth of the "
                "learning rate: try a lower learning rate"
            ) from None
        log.warning(
            "warning: %s: training goes back to epoch %d, and on at a tenth of the learning rate",
            *(failure, last.epoch),
        )
        self._go_to(last._replace(rate=LOWERED))

    def _taken(self, epoch: int) -> Snapshot:
        """Return a snapshot; NotFiniteError if a weight is not finite."""
        values = [[v.numpy() for v in owner.variables] for owner in (self.network, self.stepper)]
        if not all(np.isfinite(value).all() for part in values for value in part):
            raise NotFiniteError(self.phase_log.name, epoch, "a weight is not finite")
        targets = self.targets
        held = () if targets is None or targets.q is None else (targets.q, targets.p)
        return Snapshot(
            phase=self.phase_log.name,
            epoch=epoch,
            rate=self.rate,
            history=list(self.phase_log.history),
            network=values[0],
            optimizer=values[1],
            assignment=[value.numpy() for value in held],
            changed=[] if targets is None else list(targets.changed),
        )

    def _go_to(self, snapshot: Snapshot) -> None:
        """Bring everything to the state of a snapshot."""
        if snapshot.rate != self.rate:
            self.rate, self.stepper = snapshot.rate, self.stepper_at(snapshot.rate)
        self.last = snapshot
        assign_all(self.network.variables, snapshot.network)
        assign_all(self.stepper.variables, snapshot.optimizer)
        if self.targets is not None:
            q_and_p = [tf.constant(value) for value in snapshot.assignment]
            self.targets.q, self.targets.p = q_and_p or (None, None)
            self.targets.changed = list(snapshot.changed)
        self.phase_log.go_back(snapshot.history)
