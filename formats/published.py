"""Two layouts of published data sets: `exprs` with annotation, and the plain X and Y."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from data_settings import LABEL_KEY
from formats import hdf5, matrices
from formats.parts import Choices, Parts, check_length, frame, named_frame, numbered
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import pandas as pd


def is_exprs(path: Path) -> bool:
    """Return whether a path is an HDF5 file with the counts in `exprs`."""
    if not hdf5.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return "exprs" in file


def read_exprs(path: Path, choices: Choices) -> Parts:
    """Read `exprs`, cells x genes, with `obs_names`, `var_names`, `obs` and `var` where present."""
    with h5py.File(path, "r") as file:
        matrix = matrices.matrix(file["exprs"], f"{path}: exprs")
        cells, genes = matrix.shape
        obs = _exprs_frame(file, "obs", "cell", cells)
        return Parts(matrix, obs, _exprs_frame(file, "var", "gene", genes))


def _exprs_frame(file: h5py.File, axis: str, item: str, length: int) -> pd.DataFrame:
    key = f"{axis}_names"
    names = hdf5.vector(file[key]) if key in file else numbered(item, length)
    if names is None:
        raise InputError(f"{file.filename}: {key} is not a list of names, one for each {item}")
    check_length(f"{file.filename}: {key}", names, length, item)
    group = file.get(axis)
    if not isinstance(group, h5py.Group):
        return frame(file, (), names, item, file.filename)
    return frame(group, group, names, item, f"{file.filename}: {axis}")


def is_xy(path: Path) -> bool:
    """Return whether a path is an HDF5 file of one dense matrix `X`, as scDeepCluster reads it."""
    if not hdf5.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return isinstance(file.get("X"), h5py.Dataset)


def read_xy(path: Path, choices: Choices) -> Parts:
    """Read the dense matrix `X`, and the labels of the cells from `Y` if it is there.

    X has a row for each cell. It has a row for each gene if the user says so, or if there are as
    many labels as columns, and not as many as rows.
    """
    with h5py.File(path, "r") as file:
        matrix = matrices.matrix(file["X"], f"{path}: X")
        labels = _labels(file)
    rows, columns = matrix.shape
    notes: tuple[str, ...] = ()
    by_genes = choices.transpose
    if by_genes is None:
        by_genes = labels is not None and len(labels) == columns != rows
        if by_genes:
            notes = (f"the rows of X are genes, as Y labels its {columns} columns",)
    if by_genes:
        matrix = matrix.T
    cells, genes = matrix.shape
    columns_of_obs = {}
    if labels is not None:
        check_length(f"{path}: Y", labels, cells, "cell")
        columns_of_obs = {LABEL_KEY: labels}
    obs = named_frame(numbered("cell", cells), **columns_of_obs)
    return Parts(matrix, obs, named_frame(numbered("gene", genes)), notes)


def _labels(file: h5py.File) -> np.ndarray | None:
    """Return `Y` in one dimension (N,), where it may be one column; None if it is absent."""
    if "Y" not in file:
        return None
    item = file["Y"]
    is_row = isinstance(item, h5py.Dataset) and item.shape is not None
    if is_row and (item.ndim == 1 or (item.ndim == 2 and 1 in item.shape)):
        values = item[()].ravel()
        if h5py.check_string_dtype(item.dtype):
            return hdf5.text(values)
        if values.dtype.kind in "biuf":
            return values
    raise InputError(f"{file.filename}: Y is not one label for each cell: write the file again")
