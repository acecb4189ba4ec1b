"""What a file of AnnData holds beside counts, obs and var: read as far as this anndata can.

A result that keeps everything needs it; a run does not, so whatever cannot be read is left out, by
name and with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from formats import hdf5, matrices
from utils import InputError

if TYPE_CHECKING:
    import pandas as pd

X_BEFORE = "X_before"  # the layer that keeps X of a file whose counts are in another place
NOT_WRITTEN = "it is of a kind that anndata cannot write"
# The parts of an AnnData by the axes of their values: cells (0) and genes (1).
AXES = {"layers": (0, 1), "obsm": (0,), "varm": (1,), "obsp": (0, 0), "varp": (1, 1)}


def read_rest(
    group: Any, counts_key: str, matrix: Any, var: pd.DataFrame, *, raw: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the parts of a group of AnnData that `Parts.rest` describes, and what was left out.

    Parameters
    ----------
    group
        A group of HDF5 or zarr.
    counts_key
        The place of the counts in it, as "X", "layers/counts" or "raw/X". A layer that holds the
        counts is kept as a layer, and X, where the counts are elsewhere, as `X_BEFORE`.
    matrix
        The counts as they were read, shape (N, G).
    var
        Annotation of the genes of the counts. What is of X's genes is left out where they are not
        these.
    raw
        Whether `raw` comes along, with its own genes, where the counts are not its own.
    """
    reader = _Reader(matrix.shape)
    if counts_key != "X" and "X" in group:
        reader.take("layers", X_BEFORE, group, "X")
    if counts_key.startswith("raw") and not _same_genes(group, var):
        reader.omit_genes()
    for part in AXES:
        for key in group.get(part, ()):
            if counts_key == f"{part}/{key}":
                reader.rest.setdefault(part, {})[key] = matrix
            else:
                reader.take(part, key, group[part], key)
    for key in group.get("uns", ()):
        reader.take("uns", key, group["uns"], key)
    if not counts_key.startswith("raw") and any(key.startswith("raw") for key in group):
        if raw:
            reader.take_raw(group)
        else:
            reader.left_out["raw"] = "the result's own has the logarithms of all genes"
    return reader.rest, reader.left_out


def _same_genes(group: Any, var: pd.DataFrame) -> bool:
    """Return whether the genes of X are those of the raw counts, in their order."""
    try:
        axis = group["var"]
        names = hdf5.column(axis, (hdf5.attribute(axis, "_index") or ["_index"])[0])
    except (hdf5.Unreadable, *hdf5.REFUSALS):
        return False
    return [*map(str, names)] == [*map(str, var.index)]


class _Reader:
    """Collects what can be read of a group, and the reasons for what cannot."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.rest: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        self.genes = True

    def omit_genes(self) -> None:
        """Leave out from now on what has a value for each gene, and what was taken of that."""
        self.genes = False
        for key in self.rest.pop("layers", {}):
            self._omit("layers", key)

    def _omit(
        self, part: str, key: str, reason: str = "its genes are not those of the counts"
    ) -> None:
        name = "X" if key == X_BEFORE else f"{part}/{key}"
        self.left_out[name] = reason

    def take_raw(self, group: Any) -> None:
        """Read raw whole: its matrix, its genes and their arrays; or note why not."""
        try:
            keys = [key for key in ("X", "var", "varm") if key in group["raw"]]
            value = {key: _element(group["raw"], key) for key in keys}
        except (hdf5.Unreadable, *hdf5.REFUSALS) as error:
            self.left_out["raw"] = hdf5.reason(error)
            return
        shape = (self.shape[0], len(value.get("var", ())))
        if not _can_be_written(value):
            self.left_out["raw"] = NOT_WRITTEN
        elif getattr(value.get("X"), "shape", None) == shape:
            self.rest["raw"] = value
        else:
            self.left_out["raw"] = "its shape is not that of the data"

    def take(self, part: str, key: str, parent: Any, name: str) -> None:
        """Read one element into a part under a key, or note why not."""
        axes = AXES.get(part, ())
        if 1 in axes and not self.genes:
            self._omit(part, key)
            return
        try:
            value = _element(parent, name)
        except hdf5.Unreadable as error:
            self._omit(part, key, str(error))
            return
        lengths = tuple(self.shape[axis] for axis in axes)
        shape = tuple(getattr(value, "shape", None) or ())  # that of nothing is None
        if not _can_be_written(value):
            self._omit(part, key, NOT_WRITTEN)
        elif axes and (shape[: len(axes)] != lengths or len(shape) < 2):
            self._omit(part, key, "its shape is not that of the data")
        elif (value := _without_none(value)) is not None:
            self.rest.setdefault(part, {})[key] = value


def _element(parent: Any, name: str) -> Any:
    """Return an element of a group as `hdf5.element` does, a large sparse matrix read in blocks."""
    try:
        item = parent[name]
        if matrices.is_large_sparse(item):
            return matrices.sparse(item, name)
    except (InputError, *hdf5.REFUSALS) as error:
        raise hdf5.Unreadable(hdf5.reason(error)) from error
    return hdf5.element(parent, name)


def _can_be_written(value: Any) -> bool:
    """Return whether anndata can write what it has read.

    It cannot write references, raw bytes, nothing, and text with null characters.
    """
    import pandas as pd

    if isinstance(value, dict | pd.DataFrame):
        return all(_can_be_written(part) for _, part in value.items())
    if isinstance(value, pd.Series):
        value = value.to_numpy()
    if not isinstance(value, np.ndarray):
        return not isinstance(value, h5py.Empty | h5py.Reference | np.void | bytes)
    if value.dtype == object:
        return all(isinstance(item, str) and "\0" not in item for item in value.flat)
    names = value.dtype.names
    kinds = [value.dtype[name] for name in names] if names else [value.dtype]
    return all(kind.kind in "biufcSU" for kind in kinds)


def _without_none(value: Any) -> Any:
    """Return a value of uns without what is None, which anndata before 0.12 cannot read again."""
    if not isinstance(value, dict):
        return value
    kept = {key: _without_none(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item is not None}
