"""Read each file format into its parts: one function that recognises it and one that reads it.

The table of the formats is `readers.FORMATS`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from formats import hdf5
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import pandas as pd
    from pandas.api.extensions import ExtensionArray
    from scipy.sparse import csc_matrix, csr_matrix

NAMES_SHOWN = 20
SEPARATORS = {"csv": ",", "tsv": "\t", "txt": "\t"}  # of tables of text, by the suffix


class Parts(NamedTuple):
    """What is read of a file: a matrix, shape (N, G), and annotation of N cells and of G genes.

    The attrs["left_out"] of a frame maps each column that could not be read to the reason.
    """

    matrix: csr_matrix | csc_matrix | np.ndarray
    obs: pd.DataFrame
    var: pd.DataFrame


def listed(names: Iterable[str]) -> str:
    """Join names for a message, in order, and only the first of very many."""
    names = sorted(names)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "none is there") + more


# ---- the published layout


def is_published(path: Path) -> bool:
    """Return whether a path is an HDF5 file with the counts in `exprs`."""
    if not hdf5.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return "exprs" in file


def read_published(path: Path, layer: str | None) -> Parts:
    """Read `exprs`, cells x genes, with `obs_names`, `var_names`, `obs` and `var` where present."""
    where = f"{path}: exprs"
    if layer is not None:
        raise InputError(f"{where} holds the counts, --layer {layer} is for .h5ad files only")
    with h5py.File(path, "r") as file:
        matrix = hdf5.matrix(file["exprs"], where)
        cells, genes = matrix.shape
        obs = _published_frame(file, "obs", "cell", cells)
        return Parts(matrix, obs, _published_frame(file, "var", "gene", genes))


def _published_frame(file: h5py.File, axis: str, item: str, length: int) -> pd.DataFrame:
    key = f"{axis}_names"
    names = hdf5.vector(file[key]) if key in file else _numbered(item, length)
    if names is None:
        raise InputError(f"{file.filename}: {key} is not a list of names, one for each {item}")
    _check_length(file, key, names, length, item)
    group = file.get(axis)
    if not isinstance(group, h5py.Group):
        return _frame(file, (), names, item)
    return _frame(group, group, names, item)


# ---- AnnData's .h5ad


def is_h5ad(path: Path) -> bool:
    """Return whether a path is an HDF5 file that AnnData wrote, or is laid out or named as one."""
    if not hdf5.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        marked = hdf5.attribute(file, "encoding-type") == ["anndata"] or path.suffix == ".h5ad"
        return "exprs" not in file and (marked or {"X", "obs", "var"} <= {*file})


def read_h5ad(path: Path, layer: str | None) -> Parts:
    """Read `X` or `layers[layer]`, `obs` and `var`; the rest may be large, or too new to read."""
    with h5py.File(path, "r") as file:
        layers = file.get("layers", {})
        if layer is not None and layer not in layers:
            raise InputError(f"{path}: no layer {layer!r}, choose --layer from: {listed(layers)}")
        key = "X" if layer is None else f"layers/{layer}"
        if key not in file or getattr(file[key], "shape", ()) is None:
            raise InputError(f"{path}: X is absent, choose --layer from: {listed(layers)}")
        matrix = hdf5.matrix(file[key], f"{path}: {key}")
        obs = _h5ad_frame(file, "obs", "cell", matrix.shape[0])
        var = _h5ad_frame(file, "var", "gene", matrix.shape[1])
    if matrix.shape != (len(obs), len(var)):
        raise InputError(
            f"{path}: the shape of {key}, {matrix.shape}, disagrees with {len(obs)} cells in obs "
            f"and {len(var)} genes in var: write the file again"
        )
    return Parts(matrix, obs, var)


def _h5ad_frame(file: h5py.File, axis: str, item: str, length: int) -> pd.DataFrame:
    """Read obs or var; rows that the file does not name are numbered.

    What lacks anndata's encoding attributes is read as if it had them.
    """
    group = file.get(axis)
    if isinstance(group, h5py.Dataset):
        return _legacy_frame(file, axis)
    if group is None:
        return _frame(file, (), _numbered(item, length), item)
    index = (hdf5.attribute(group, "_index") or ["_index"])[0]
    keys = [key for key in group if key not in (index, "__categories")]
    if "column-order" in group.attrs:
        keys = hdf5.attribute(group, "column-order")
    if index not in group:
        return _frame(group, keys, _numbered(item, length), item)
    try:
        names = hdf5.column(group, index)
    except hdf5.Unreadable as error:
        message = f"{file.filename}: the names in {axis} cannot be read ({error})"
        raise InputError(message) from error
    return _frame(group, keys, names, item)


def _legacy_frame(file: h5py.File, axis: str) -> pd.DataFrame:
    """Read obs or var as anndata before 0.7 wrote it: a table, with the categories in uns."""
    import pandas as pd

    table = file[axis][()]
    if table.dtype.names is None or table.ndim != 1:
        raise InputError(f"{file.filename}: {axis} is not a table with one row for each name")
    columns: dict[str, np.ndarray | pd.Categorical] = {}
    left_out = {}
    for key in table.dtype.names:
        values = table[key]
        if values.ndim != 1:
            left_out[key] = hdf5.NOT_A_COLUMN
            continue
        categories = hdf5.vector(file.get(f"uns/{key}_categories"))
        decoded = hdf5.categorical(values, categories)
        plain = hdf5.text(values) if values.dtype.kind in "SO" else values
        columns[key] = plain if decoded is None else decoded
    frame = pd.DataFrame(columns).set_index(table.dtype.names[0])
    frame.attrs["left_out"] = left_out
    return frame


# ---- tables of text


def is_table(path: Path) -> bool:
    """Return whether a path is a file named as a table of text: .csv, .tsv or .txt, also .gz."""
    return path.is_file() and _suffix_of_table(path) in SEPARATORS


def _suffix_of_table(path: Path) -> str:
    """Return the ending of a file's name, without the .gz that may follow it."""
    _, dot, suffix = path.name.lower().removesuffix(".gz").rpartition(".")
    return suffix if dot else ""


