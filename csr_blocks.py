"""Sparse counts a block of rows, or of genes, at a time, so that no second matrix is in memory.

A matrix is CSR, cells x genes. What only some of its arrays differ in shares the others: a matrix
of other values has the `indices` and `indptr` of the first, and one without rows that hold nothing
has its `data`. So no function of the suite may change the arrays of a matrix that it is given.
Large ones lie in files (`scratch.py`).
Letters: N cells, G genes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

import scratch

if TYPE_CHECKING:
    import anndata as ad

STORED = 2**22  # values that are looked at together
MOST_TURNS = 64  # blocks of genes of a matrix in CSC, each of which changes all of the CSR


def slices(length: int, step: int = STORED) -> Iterator[slice]:
    """Yield slices that cover the positions from 0 to a length, so many at a time.

    After each the pages of large arrays in files are given back.
    """
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
        scratch.give_back()


def row_slices(matrix: csr_matrix, stored: int = STORED) -> Iterator[slice]:
    """Yield slices of the rows of a matrix, each with about so many stored values, at least a row.

    A matrix without rows has one slice, which is empty. Pages are given back as by `slices`.
    """
    n_rows, start = matrix.shape[0], 0
    while True:
        most = matrix.indptr[start] + stored
        end = int(np.searchsorted(matrix.indptr, most, side="right")) - 1
        end = min(max(end, start + 1), n_rows)
        yield slice(start, end)
        scratch.give_back()
        start = end
        if start >= n_rows:
            return


def rows_of(matrix: csr_matrix, rows: slice) -> csr_matrix:
    """Return some rows of a matrix, a slice of them."""
    indptr = matrix.indptr[rows.start : rows.stop + 1]
    stored = slice(indptr[0], indptr[-1])
    data, indices = matrix.data[stored], matrix.indices[stored]
    return with_arrays(matrix, data, indices, indptr - indptr[0], len(indptr) - 1)


def with_arrays(
    matrix: csr_matrix,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    n_rows: int,
) -> csr_matrix:
    """Return a matrix of arrays that are as canonical as those of another, and of its columns."""
    made = csr_matrix((data, indices, indptr), shape=(n_rows, matrix.shape[1]), copy=False)
    made.has_canonical_format = matrix.has_canonical_format
    return made


def with_values(matrix: csr_matrix, data: np.ndarray) -> csr_matrix:
    """Return a matrix of other values at the same places, whose arrays it shares."""
    return with_arrays(matrix, data, matrix.indices, matrix.indptr, matrix.shape[0])


def converted(
    values: np.ndarray, kind: np.dtype | type, change: Callable[[np.ndarray], np.ndarray] = np.array
) -> np.ndarray:
    """Return changed values (n,) as a new array of a type; a block is looked at, at a time."""
    result = scratch.empty(len(values), kind)
    for block in slices(len(values)):
        result[block] = change(values[block])
    return result


def assembled(
    blocks: Iterable[csr_matrix], shape: tuple[int, int], most: int, kind: np.dtype | type
) -> csr_matrix:
    """Return the matrix (N, G) whose rows are those of canonical blocks, one below the other.

    Parameters
    ----------
    blocks
        Of N rows in all, CSR.
    shape
        N and G.
    most
        How many values the blocks store at most, all together.
    kind
        The type of the values.
    """
    wide = max(*shape, most) > np.iinfo(np.int32).max
    data = scratch.empty(most, kind)
    indices = scratch.empty(most, np.int64 if wide else np.int32)
    indptr = np.zeros(shape[0] + 1, indices.dtype)
    row = stored = 0
    for block in blocks:
        places = slice(stored, stored + block.nnz)
        data[places], indices[places] = block.data[: block.nnz], block.indices[: block.nnz]
        indptr[row + 1 : row + 1 + block.shape[0]] = block.indptr[1:].astype(indptr.dtype) + stored
        row, stored = row + block.shape[0], places.stop
    made = csr_matrix((data[:stored], indices[:stored], indptr), shape=shape, copy=False)
    made.has_canonical_format = True
    return made


def turned(matrix: csc_matrix) -> csr_matrix:
    """Return a matrix in CSC as CSR, float32 or a wider type; what is stored twice stays so."""
    by_genes = csr_matrix(
        (matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape[::-1], copy=False
    )
    lengths = stored_of_genes(by_genes)  # of the cells, which are the columns here
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = scratch.empty(matrix.nnz, np.promote_types(matrix.dtype, np.float32))
    indices = scratch.empty(matrix.nnz, matrix.indices.dtype)
    following = indptr[:-1].copy()  # where the next value of each cell comes
    for genes in row_slices(by_genes, max(STORED, matrix.nnz // MOST_TURNS)):
        block = rows_of(by_genes, genes).astype(data.dtype).T.tocsr()
        lengths = np.diff(block.indptr)
        places = np.repeat(following - block.indptr[:-1], lengths) + np.arange(block.nnz)
        data[places], indices[places] = block.data, block.indices + genes.start
        following += lengths
    return csr_matrix((data, indices, indptr), shape=matrix.shape, copy=False)


def stored_of_genes(matrix: csr_matrix) -> np.ndarray:
    """Return how many values each gene of a matrix stores, shape (G,)."""
    total = np.zeros(matrix.shape[1], np.int64)
    for block in slices(matrix.nnz):
        total += np.bincount(matrix.indices[block], minlength=len(total))
    return total


def subset(
    matrix: csr_matrix, cells: np.ndarray | None = None, genes: np.ndarray | None = None
) -> csr_matrix:
    """Return a canonical matrix of some of the cells and genes of another, both masks.

    The values are shared where all that are stored stay, and the columns too where no gene goes.
    """
    cells = np.ones(matrix.shape[0], bool) if cells is None else cells
    genes = np.ones(matrix.shape[1], bool) if genes is None else genes
    shape = (int(cells.sum()), int(genes.sum()))
    goes = (~genes).any()
    of_cells = np.diff(matrix.indptr)
    of_genes = stored_of_genes(matrix) if goes else np.zeros(len(genes), np.int64)
    if not of_cells[~cells].any() and not of_genes[~genes].any():
        indices = matrix.indices
        if goes:
            places = (np.cumsum(genes) - 1).astype(indices.dtype)
            indices = converted(indices, indices.dtype, lambda block: places[block])
        indptr = np.append(matrix.indptr[:-1][cells], matrix.indptr[-1:])
        made = csr_matrix((matrix.data, indices, indptr), shape=shape, copy=False)
        made.has_canonical_format = True
        return made
    columns = np.flatnonzero(genes)

    def blocks() -> Iterator[csr_matrix]:
        for rows in row_slices(matrix):
            block = rows_of(matrix, rows)[np.flatnonzero(cells[rows])]
            yield block[:, columns] if goes else block

    most = int(of_cells[cells].sum())
    if goes:
        most = min(most, int(of_genes[genes].sum()))
    return assembled(blocks(), shape, most, matrix.dtype)


def some_of(
    adata: ad.AnnData, cells: np.ndarray | None = None, genes: np.ndarray | None = None
) -> ad.AnnData:
    """Return some cells and genes of an AnnData, both masks, as a new one; see `subset`.

    Layers that are no canonical CSR, and everything else, are copied by anndata.
    """
    cells = np.ones(adata.n_obs, bool) if cells is None else cells
    genes = np.ones(adata.n_vars, bool) if genes is None else genes
    layers: dict[str | None, Any] = {None: adata.X}
    layers |= dict(adata.layers)
    blocks = {key: layer for key, layer in layers.items() if is_canonical(layer)}
    of_layers = (key for key in adata.layers if key not in blocks)
    rest: dict[str | None, Any] = {key: adata.layers[key] for key in of_layers}
    try:
        _set_layers(adata, rest)
        adata.X = None
        kept = adata[cells, genes].copy()
    finally:
        _set_layers(adata, layers)
    made = {key: subset(layer, cells, genes) for key, layer in blocks.items()}
    _set_layers(kept, {key: made.get(key, kept.layers.get(key)) for key in layers})
    return kept


def is_canonical(layer: object) -> bool:
    """Return whether a value is a matrix of which `subset` can be taken."""
    return isinstance(layer, csr_matrix) and bool(layer.has_canonical_format)


def _set_layers(adata: ad.AnnData, layers: dict[str | None, Any]) -> None:
    """Make these the layers of an AnnData, in their order, and that of None, if any, its X."""
    for key in [*adata.layers]:
        del adata.layers[key]
    for key, layer in layers.items():
        if key is None:
            adata.X = layer
        else:
            adata.layers[key] = layer


def spread_rows(matrix: csr_matrix, positions: np.ndarray, n_rows: int) -> csr_matrix:
    """Return a matrix of more rows, whose others are empty; it shares values and columns.

    Parameters
    ----------
    matrix
        Shape (N, G).
    positions
        Where its rows are among the new ones, increasing, shape (N,).
    n_rows
        How many there are.
    """
    indptr = np.zeros(n_rows + 1, matrix.indptr.dtype)
    indptr[positions + 1] = np.diff(matrix.indptr)
    indptr = np.cumsum(indptr, dtype=indptr.dtype)
    return with_arrays(matrix, matrix.data, matrix.indices, indptr, n_rows)


def gene_blocks(matrix: csr_matrix, stored: int) -> Iterator[tuple[slice, csr_matrix]]:
    """Yield slices of the genes of a matrix with about so many stored values, and their columns."""
    ends = np.cumsum(stored_of_genes(matrix))
    start = 0
    while start < matrix.shape[1]:
        before = ends[start - 1] if start else 0
        end = max(int(np.searchsorted(ends, before + stored, side="right")), start + 1)
        yield slice(start, end), matrix[:, start:end]
        start = end


def column_means(matrix: csr_matrix) -> np.ndarray:
    """Return the mean of each gene (G,), of the type of the values.

    It is rounded as that of SciPy's `mean`, which copies the whole matrix.
    """
    means = np.zeros(matrix.shape[1], matrix.dtype)
    for block in slices(matrix.nnz):
        np.add.at(means, matrix.indices[block], matrix.data[block] * (1.0 / matrix.shape[0]))
    return means
