"""File to AnnData: the published `data.h5` layout, or AnnData's `.h5ad`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from scipy.sparse import csr_matrix, issparse

from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import anndata
    import pandas as pd

    Parts = tuple[csr_matrix, pd.DataFrame, pd.DataFrame]  # counts, obs, var

CSR_PIECES = ("data", "indices", "indptr", "shape")
FLOAT32_WHOLE = 2**24  # up to here float32 holds every whole number
NAMES_SHOWN = 20


def locate(dataname: str, data_dir: Path) -> Path:
    """Path of the data set `dataname`, data_dir/dataname/data.h5.

    Raises InputError, naming the data sets which are present, if there is no such file.
    """
    path = data_dir / dataname / "data.h5"
    with _input_errors(path):
        if path.is_file():
            return path
        if not data_dir.is_dir():
            raise InputError(
                f"the data folder {data_dir} does not exist: name another with --data_dir, "
                "or a file with --data"
            )
        present = [folder.parent.name for folder in data_dir.glob("*/data.h5")]
    raise InputError(f"no data set {dataname!r} in {data_dir}, choose from: {_listed(present)}")


def read(path: Path, *, layer: str | None = None) -> anndata.AnnData:
    """Counts, names and annotation of one file; whether the values are counts is not judged here.

    The contents decide the format. The published layout: `exprs` (cells x genes, dense or CSR
    pieces) and, each optional, `obs_names`, `var_names`, columns in `obs` and `var`. AnnData's:
    `X`, or `layers[layer]`, with `obs` and `var`; the rest is left in the file.

    Returns AnnData, N cells x G genes: X is CSR without stored zeros, float32 (float64 if a value
    is above 2^24). Names are unique; if that changed them, the file's own are in
    obs["cell_name"] or var["gene_name"].

    Raises InputError if the file is missing, unreadable, damaged or disagrees with itself.
    """
    with warnings.catch_warnings():
        # anndata warns of old encodings and of repeated names, both of which are dealt with here
        warnings.simplefilter("ignore")
        with _input_errors(path):
            _check_file(path)
            with h5py.File(path, "r") as file:
                parts = _read_h5ad(file, layer) if _is_h5ad(file) else _read_published(file, layer)
        return _annotated(*parts)


def read_labels(adata: anndata.AnnData, label_key: str) -> pd.Series | None:
    """Labels of the cells, obs[label_key], as strings; None if there is no such column.

    Returns an object Series (N,) indexed by obs_names. Whole floats print as integers; missing
    values (NaN, None, the empty string) are None.
    """
    import pandas as pd

    if label_key not in adata.obs:
        return None

    def label(value: object) -> str | None:
        if pd.isna(value) or value == "":
            return None
        whole = isinstance(value, float | np.floating) and value.is_integer()
        return str(int(value) if whole else value)

    labels = [label(value) for value in adata.obs[label_key].astype(object)]
    return pd.Series(labels, index=adata.obs_names, dtype=object, name=label_key)


@contextlib.contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Make an InputError of whatever the system, h5py and anndata raise: they raise many types."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        advice = "it is damaged, cut short or in an unknown encoding, write or download it again"
        if isinstance(error, OSError) and error.errno:  # the system's; HDF5's own have no number
            advice = "check its name and permissions"
        if isinstance(error, MemoryError):
            advice = "it does not fit into the memory of this machine, or is damaged"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}): {advice}") from error


def _check_file(path: Path) -> None:
    if not path.exists():
        if not path.parent.is_dir():
            raise InputError(f"{path}: no such file, its folder {path.parent} does not exist")
        present = [p.name for p in path.parent.iterdir() if p.suffix in (".h5", ".h5ad")]
        raise InputError(f"{path}: no such file, choose from its folder: {_listed(present)}")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise InputError(f"{path}: is {kind}, name a .h5 or .h5ad file")
    with path.open("rb") as file:
        if not file.read(1):
            raise InputError(f"{path}: is empty (0 bytes), copy or download it again")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path}: is not an HDF5 file, name a .h5 or .h5ad file")


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "none is there") + more


def _is_h5ad(file: h5py.File) -> bool:
    marked = file.attrs.get("encoding-type") == "anndata" or file.filename.endswith(".h5ad")
    return "exprs" not in file and (marked or {"X", "obs", "var"} <= {*file})


def _read_h5ad(file: h5py.File, layer: str | None) -> Parts:
    """Read no more than is asked for: the rest may be large, or too new for this anndata."""
    import anndata

    where = file.filename
    layers = file.get("layers", {})
    if layer is not None and layer not in layers:
        raise InputError(f"{where}: no layer {layer!r}, choose --layer from: {_listed(layers)}")
    key = "X" if layer is None else f"layers/{layer}"
    matrix = anndata.io.read_elem(file[key]) if key in file else None
    if matrix is None:
        raise InputError(f"{where}: X is absent, choose --layer from: {_listed(layers)}")
    if isinstance(file["obs"], h5py.Dataset):  # written before anndata 0.7
        whole = anndata.read_h5ad(where)
        obs, var = whole.obs, whole.var
    else:
        obs, var = anndata.io.read_elem(file["obs"]), anndata.io.read_elem(file["var"])
    counts = _canonical(matrix, f"{where}: {key}")
    if counts.shape != (len(obs), len(var)):
        raise InputError(
            f"{where}: the shape of {key}, {counts.shape}, disagrees with {len(obs)} cells in obs "
            f"and {len(var)} genes in var: write the file again"
        )
    return counts, obs, var


def _read_published(file: h5py.File, layer: str | None) -> Parts:
    where = f"{file.filename}: exprs"
    if "exprs" not in file:
        raise InputError(f"{where}, the counts, is missing (the file holds: {_listed(file)})")
    if layer is not None:
        raise InputError(f"{where} holds the counts, --layer {layer} is for .h5ad files only")
    exprs = file["exprs"]
    matrix = _csr(exprs, where) if isinstance(exprs, h5py.Group) else exprs[()]
    counts = _canonical(matrix, where)
    cells, genes = counts.shape
    return counts, _frame(file, "obs", "cell", cells), _frame(file, "var", "gene", genes)


def _csr(group: h5py.Group, where: str) -> csr_matrix:
    if missing := {*CSR_PIECES} - {*group}:
        raise InputError(f"{where} lacks {_listed(missing)} of its pieces {_listed(CSR_PIECES)}")
    pieces = {name: _vector(group[name]) for name in CSR_PIECES}
    kinds = {"data": "biuf"}  # the others are positions
    bad = [n for n, p in pieces.items() if p is None or p.dtype.kind not in kinds.get(n, "iu")]
    if bad:
        raise InputError(f"{where}: {_listed(bad)} must be numbers in a row (whole, but for data)")
    data, indices, indptr, shape = pieces.values()
    try:
        matrix = csr_matrix((data, indices, indptr), shape=tuple(shape))
        matrix.check_format(full_check=True)
        if matrix.nnz != data.size:
            raise ValueError(f"indptr ends at {matrix.nnz}, data has {data.size} values")
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}: its pieces do not make a CSR matrix of shape {shape.tolist()}, cells x "
            f"genes ({error}): write the file again"
        ) from error
    return matrix


def _frame(file: h5py.File, axis: str, item: str, length: int) -> pd.DataFrame:
    """Columns of the group `axis`, indexed by the names; what is not a column is skipped."""
    import pandas as pd

    key, group = f"{axis}_names", file.get(axis)
    names = _vector(file[key]) if key in file else np.array([f"{item}_{i}" for i in range(length)])
    if names is None:
        raise InputError(f"{file.filename}: {key} is not a list of names, one for each {item}")
    found = group.items() if isinstance(group, h5py.Group) else ()
    vectors = {name: _vector(column) for name, column in found}
    columns = {name: vector for name, vector in vectors.items() if vector is not None}
    for name, vector in [(key, names), *((f"{axis}/{n}", v) for n, v in columns.items())]:
        if len(vector) != length:
            raise InputError(
                f"{file.filename}: {name} has {len(vector)} entries for the {length} {item}s in "
                "exprs: write the file again"
            )
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def _vector(item: object) -> np.ndarray | None:
    """A 1-D dataset of numbers or strings, or a categorical group decoded; None for the rest."""
    if isinstance(item, h5py.Group) and {"codes", "categories"} <= {*item}:
        categories = _vector(item["categories"]).astype(object)
        return np.append(categories, None)[_vector(item["codes"])]  # the code of missing is -1
    if not isinstance(item, h5py.Dataset) or item.shape is None or item.ndim != 1:
        return None
    if h5py.check_string_dtype(item.dtype):
        # what is not UTF-8 is spelt out in \x, so that two labels never become one
        return item.asstr("utf-8", errors="backslashreplace")[()]
    return item[()] if item.dtype.kind in "biuf" else None


def _canonical(matrix: object, where: str) -> csr_matrix:
    """CSR in canonical form; duplicates are summed in float64, integers of the file could wrap."""
    two_d = (issparse(matrix) or isinstance(matrix, np.ndarray)) and matrix.ndim == 2
    if not two_d or matrix.dtype.kind not in "biuf":
        raise InputError(f"{where} is not a matrix of numbers, cells x genes")
    if issparse(matrix):
        matrix.check_format(full_check=True)
        counts = csr_matrix(matrix, dtype=np.float64)
        counts.sum_duplicates()
    else:
        at = np.nonzero(matrix)
        counts = csr_matrix((matrix[at].astype(np.float64), at), shape=matrix.shape)
    if not np.any(np.abs(counts.data) > FLOAT32_WHOLE):
        counts = counts.astype(np.float32)
    counts.eliminate_zeros()
    return counts


def _annotated(counts: csr_matrix, obs: pd.DataFrame, var: pd.DataFrame) -> anndata.AnnData:
    """AnnData with unique names, and with no column that anndata would not write again."""
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
