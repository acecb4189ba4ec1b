"""A phase of training while it runs: its epochs, its live line, its log lines and its history.

The losses stay on the device until they are looked at, every few epochs. TensorBoard may watch.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import console
from losses import StepLosses
from utils import TrainingError

log = logging.getLogger("sctag")

REPORTS = 10  # log lines of a phase
CHECK_EVERY = 10  # epochs between two looks at the losses: reading them waits for the device

History = list[dict[str, Any]]  # one row of losses an epoch, with the phase and the epoch
Watch = Callable[[History], None]  # gets the rows of the epochs since the last look


class NotFiniteError(TrainingError):
    """A loss or a weight is not finite at an epoch of a phase."""

    def __init__(self, phase: str, epoch: int, what: str) -> None:
        super().__init__(f"{what} at epoch {epoch} of {phase}")


class PhaseLog:
    """The live line, log lines and history of one phase while it runs.

    Parameters
    ----------
    name
        The phase, as history.csv calls it.
    epochs
        The epochs of the phase, at most.
    quiet
        Whether there is no live line.
    watch
        Gets the rows of the history at each look at the losses.
    """

    def __init__(self, name: str, epochs: int, *, quiet: bool, watch: Watch | None = None) -> None:
        self.name, self.epochs, self.watch = name, epochs, watch
        self.every = max(1, epochs // REPORTS)
        self.start = time.perf_counter()
        self.history: History = []
        self.bar = console.bar(f"{name:<9}", epochs, quiet=quiet)

    def is_due(self, epoch: int) -> bool:
        """Return whether the losses are read at this epoch."""
        return epoch % CHECK_EVERY == 0 or epoch % self.every == 0 or epoch in (1, self.epochs)

    def take(self, pending: list[StepLosses]) -> None:
        """Add the losses of the last epochs to the history; NotFiniteError if one is not finite."""
        rows: History = []
        for epoch, losses_of_step in enumerate(pending, len(self.history) + 1):
            values = {name: float(value) for name, value in losses_of_step._asdict().items()}
            rows.append({"phase": self.name, "epoch": epoch, **values})
        self.history += rows
        if self.watch is not None:
            self.watch(rows)
        for row in rows:
            if not np.isfinite(row["total"]):
                raise NotFiniteError(self.name, row["epoch"], f"the loss is {row['total']}")
        shown = {name: f"{rows[-1][name]:.4f}" for name in ("zinb", "adj", "kl")}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(len(rows))

    def go_back(self, history: History) -> None:
        """Begin again after the epochs of a history that was kept."""
        self.history = list(history)
        self.bar.update(len(history) - self.bar.n)

    def report(self, epoch: int, reason: str | None) -> None:
        """Log the losses if a line is due, and why the phase stops if there is a reason."""
        if reason or epoch % self.every == 0 or epoch in (1, self.epochs):
            last = self.history[-1]
            text = "  ".join(f"{name} {last[name]:9.5f}" for name in ("zinb", "adj", "kl"))
            seconds = time.perf_counter() - self.start
            log.info(f"{self.name:<9} {epoch:>5}/{self.epochs}  {text}  {seconds:7.1f} s")
        if reason:
            log.info(f"{self.name:<9} stopped at epoch {epoch}: {reason}")


def run_epochs(
    phase_log: PhaseLog,
    one_epoch: Callable[[int], StepLosses],
    reason_to_stop: Callable[[History], str | None],
    look: Callable[[int], None],
) -> History:
    """Run a phase epoch by epoch, after those that its history has, and return its history.

    Parameters
    ----------
    phase_log
        Gets the losses.
    one_epoch
        Takes the step of an epoch and returns its losses.
    reason_to_stop
        Reads the history at each look at the losses; returns why the phase may stop, or None.
    look
        Is called with the epoch at each look at the losses that finds them finite.

    Raises
    ------
    NotFiniteError
        If a loss is not finite.
    """
    pending: list[StepLosses] = []
    done = len(phase_log.history)
    with phase_log.bar:
        # A phase that goes on may have been about to stop.
        reason = reason_to_stop(phase_log.history) if done < phase_log.epochs else None
        for epoch in range(done + 1, phase_log.epochs + 1):
            if reason:
                break
            pending.append(one_epoch(epoch))
            if not phase_log.is_due(epoch):
                continue
            phase_log.take(pending)
            pending.clear()
            look(epoch)
            reason = reason_to_stop(phase_log.history) if epoch < phase_log.epochs else None
            phase_log.report(epoch, reason)
    return phase_log.history


@contextlib.contextmanager
def tensorboard(folder: Path | None) -> Iterator[Watch | None]:
    """Yield what writes the losses of a run to a folder while it trains, for TensorBoard to show.

    Each loss is a scalar by epoch called PHASE/LOSS, such as pretrain/zinb, of the values that
    history.csv has. What the folder holds stays. A disk that is full ends the writing with a
    warning, not the run. Source: `tf.summary`, whose `scalar` would need the package tensorboard.

    Parameters
    ----------
    folder
        Where the event file goes; None, and nothing is written and None yielded.
    """
    if folder is None:
        yield None
        return
    writer = tf.summary.create_file_writer(str(folder))
    failures: list[str] = []

    def watch(rows: History) -> None:
        if failures:
            return
        try:
            with writer.as_default():
                for row in rows:
                    tf.summary.experimental.write_raw_pb(_summary(row), step=row["epoch"])
            writer.flush()
        except tf.errors.OpError as error:
            failures.append(str(error.message))
            log.warning("warning: no more losses are written to %s: %s", folder, error.message)

    try:
        yield watch
    finally:
        with contextlib.suppress(tf.errors.OpError):
            writer.close()


def _summary(row: dict[str, Any]) -> bytes:
    """Return the losses of one epoch as TensorFlow's protocol buffer `Summary`."""
    values = [
        tf.compat.v1.Summary.Value(tag=f"{row['phase']}/{name}", simple_value=row[name])
        for name in StepLosses._fields
    ]
    return tf.compat.v1.Summary(value=values).SerializeToString()
