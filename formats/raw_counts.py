"""What counts are: the one form in which the suite holds them, and the check of their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

import csr_blocks
from utils import InputError

FLOAT32_WHOLE = 2**24  # up to here float32 holds every whole number
# No cell has so many molecules or reads of a gene, and the losses, in float32, would soon overflow.
LARGEST_COUNT = 2**32
BLOCK = 2**22  # values of a dense matrix that are made sparse at a time
DEPTH_TOLERANCE = 1e-3  # normalised depths agree to rounding, real ones differ by far more
LOG_CEILING = 30.0  # no logarithm of a count reaches it: e^30 is 10^13


def canonical(matrix: Any, where: str) -> csr_matrix:
    """Return a matrix of numbers as CSR in canonical form, without stored zeros.

    Entries that are stored twice are summed in float64, because integers of a file could wrap.

    Parameters
    ----------
    matrix
        Cells x genes, dense or sparse, of any type of number. It is not changed.
    where
        What the matrix is called in an error message.

    Returns
    -------
    CSR, float32, or float64 if a value is above 2^24. The same object if it is so already.

    Raises
    ------
    InputError
        If it is no matrix of numbers.
    """
    two_d = (issparse(matrix) or isinstance(matrix, np.ndarray)) and matrix.ndim == 2
    if not two_d or matrix.dtype.kind not in "biuf":
        raise InputError(f"{where} is not a matrix of numbers, cells x genes")
    if issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = csr_matrix(_wide(matrix))
    if issparse(matrix):  # these two can disagree with themselves
        matrix.check_format(full_check=True)
        matrix = csr_blocks.turned(matrix) if matrix.format == "csc" else matrix
        if matrix.has_canonical_format and _count(matrix.data, np.equal, 0) == 0:
            is_large = _count(matrix.data, _exceeds_float32)
            kind = np.float64 if is_large else np.float32
            if isinstance(matrix, csr_matrix) and matrix.dtype == np.float32 and not is_large:
                return matrix
            return csr_blocks.with_values(matrix, csr_blocks.converted(matrix.data, kind))
    most = matrix.nnz if issparse(matrix) else int(np.count_nonzero(matrix))
    is_large = False

    def small_blocks() -> Iterator[csr_matrix]:
        nonlocal is_large
        for block in _canonical_blocks(matrix):
            is_large = bool(_exceeds_float32(block.data).any())
            if is_large:
                return
            yield block

    counts = csr_blocks.assembled(small_blocks(), matrix.shape, most, np.float32)
    if is_large:
        blocks = _canonical_blocks(matrix)
        counts = csr_blocks.assembled(blocks, matrix.shape, most, np.float64)
    return counts


def _exceeds_float32(values: np.ndarray) -> np.ndarray:
    """Return which values are too large for float32 to tell the whole numbers apart."""
    return np.abs(values) > FLOAT32_WHOLE


def _wide(matrix: Any) -> Any:
    """Return a sparse matrix as float64, as SciPy does little with float16; a copy."""
    return matrix.astype(np.float64, copy=True)


def _canonical_blocks(matrix: Any) -> Iterator[csr_matrix]:
    """Yield the rows of a matrix, CSR or dense, as canonical CSR in float64, a block at a time."""
    if issparse(matrix):
        for rows in csr_blocks.row_slices(matrix):
            block = _wide(csr_blocks.rows_of(matrix, rows))
            block.sum_duplicates()
            block.eliminate_zeros()
            yield block
        return
    for rows in csr_blocks.slices(len(matrix), max(1, BLOCK // max(1, matrix.shape[1]))):
        yield csr_matrix(matrix[rows].astype(np.float64))


def _count(values: np.ndarray, test: Callable[..., np.ndarray], *more: Any) -> int:
    """Return for how many values (n,) a test is true."""
    blocks = csr_blocks.slices(len(values))
    return sum(int(np.count_nonzero(test(values[block], *more))) for block in blocks)


def may_be_whole(values: np.ndarray) -> bool:
    """Return whether values of any shape are whole numbers, none of them negative."""
    if values.dtype.kind in "bu":
        return True
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return False
    return not (values < 0).any() and bool((values == np.rint(values)).all())


def are_whole(matrix: Any) -> bool:
    """Return whether a matrix, dense or sparse, holds whole counts, some of them above zero."""
    values = matrix.data if issparse(matrix) else matrix
    rows = max(1, BLOCK // max(1, math.prod(values.shape[1:])))
    some = False
    for block in csr_blocks.slices(len(values), rows):
        if not may_be_whole(values[block]):
            return False
        some = some or bool(values[block].any())
    return some


def check(counts: csr_matrix, *, round_counts: bool, where: str) -> tuple[csr_matrix, str | None]:
    """Refuse values which are not raw counts; round up expected counts if asked to.

    Parameters
    ----------
    counts
        Cells x genes, as `canonical` returns them; whole floats are counts.
    round_counts
        Whether values that are not whole, such as expected counts (RSEM), are rounded up by ceil,
        as the published suite does.
    where
        What the matrix is called in a message, for example the file's path.

    Returns
    -------
    The counts, the same object if all are whole, and a sentence to warn with if some were rounded.

    Raises
    ------
    InputError
        For no cells or genes, NaN, infinite, negative or absurdly large values, values which look
        normalised, and for any other fraction unless `round_counts`.
    """
    cells, genes = counts.shape
    if cells == 0 or genes == 0:
        raise InputError(f"{where}: {cells} cells x {genes} genes, there is nothing to cluster")
    _refuse(counts, np.isnan, "NaN", where)
    _refuse(counts, np.isinf, "infinite", where)
    _refuse(counts, lambda values: values < 0, "negative, as in scaled data", where)
    too_large = "above 2^32, more than a cell can have"
    _refuse(counts, lambda values: values > LARGEST_COUNT, too_large, where)
    fractions = _count(counts.data, _is_fraction)
    if fractions == 0:
        return counts, None
    if reason := _normalised(counts, fractions):
        raise InputError(
            f"{where}: the values look normalised, because {reason}: raw counts are needed (if "
            "a layer of a .h5ad file has them, name it with --layer)"
        )
    finding = f"{where}: {fractions} of {counts.nnz} non-zero values are not whole"
    if not round_counts:
        raise InputError(f"{finding}: give raw counts, or round these up with --round_counts")
    rounded = csr_blocks.converted(counts.data, counts.dtype, np.ceil)
    return csr_blocks.with_values(counts, rounded), f"{finding} and were rounded up"


def _is_fraction(values: np.ndarray) -> np.ndarray:
    """Return which values are not whole."""
    return values != np.rint(values)


def _refuse(
    counts: csr_matrix, is_bad: Callable[[np.ndarray], np.ndarray], kind: str, where: str
) -> None:
    """Raise InputError if any stored value is bad, by a test of values (n,)."""
    number = _count(counts.data, is_bad)
    if number:
        blocks = csr_blocks.slices(counts.nnz)
        bad = ((block, is_bad(counts.data[block])) for block in blocks)
        first = next(block.start + int(mask.argmax()) for block, mask in bad if mask.any())
        cell = np.searchsorted(counts.indptr, first, side="right") - 1
        raise InputError(
            f"{where}: {number} of {counts.nnz} stored values are {kind}, the first "
            f"at cell {cell}, gene {counts.indices[first]} (from 0): raw counts are needed"
        )


def _normalised(counts: csr_matrix, fractions: int) -> str | None:
    """Return why values, so many not whole, look normalised, or None if they do not."""
    if _equal_depths(counts, np.asarray):
        return "all cells have the same sum"
    largest = counts.data.max()
    if largest >= LOG_CEILING:
        return None
    if _equal_depths(counts, lambda values: np.expm1(values, dtype=np.float64)):
        return "all cells have the same sum once log1p is undone"
    share = fractions / counts.nnz
    if share > 0.5:
        return f"the largest is {largest:.3g} and {share:.0%} are not whole, as for logarithms"
    return None


def _equal_depths(counts: csr_matrix, change: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Return whether all cells have the same sum of their values, which are changed before."""
    depths = np.zeros(counts.shape[0])
    for rows in csr_blocks.row_slices(counts):
        block = csr_blocks.rows_of(counts, rows)
        cells = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        depths[rows] = np.bincount(cells, change(block.data), block.shape[0])
    depths = depths[depths > 0]
    return len(depths) >= 2 and np.ptp(depths) <= DEPTH_TOLERANCE * depths.max()
