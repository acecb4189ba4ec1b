"""A folder belongs to one run at a time: a lock file in it names the process that works there.

The kernel holds the lock for the process (`flock`) and frees it when the process ends, however that
happens. So the lock of a dead run is simply taken over.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from utils import InputError

LOCK = ".lock"
# What flock answers where the file system has no such locks, as some network folders.
UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}


class Owner(NamedTuple):
    """The run that has locked a folder: its process number, its host, its start, its command."""

    process: int
    host: str
    start: str
    command: list[str]

    @classmethod
    def of_this_process(cls) -> Owner:
        """Return what a lock of this process says, its start being now, in local time."""
        start = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(os.getpid(), socket.gethostname(), start, sys.argv)

    @property
    def may_live(self) -> bool:
        """Whether the process is alive, or runs on another host, of which nothing is known."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it is another user's
            return True
        return True


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock an existing folder during a block; its lock file is removed at the end.

    Raises
    ------
    InputError
        If another run holds the lock; the sentence names its process, host and start.
    OSError
        If the lock file cannot be written.
    """
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        os.ftruncate(descriptor, 0)
        content = json.dumps(Owner.of_this_process()._asdict(), indent=2) + "\n"
        os.pwrite(descriptor, content.encode(), 0)
        yield
    finally:
        # Removed while it is still locked: nobody can hold the file of this name but this process.
        with contextlib.suppress(OSError):
            if _is_at(path, descriptor):
                path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Return the descriptor of the lock file, locked; InputError if another run holds it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            is_new = True
        except FileExistsError:
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:  # its run has just ended
                continue
            is_new = False
        try:
            taken = _take(path, descriptor, is_new=is_new)
        except BaseException as error:
            os.close(descriptor)
            if is_new and isinstance(error, OSError):  # nobody can lock it
                path.unlink(missing_ok=True)
            raise
        # A run that has just ended may have removed the file between its opening and its locking.
        if taken and _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _take(path: Path, descriptor: int, *, is_new: bool) -> bool:
    """Lock an open lock file and return True, or False where it must be opened anew.

    Without flock the lock is who has made the file. One of a dead process of this host is removed;
    two runs that do so in the same instant are not told apart.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(_sentence(path, _owner(descriptor))) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        if is_new:
            return True
        owner = _owner(descriptor)
        if owner is None or owner.may_live:
            advice = f"; if it is dead, delete {path}"
            raise InputError(_sentence(path, owner) + advice) from None
        path.unlink(missing_ok=True)
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether a path still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> Owner | None:
    """Return whom an open lock file names, None if its run has not come to write it yet."""
    try:
        content: dict[str, Any] = json.loads(os.pread(descriptor, 2**20, 0))
        return Owner(**content)
    except (ValueError, TypeError):
        return None


def _sentence(path: Path, owner: Owner | None) -> str:
    run = "another run, which has just started"
    if owner is not None:
        run = f"another run (process {owner.process} on {owner.host}, since {owner.start})"
    return (
        f"{path.parent} is in use by {run}: wait until it has ended, or choose another folder "
        "with --out"
    )
