"""Whether the disk has room for what a run will write; it is looked at before the training.

What files of large arrays take (`scratch.py`) is reserved before, and not free any more. What an
array takes when it is packed is tried on parts of it, so that the bound is that of the data at
hand. Letters: N cells, G genes kept, D latent size, F features that are clustered, C clusters.
"""

from __future__ import annotations

import itertools
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import results
from settings import Settings
from utils import InputError

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np

MIB = 2**20
SAMPLE, PARTS = 2**16, 8  # bytes on which packing is tried, in each of so many places of an array
MARGIN = 1.1  # other parts may pack less well
OF_HDF5 = 2**18  # bytes that a file has beside its arrays
OF_TEXT = 48  # bytes of a text in HDF5, beside its characters
REPORT = 14 * MIB  # a page stays under 10 MB; figures, markers and types are beside it
CLUSTERS = 50  # that are reckoned with where their number is not known yet

# Returns the bytes that an array takes in a file.
Packing = Callable[["np.ndarray"], float]


def check(
    staging: Path,
    prepared: ad.AnnData,
    whole: ad.AnnData | None,
    settings: Settings,
    *,
    n_clusters: int | None,
) -> None:
    """Refuse a run whose files will not fit on the disk of its results folder.

    Parameters
    ----------
    staging
        The folder that `folders.staged` has yielded.
    prepared, whole, settings, n_clusters
        See `sizes_of`.

    Raises
    ------
    InputError
        With what the files take, what is free, and the flags that help.
    """
    free = shutil.disk_usage(staging).free
    # Mostly there is room for all of it as it is, and nothing need be tried.
    for packing in (as_it_is, packed):
        sizes = sizes_of(prepared, whole, settings, n_clusters=n_clusters, packing=packing)
        needed = sum(sizes.values())
        if needed <= free:
            return
    saved = {
        "pass --no_h5ad": sizes.get(results.DATA, 0) + sizes.get(results.PREPARED, 0),
        "pass --no_report": sizes.get(results.REPORT, 0),
        "leave --denoised out": sizes.get(results.DENOISED, 0),
    }
    helping = [flag for flag, size in saved.items() if size and needed - size <= free]
    raise InputError(
        f"the files of this run take up to {needed / MIB:.0f} MiB, and {free / MIB:.0f} MiB are "
        f"free in {staging.parent}: {', '.join([*helping, 'make room'])}, or choose another "
        "folder with --out"
    )


def sizes_of(
    prepared: ad.AnnData,
    whole: ad.AnnData | None,
    settings: Settings,
    *,
    n_clusters: int | None,
    packing: Packing,
) -> dict[str, float]:
    """Return the bytes of a run's large files, at most, by their names.

    Parameters
    ----------
    prepared
        Prepared data.
    whole
        The same cells with all that the input has of them; None where no AnnData is written.
    settings
        Decide which files there are.
    n_clusters
        C, None where it is to be estimated.
    packing
        How arrays are packed: `packed`, or `as_it_is` for a bound that is quick to know.
    """
    n_cells, n_genes = prepared.shape
    n_clusters = n_clusters or CLUSTERS
    names = _size(prepared.obs_names, packing)
    columns = _size(prepared.obs, packing)
    sizes = {results.LABELS: names + 32 * n_cells, results.NETWORK[1]: _network(n_genes, settings)}
    if whole is not None:
        outcome = names + n_cells * _of_cell(settings, n_clusters)
        logarithms = _size(prepared.raw.X, packing) + _size(prepared.raw.var, packing)
        shared = _size(prepared.obsm, packing) + 2 * _size(prepared.obsp, packing)
        distances = 8.0 * sum(graph.nnz for graph in prepared.obsp.values())
        of_input = _parts(whole, packing)
        sizes[results.DATA] = of_input + logarithms + shared + distances + outcome + OF_HDF5
        loadings = _size(prepared.raw.varm, packing) + 8.0 * n_clusters * prepared.raw.n_vars
        sizes[results.PREPARED] = (
            _parts(prepared, packing) + _size(prepared.raw.var, packing) + loadings + outcome
        ) + OF_HDF5
    if not settings.no_report:
        sizes[results.REPORT] = REPORT
    if settings.denoised:
        sizes[results.DENOISED] = 2 * 4.0 * n_cells * n_genes + columns + OF_HDF5
    return sizes


def as_it_is(array: np.ndarray) -> float:
    """Return the bytes of an array that is not packed."""
    return array.nbytes


def packed(array: np.ndarray) -> float:
    """Return the bytes of an array that is packed as `results.write_h5ad` does, about.

    It is tried on `PARTS` parts of it, evenly spread.
    """
    flat = array.reshape(-1)
    length = max(1, SAMPLE // max(1, flat.itemsize))
    if len(flat) <= PARTS * length:
        parts = [flat]
    else:
        step = (len(flat) - length) // (PARTS - 1)
        parts = [flat[start : start + length] for start in range(0, PARTS * step, step)]
    before = sum(part.nbytes for part in parts)
    after = sum(len(zlib.compress(part.tobytes(), 1)) for part in parts)
    return flat.nbytes * min(1.0, MARGIN * after / max(before, 1))


def _parts(adata: ad.AnnData, packing: Packing) -> float:
    """Return the bytes of all parts of an AnnData but its raw."""
    names = ("X", "obs", "var", "layers", "obsm", "varm", "obsp", "varp", "uns")
    return sum(_size(getattr(adata, name), packing) for name in names)


def _size(value: Any, packing: Packing) -> float:
    """Return the bytes of a value of an AnnData in a file."""
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    if isinstance(value, Mapping):
        return sum(_size(part, packing) for part in value.values())
    if sp.issparse(value):
        return sum(packing(getattr(value, name)) for name in ("data", "indices", "indptr"))
    if isinstance(value, pd.DataFrame):
        columns = (value.iloc[:, column].array for column in range(value.shape[1]))
        return _size(value.index, packing) + sum(_size(column, packing) for column in columns)
    if isinstance(value, pd.Categorical):
        return packing(value.codes) + _size(value.categories, packing)
    array = np.asarray(value)
    if array.dtype.kind in "biuf":
        return packing(array)
    texts = array.reshape(-1)
    longest = max((len(str(text)) for text in texts[: 10**4]), default=0)
    return float(len(texts) * (OF_TEXT + longest))


def _of_cell(settings: Settings, n_clusters: int) -> float:
    """Return the bytes that the outcome has of a cell: embedding, assignment, map, columns."""
    components = settings.n_pcs + (50 if settings.log_genes else 0)
    return 4.0 * (2 * settings.latent_dim + components + n_clusters + 2) + 32


def _network(n_genes: int, settings: Settings) -> float:
    """Return the bytes of the weights of the network."""
    hops = settings.hops + 1
    widths = [settings.latent_dim, *settings.decoder_dims]
    encoder = hops * (n_genes * settings.hidden_dim + settings.hidden_dim * settings.latent_dim)
    decoder = sum(one * other for one, other in itertools.pairwise(widths))
    heads = 3 * n_genes * (widths[-1] + 1)
    return 4.0 * (encoder + decoder + heads) + 2 * OF_HDF5