def read_table(path: Path, layer: str | None) -> Parts:
    """Read a table of cells x genes, with names in the first row and the first column."""
    import pandas as pd

    if layer is not None:
        raise InputError(f"{path} is a table, --layer {layer} is for .h5ad files only")
    separator = SEPARATORS[_suffix_of_table(path)]
    damage = (EOFError, gzip.BadGzipFile, zlib.error)  # of a compressed file
    no_table = (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError)
    try:
        table = pd.read_csv(path, sep=separator, index_col=0, compression="infer")
    except damage as error:
        raise InputError(
            f"{path}: cannot be unpacked ({hdf5.reason(error)}): it is cut short or damaged, copy "
            "or download it again"
        ) from error
    except no_table as error:
        reason = hdf5.reason(error)
        raise InputError(
            f"{path}: is not a table that can be read ({reason}): a row for each cell and a column "
            "for each gene are needed, with their names in the first column and the first row"
        ) from error
    wrong = [str(name) for name, kind in table.dtypes.items() if kind.kind not in "biuf"]
    if wrong:
        raise InputError(
            f"{path}: columns that are not numbers throughout: {listed(wrong)}: give one column "
            "for each gene, and the names of the cells in the first"
        )
    genes = pd.DataFrame(index=pd.Index(table.columns.astype(str), dtype=object))
    cells = pd.DataFrame(index=pd.Index(table.index.astype(str), dtype=object))
    return Parts(table.to_numpy(), cells, genes)


# ---- what the formats share


def _numbered(item: str, length: int) -> np.ndarray:
    return np.array([f"{item}_{i}" for i in range(length)], dtype=object)


def _check_length(
    file: h5py.File, key: str, values: np.ndarray | ExtensionArray, length: int, item: str
) -> None:
    if len(values) != length:
        raise InputError(
            f"{file.filename}: {key} has {len(values)} entries for the {length} {item}s: write the "
            "file again"
        )


def _frame(
    group: h5py.Group, keys: Iterable[str], names: np.ndarray | ExtensionArray, item: str
) -> pd.DataFrame:
    """Read the columns `keys` of a group; attrs["left_out"] says why one is not in the frame."""
    import pandas as pd

    columns: dict[str, np.ndarray | ExtensionArray] = {}
    left_out = {}
    for key in keys:
        try:
            values = hdf5.column(group, key)
        except hdf5.Unreadable as error:
            left_out[key] = str(error)
            continue
        path = f"{group.name.strip('/')}/{key}"
        _check_length(group.file, path, values, len(names), item)
        columns[key] = values
    frame = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    frame.attrs["left_out"] = left_out
    return frame
