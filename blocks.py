"""Cells in blocks of rows, so that a loss over all cells needs no array over all pairs or genes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Blocks(NamedTuple):
    """N cells in blocks of equally many rows, of which the last overlaps the one before it.

    Nothing is padded or copied. Rows that the last block repeats are computed again, to the same
    result, and left out of sums by `new`. `block_rows` is at most N.
    """

    n_cells: int
    block_rows: int

    @classmethod
    def fitting(cls, n_cells: int, width: int, block_bytes: int) -> Blocks:
        """Return the smallest number of blocks that fit into `block_bytes`, of equal size.

        A block holds float32 rows of `width` columns, and one row at least however few the bytes.
        """
        at_most = max(1, block_bytes // (4 * width))
        count = -(-n_cells // at_most)
        return cls(n_cells, -(-n_cells // count))

    @property
    def n_blocks(self) -> int:
        """The number of blocks."""
        return -(-self.n_cells // self.block_rows)

    def start(self, index: tf.Tensor) -> tf.Tensor:
        """Return the first row of block `index`; the last block starts early enough to be whole."""
        return tf.minimum(index * self.block_rows, self.n_cells - self.block_rows)

    def take(self, matrix: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Return the rows of block `index` of a matrix (N, width): (block_rows, width)."""
        return tf.slice(matrix, [self.start(index), 0], [self.block_rows, matrix.shape[1]])

    def new(self, index: tf.Tensor) -> tf.Tensor:
        """Return (block_rows, 1): 1 for a row that no earlier block has, 0 for a repeated one."""
        rows = self.start(index) + tf.range(self.block_rows)
        return tf.cast(rows >= index * self.block_rows, tf.float32)[:, None]

    def empty(self, width: int, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Return zeros, into which `put` collects rows of `width` columns."""
        return tf.zeros([self.n_blocks, self.block_rows, width], dtype)

    def put(self, collected: tf.Tensor, index: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Return the collected blocks with the rows (block_rows, width) of block `index` put in."""
        return tf.tensor_scatter_nd_update(collected, [[index]], [rows])

    def join(self, collected: tf.Tensor) -> tf.Tensor:
        """Return the collected blocks as one matrix (N, width)."""
        width = collected.shape[2]
        before = tf.reshape(collected[:-1], [-1, width])
        last = collected[-1, self.block_rows * self.n_blocks - self.n_cells :]
        return tf.concat([before, last], axis=0)

    def run(self, one_block: Callable[..., tuple], *start: tf.Tensor) -> tuple:
        """Loop `one_block(index, *state) -> (index + 1, *state)` over all blocks.

        Returns the number of blocks and the last state; the first state is `start`.
        """
        return tf.while_loop(
            lambda index, *_: index < self.n_blocks,
            one_block,
            (tf.constant(0), *start),
            maximum_iterations=self.n_blocks,
        )


def sum_rows(block: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Return the sum of a block (rows, width), its rows weighted by (rows, 1), as a scalar.

    The rows are summed by a product with ones: XLA's own reduction to a scalar is slower on a CPU.
    """
    sums = tf.linalg.matvec(block, tf.ones([block.shape[1]]))
    return tf.reduce_sum(sums * weights[:, 0])
