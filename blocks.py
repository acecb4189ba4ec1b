"""Cells in blocks of rows: how a loss over all cells runs without an array over all cells."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# What a block's widest array may take on a CPU: its cache. Between 2 and 16 MB the time of an epoch
# hardly changes; `utils.start_tensorflow` finds the value for a GPU.
CACHE_BYTES = 8_000_000


class Blocks(NamedTuple):
    """N cells in blocks of rows, all of one size: the last one overlaps the one before it.

    So nothing is padded or copied. Rows that a block repeats are computed again, to the same
    result, and left out of sums by `new`. block_rows: at most N.
    """

    n_cells: int
    block_rows: int

    @classmethod
    def fitting(cls, n_cells: int, width: int, block_bytes: int) -> Blocks:
        """As few blocks as let float32 rows of `width` columns fit, as small as that leaves them.

        A block has one row at least, however few bytes there are.
        """
        at_most = max(1, block_bytes // (4 * width))
        count = -(-n_cells // at_most)
        return cls(n_cells, -(-n_cells // count))

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return -(-self.n_cells // self.block_rows)

    def start(self, index: tf.Tensor) -> tf.Tensor:
        """First row of block `index`; the last block starts early enough to be whole."""
        return tf.minimum(index * self.block_rows, self.n_cells - self.block_rows)

    def take(self, matrix: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Rows of block `index` of a matrix (N, F): (block_rows, F)."""
        return tf.slice(matrix, [self.start(index), 0], [self.block_rows, matrix.shape[1]])

    def new(self, index: tf.Tensor) -> tf.Tensor:
        """(block_rows, 1): 1 for a row that no block before has had, 0 for a repeated one."""
        rows = self.start(index) + tf.range(self.block_rows)
        return tf.cast(rows >= index * self.block_rows, tf.float32)[:, None]

    def empty(self, width: int, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Where `put` collects rows of `width` columns."""
        return tf.zeros([self.count, self.block_rows, width], dtype)

    def put(self, collected: tf.Tensor, index: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Collected blocks with the rows (block_rows, F) of block `index`."""
        return tf.tensor_scatter_nd_update(collected, [[index]], [rows])

    def join(self, collected: tf.Tensor) -> tf.Tensor:
        """Collected blocks as one matrix (N, F)."""
        width = collected.shape[2]
        before = tf.reshape(collected[:-1], [-1, width])
        last = collected[-1, self.block_rows * self.count - self.n_cells :]
        return tf.concat([before, last], axis=0)

    def run(self, one_block, *start: tf.Tensor):
        """Loop `one_block(index, *state) -> (index + 1, *state)` over all blocks, from `start`."""
        return tf.while_loop(
            lambda index, *_: index < self.count,
            one_block,
            (tf.constant(0), *start),
            maximum_iterations=self.count,
        )


def sum_rows(block: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sum of a block (B, F), its rows weighted by (B, 1), as a scalar.

    The rows are summed by a product with ones: XLA's own reduction to a scalar is slower on a CPU.
    """
    sums = tf.linalg.matvec(block, tf.ones([block.shape[1]]))
    return tf.reduce_sum(sums * weights[:, 0])
