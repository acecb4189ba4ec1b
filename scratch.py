"""Large arrays in files instead of in memory, in the results folder of a run.

A file has no name from the start, so that nothing is left of it, however the run ends. What a
process reads of it counts as its memory (`ru_maxrss`), but the system takes such pages back when
memory is short: they are copies of the file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

import free_memory
from utils import InputError

# Bytes of an array that goes into a file: half of a matrix of counts, whose values and columns are
# an array each. With less memory a sixteenth of what is free, as a run needs several.
LARGE, SHARE = 2**30, 16

_folders: list[Path] = []
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # of the arrays that there are


@contextlib.contextmanager
def within(folder: Path) -> Iterator[None]:
    """Have the large arrays that a block makes lie in files of a folder."""
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.pop()


def is_large(n_bytes: int) -> bool:
    """Return whether an array of so many bytes belongs into a file, if there is a folder for it."""
    if not _folders:
        return False
    free = free_memory.available()
    return n_bytes >= (LARGE if free is None else min(LARGE, free // SHARE))


def empty(length: int, kind: np.dtype | type) -> np.ndarray:
    """Return an array (length,) to be filled: of a file where it is large, or else of memory.

    Raises
    ------
    InputError
        If the disk has no room for it.
    """
    n_bytes = length * np.dtype(kind).itemsize
    if not n_bytes or not is_large(n_bytes):
        return np.empty(length, kind)
    try:
        with tempfile.TemporaryFile(dir=_folders[-1]) as file:
            _reserve(file, n_bytes)
            array = np.memmap(file, kind, "r+", shape=(length,))
    except OSError as error:
        raise InputError(
            f"the counts do not fit into memory, and a file of {n_bytes / 2**20:.0f} MiB for them "
            f"cannot be made in {_folders[-1]} ({error.strerror}): make room, or choose "
            "another folder with --out"
        ) from error
    _maps.add(array._mmap)  # type: ignore[attr-defined]
    return array


def _reserve(file: IO[bytes], n_bytes: int) -> None:
    """Give a file its size; where the disk is full it fails, which a write to a map cannot."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    else:
        os.truncate(file.fileno(), n_bytes)


def give_back() -> None:
    """Tell the system that this process has done with the pages of the files that it has read.

    They are read again when they are needed.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        for pages in _maps:
            pages.madvise(mmap.MADV_DONTNEED)


def is_mapped(array: Any) -> bool:
    """Return whether the values of an array lie in a file."""
    while array is not None:
        if isinstance(array, mmap.mmap):
            return True
        array = getattr(array, "base", None)
    return False
