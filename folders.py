"""The results folder of a run: locked while it works, and filled with all of its files or none.

The files are written to a folder of their own inside it (`.partial-...`). When all are there, those
of an earlier run move to `.replaced`, the new ones become `.new`, and these move to their places.
The settings go first and come last: where settings.json stands, the other files belong to it. If a
move fails, all is put back; if the process is killed in it, the next run completes it or puts all
back (`_recover`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import locks
import scratch
import supervise
import utils
from results import FILES, SETTINGS
from utils import InputError

STAGING = ".partial-"  # and a random end
OLD, NEW = ".replaced", ".new"
# What the system says where a disk, not the suite, is to blame.
OF_DISKS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN),
}


@contextlib.contextmanager
def staged(out_dir: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder for a run's files, which move to `out_dir` if the block ends well.

    If it does not, they vanish, and what `out_dir` held before is untouched. With `overwrite` no
    file of the run before stays among them, of whatever kind that was. Large arrays of the block
    lie in files in `out_dir` (`scratch.py`). The folder is locked throughout. Other files and
    folders in it are left alone.

    Raises
    ------
    InputError
        At once, if `out_dir` is another run's at the moment, holds a run's results and `overwrite`
        is off, or cannot be written; at the end, if the files cannot be moved.
    """
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(_made(out_dir))
            stack.enter_context(supervise.working_in(out_dir, made))
            stack.enter_context(locks.held(out_dir))
            _recover(out_dir)
            if not overwrite and any((out_dir / name).exists() for name in FILES):
                raise InputError(
                    f"{out_dir} holds the results of another run: pass --overwrite to replace "
                    "them, or another folder as --out"
                )
            staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=out_dir))
        except OSError as error:
            raise InputError(
                f"cannot write to the results folder {out_dir} ({error.strerror}): "
                "choose another one with --out"
            ) from None
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        # Not in the folder of the files: NFS shows a name for a file without one, while it is open.
        with scratch.within(out_dir):
            yield staging
        try:
            with utils.interruptions_held(dropped=True):
                _publish(staging, out_dir)
        except OSError as error:
            raise InputError(_sentence(out_dir, error.errno)) from None


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[list[Path]]:
    """Make a folder and those above it for a block; those that are empty then are removed again.

    Those that were made are yielded.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield made
    finally:
        _remove_empty(made)


def _remove_empty(made: Iterable[Path]) -> None:
    for path in made:
        with contextlib.suppress(OSError):  # it is not empty: the run went well
            path.rmdir()


def tidy(out_dir: Path, made: Iterable[Path]) -> None:
    """Clear the results folder of a run whose process has died, unless another run is in it.

    Folders that were made for it are removed where they are empty.
    """
    with contextlib.suppress(InputError, OSError), locks.held(out_dir):
        _recover(out_dir)
    _remove_empty(made)


@contextlib.contextmanager
def writing(staging: Path) -> Iterator[None]:
    """Have a disk that fails while a run's files are written end the run with one sentence.

    HDF5 reports such a failure as an error of many types, with the system's number in the text.

    Parameters
    ----------
    staging
        The folder that `staged` has yielded.

    Raises
    ------
    InputError
        In place of an error of the disk; any other is raised as it is.
    """
    try:
        yield
    except Exception as error:
        number = _number_of(error)
        missing = not staging.exists()
        if isinstance(error, InputError) or not (number in OF_DISKS or missing):
            raise
        if number == errno.ENOENT and not missing:  # it is some other file that is not there
            raise
        raise InputError(_sentence(staging.parent, number)) from None


def _number_of(error: BaseException | None) -> int | None:
    """Return the system's number of an error, or of one that it came from; None if there is none.

    An error of HDF5 or of anndata has it in its text only, as "errno = 28".
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if in_text := re.search(r"errno[ =]+(\d+)", str(error), re.IGNORECASE):
            return int(in_text[1])
        error = error.__cause__ or error.__context__
    return None


def _sentence(out_dir: Path, number: int | None) -> str:
    if not out_dir.exists():
        return (
            f"the results folder {out_dir} was removed, or its disk detached, during the run, and "
            "nothing could be written: run it again, with another folder as --out"
        )
    reason = os.strerror(number or errno.ENOENT)
    advice = "choose another folder with --out"
    if number in (errno.ENOSPC, errno.EDQUOT):
        advice = f"make room there or {advice}"
    return (
        f"cannot write the results to {out_dir} ({reason}): {advice}, and run it again; what the "
        "folder held before is as it was"
    )


# --- Old files out, new ones in -------------------------------------------------------------------


def _publish(staging: Path, out_dir: Path) -> None:
    """Move a run's files from their folder to their places, in place of an earlier run's.

    Raises OSError with everything as it was, if a move fails; InputError if that cannot be undone.
    """
    old, new = out_dir / OLD, out_dir / NEW
    written = _settings_last(os.listdir(staging))
    names = {*FILES, *written}
    try:
        old.mkdir()
        for name in reversed(_settings_last(names)):
            if os.path.lexists(out_dir / name):
                os.replace(out_dir / name, old / name)
        os.replace(staging, new)  # from now on a killed move is completed, no longer undone
        _move(new, out_dir, written)
    except BaseException as error:
        try:
            _undo(staging, out_dir, written)
        except OSError:
            if not out_dir.exists():
                raise error from None
            raise InputError(
                f"cannot move the results to {out_dir} ({error}), nor undo what was moved: the "
                f"files are in {OLD} and {NEW} there, and the next run into the folder puts them "
                "in their places"
            ) from None
        raise
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)


def _settings_last(names: Iterable[str]) -> list[str]:
    """Return names of files in the order in which they come: settings.json at the end."""
    return sorted(names, key=lambda name: (name == SETTINGS, name))


def _move(folder: Path, to: Path, names: Iterable[str]) -> None:
    for name in names:
        os.replace(folder / name, to / name)


def _undo(staging: Path, out_dir: Path, written: list[str]) -> None:
    """Undo a move that has failed, its last step first."""
    old, new = out_dir / OLD, out_dir / NEW
    if new.exists():
        moved = [name for name in written if not os.path.lexists(new / name)]
        _move(out_dir, new, reversed(moved))
        os.replace(new, staging)
    if old.exists():
        _put_back(old, out_dir)


def _put_back(old: Path, out_dir: Path) -> None:
    _move(old, out_dir, _settings_last(os.listdir(old)))
    old.rmdir()


def _recover(out_dir: Path) -> None:
    """Complete or undo the move of a run that was killed in it, and remove what dead runs left.

    The folder is locked, so that every run which has left something in it is dead. Settings in
    their place say that the move was over, or had not begun. Raises OSError.
    """
    old, new = out_dir / OLD, out_dir / NEW
    if not os.path.lexists(out_dir / SETTINGS):
        if new.is_dir():
            _move(new, out_dir, _settings_last(os.listdir(new)))
        elif old.is_dir():
            _put_back(old, out_dir)
    for folder in (new, old, *out_dir.glob(f"{STAGING}*")):
        shutil.rmtree(folder, ignore_errors=True)
