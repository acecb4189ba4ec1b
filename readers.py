"""Read a data file into an AnnData, whatever its format.

A format is one function that recognises it, one that reads it, and one line of `FORMATS`. Whether
the values are counts is judged in `preprocess`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np
from scipy.sparse import csr_matrix

from formats import bounds, h5ad, hdf5, loom, mtx, published, raw_counts, tenx, text
from formats.parts import Choices, Parts, listed
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import anndata
    import pandas as pd

log = logging.getLogger("sctag")

SUFFIXES = (".h5", ".h5ad", ".h5mu", ".loom", ".zarr", ".mtx", ".csv", ".tsv")  # before a .gz
PACKED = (".gz", ".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z")
# Text that stands for a missing value where NaN was written as text.
MISSING = ("", "nan", "NaN", "<NA>")


class Format(NamedTuple):
    """A file format.

    Parameters
    ----------
    name
        What messages call it.
    recognises
        Is called with the path of any file or folder, looks at the contents, and returns whether
        they are of the format.
    read
        Is called with such a path and with what the user chooses of it.
    uses
        The names of the `Choices` that have a meaning in the format; others are refused.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Choices], Parts]
    uses: tuple[str, ...] = ()


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
    raise InputError(f"no data set {dataname!r} in {data_dir}, choose from: {listed(present)}")


def read(
    path: Path | str,
    *,
    layer: str | None = None,
    genome: str | None = None,
    transpose: bool | None = None,
    gene_key: str | None = None,
    whole: bool = False,
    raw: bool = False,
) -> anndata.AnnData:
    """Read the counts, the names and the annotation of a file, or of a folder of files.

    The log says what was decided in reading. Columns of the annotation that cannot be read are left
    out, with a warning that names them.

    Parameters
    ----------
    path
        A file or folder in one of the `FORMATS`; its contents decide which.
    layer
        The matrix that holds the counts, where a format has several: a layer, "raw" or "X".
    genome
        The genome whose genes are read, where a file of 10x has several.
    transpose
        Whether the rows of a table or of an .mtx are genes; None if that is to be guessed.
    gene_key
        The column of var that names the genes, in place of the names that the file gives them,
        which var["gene_id"] keeps. A gene without a value there keeps its name.
    whole
        Whether everything else that the file holds of these cells and genes comes along: layers,
        obsm, varm, obsp, varp and uns, with X as layers["X_before"] where the counts are in another
        place. What cannot be read is left out, and named by the log.
    raw
        Whether, with `whole`, the raw of the file comes along too, unless it holds the counts.

    Returns
    -------
    AnnData, N cells x G genes. X is CSR without stored zeros, float32, or float64 if a value is
    above 2^24. Names are unique and not empty; if that changed them, the file's own are in
    obs["cell_name"] or var["gene_name"]. obs.attrs["left_out"] and var.attrs["left_out"] say for
    each column that was left out why.

    Raises
    ------
    InputError
        If the file is missing, cannot be read or disagrees with itself, or if a choice has no
        meaning for it.
    """
    path = Path(path)
    choices = Choices(layer, genome, transpose, whole or None, raw or None)
    hdf5.register_filters()
    with warnings.catch_warnings():
        # anndata warns of old encodings and of repeated names, both of which are dealt with here
        warnings.simplefilter("ignore")
        with hdf5.input_errors(path):
            check_path(path)
        import anndata  # noqa: F401, outside of the block whose time is limited

        with hdf5.input_errors(path):
            if hdf5.is_hdf5(path):
                bounds.check_hdf5(path)
            parts = _format_of(path, choices).read(path, choices)
            counts = raw_counts.canonical(parts.matrix, str(path))
        for note in parts.notes:
            log.info("read      %s", note)
        _warn_of_left_out(path, parts)
        if gene_key is not None:
            _rename_genes(parts.var, gene_key, str(path))
        return _annotated(counts, parts)


