"""Several files in one run: which files a path stands for, and how their cells are joined.

A sample is a file, or a folder that is one data set. Cells are joined on the genes that all samples
share; where a cell is from is in obs["sample"].
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

import csr_blocks
import readers
import utils
from formats import h5ad, hdf5, mtx, raw_counts, text
from formats.parts import listed
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import anndata

log = logging.getLogger("sctag")

SAMPLE = "sample"  # the column of obs that says which file a cell is from
# Cell Ranger writes two matrices of one sample: that of all droplets, and that of the cells.
ALL_DROPLETS, ONLY_CELLS = re.compile(r"raw([_.].*)?", re.I), re.compile(r"filtered([_.].*)?", re.I)
FEW = 0.5  # share of a sample's genes, or cells, beyond which the samples are not what they seem


# --- Which files ----------------------------------------------------------------------------------


def paths_of(given: Sequence[Path]) -> list[Path]:
    """Return the path of each sample: what is given, or what is in it if it is a folder of samples.

    Raises
    ------
    InputError
        If a path is missing or cannot be read, or stands for the same data as another.
    """
    paths = []
    for path in given:
        with hdf5.input_errors(path):
            readers.check_path(path)
            paths += _in_folder(path) or [path]
    for first, second in pairwise(sorted(path.resolve() for path in paths)):
        if first == second:
            raise InputError(f"{first} is given twice: name each file of --data once")
        if second.is_relative_to(first):
            raise InputError(f"{second} is a part of {first}: name one of them with --data")
    return paths


def _in_folder(folder: Path) -> list[Path]:
    """Return the samples of a folder that holds several, else none.

    They are matrices with barcodes of their own, folders with a matrix, and files of the other
    formats. Tables of text are samples only where there is nothing else, since those beside other
    files may be anything. What Cell Ranger writes of one sample is no folder of samples.
    """
    if not folder.is_dir() or h5ad.is_zarr(folder):
        return []
    files = [path for path in sorted(folder.iterdir()) if readers.is_named_as_data(path)]
    if any(path.name.lower() in ("matrix.mtx", "matrix.mtx.gz") for path in files):
        return []
    tables = [path for path in files if text.is_table(path)]
    others = [path for path in files if path not in tables and not mtx.is_mtx(path)]
    samples = [path for path in others if readers.recognises(path)] + mtx.samples_in(folder)
    if not samples and not mtx.is_mtx(folder):
        samples = tables
    names = [path.name for path in samples]
    of_one = any(map(ALL_DROPLETS.fullmatch, names)) and any(map(ONLY_CELLS.fullmatch, names))
    twice = len({*map(utils.data_name, samples)}) < len(samples)  # of one, in two formats
    if len(samples) < 2 or of_one or twice:
        return []
    rest = [path.name for path in files if path not in samples]
    if rest:
        log.info("read      %s: left out, as they are no samples: %s", folder, listed(rest))
    return samples


def record(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the path and the SHA-256 of the data, for settings.json; of several also of each file.

    The SHA-256 of several files is that of all their own, in order.
    """
    files = [{"path": str(path), "sha256": utils.sha256(path)} for path in paths]
    if len(files) == 1:
        return {**files[0]}
    lines = "".join(file["sha256"] + "\n" for file in files)
    for name, file in zip(utils.data_names(paths), files, strict=True):
        file[SAMPLE] = name
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    return {"path": shown(paths), "sha256": sha256, "files": files}


def shown(paths: Sequence[Path]) -> str:
    """Return what one or several paths are called in a message."""
    return str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


# --- Their cells ----------------------------------------------------------------------------------


def read(paths: Sequence[Path], **choices: Any) -> anndata.AnnData:
    """Read one file as `readers.read` does by the same choices, or several, as `joined` does.

    Of several files no more than the counts, obs, var and layers comes along with `whole`: arrays
    of cells and graphs were made of each sample alone, and do not belong together.
    """
    parts = []
    names = utils.data_names(paths)
    for name, path in zip(names, paths, strict=True):
        adata = readers.read(path, **choices)
        parts.append(adata)
        if len(paths) > 1:
            for key in [*adata.obsm]:
                del adata.obsm[key]
            adata.raw = None
            log.info("sample    %s: %d cells, %d genes, from %s", name, *adata.shape, path)
    return parts[0] if len(parts) == 1 else joined(dict(zip(names, parts, strict=True)))


