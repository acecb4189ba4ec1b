"""Keep the state of a run: in memory at each look at the losses, from time to time on disk.

`--resume` goes on from what is there, where settings, data, versions and device are the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import checkpoints
import results
import utils
from checkpoints import Beginning, Saved
from settings import Settings, Source, specs
from utils import InputError, TrainingError

if TYPE_CHECKING:
    import anndata as ad

    from estimation import Number
    from snapshots import Snapshot

log = logging.getLogger("sctag")


class Keeper:
    """Keeps the state of a run, in memory and from time to time on disk.

    Parameters
    ----------
    folder
        Where checkpoints are; None for none.
    minutes
        Time between two of them.
    resume
        Whether the run goes on from the newest.
    anew
        What starts anew in spite of a checkpoint, in words.
    """

    def __init__(
        self, folder: Path | None, *, minutes: float, resume: bool, anew: str = ""
    ) -> None:
        self.folder, self.seconds, self.resume, self.anew = folder, 60 * minutes, resume, anew
        self.identity: dict[str, Any] = {}
        self.snapshot: Snapshot | None = None
        self.beginning: Beginning | None = None
        self.written: Path | None = None  # where the snapshot is on disk, if it is
        self.failed = False
        self.last_write = time.monotonic()

    def open(self, adata: ad.AnnData, number: Number, settings: Settings, device: str) -> None:
        """Take note of which run this is, and load what an earlier one had come to, if asked for.

        Raises
        ------
        InputError
            If the checkpoint is of a run with other settings, data, versions or device.
        """
        if self.folder is None:
            return
        self.identity = identity_of(adata, number, settings, device)
        if not self.resume:
            return
        saved = checkpoints.newest(self.folder)
        if saved is None:
            log.info("resume    there is no checkpoint in %s: the run starts anew", self.folder)
            return
        self._refuse_others(saved.identity)
        self.snapshot, self.beginning, self.written = saved.snapshot, saved.beginning, saved.path
        shown = self.shown()
        log.info("resume    %s, from the checkpoint %s", shown, saved.path)

    def _refuse_others(self, identity: dict[str, Any]) -> None:
        """Raise InputError where a checkpoint is of another run."""
        for part, mine in self.identity.items():
            theirs = identity.get(part)
            if theirs == mine:
                continue
            differs = [f"{part} {theirs!r} there and {mine!r} now"]
            if isinstance(mine, dict) and isinstance(theirs, dict):
                names = [n for n in {**theirs, **mine} if theirs.get(n) != mine.get(n)]
                differs = [f"{n} {theirs.get(n)!r} there and {mine.get(n)!r} now" for n in names]
            raise InputError(
                f"the checkpoint in {self.folder} is of another run ({'; '.join(differs)}): go on "
                f"with what that run had; without --resume, {self.anew} starts anew"
            )

    def of_phase(self, phase: str) -> Snapshot | None:
        """Return the snapshot from which a phase goes on, or None for its beginning."""
        return self.snapshot if self.snapshot and self.snapshot.phase == phase else None

    def keep(self, snapshot: Snapshot) -> None:
        """Keep a snapshot in memory, and write it where the time has come."""
        self.snapshot, self.written = snapshot, None
        if time.monotonic() - self.last_write >= self.seconds:
            self.write()

    def write(self) -> None:
        """Write the last snapshot, unless that is done; a warning says if it cannot be written."""
        if self.folder is None or self.snapshot is None or self.written is not None:
            return
        self.last_write = time.monotonic()
        try:
            # A state of pretraining goes on with pretraining, also where its end is known already.
            beginning = self.beginning if self.snapshot.phase == "cluster" else None
            saved = Saved(self.identity, self.snapshot, beginning, self.folder)
            self.written = checkpoints.write(self.folder, saved)
        except OSError as error:
            if not self.failed:
                log.warning(
                    "warning: no checkpoint could be written to %s (%s): the run goes on without",
                    *(self.folder, error.strerror or error),
                )
            self.failed = True

    def shown(self) -> str:
        """Return in words where the run is."""
        assert self.snapshot is not None
        return f"epoch {self.snapshot.epoch} of {self.snapshot.phase}"

    def left(self) -> str:
        """Return in words what a run that is stopped leaves behind, after writing it."""
        self.write()
        if self.written is None:
            return "nothing was written"
        return (
            f"{self.shown()} is kept in {self.folder}, from where the same command with --resume "
            f"goes on; {self.anew} starts anew"
        )


def forget_ended(out_dir: Path) -> None:
    """Remove checkpoints that are older than the results beside them.

    Their run has ended well, and was killed before it could remove them.
    """
    folder = out_dir / results.CHECKPOINTS
    newest = next(iter(checkpoints.serials(folder).values()), None)
    with contextlib.suppress(OSError):
        ended = (out_dir / results.SETTINGS).stat().st_mtime_ns
        if newest is not None and newest.stat().st_mtime_ns < ended:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def keeping(folder: Path | None, settings: Settings, *, anew: str) -> Iterator[Keeper]:
    """Yield what keeps the state of a run that happens in the block, by its settings.

    Where the block ends well all checkpoints vanish. Where it is stopped, or a loss is not finite,
    the last snapshot is written first, and a note of the exception, or its sentence, says so.

    Parameters
    ----------
    folder
        Where checkpoints are; None for none.
    settings
        Say how often one is written, and whether the run goes on from the newest.
    anew
        What starts anew where there is one, in words.

    Raises
    ------
    InputError
        At once, if the folder holds checkpoints and the settings neither resume nor overwrite.
    """
    minutes, resume = settings.checkpoint_minutes, settings.resume
    keeper = Keeper(folder if minutes else None, minutes=minutes, resume=resume, anew=anew)
    begun = folder is not None and checkpoints.serials(folder)
    if begun and not (resume or settings.overwrite):
        raise InputError(
            f"{folder} holds the checkpoint of a run that did not end: pass --resume to go on with "
            f"it; {anew} starts anew"
        )
    try:
        yield keeper
    except KeyboardInterrupt as stop:
        stop.add_note(keeper.left())
        raise
    except TrainingError as error:
        keeper.write()
        at = f"; {keeper.shown()} is kept in {keeper.written}" if keeper.written else ""
        raise TrainingError(f"{error}{at}") from None
    if folder is not None:
        with utils.interruptions_held(dropped=True):
            shutil.rmtree(folder, ignore_errors=True)


def following(out_dir: Path, settings: Settings) -> Keeper:
    """Return the keeper of a worker that is not the chief: it reads checkpoints, writes none."""
    resume = settings.resume and settings.checkpoint_minutes > 0
    folder = out_dir / results.CHECKPOINTS
    return Keeper(folder, minutes=math.inf, resume=resume, anew="--overwrite")


def identity_of(
    adata: ad.AnnData, number: Number, settings: Settings, device: str
) -> dict[str, Any]:
    """Return what must be the same where a run goes on: settings, data, versions, device.

    The data are those that were prepared, by their SHA-256, so a file may have moved. Settings that
    only say where files are, or what else is written, are left out.
    """
    places = {field.name for field in dataclasses.fields(Source)}
    values = settings.to_json()
    names = [name for name, spec in specs().items() if not spec.neutral and name not in places]
    return {
        "settings": {name: values[name] for name in names} | {"n_clusters": number.n_clusters},
        "data": {"SHA-256 of the prepared data": digest(adata)},
        "versions": results.environment()["versions"],
        "device": device,
    }


def digest(adata: ad.AnnData) -> str:
    """Return the SHA-256 of prepared data: names, values, components and graphs."""
    total = hashlib.sha256()
    for names in (adata.obs_names, adata.var_names):
        total.update("\n".join(names).encode())
    arrays = [adata.X, *(adata.obsm[key] for key in sorted(adata.obsm))]
    for key in sorted(adata.obsp):
        graph = adata.obsp[key]
        arrays += [graph.indptr, graph.indices, graph.data]
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
