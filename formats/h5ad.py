"""AnnData's own files, .h5ad and .zarr, and the RNA of MuData's .h5mu; the counts are looked for.

The same functions read all three, as groups of HDF5 and of zarr have the same methods. They are
written for files that anndata itself reads badly or not at all: what is not needed may be large,
damaged, or of a version to come.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from formats import bounds, hdf5, matrices, raw_counts
from formats.parts import Choices, Parts, frame, listed, numbered
from formats.rest import read_rest
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import pandas as pd

BLOCK = 2**20  # values that are looked at together in search of the counts
REFUSALS_OF_ZARR = (OSError, KeyError, RuntimeError, SystemError, TypeError, ValueError)
RNA = ("rna", "RNA", "gex", "gene_expression")  # what modalities of RNA are called in .h5mu


def is_h5ad(path: Path) -> bool:
    """Return whether a path is an HDF5 file that AnnData wrote, or is laid out or named as one."""
    if not hdf5.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        marked = hdf5.attribute(file, "encoding-type") == ["anndata"] or path.suffix == ".h5ad"
        return "exprs" not in file and (marked or {"X", "obs", "var"} <= {*file})


def read_h5ad(path: Path, choices: Choices) -> Parts:
    """Read the counts, obs and var of an .h5ad; the rest, which may be large, if that is chosen."""
    with h5py.File(path, "r") as file:
        return read_group(file, str(path), choices)


def is_h5mu(path: Path) -> bool:
    """Return whether a path is an HDF5 file of several modalities, as MuData writes it."""
    if not hdf5.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return isinstance(file.get("mod"), h5py.Group)


def read_h5mu(path: Path, choices: Choices) -> Parts:
    """Read the modality of RNA, an AnnData inside the file."""
    with h5py.File(path, "r") as file:
        present = [*file["mod"]]
        name = next((name for name in RNA if name in present), None)
        if name is None:
            raise InputError(
                f"{path}: none of its modalities is called rna (present: {listed(present)}): "
                "write the one with the counts of RNA as an .h5ad"
            )
        parts = read_group(file["mod"][name], f"{path}: mod/{name}", choices)
    others = listed({*present} - {name})
    note = f"the modality {name} is read; others in the file: {others}"
    return parts._replace(notes=(*((note,) if len(present) > 1 else ()), *parts.notes))


def is_zarr(path: Path) -> bool:
    """Return whether a path is a folder that holds a group of zarr, of version 2 or 3."""
    return any((path / name).is_file() for name in (".zgroup", "zarr.json"))


def read_zarr(path: Path, choices: Choices) -> Parts:
    """Read the counts, obs and var of an AnnData in a folder of zarr."""
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"{path}: the package zarr, which reads such a folder, is not installed: pip install "
            "zarr, or write the data as an .h5ad"
        ) from error
    try:
        group = zarr.open_group(path, mode="r")
        bounds.check_zarr(group, path)
        return read_group(group, str(path), choices)
    except REFUSALS_OF_ZARR as error:
        if isinstance(error, InputError) or not _is_of_zarr(error):
            raise
        raise InputError(
            f"{path}: cannot be read ({hdf5.reason(error)}): it is damaged or not whole, copy or "
            "download it again"
        ) from error


def _is_of_zarr(error: Exception) -> bool:
    """Return whether an error was raised inside zarr or its codecs: then the data are at fault."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = (frame.f_globals.get("__name__", "") for frame in frames)
    return any(name.partition(".")[0] in ("zarr", "numcodecs") for name in names)


# ---- a group of HDF5 or zarr


def read_group(group: Any, where: str, choices: Choices) -> Parts:
    """Read the matrix that holds the counts, with obs and the annotation of the matrix's genes."""
    place, matrix, notes = _counts(group, where, choices.layer)
    obs = _axis_frame(group, where, "obs", "cell", matrix.shape[0])
    var = _axis_frame(group, where, place.var, "gene", matrix.shape[1])
    if matrix.shape != (len(obs), len(var)):
        raise InputError(
            f"{where}: the shape of {place.key}, {matrix.shape}, disagrees with {len(obs)} cells "
            f"in obs and {len(var)} genes in {place.var}: write the file again"
        )
    if not choices.whole:
        return Parts(matrix, obs, var, notes)
    more = read_rest(group, place.key, matrix, var, raw=bool(choices.raw))
    return Parts(matrix, obs, var, notes, *more)


class _Place(NamedTuple):
    """A matrix that may hold the counts: its key, and that of the annotation of its genes."""

    key: str
    var: str


def _places(group: Any) -> dict[str, _Place]:
    """Return the matrices that a file has, by the names with which --layer chooses them.

    A layer may have any name, also that of another place; then it is what the name means.
    """
    places = {"X": _Place("X", "var"), "raw": _Place("raw/X", "raw/var")}
    if "raw.X" in group:  # of anndata 0.6
        places["raw"] = _Place("raw.X", "raw.var")
    if "layers" in group:
        if "raw" in group["layers"]:
            places["raw.X"] = places["raw"]
        places |= {name: _Place(f"layers/{name}", "var") for name in group["layers"]}
    return {name: place for name, place in places.items() if _is_there(group, place.key)}


