"""How much a file may claim to hold: refused before memory is taken for it, or another file opened.

A file of a few bytes can declare a matrix of any shape, pack gigabytes of zeros, or point to itself
or to other files. The bounds are such that no data set comes near them: zlib packs at most 1032
bytes into one, and a cell or a gene has a value somewhere.
"""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import h5py

from utils import InputError

RATIO = 1100  # declared bytes for each byte of a file, at most
LEAST_BYTES = 2**25  # what any file may declare
# The same for values: a count that is not zero takes more than a byte of a packed file, and of 200
# counts some are not zero. A value takes up to 20 bytes of memory.
VALUES_RATIO, LEAST_VALUES = 200, 2**27
LEAST_LENGTH = 2**21  # cells or genes that any matrix may have, whatever its number of values
LEAST_COLUMNS = 2**16  # columns that any table of text may have, ...
BYTES_OF_COLUMN = 8  # ... and bytes that each of more columns needs, at least
LINE_RATIO, LEAST_LINE = 16, 2**24  # characters of a first row for each byte of a file, and of any
LIST_RATIO, LEAST_LIST = 100, 2**25  # bytes of a list for each one that is packed, and of any list
MOST_LEVELS = 64  # of groups in groups
LONGEST_NAME = 100  # characters in a message
MOST_ITEMS = 2**20  # that paths lead to
# What h5py raises where a file is damaged: the part is no danger then, whoever needs it says why.
UNREADABLE = (OSError, KeyError, RuntimeError, TypeError, ValueError)


def check_shape(shape: Sequence[int], stored: int, where: str) -> None:
    """Refuse a matrix of far more cells or genes than it has values (InputError).

    Parameters
    ----------
    shape
        The declared shape.
    stored
        How many values it has.
    where
        What the matrix is called in the message.
    """
    length = max(map(int, shape), default=0)
    if length > max(LEAST_LENGTH, stored):
        raise InputError(
            f"{where}: the shape is given as {' x '.join(str(int(n)) for n in shape)}, with "
            f"{stored} values in it: the file is damaged, copy or download it again"
        )


def check_entries(number: int, path: Path) -> None:
    """Refuse a text that declares more numbers than it can have, even if packed (InputError)."""
    if number > RATIO * path.stat().st_size:
        raise InputError(
            f"{path}: is given as {number} numbers, which a file of {path.stat().st_size} bytes "
            "cannot hold: it is damaged, copy or download it again"
        )


def first_line(file: IO[str], path: Path) -> str:
    """Return the first line of a table of text, which is shorter than the table (InputError)."""
    most = max(LEAST_LINE, LINE_RATIO * path.stat().st_size)
    line = file.readline(most)
    if len(line) == most:
        raise InputError(
            f"{path}: its first row is longer than a table of its size can have: give a row for "
            "each cell and a column for each gene"
        )
    return line


def check_rows(number: int, path: Path) -> None:
    """Refuse a table of text of more rows than its file has bytes, packed or not (InputError)."""
    if number > most_rows(path):
        raise InputError(
            f"{path}: has more than {most_rows(path)} rows, which is too much for a packed table "
            "of its size: give a row for each cell and a column for each gene"
        )


def most_rows(path: Path) -> int:
    """Return how many rows a table of text may have."""
    return max(LEAST_COLUMNS, path.stat().st_size)


