"""Read matrices of numbers from HDF5 or zarr; large ones in blocks, and into files (`scratch`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

import csr_blocks
import scratch
from formats import bounds, hdf5
from utils import InputError

PIECES = ("data", "indices", "indptr", "shape")
SPARSE_ENCODINGS = {"csr_matrix": csr_matrix, "csc_matrix": csc_matrix}


def matrix(item: Any, where: str) -> csr_matrix | csc_matrix | np.ndarray:
    """Return a matrix of numbers as it is stored in HDF5 or zarr: dense, CSR or CSC.

    A large dense one becomes CSR, as it is read.

    Parameters
    ----------
    item
        A dataset, or a group of the pieces of a compressed sparse matrix. The shape is a piece of
        its own in the published layout and an attribute in AnnData's.
    where
        The file and the name of the matrix, for messages.

    Raises
    ------
    InputError
        If it is not a matrix of numbers, or if its pieces do not fit each other.
    """
    encoding = hdf5.attribute(item, "encoding-type")
    if encoding and encoding[0] not in ("array", *SPARSE_ENCODINGS):
        raise InputError(f"{where} has the encoding {encoding[0]!r}, which is not of a matrix")
    values = _dense(item) if hasattr(item, "shape") else sparse(item, where)
    if getattr(values, "ndim", None) != 2 or values.dtype.kind not in "biuf":
        raise InputError(f"{where} is not a matrix of numbers, cells x genes")
    bounds.check_shape(values.shape, values.size, where)
    return values


def is_large_sparse(item: Any) -> bool:
    """Return whether an item is a large sparse matrix as AnnData writes it."""
    if not {*hdf5.attribute(item, "encoding-type")} & {*SPARSE_ENCODINGS} or "data" not in item:
        return False
    values = item["data"]
    return scratch.is_large(math.prod(values.shape) * values.dtype.itemsize)


def sparse(group: Any, where: str, *, by_genes: bool = False) -> csr_matrix | csc_matrix:
    """Return a matrix of its pieces in a group, see `matrix`.

    With `by_genes` it is stored as genes x cells in CSC, whose pieces are those of cells x genes in
    CSR.
    """
    encodings = hdf5.attribute(group, "encoding-type") or [
        f"{name}_matrix"
        for name in hdf5.attribute(group, "h5sparse_format")  # anndata 0.6
    ]
    form = SPARSE_ENCODINGS.get(encodings[0] if encodings else "csr_matrix", csr_matrix)
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    names = PIECES if shape is None else PIECES[:3]
    if missing := sorted({*names} - {*getattr(group, "keys", tuple)()}):  # a type has none
        raise InputError(
            f"{where} lacks {', '.join(missing)} of its pieces {', '.join(sorted(names))}"
        )
    pieces = {name: hdf5.vector(group[name]) for name in names}
    numbers = {
        name: piece
        for name, piece in pieces.items()
        if piece is not None and piece.dtype.kind in ("biuf" if name == "data" else "iu")
    }
    if wrong := sorted({*pieces} - {*numbers}):
        raise InputError(
            f"{where}: {', '.join(wrong)} must be numbers in a row (whole, but for data)"
        )
    shape = np.atleast_1d(numbers.get("shape", shape))[:: -1 if by_genes else 1]
    data, indices, indptr = (numbers[name] for name in PIECES[:3])
    indices = _narrow(indices)
    try:
        values = form((data, indices, indptr), shape=tuple(shape))
        values.check_format(full_check=True)
        problem = f"indptr ends at {values.nnz}, data has {data.size} values"
    except (ValueError, TypeError) as error:
        problem = str(error)
    else:
        # AnnData's may have room to spare behind the last value, the published ones may not
        if "shape" not in names or values.nnz == data.size:
            bounds.check_shape(values.shape, values.nnz, where)
            return values
    raise InputError(
        f"{where}: its pieces do not make a {'CSC' if form is csc_matrix else 'CSR'} matrix of "
        f"shape {shape.tolist()}, cells x genes ({problem}): write the file again"
    )


def _narrow(indices: np.ndarray) -> np.ndarray:
    """Return positions in 32 bits, if they are many and fit: SciPy would convert them in memory."""
    top = np.iinfo(np.int32).max
    if indices.dtype == np.int32 or not top >= len(indices) or not scratch.is_mapped(indices):
        return indices
    for block in csr_blocks.slices(len(indices)):
        if indices[block].min() < 0 or indices[block].max() > top:
            return indices  # which SciPy will refuse
    return csr_blocks.converted(indices, np.int32)


def _dense(item: Any) -> Any:
    """Return the values of a dataset; of a large matrix of numbers those that are not zero."""
    is_matrix = len(item.shape or ()) == 2 and item.dtype.kind in "biuf"
    if not is_matrix or not scratch.is_large(math.prod(item.shape) * item.dtype.itemsize):
        return item[()]
    kind = np.promote_types(item.dtype, np.float32)  # SciPy does little with float16

    def blocks() -> Iterator[csr_matrix]:
        for rows in csr_blocks.slices(item.shape[0], max(1, csr_blocks.STORED // item.shape[1])):
            yield csr_matrix(item[rows].astype(kind))

    most = sum(block.nnz for block in blocks())
    return csr_blocks.assembled(blocks(), item.shape, most, kind)
