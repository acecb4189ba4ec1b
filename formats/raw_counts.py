"""What counts are: the one form in which the suite holds them, and the check of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse, vstack

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
    if _is_canonical(matrix):
        return matrix
    if issparse(matrix):
        wide = matrix.astype(np.float64, copy=True)  # first, as SciPy does little with float16
        if hasattr(wide, "check_format"):  # CSR and CSC can disagree with themselves
            wide.check_format(full_check=True)
        counts = csr_matrix(wide)
        counts.sum_duplicates()
    else:
        counts = _sparse(matrix)
    if not np.any(np.abs(counts.data) > FLOAT32_WHOLE):
        counts = counts.astype(np.float32)
    counts.eliminate_zeros()
    return counts


def _sparse(matrix: np.ndarray) -> csr_matrix:
    """Return a dense matrix as CSR, float32 or float64, made a block of rows at a time."""
    blocks = range(0, len(matrix), max(1, BLOCK // max(1, matrix.shape[1])))
    rows = [matrix[start : start + blocks.step] for start in blocks]
    is_large = any(np.any(np.abs(block.astype(np.float64)) > FLOAT32_WHOLE) for block in rows)
    kind = np.float64 if is_large else np.float32
    parts = [csr_matrix(block.astype(kind)) for block in rows]
    return vstack(parts, format="csr") if parts else csr_matrix(matrix.shape, dtype=kind)


def _is_canonical(matrix: Any) -> bool:
    return (
        isinstance(matrix, csr_matrix)
        and matrix.dtype == np.float32
        and matrix.has_canonical_format
        and np.count_nonzero(matrix.data) == matrix.nnz
        and not np.any(np.abs(matrix.data) > FLOAT32_WHOLE)
    )


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
    return may_be_whole(values) and bool(values.any())


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
    values = counts.data
    _refuse(counts, np.isnan(values), "NaN", where)
    _refuse(counts, np.isinf(values), "infinite", where)
    _refuse(counts, values < 0, "negative, as in scaled data", where)
    _refuse(counts, values > LARGEST_COUNT, "above 2^32, more than a cell can have", where)
    fractions = np.count_nonzero(values != np.rint(values))
    if fractions == 0:
        return counts, None
    if reason := _normalised(counts):
        raise InputError(
            f"{where}: the values look normalised, because {reason}: raw counts are needed (if "
            "a layer of a .h5ad file has them, name it with --layer)"
        )
    finding = f"{where}: {fractions} of {values.size} non-zero values are not whole"
    if not round_counts:
        raise InputError(f"{finding}: give raw counts, or round these up with --round_counts")
    rounded = counts.copy()
    rounded.data = np.ceil(values)
    return rounded, f"{finding} and were rounded up"


def _refuse(counts: csr_matrix, bad: np.ndarray, kind: str, where: str) -> None:
    """Raise InputError if any stored value is bad; `bad`: a truth value for each of them."""
    if bad.any():
        first = np.flatnonzero(bad)[0]
        cell = np.searchsorted(counts.indptr, first, side="right") - 1
        raise InputError(
            f"{where}: {np.count_nonzero(bad)} of {bad.size} stored values are {kind}, the first "
            f"at cell {cell}, gene {counts.indices[first]} (from 0): raw counts are needed"
        )


def _normalised(counts: csr_matrix) -> str | None:
    """Return why values which are not all whole look normalised, or None if they do not."""
    values = counts.data
    if _equal_depths(counts, values):
        return "all cells have the same sum"
    if values.max() >= LOG_CEILING:
        return None
    if _equal_depths(counts, np.expm1(values, dtype=np.float64)):
        return "all cells have the same sum once log1p is undone"
    share = np.mean(values != np.rint(values))
    if share > 0.5:
        return f"the largest is {values.max():.3g} and {share:.0%} are not whole, as for logarithms"
    return None


def _equal_depths(counts: csr_matrix, values: np.ndarray) -> bool:
    """Return whether all cells have the same sum of values, given in the order of the counts'."""
    cells = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    depths = np.bincount(cells, weights=values)
    depths = depths[depths > 0]
    return len(depths) >= 2 and np.ptp(depths) <= DEPTH_TOLERANCE * depths.max()