def check_columns(number: int, path: Path) -> None:
    """Refuse a table of text of more columns than a file of its size can have (InputError)."""
    if number > max(LEAST_COLUMNS, path.stat().st_size // BYTES_OF_COLUMN):
        raise InputError(
            f"{path}: its first row has {number} entries, and the file is too small for a table of "
            "so many columns: give a row for each cell and a column for each gene"
        )


class Bounded(io.RawIOBase):
    """A stream that refuses to give more bytes than a packed list of its size can hold.

    Parameters
    ----------
    stream
        What the file is unpacked to.
    path
        The file.
    """

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path) -> None:
        self.stream, self.path = stream, path
        self.left = max(LEAST_LIST, LIST_RATIO * path.stat().st_size)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return the number of bytes, 0 at the end of the file."""
        content = self.stream.read(len(buffer))
        self.left -= len(content)
        if self.left < 0:
            raise InputError(
                f"{self.path}: unpacks to more than {LIST_RATIO} times its size, which no list "
                "does: give the list as plain text"
            )
        buffer[: len(content)] = content
        return len(content)


# ---- HDF5


def check_hdf5(path: Path) -> None:
    """Refuse an HDF5 file that declares what it cannot hold, or that other files are a part of.

    What is damaged in it is passed over: whoever needs that says so.

    Raises
    ------
    InputError
        If its data sets declare more than `RATIO` times the file's size; if it has links to other
        files, or data in them; if a group contains itself, or groups are nested too deeply.
    """
    with h5py.File(path, "r") as file:
        walk = _Walk(path)
        walk.group(file)


class _Walk:
    """Goes through the groups and data sets of a file, each of them once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        self.bytes, self.most_bytes = 0, max(LEAST_BYTES, RATIO * size)
        self.values, self.most_values = 0, max(LEAST_VALUES, VALUES_RATIO * size)
        self.sizes: dict[tuple[int, int], int] = {}  # items below a group, 0 while it is open

    def refuse(self, name: str, problem: str) -> InputError:
        """Return the error for a part of the file, whose name is cut where it is long."""
        return InputError(f"{self.path}: {name[:LONGEST_NAME]} {problem}")

    def group(self, group: h5py.Group, level: int = 0) -> int:
        """Look through a group; return how many items paths from it lead to."""
        info = h5py.h5o.get_info(group.id)
        address = (info.fileno, info.addr)
        if address in self.sizes:
            if not self.sizes[address]:
                raise self.refuse(group.name, "contains itself: write the file again")
            return self.sizes[address]
        if level > MOST_LEVELS:
            raise self.refuse(group.name, "is nested too deeply: write the file again")
        self.sizes[address] = 0
        size = 1 + sum(self.item(group, name, level) for name in self.names(group))
        if size > MOST_ITEMS:
            raise self.refuse(group.name, "has too many parts: write the file again")
        self.sizes[address] = size
        return size

    def names(self, group: h5py.Group) -> list[str]:
        """Return the names in a group, none if they cannot be read."""
        try:
            return list(group)
        except UNREADABLE:
            return []

    def item(self, group: h5py.Group, name: str, level: int) -> int:
        """Look at an item of a group; return how many items there are with those below it."""
        try:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise self.refuse(
                    f"{group.name.rstrip('/')}/{name}",
                    f"is a link to another file, {link.filename}, and is not followed: copy the "
                    "data into one file",
                )
            item = group[name]
            if isinstance(item, h5py.Dataset):
                self.dataset(item)
                return 1
        except InputError:
            raise
        except UNREADABLE:
            return 1
        return self.group(item, level + 1) if isinstance(item, h5py.Group) else 1

    def dataset(self, item: h5py.Dataset) -> None:
        """Check what a data set declares, and where it has it."""
        properties = item.id.get_create_plist()
        layout = properties.get_layout()
        if layout == h5py.h5d.VIRTUAL or properties.get_external_count():
            raise self.refuse(item.name, "has its data in other files: copy the data into one file")
        width = item.id.get_type().get_size()
        values = math.prod(item.id.shape or ())
        if layout == h5py.h5d.CHUNKED and values:  # a chunk is unpacked as a whole
            values = max(values, math.prod(properties.get_chunk()))
        self.bytes += width * values
        self.values += values
        if self.bytes > self.most_bytes or self.values > self.most_values:
            raise self.refuse(
                item.name,
                f"and what comes before it are given as {self.values} values of {self.bytes} "
                f"bytes, which is too much for a file of {self.path.stat().st_size} bytes: it is "
                "damaged, copy or download it again",
            )


# ---- zarr


def check_zarr(group: Any, path: Path) -> None:
    """Refuse a folder of zarr whose arrays declare what it cannot hold (InputError)."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    arrays = [item for _, item in group.members(max_depth=None) if hasattr(item, "dtype")]
    # Texts have no size of their own in zarr: a pointer stands for each.
    declared = sum(math.prod(item.shape) * max(1, item.dtype.itemsize) for item in arrays)
    if declared > max(LEAST_BYTES, RATIO * size):
        raise InputError(
            f"{path}: its arrays are given as {declared} bytes, which a folder of {size} bytes "
            "cannot hold: it is damaged, copy or download it again"
        )