def recognises(path: Path) -> bool:
    """Return whether a path is of one of the formats, by its contents.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with hdf5.input_errors(path):
        return any(form.recognises(path) for form in FORMATS)


def read_labels(adata: anndata.AnnData, label_key: str) -> pd.Series | None:
    """Return the labels of the cells, obs[label_key], as text; None if there is no such column.

    Returns
    -------
    Object Series, shape (N,), indexed by obs_names. Whole floats print as integers; missing values
    (NaN, None, and the text that is written for them, as "nan" or none at all) are None.
    """
    import pandas as pd

    if label_key not in adata.obs:
        return None

    def label(value: object) -> str | None:
        if pd.isna(value) or value in MISSING:
            return None
        if isinstance(value, float | np.floating) and value.is_integer():
            return str(int(value))
        return str(value)

    labels = [label(value) for value in adata.obs[label_key].astype(object)]
    return pd.Series(labels, index=adata.obs_names, dtype=object, name=label_key)


def missing_column(adata: anndata.AnnData, key: str, where: str) -> str:
    """Return half a sentence that says that obs lacks a column, and why or which are there."""
    if reason := adata.obs.attrs.get("left_out", {}).get(key):
        return f"{where}: the column {key!r} of obs cannot be read ({reason})"
    present = ", ".join(map(str, adata.obs.columns)) or "none"
    return f"{where} has no column {key!r} in obs (present: {present})"


def check_path(path: Path) -> None:
    """Refuse a path that no format can be read from, before a format looks at it (InputError)."""
    if not path.exists():
        if not path.parent.is_dir():
            raise InputError(f"{path}: no such file, its folder {path.parent} does not exist")
        present = listed(_data_in(path.parent))
        raise InputError(f"{path}: no such file, choose from its folder: {present}")
    if path.is_dir():
        return
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file, name a .h5 or .h5ad file")
    with path.open("rb") as file:
        if not file.read(1):
            raise InputError(f"{path}: is empty (0 bytes), copy or download it again")


def _data_in(folder: Path) -> list[str]:
    """Return the names in a folder that are those of data files."""
    return [path.name for path in folder.iterdir() if is_named_as_data(path)]


def is_named_as_data(path: Path) -> bool:
    """Return whether the name of a path is that of a file that may hold data."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _format_of(path: Path, choices: Choices) -> Format:
    """Return the first format that recognises a path; InputError if it lacks what is chosen."""
    form = next((form for form in FORMATS if form.recognises(path)), None)
    if form is None:
        raise _unknown_format(path)
    for name, value in choices._asdict().items():
        if name not in ("whole", "raw") and value is not None and name not in form.uses:
            flags = {True: f"--{name}", False: f"--no-{name}"}
            flag = flags.get(value, f"--{name} {value}")
            others = ", ".join(other.name for other in FORMATS if name in other.uses)
            raise InputError(f"{path} is {form.name}, {flag} is for {others} only")
    return form


def _unknown_format(path: Path) -> InputError:
    names = ", ".join(form.name for form in FORMATS[:-1]) + f" or {FORMATS[-1].name}"
    if path.is_dir():
        present = listed(_data_in(path))
        return InputError(
            f"{path}: is a directory that holds no matrix.mtx, name one of its files, if it has "
            f"any (data files in it: {present})"
        )
    if path.name.lower().endswith(PACKED):
        return InputError(f"{path}: is packed, unpack it and name what comes out: {names}")
    if not hdf5.is_hdf5(path):
        return InputError(f"{path}: is not an HDF5 file, nor any other that can be read: {names}")
    with h5py.File(path, "r") as file:
        return InputError(
            f"{path}: is of none of the formats that can be read, {names} (the file holds: "
            f"{listed(file)})"
        )


