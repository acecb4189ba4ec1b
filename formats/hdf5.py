"""Read vectors and columns from an HDF5 file, and say why a file cannot be read.

Several formats are HDF5 files: what they share is here, and what differs is in `formats`.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

import csr_blocks
import scratch
import supervise
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that need it do it
    import pandas as pd

# Numbers that the HDF Group has given to compression filters.
FILTERS = {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
# HDF5 has one sentence for what it was doing and one in brackets for what went wrong. h5py raises
# it as any of several types, which are also those of ordinary mistakes in Python.
HDF5_MESSAGE = re.compile(
    r"(Unable to |Can't |Couldn't |[\w ]+ failed ).*\(.*\)|Unknown string encoding.*"
    r"|Unspecified error in H5.*|Insufficient precision in available types.*"
)
# Words of HDF5 that mean that bytes are not what they must be.
DAMAGE = re.compile(
    "bad object header|signature|inflate|filter returned failure|checksum|heap|symbol table"
    "|addr(ess)? overflow"
)
FILTER_TROUBLE = re.compile("plugin|filter|can't open directory")
UNKNOWN_ENCODING = re.compile("encoding_type='(.*?)', encoding_version='(.*?)'")
# What anndata, pandas and h5py raise for an element that they cannot read.
REFUSALS = (
    *(AttributeError, ImportError, IndexError, KeyError),
    *(OSError, RuntimeError, TypeError, ValueError),
)
NOT_A_COLUMN = "it is not one number or text for each row"


class Unreadable(Exception):
    """A column cannot be read, for the reason that the message gives."""


def is_hdf5(path: Path) -> bool:
    """Return whether the path is a file that begins as an HDF5 file does."""
    return path.is_file() and h5py.is_hdf5(path)


def register_filters() -> None:
    """Make the compression filters of hdf5plugin known to HDF5, where that package is installed."""
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401


@contextlib.contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Make an InputError of what the system and HDF5 raise while a file is read.

    All other exceptions pass as they are: they are mistakes of the program, not of the file.
    """
    try:
        with supervise.reading(path):
            yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{path}: this machine has not enough free memory to read it ({reason(error)})"
        ) from error
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if not isinstance(error, OSError) and not _is_of_hdf5(error):
            raise
        message = f"{path}: cannot be read ({reason(error)})"
        raise InputError(f"{message}: {_advice(path, error)}") from error