def joined(samples: dict[str, anndata.AnnData]) -> anndata.AnnData:
    """Return the cells of several samples, by name, on the genes that all of them have.

    Parameters
    ----------
    samples
        Data as `readers.read` returns them, which lose their X; columns of obs that are in the way
        are renamed in them.

    Returns
    -------
    AnnData, N cells x G genes, with counts in X as `raw_counts.canonical` makes them. Cells are in
    the order of the samples, genes in that of the first one. obs has the columns that all samples
    have, and the sample's name in obs["sample"]; var those that are the same in all. Cells that
    share their name with one of another sample have the sample's name behind it, and all names as
    they were are then in obs["cell_name"]. obs.attrs["left_out"] says for each column that was left
    out why.

    Raises
    ------
    InputError
        If there is no gene that all samples have.
    """
    import anndata

    _check_genes(samples)
    renamed = [*map(_keep_own_column, samples.values())]
    if any(renamed):
        log.info("columns   obs[%r] of the files is kept as obs[%r]", SAMPLE, max(renamed))
    left_out: dict[str, str] = {}
    columns = {column for adata in samples.values() for column in adata.obs}
    for name, adata in samples.items():
        left_out |= dict.fromkeys(columns - {*adata.obs}, f"{name} has none")
        left_out |= adata.obs.attrs.get("left_out", {})
    layers = [{*adata.layers} for adata in samples.values()]
    lost = set.union(*layers) - set.intersection(*layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of repeated names, which are dealt with below
        matrices = [adata.X for adata in samples.values()]
        for adata in samples.values():
            adata.X = None  # of which anndata would make two copies more
        adata = anndata.concat(samples, join="inner", label=SAMPLE, merge="same")
    columns_of = [part.var_names.get_indexer(adata.var_names) for part in samples.values()]
    adata.X = raw_counts.canonical(_stacked(matrices, columns_of), "the joined samples")
    _make_writable(adata)
    _warn_of_repeated_cells(adata)
    _make_names_unique(adata)
    adata.obs.attrs["left_out"] = left_out
    if left_out:
        log.info("joined    columns of obs that are not in all samples: %s", listed(left_out))
    if lost:
        log.info("joined    layers that are not in all samples, and left out: %s", listed(lost))
    return adata


def _stacked(matrices: list[csr_matrix], columns_of: list[np.ndarray]) -> csr_matrix:
    """Return some columns of each matrix, by their positions (G,), one matrix below the other."""

    def blocks() -> Iterator[csr_matrix]:
        for matrix, columns in zip(matrices, columns_of, strict=True):
            for rows in csr_blocks.row_slices(matrix):
                block = csr_blocks.rows_of(matrix, rows)[:, columns]
                block.sort_indices()
                yield block

    shape = (sum(matrix.shape[0] for matrix in matrices), len(columns_of[0]))
    most = sum(matrix.nnz for matrix in matrices)
    return csr_blocks.assembled(
        blocks(), shape, most, np.result_type(*[matrix.dtype for matrix in matrices])
    )


def _keep_own_column(adata: anndata.AnnData) -> str:
    """Rename obs["sample"] of a file, in place, and return what it became; "" without one."""
    return readers.keep_aside(adata.obs, [SAMPLE]).get(SAMPLE, "")


def _check_genes(samples: dict[str, anndata.AnnData]) -> None:
    """Log how many genes samples share; InputError if it is none, a warning if it is a few."""
    first, *others = samples
    shared = samples[first].var_names
    for name in others:
        both = shared.intersection(samples[name].var_names)
        if not len(both):
            theirs = samples[name].var_names
            raise InputError(
                f"{name} has none of the genes of {first} ({', '.join(theirs[:3])} and so on in "
                f"{name}, {', '.join(shared[:3])} in {first}): genes need the same names in all "
                "files of --data"
            )
        shared = both
    n_cells = sum(adata.n_obs for adata in samples.values())
    lost = ", ".join(f"{adata.n_vars - len(shared)} of {name}" for name, adata in samples.items())
    sentence = "joined    %d cells of %d samples on the %d genes that they share (left out: %s)"
    log.info(sentence, n_cells, len(samples), len(shared), lost)
    smallest = min(samples, key=lambda name: samples[name].n_vars)
    if len(shared) < FEW * samples[smallest].n_vars:
        log.warning(
            "warning: the samples share only %d genes, of the %d of %s: are genes named alike?",
            *(len(shared), samples[smallest].n_vars, smallest),
        )


def _make_writable(adata: anndata.AnnData) -> None:
    """Make text of the columns of obs that have another type in one sample than in another."""
    from pandas.api.types import infer_dtype

    for column in adata.obs:
        if infer_dtype(adata.obs[column].astype(object)).startswith("mixed"):
            adata.obs[column] = readers.read_labels(adata, column)


def _warn_of_repeated_cells(adata: anndata.AnnData) -> None:
    """Warn if most cells of a sample have the name, the depth and the genes of one of another."""
    import pandas as pd

    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    cells = pd.DataFrame(
        {"name": adata.obs_names, "depth": depth, "genes": np.diff(adata.X.indptr)}
    )
    repeated = cells.duplicated(keep=False).to_numpy()
    for name, share in pd.Series(repeated).groupby(adata.obs[SAMPLE].to_numpy()).mean().items():
        if share > FEW:
            log.warning(
                "warning: %.0f %% of the cells of %s seem to be in another sample too, by name and "
                "depth: is one sample given twice?",
                *(100 * share, name),
            )


def _make_names_unique(adata: anndata.AnnData) -> None:
    """Put the sample's name behind that of a cell whose name is also one in another sample."""
    import anndata

    names = adata.obs_names
    repeated = names.duplicated(keep=False)
    if not repeated.any():
        return
    readers.keep_aside(adata.obs, ["cell_name"])
    adata.obs["cell_name"] = names.to_numpy()
    behind = names + "-" + adata.obs[SAMPLE].astype(str).to_numpy()
    adata.obs_names = anndata.utils.make_index_unique(behind.where(repeated, names))
    log.info("joined    %d cells have the sample's name behind their own", repeated.sum())
