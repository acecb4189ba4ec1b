"""The .loom file of the Linnarsson group: genes x cells, with attributes of rows and columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from scipy.sparse import csc_matrix, hstack

from formats import bounds, hdf5
from formats.parts import Choices, Parts, check_length, frame, listed, numbered
from formats.rest import X_BEFORE
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import pandas as pd

# Attributes that name genes and cells, the most usual first.
GENES = ("Gene", "gene", "GeneName", "gene_names", "var_names", "Name", "Accession", "gene_ids")
CELLS = ("CellID", "obs_names", "cell_names", "cellid", "Barcode", "barcode", "barcodes")
BLOCK = 2**24  # values of a dense matrix that are held at a time


def is_loom(path: Path) -> bool:
    """Return whether a path is an HDF5 file with a dense matrix and attributes of its rows."""
    if not hdf5.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return isinstance(file.get("matrix"), h5py.Dataset) and (
            bool({"row_attrs", "col_attrs"} & {*file}) or path.suffix == ".loom"
        )


def read_loom(path: Path, choices: Choices) -> Parts:
    """Read `matrix`, or a layer, whose rows are genes, and the attributes as obs and var."""
    with h5py.File(path, "r") as file:
        layers = file.get("layers", {})
        key = "matrix"
        if choices.layer is not None:
            if choices.layer not in layers:
                message = f"{path}: no layer {choices.layer!r}, choose --layer from: "
                raise InputError(message + listed(layers))
            key = f"layers/{choices.layer}"
        matrix = _cells_by_genes(file[key], f"{path}: {key}")
        cells, genes = matrix.shape
        obs = _attributes(file, "col_attrs", CELLS, "cell", cells)
        var = _attributes(file, "row_attrs", GENES, "gene", genes)
        parts = Parts(matrix, obs, var)
        return parts._replace(**_layers(file, key, matrix)) if choices.whole else parts


def _layers(file: h5py.File, counts_key: str, counts: csc_matrix) -> dict[str, Any]:
    """Return the layers as `rest` of the parts, and as `left_out` those that cannot be read.

    A layer that holds the counts stays a layer, and the matrix is kept as `X_BEFORE` then.
    """
    layers: dict[str, csc_matrix] = {}
    names = [*file.get("layers", ())]
    keys = {f"layers/{name}": name for name in names if isinstance(name, str)}
    unnamed = [name for name in names if not isinstance(name, str)]  # HDF5 cannot decode them
    left_out = {f"layers/{name!r}": "its name is no text" for name in unnamed}
    keys["matrix"] = X_BEFORE
    for key, name in keys.items():
        if key == counts_key:
            layers |= {} if key == "matrix" else {name: counts}
            continue
        try:
            layers[name] = _cells_by_genes(file[key], f"{file.filename}: {key}")
        except InputError as error:
            left_out[key] = str(error)
    return {"rest": {"layers": layers} if layers else {}, "left_out": left_out}


def _cells_by_genes(item: h5py.Dataset, where: str) -> csc_matrix:
    """Return a dense matrix of genes x cells as a sparse one of cells x genes.

    It is read in blocks of rows, because loom files are made to be larger than the memory.
    """
    if getattr(item, "ndim", None) != 2 or item.dtype.kind not in "biuf":
        raise InputError(f"{where} is not a matrix of numbers, genes x cells")
    genes, cells = item.shape
    bounds.check_shape(item.shape, item.size, where)
    rows = max(1, BLOCK // max(1, cells))
    if item.chunks:  # a chunk is unpacked as a whole: none of them twice
        rows = -(-rows // item.chunks[0]) * item.chunks[0]
    kind = np.promote_types(item.dtype, np.float32)  # SciPy has no float16 and no foreign bytes
    starts = range(0, genes, rows)
    blocks = [csc_matrix(item[start : start + rows].T.astype(kind)) for start in starts]
    return hstack(blocks, format="csc") if blocks else csc_matrix((cells, genes))


def _attributes(
    file: h5py.File, key: str, titles: tuple[str, ...], item: str, length: int
) -> pd.DataFrame:
    """Read the attributes of one axis; the first of `titles` that is there has the names."""
    where = f"{file.filename}: {key}"
    group = file.get(key)
    if not isinstance(group, h5py.Group):
        return frame(file, (), numbered(item, length), item, where)
    title = next((title for title in titles if hdf5.vector(group.get(title)) is not None), None)
    names = numbered(item, length) if title is None else hdf5.vector(group[title])
    assert names is not None
    check_length(f"{where}/{title}", names, length, item)
    return frame(group, [name for name in group if name != title], names, item, where)