def _is_there(group: Any, key: str) -> bool:
    """Return whether a key is in a group, and stands for more than nothing."""
    if key not in group:
        return False
    item = group[key]
    is_null = hdf5.attribute(item, "encoding-type") == ["null"]
    return not is_null and getattr(item, "shape", ()) is not None


def _counts(group: Any, where: str, layer: str | None) -> tuple[_Place, Any, tuple[str, ...]]:
    """Return the place of the counts, the matrix there, and a note if they are not in X.

    X is taken if it holds whole counts, or else the only other place that does. Where none does it
    is X again, for `raw_counts.check` to say what is wrong with it.
    """
    places = _places(group)
    if layer is not None:
        if layer not in places:
            present = listed(places)
            raise InputError(f"{where}: no layer {layer!r}, choose --layer from: {present}")
        return places[layer], _matrix(group, places[layer], where), ()
    x, matrix = places.pop("X", None), None
    if x is not None and (not places or raw_counts.may_be_whole(_first(group[x.key]))):
        matrix = _matrix(group, x, where)
        if not places or raw_counts.are_whole(matrix):
            return x, matrix, ()
    others = [name for name, place in places.items() if _holds_counts(group[place.key])]
    state = "is absent" if x is None else "holds no whole counts"
    if len(others) == 1:
        place = places[others[0]]
        note = f"the counts are those of {place.key}, as X {state}"
        return place, _matrix(group, place, where), (note,)
    if others:
        raise InputError(
            f"{where}: X {state}, and several other places hold whole counts: choose --layer from: "
            f"{listed(others)}"
        )
    if x is None:
        raise InputError(
            f"{where}: X is absent, and no other place holds whole counts (present: "
            f"{listed(places)})"
        )
    return x, _matrix(group, x, where) if matrix is None else matrix, ()


def _matrix(group: Any, place: _Place, where: str) -> Any:
    return matrices.matrix(group[place.key], f"{where}: {place.key}")


def _blocks(item: Any) -> Iterator[np.ndarray]:
    """Yield the stored values of a matrix of numbers, dense or sparse, a block at a time."""
    values = item if hasattr(item, "dtype") else item.get("data")
    if not hasattr(values, "shape") or values.dtype.kind not in "iuf":
        return
    rows = max(1, BLOCK // max(1, math.prod(values.shape[1:])))
    for start in range(0, values.shape[0] if values.shape else 0, rows):
        yield values[start : start + rows]


def _first(item: Any) -> np.ndarray:
    """Return the first stored values of a matrix, none of one without any."""
    return next(_blocks(item), np.empty(0))


def _holds_counts(item: Any) -> bool:
    """Return whether all values of a matrix are whole counts; the first that is not ends it."""
    not_zero = False
    for block in _blocks(item):
        if not raw_counts.may_be_whole(block):
            return False
        not_zero = not_zero or bool(block.any())
    return not_zero


def _axis_frame(group: Any, where: str, key: str, item: str, length: int) -> pd.DataFrame:
    """Read obs, var or raw/var; rows that the file does not name are numbered.

    What lacks anndata's encoding attributes is read as if it had them.
    """
    axis = group.get(key)
    if axis is None:
        return frame(group, (), numbered(item, length), item, where)
    if isinstance(axis, h5py.Datatype):
        raise InputError(f"{where}: {key} is a type of data, not a table")
    if hasattr(axis, "dtype"):
        return _legacy_frame(group, where, key)
    index = (hdf5.attribute(axis, "_index") or ["_index"])[0]
    keys: Iterable[str] = [name for name in axis if name not in (index, "__categories")]
    if "column-order" in axis.attrs:
        keys = hdf5.attribute(axis, "column-order")
    if index not in axis:
        return frame(axis, keys, numbered(item, length), item, f"{where}: {key}")
    try:
        names = hdf5.column(axis, index)
    except hdf5.Unreadable as error:
        raise InputError(f"{where}: the names in {key} cannot be read ({error})") from error
    return frame(axis, keys, names, item, f"{where}: {key}")


def _legacy_frame(group: Any, where: str, key: str) -> pd.DataFrame:
    """Read obs or var as anndata before 0.7 wrote it: a table, with the categories in uns."""
    import pandas as pd

    table = group[key][()]
    if table.dtype.names is None or table.ndim != 1:
        raise InputError(f"{where}: {key} is not a table with one row for each name")
    columns: dict[str, np.ndarray | pd.Categorical] = {}
    left_out = {}
    for name in table.dtype.names:
        values = table[name]
        if values.ndim != 1:
            left_out[name] = hdf5.NOT_A_COLUMN
            continue
        categories = hdf5.vector(group.get(f"uns/{name}_categories"))
        decoded = hdf5.categorical(values, categories)
        plain = hdf5.text(values) if values.dtype.kind in "SO" else values
        columns[name] = plain if decoded is None else decoded
    table_frame = pd.DataFrame(columns).set_index(table.dtype.names[0])
    table_frame.attrs["left_out"] = left_out
    return table_frame