def _warn_of_left_out(path: Path, parts: Parts) -> None:
    reasons = [
        f"{axis}[{key!r}] ({reason})"
        for axis, frame in (("obs", parts.obs), ("var", parts.var))
        for key, reason in frame.attrs.get("left_out", {}).items()
    ]
    if reasons:
        sentence = "warning: %s: columns that cannot be read are left out: %s"
        log.warning(sentence, path, listed(reasons))
    if parts.left_out:
        reasons = [f"{place} ({reason})" for place, reason in parts.left_out.items()]
        log.info("read      not kept in the result: %s", listed(reasons))


def _rename_genes(var: pd.DataFrame, key: str, where: str) -> None:
    """Name the genes by a column of var, in place; InputError if there is no such column."""
    if key not in var:
        reason = var.attrs.get("left_out", {}).get(key)
        problem = f"cannot be read ({reason})" if reason else f"is not there: {listed(var)}"
        raise InputError(f"{where}: the column {key!r} of var, of --gene_key, {problem}")
    names = var.index.to_numpy().astype(str)
    values = var[key].astype(object)
    is_named = (values.notna() & ~values.isin(MISSING)).to_numpy()
    keep_aside(var, ["gene_id"])
    var["gene_id"] = names
    var.index = var.index.__class__([*np.where(is_named, values.astype(str), names)], dtype=object)


def _annotated(counts: csr_matrix, parts: Parts) -> anndata.AnnData:
    """Return AnnData with unique names, and with no column that anndata would not write again."""
    import anndata
    import pandas as pd

    obs, var = parts.obs, parts.var
    for frame, item in ((obs, "cell"), (var, "gene")):
        frame.drop(columns="_index", errors="ignore", inplace=True)
        nullable = frame.columns[frame.dtypes == "string"]
        frame[nullable] = frame[nullable].astype(object)
        names = frame.index.astype(str).rename(None)
        if not names.is_unique or "" in names:
            keep_aside(frame, [f"{item}_name"])
            frame[f"{item}_name"] = names.to_numpy()
            named = [name or f"{item}_{i}" for i, name in enumerate(names)]
            names = anndata.utils.make_index_unique(names.__class__(named))
        frame.index = names
    for part, names in (("obsm", obs.index), ("varm", var.index)):
        for value in parts.rest.get(part, {}).values():
            if isinstance(value, pd.DataFrame):
                value.index = names
    return anndata.AnnData(counts, obs=obs, var=var, **parts.rest)


def keep_aside(frame: pd.DataFrame, columns: Iterable[str]) -> dict[str, str]:
    """Rename columns that are about to be replaced, in place: each gets "_before" at its end.

    Returns
    -------
    The new name of each of the columns that is there.
    """
    renamed = {}
    for column in columns:
        if column in frame:
            renamed[column] = f"{column}_before"
            while renamed[column] in frame:
                renamed[column] += "_before"
    frame.rename(columns=renamed, inplace=True)
    return renamed


# Last, because it names the functions: a format is one line. The first that recognises a path reads
# it, so the layouts that are told by fewer names come later.
FORMATS = (
    Format("the published layout (.h5 with exprs)", published.is_exprs, published.read_exprs),
    Format("10x Cell Ranger (.h5)", tenx.is_tenx, tenx.read_tenx, ("genome",)),
    Format("MuData (.h5mu)", h5ad.is_h5mu, h5ad.read_h5mu, ("layer",)),
    Format("loom (.loom)", loom.is_loom, loom.read_loom, ("layer",)),
    Format("AnnData (.h5ad)", h5ad.is_h5ad, h5ad.read_h5ad, ("layer",)),
    Format("X and Y (.h5)", published.is_xy, published.read_xy, ("transpose",)),
    Format("AnnData in a folder (.zarr)", h5ad.is_zarr, h5ad.read_zarr, ("layer",)),
    Format("Matrix Market (.mtx, or its folder)", mtx.is_mtx, mtx.read_mtx, ("transpose",)),
    Format(
        "a table of text (.csv, .tsv, also .gz)", text.is_table, text.read_table, ("transpose",)
    ),
)