def reason(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    elif isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() puts it in quotation marks
    return text.splitlines()[0] if text else type(error).__name__


def _is_of_hdf5(error: Exception) -> bool:
    """Return whether h5py raised an error because of what it met in a file."""
    if isinstance(error, UnicodeDecodeError):  # h5py decodes the names in a file
        return True
    text = reason(error)
    return bool(HDF5_MESSAGE.fullmatch(text)) and "doesn't exist" not in text


def _advice(path: Path, error: Exception) -> str:
    """Say what is known of the cause of an error, and what to do; claim no cause if none is."""
    text = reason(error)
    number = error.errno if isinstance(error, OSError) else None
    if "unable to lock file" in text:
        if number in (errno.EAGAIN, errno.EACCES):
            return "another program has it open for writing, close it there or name a copy"
        return (
            "the file system refuses to lock it, copy it to another disk or set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        )
    if isinstance(error, PermissionError):
        return "check the permissions of the file and of its folder"
    if number is not None:
        return "check its name, its disk and its permissions"
    if absent := _missing_filter(path, error):
        return absent
    if "truncated file" in text:
        return "it is cut short, copy or download it again"
    if DAMAGE.search(text):
        return "it is damaged, copy or download it again"
    return "the cause is not known, see whether another program can read it"


def _missing_filter(item: Any, error: Exception) -> str | None:
    """Name the filters that HDF5 lacks for an item if the error is about one, else return None."""
    if not FILTER_TROUBLE.search(reason(error)):
        return None
    names = set()

    def collect(_: str, member: h5py.Dataset | h5py.Group) -> None:
        if isinstance(member, h5py.Dataset):
            properties = member.id.get_create_plist()
            for number, _, _, label in map(properties.get_filter, range(properties.get_nfilters())):
                if not h5py.h5z.filter_avail(number):
                    names.add(FILTERS.get(number) or label.decode() or f"number {number}")

    with contextlib.suppress(OSError, KeyError, RuntimeError):  # as far as the file can be read
        if isinstance(item, Path):
            with h5py.File(item, "r") as file:
                file.visititems(collect)
        else:
            collect("", item)
            if isinstance(item, h5py.Group):
                item.visititems(collect)
    if not names:
        return None
    return (
        f"it is compressed with the filter {' and '.join(sorted(names))}, which is not installed: "
        "pip install -U hdf5plugin, or write the file again with gzip"
    )


def attribute(item: Any, name: str) -> list[str]:
    """Return the texts of an attribute: one, several, or none if it is absent or empty."""
    value = item.attrs.get(name)
    if value is None or isinstance(value, h5py.Empty):
        return []
    return [str(entry) for entry in text(np.atleast_1d(value))]


def column(group: Any, key: str) -> np.ndarray | pd.api.extensions.ExtensionArray:
    """Return a column of a group, shape (N,) for N rows.

    A column with anndata's encoding attributes is read by `anndata.io.read_elem`, others are read
    by `vector`.

    Raises
    ------
    Unreadable
        If it is absent, of another shape, or of a kind that anndata or HDF5 cannot read, or if its
        name is a path that leads out of the group, as it would again in a file that is written.
    """
    import pandas as pd

    if not isinstance(key, str):  # h5py gives bytes where they are not UTF-8
        raise Unreadable("its name is not text")
    if key.startswith("/") or {".", ".."} & {*key.split("/")}:
        raise Unreadable("its name is a path that leads elsewhere")
    values = element(group, key, plain=vector)
    if not isinstance(values, np.ndarray | pd.api.extensions.ExtensionArray):
        raise Unreadable(NOT_A_COLUMN)
    is_mixed = values.dtype == object and not all(isinstance(value, str) for value in values)
    if values.ndim != 1 or values.dtype.kind == "V" or is_mixed:
        raise Unreadable(NOT_A_COLUMN)
    texts = values.categories if isinstance(values, pd.Categorical) else values
    is_text = texts.dtype.kind == "O"
    if is_text and any("\0" in value for value in texts if isinstance(value, str)):
        raise Unreadable("it has null characters")
    return values


def element(group: Any, key: str, *, plain: Callable[[Any], Any] | None = None) -> Any:
    """Return an element of a group, read by `anndata.io.read_elem`.

    With `plain` that function reads what has no encoding attributes of anndata's, or those of 0.7.

    Raises
    ------
    Unreadable
        If it is absent, or of a kind that anndata or HDF5 cannot read.
    """
    import anndata
    from anndata._io.specs.registry import IORegistryError

    try:
        item = group[key]
    except REFUSALS as error:
        raise Unreadable(reason(error)) from error
    try:
        if plain and ("encoding-type" not in item.attrs or "categories" in item.attrs):
            return plain(item)
        return anndata.io.read_elem(item)
    except IORegistryError as error:
        encoding = UNKNOWN_ENCODING.search(reason(error))
        name = " ".join(filter(None, encoding.groups())) if encoding else reason(error)
        raise Unreadable(
            f"anndata {anndata.__version__} cannot read its encoding {name}"
        ) from error
    except REFUSALS as error:
        raise Unreadable(_missing_filter(item, error) or reason(error)) from error


def vector(item: Any) -> np.ndarray | pd.Categorical | None:
    """Return a one-dimensional dataset of numbers or text, or a categorical, in memory.

    A categorical is a group of `codes` and `categories`, or codes with an attribute that names
    the categories (anndata 0.7). Everything else gives None.
    """
    if item is not None and not hasattr(item, "dtype") and {"codes", "categories"} <= {*item}:
        return categorical(vector(item["codes"]), vector(item["categories"]))
    if not _is_array(item) or item.ndim != 1:
        return None
    if "categories" in item.attrs:
        return categorical(item[()], vector(item.parent[item.attrs["categories"]]))
    if h5py.check_string_dtype(item.dtype):
        return text(item[()])
    return _numbers(item) if item.dtype.kind in "biuf" else None


def _numbers(item: Any) -> np.ndarray:
    """Return a one-dimensional dataset of numbers; a large one is read in blocks."""
    length = item.shape[0]
    if not scratch.is_large(length * item.dtype.itemsize):
        return item[()]
    values = scratch.empty(length, item.dtype)
    for block in csr_blocks.slices(length):
        values[block] = item[block]
    return values


def _is_array(item: Any) -> bool:
    """Return whether an item is an array of HDF5 or zarr, not a group and not empty."""
    return hasattr(item, "dtype") and getattr(item, "shape", None) is not None


def text(values: np.ndarray) -> np.ndarray:
    """Decode the bytes among strings, shape (N,); null and what is no UTF-8 is spelt out in \\x.

    Two different labels never become one that way.
    """
    decoded = [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in values]
    return np.array([value.replace("\0", "\\x00") for value in decoded], dtype=object)


def categorical(
    codes: np.ndarray | pd.Categorical | None, categories: np.ndarray | pd.Categorical | None
) -> pd.Categorical | None:
    """Return codes and categories as a categorical, or None if they do not fit each other.

    The code -1 stands for a missing value.
    """
    import pandas as pd

    if codes is None or categories is None or codes.dtype.kind not in "iu":
        return None
    if codes.size and not -1 <= codes.min() <= codes.max() < len(categories):
        return None
    positions, unique = pd.factorize(categories)
    return pd.Categorical.from_codes(np.append(positions, -1)[codes], unique)
