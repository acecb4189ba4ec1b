"""Read a data file into an AnnData, whatever its format.

A format is one function that recognises it, one that reads it, and one line of `FORMATS`. Whether
the values are counts is judged in `preprocess`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np
from scipy.sparse import csr_matrix

from formats import hdf5, layouts, raw_counts
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import anndata
    import pandas as pd

log = logging.getLogger("sctag")


class Format(NamedTuple):
    """A file format: its name for messages, whether a path is of it, and what reads it.

    `recognises` is called with the path of any file or folder, and looks at the contents. `read`
    is called with such a path and with the name of a layer, or None for the main matrix.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, str | None], layouts.Parts]


def locate(dataname: str, data_dir: Path) -> Path:
    """Return the path of a data set by its name, data_dir/dataname/data.h5.

    Raises
    ------
    InputError
        If there is no such file; the message names the data sets that are present.
    """
    path = data_dir / dataname / "data.h5"
    with hdf5.input_errors(path):
        if path.is_file():
            return path
        if not data_dir.is_dir():
            raise InputError(
                f"the data folder {data_dir} does not exist: name another with --data_dir, "
                "or a file with --data"
            )
        present = [folder.parent.name for folder in data_dir.glob("*/data.h5")]
    raise InputError(
        f"no data set {dataname!r} in {data_dir}, choose from: {layouts.listed(present)}"
    )


def read(path: Path | str, *, layer: str | None = None) -> anndata.AnnData:
    """Read the counts, the names and the annotation of a file.

    Columns of the annotation that cannot be read are left out, with a warning that names them.

    Parameters
    ----------
    path
        A file in one of the `FORMATS`; its contents decide which.
    layer
        A layer to read in place of the main matrix, for formats that have layers.

    Returns
    -------
    AnnData, N cells x G genes. X is CSR without stored zeros, float32, or float64 if a value is
    above 2^24. Names are unique; if that changed them, the file's own are in obs["cell_name"] or
    var["gene_name"]. obs.attrs["left_out"] and var.attrs["left_out"] say for each column that was
    left out why.

    Raises
    ------
    InputError
        If the file is missing, cannot be read or disagrees with itself.
    """
    path = Path(path)
    hdf5.register_filters()
    with warnings.catch_warnings():
        # anndata warns of old encodings and of repeated names, both of which are dealt with here
        warnings.simplefilter("ignore")
        with hdf5.input_errors(path):
            _check_path(path)
            for form in FORMATS:
                if form.recognises(path):
                    parts = form.read(path, layer)
                    break
            else:
                raise _unknown_format(path)
            counts = raw_counts.canonical(parts.matrix, str(path))
        _warn_of_left_out(path, parts)
        return _annotated(counts, parts.obs, parts.var)


def read_labels(adata: anndata.AnnData, label_key: str) -> pd.Series | None:
    """Return the labels of the cells, obs[label_key], as text; None if there is no such column.

    Returns
    -------
    Object Series, shape (N,), indexed by obs_names. Whole floats print as integers; missing values
    (NaN, None, the empty string) are None.
    """
    import pandas as pd

    if label_key not in adata.obs:
        return None

    def label(value: object) -> str | None:
        if pd.isna(value) or value == "":
            return None
        if isinstance(value, float | np.floating) and value.is_integer():
            return str(int(value))
        return str(value)

    labels = [label(value) for value in adata.obs[label_key].astype(object)]
    return pd.Series(labels, index=adata.obs_names, dtype=object, name=label_key)


def _check_path(path: Path) -> None:
    """Refuse a path that no format can be read from, before a format looks at it."""
    if not path.exists():
        if not path.parent.is_dir():
            raise InputError(f"{path}: no such file, its folder {path.parent} does not exist")
        present = [p.name for p in path.parent.iterdir() if p.suffix in (".h5", ".h5ad")]
        raise InputError(f"{path}: no such file, choose from its folder: {layouts.listed(present)}")
    if path.is_dir():
        return
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file, name a .h5 or .h5ad file")
    with path.open("rb") as file:
        if not file.read(1):
            raise InputError(f"{path}: is empty (0 bytes), copy or download it again")


def _unknown_format(path: Path) -> InputError:
    names = " or ".join(form.name for form in FORMATS)
    if path.is_dir():
        return InputError(f"{path}: is a directory, name a file instead: {names}")
    if not hdf5.is_hdf5(path):
        return InputError(f"{path}: is not an HDF5 file, name a file of {names}")
    with h5py.File(path, "r") as file:
        return InputError(
            f"{path}: is of none of the formats that can be read, {names} (the file holds: "
            f"{layouts.listed(file)})"
        )


def _warn_of_left_out(path: Path, parts: layouts.Parts) -> None:
    reasons = [
        f"{axis}[{key!r}] ({reason})"
        for axis, frame in (("obs", parts.obs), ("var", parts.var))
        for key, reason in frame.attrs.get("left_out", {}).items()
    ]
    if reasons:
        sentence = "warning: %s: columns that cannot be read are left out: %s"
        log.warning(sentence, path, layouts.listed(reasons))


def _annotated(counts: csr_matrix, obs: pd.DataFrame, var: pd.DataFrame) -> anndata.AnnData:
    """Return AnnData with unique names, and with no column that anndata would not write again."""
    import anndata

    for frame, original in ((obs, "cell_name"), (var, "gene_name")):
        frame.drop(columns="_index", errors="ignore", inplace=True)
        nullable = frame.columns[frame.dtypes == "string"]
        frame[nullable] = frame[nullable].astype(object)
        names = frame.index.astype(str).rename(None)
        if not names.is_unique:
            frame[original] = names.to_numpy()
            names = anndata.utils.make_index_unique(names)
        frame.index = names
    return anndata.AnnData(counts, obs=obs, var=var)


# Last, because it names the functions: a format is one line.
FORMATS = (
    Format("the published layout (.h5 with exprs)", layouts.is_published, layouts.read_published),
    Format("AnnData (.h5ad)", layouts.is_h5ad, layouts.read_h5ad),
    Format("a table of text (.csv, .tsv, also .gz)", layouts.is_table, layouts.read_table),
)
