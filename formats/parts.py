"""What every format is read into, what a user may choose of a file, and what formats share.

The table of the formats is `readers.FORMATS`.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from formats import bounds, hdf5
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import pandas as pd
    from pandas.api.extensions import ExtensionArray

NAMES_SHOWN = 20
GZIP = b"\x1f\x8b"
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)  # of a compressed file


class Choices(NamedTuple):
    """What a user chooses of a file; None where its contents decide.

    Parameters
    ----------
    layer
        The matrix that holds the counts.
    genome
        The genome whose genes are read, where a file has several.
    transpose
        Whether the rows of the file are genes.
    whole
        Whether all is read that the file holds of the cells; None for what a run needs.
    raw
        Whether that includes `raw`, for a result that has none of its own.
    """

    layer: str | None = None
    genome: str | None = None
    transpose: bool | None = None
    whole: bool | None = None
    raw: bool | None = None


class Parts(NamedTuple):
    """What is read of a file.

    Parameters
    ----------
    matrix
        Shape (N, G), cells x genes: dense, or a sparse matrix of SciPy.
    obs, var
        Annotation of the N cells and of the G genes. The attrs["left_out"] of a frame maps each
        column that could not be read to the reason.
    notes
        Sentences on what was decided in reading, for the log.
    rest
        What else the file holds of these cells and genes, for a result that keeps everything: by
        the names of the parts of an AnnData ("layers", "obsm", "varm", "obsp", "varp", "uns", and
        "raw"), the values by their keys.
    left_out
        What of that cannot be read or kept, as "obsm/X_new", and why.
    """

    matrix: Any
    obs: pd.DataFrame
    var: pd.DataFrame
    notes: tuple[str, ...] = ()
    rest: dict[str, dict[str, Any]] = {}  # noqa: RUF012 (it is never changed)
    left_out: dict[str, str] = {}  # noqa: RUF012


def listed(names: Iterable[str | bytes]) -> str:
    """Join names for a message, in order, on one line, and only the first of very many.

    A name that is no text is one of HDF5 that cannot be decoded.
    """
    words = (name if isinstance(name, str) else name.decode(errors="replace") for name in names)
    shown = sorted(word if word.isprintable() else ascii(word)[1:-1] for word in words)
    more = f" and {len(shown) - NAMES_SHOWN} more" if len(shown) > NAMES_SHOWN else ""
    return (", ".join(shown[:NAMES_SHOWN]) or "none is there") + more


def numbered(item: str, length: int) -> np.ndarray:
    """Return names for cells or genes that have none: cell_0, cell_1 and so on."""
    return np.array([f"{item}_{i}" for i in range(length)], dtype=object)


def named_frame(names: Iterable[str], **columns: Iterable[Any]) -> pd.DataFrame:
    """Return annotation with these names and columns, all of the same length."""
    import pandas as pd

    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def check_length(where: str, values: np.ndarray | ExtensionArray, length: int, item: str) -> None:
    """Raise InputError unless there is a value for each cell or gene."""
    if len(values) != length:
        raise InputError(
            f"{where} has {len(values)} entries for the {length} {item}s: write the file again"
        )


def frame(
    group: Any, keys: Iterable[str], names: np.ndarray | ExtensionArray, item: str, where: str
) -> pd.DataFrame:
    """Read the columns `keys` of a group; attrs["left_out"] says why one is not in the frame.

    `names` are those of the rows, each an `item`, and `where` is the group's name in messages.
    """
    import pandas as pd

    columns: dict[str, np.ndarray | ExtensionArray] = {}
    left_out = {}
    for key in keys:
        try:
            values = hdf5.column(group, key)
        except hdf5.Unreadable as error:
            left_out[key] = str(error)
            continue
        check_length(f"{where}/{key}", values, len(names), item)
        columns[key] = values
    table = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    table.attrs["left_out"] = left_out
    return table


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that may be packed by gzip, which its first bytes decide, not its name.

    Raises
    ------
    InputError
        If the packed file turns out to be cut short or damaged while it is read.
    """
    with path.open("rb") as file:
        is_packed = file.read(2) == GZIP
    try:
        with gzip.open(path, "rb") if is_packed else path.open("rb") as content:
            yield content  # type: ignore[misc]
    except DAMAGE as error:
        raise InputError(
            f"{path}: cannot be unpacked ({hdf5.reason(error)}): it is cut short or damaged, copy "
            "or download it again"
        ) from error


class _Text(io.TextIOWrapper):
    """A stream of text that refuses null characters, which no text has and HDF5 cannot write."""

    def __init__(self, path: Path, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding, newline="")
        self.path = path

    def _checked(self, text: str) -> str:
        if "\0" in text:
            raise InputError(
                f"{self.path}: is not text (it has null characters): it is damaged, or of another "
                "kind than its name says"
            )
        return text

    def read(self, size: int | None = -1) -> str:
        """Return the next characters."""
        return self._checked(super().read(size))

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        """Return the next line."""
        return self._checked(super().readline(size))


@contextlib.contextmanager
def opened_text(path: Path, *, is_list: bool = False) -> Iterator[IO[str]]:
    """Open a file of text as `opened` does: UTF-8, or UTF-16 as Excel writes it.

    Parameters
    ----------
    path
        The file.
    is_list
        Whether it is a list of names, which is read as a whole and bounded by `bounds.Bounded`.

    Raises
    ------
    InputError
        If it turns out to be no text, and what `opened` raises.
    """
    with opened(path) as file:
        if is_list:
            file = io.BufferedReader(bounds.Bounded(file, path))
        start = file.peek(2)[:2]  # type: ignore[attr-defined]
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        try:
            yield _Text(path, file, encoding)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: is not text ({hdf5.reason(error)}): it is damaged, or of another kind "
                "than its name says"
            ) from error
