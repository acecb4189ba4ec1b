"""Checkpoints on disk: the state of a run in training, in a folder that is whole or not there.

A checkpoint has the values of all variables as TensorFlow's own checkpoint, everything else as
JSON, and the SHA-256 of each of its files. TensorFlow is imported where one is written or read.
Letters: N cells, D latent size.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import results
import utils

if TYPE_CHECKING:
    import numpy as np

    from estimation import Number
    from snapshots import Snapshot

log = logging.getLogger("sctag")

KEPT = 2  # checkpoints
STATE, SUMS, TENSORS = "state.json", "checksums.json", "tensors"  # the last is a prefix of files
# What comes of reading a checkpoint of which something is missing or changed.
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
ARRAYS = ("network", "optimizer", "assignment")  # the parts of a snapshot that are arrays


class Beginning(NamedTuple):
    """What the clustering phase begins from, so that going on with it computes nothing anew.

    Parameters
    ----------
    z
        Embedding by the pretrained network, shape (N, D).
    initial
        Labels before the phase, shape (N,).
    number
        The number of clusters.
    notes
        What metrics.json says of the initial clusters.
    history
        A row of losses for each epoch of pretraining.
    """

    z: np.ndarray
    initial: np.ndarray
    number: Number
    notes: dict[str, Any]
    history: list[dict[str, Any]]


class Saved(NamedTuple):
    """A checkpoint: which run it is of, how far that had come, and the folder that holds it."""

    identity: dict[str, Any]
    snapshot: Snapshot
    beginning: Beginning | None
    path: Path


def serials(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by their numbers, newest first."""
    try:
        names = [name for name in os.listdir(folder) if name.isdecimal()]
    except OSError:
        return {}
    return {int(name): folder / name for name in sorted(names, key=int, reverse=True)}


def write(folder: Path, saved: Saved) -> Path:
    """Write a checkpoint beside those that are there, remove all but `KEPT`, return its path.

    Raises
    ------
    OSError
        If it cannot be written; the others are then as they were.
    """
    import tensorflow as tf

    snapshot, beginning = saved.snapshot, saved.beginning
    arrays = {part: list(getattr(snapshot, part)) for part in ARRAYS}
    state: dict[str, Any] = {"identity": saved.identity}
    state["snapshot"] = {
        name: value for name, value in snapshot._asdict().items() if name not in arrays
    }
    if beginning is not None:
        number = beginning.number._replace(labels=None)
        estimate = number.estimate and number.estimate._asdict()
        state["beginning"] = {"notes": beginning.notes, "history": beginning.history}
        state["beginning"]["number"] = number._asdict() | {"estimate": estimate}
        arrays |= {"z": [beginning.z], "initial": [beginning.initial]}
        if beginning.number.labels is not None:
            arrays["number_labels"] = [beginning.number.labels]
    state["sizes"] = {part: len(values) for part, values in arrays.items()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        with tf.device("CPU"):
            tensors = {
                f"{part}_{i}": tf.Variable(value)
                for part, values in arrays.items()
                for i, value in enumerate(values)
            }
            try:
                tf.train.Checkpoint(**tensors).write(str(partial / TENSORS))
            except tf.errors.OpError as error:
                raise OSError(error.message) from None
        results.write_json(partial / STATE, state)
        sums = {file.name: utils.sha256(file) for file in sorted(partial.iterdir())}
        results.write_json(partial / SUMS, sums)
        for file in partial.iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        path = folder / f"{max(serials(folder), default=0) + 1:04d}"
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in list(serials(folder).values())[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest(folder: Path) -> Saved | None:
    """Return the newest checkpoint of a folder that is whole, or None; a warning names others."""
    for path in serials(folder).values():
        try:
            return read(path)
        except DAMAGED as error:
            log.warning("warning: the checkpoint %s is damaged (%s): it is left out", path, error)
    return None


def read(path: Path) -> Saved:
    """Return a checkpoint.

    Raises
    ------
    One of `DAMAGED`
        If it is damaged.
    """
    sums = json.loads((path / SUMS).read_text())
    for name, expected in sums.items():
        if Path(name).name != name or utils.sha256(path / name) != expected:
            raise ValueError(f"{name} is not as it was written")
    state = json.loads((path / STATE).read_text())
    for name in (STATE, f"{TENSORS}.index"):
        if name not in sums:
            raise ValueError(f"{name} is missing")
    import tensorflow as tf

    from estimation import Estimate, Number
    from snapshots import Snapshot

    try:
        reader = tf.train.load_checkpoint(str(path / TENSORS))
        arrays = {
            part: [reader.get_tensor(f"{part}_{i}/.ATTRIBUTES/VARIABLE_VALUE") for i in range(size)]
            for part, size in state["sizes"].items()
        }
    except tf.errors.OpError as error:
        raise ValueError(error.message) from None
    of_snapshot: dict[str, Any] = {part: arrays[part] for part in ARRAYS}
    snapshot = Snapshot(**state["snapshot"], **of_snapshot)
    beginning = None
    if "beginning" in state:
        kept = state["beginning"]
        number, estimate = Number(**kept["number"]), kept["number"]["estimate"]
        beginning = Beginning(
            z=arrays["z"][0],
            initial=arrays["initial"][0],
            number=number._replace(
                estimate=None if estimate is None else Estimate(**estimate),
                labels=arrays["number_labels"][0] if "number_labels" in arrays else None,
            ),
            notes=kept["notes"],
            history=kept["history"],
        )
    return Saved(state["identity"], snapshot, beginning, path)
