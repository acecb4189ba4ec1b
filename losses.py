"""The losses of graph and clusters, as pure functions of tensors; `likelihoods.py` has the counts'.

Letters: N cells, D latent size, C clusters, E edges of the kNN graph. All tensors are float32.
Nothing here forms an N x N array.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from blocks import Blocks
from devices import CACHE_BYTES

# Keras' KL divergence, which the official code calls, clips both arguments to this.
KL_FLOOR = 1e-7


class Edges(NamedTuple):
    """The ones of the adjacency matrix A, A[rows[e], cols[e]] = 1; both arrays (E,), int32."""

    rows: tf.Tensor
    cols: tf.Tensor


class StepLosses(NamedTuple):
    """The losses of one step, before its update, each a scalar; kl is 0 in pretraining.

    `zinb` is the loss of the counts' reconstruction, also where a squared error stands in its
    place.
    """

    total: tf.Tensor
    adj: tf.Tensor
    zinb: tf.Tensor
    kl: tf.Tensor


def _sigmoid_square_sum(
    left: tf.Tensor, right: tf.Tensor, block_bytes: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the sum of sigmoid(s)^2 over s = left @ right^T, and its gradients in both factors.

    The sum runs once over blocks of rows of s: a block serves the value and both gradients while
    it is in the cache. Factors and gradients have the shape (N, D + 1).
    """
    n_cells, width = left.shape
    blocks = Blocks.fitting(n_cells, n_cells, block_bytes)

    def one_block(
        index: tf.Tensor, total: tf.Tensor, d_left: tf.Tensor, d_right: tf.Tensor
    ) -> tuple:
        rows, new = blocks.take(left, index), blocks.new(index)
        probability = tf.sigmoid(tf.matmul(rows, right, transpose_b=True))  # (block_rows, N)
        square = probability * probability
        d_logits = 2.0 * square * (1.0 - probability)
        return (
            index + 1,
            # By columns: of a wide block this is faster than `sum_rows`.
            total + tf.reduce_sum(tf.linalg.matvec(square, new[:, 0], transpose_a=True)),
            blocks.put(d_left, index, d_logits @ right),
            d_right + tf.matmul(rows * new, d_logits, transpose_a=True),
        )

    _, total, d_left, d_right = blocks.run(
        one_block, tf.constant(0.0), blocks.empty(width), tf.zeros([width, n_cells])
    )
    return total, blocks.join(d_left), tf.transpose(d_right)


def _logits_of(left: tf.Tensor, right: tf.Tensor, rows: tf.Tensor, cols: tf.Tensor) -> tf.Tensor:
    """Return the logits s = left @ right^T of single pairs of cells, shape (pairs,)."""
    return tf.reduce_sum(tf.gather(left, rows) * tf.gather(right, cols), axis=1)


def adjacency_mse(
    left: tf.Tensor, right: tf.Tensor, edges: Edges, *, block_bytes: int = CACHE_BYTES
) -> tf.Tensor:
    """Return the mean over all N x N pairs of (sigmoid(s) - A)^2, where s = left @ right^T.

    No N x N array is formed: as A is binary, sum (sigmoid(s) - A)^2 = sum sigmoid(s)^2
    - 2 sum over edges sigmoid(s) + E. The first sum runs in blocks of rows of the logits, in memory
    O(block_bytes + N). Source: the paper's reconstruction loss of the graph; official code
    `MSE(adj, A_out)`.

    Parameters
    ----------
    left, right
        The two factors that `layers.AdjacencyDecoder` returns, each (N, D + 1).
    edges
        The ones of A.
    block_bytes
        Bytes that a block of the N x N logits may take.
    """

    @tf.custom_gradient
    def square_sum(left: tf.Tensor, right: tf.Tensor) -> tuple:
        total, d_left, d_right = _sigmoid_square_sum(left, right, block_bytes)
        return total, lambda upstream: (upstream * d_left, upstream * d_right)

    of_edges = _logits_of(left, right, edges.rows, edges.cols)
    n_cells, n_edges = left.shape[0], edges.rows.shape[0]
    total = square_sum(left, right) - 2.0 * tf.reduce_sum(tf.sigmoid(of_edges)) + float(n_edges)
    return total / float(n_cells) ** 2


def edge_cross_entropy(
    left: tf.Tensor, right: tf.Tensor, edges: Edges, targets: tf.Tensor, others: tf.Tensor
) -> tf.Tensor:
    """Return how badly the logits s = left @ right^T tell neighbours from random pairs, in nats.

    It is the mean of two means of the binary cross-entropy of sigmoid(s): over the edges, with
    targets in [0, 1], and over as many pairs of a cell with a random one, with target 0. So the
    loss cannot be lowered by calling all pairs strangers, as the mean over all pairs can. Memory is
    O(E). Source: Kipf and Welling 2016 (arXiv:1611.07308) weigh edges and non-edges alike; the
    targets and the sampling are this suite's.

    Parameters
    ----------
    left, right
        The two factors that `layers.AdjacencyDecoder` returns, each (N, D + 1).
    edges
        The ones of A.
    targets
        How close the cells of each edge are, shape (E,).
    others
        For each edge a random cell that stands in its second cell's place, shape (E,), int32.
    """
    near = pair_entropy(left, right, edges, targets)
    far = pair_entropy(left, right, Edges(edges.rows, others), tf.zeros_like(targets))
    return 0.5 * (tf.reduce_mean(near) + tf.reduce_mean(far))


def pair_entropy(left: tf.Tensor, right: tf.Tensor, pairs: Edges, targets: tf.Tensor) -> tf.Tensor:
    """Return the binary cross-entropy of sigmoid(s) for single pairs of cells, (pairs,), in nats.

    The logits are s = left @ right^T; the targets, in [0, 1], are of the shape (pairs,).
    """
    logits = _logits_of(left, right, pairs.rows, pairs.cols)
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)


def target_distribution(q: tf.Tensor) -> tf.Tensor:
    """Return the sharpened assignment p (N, C) of an assignment q (N, C) whose rows sum to one.

    p is q^2 over the column sum of q, each row scaled to sum to one. Source: DEC (Xie 2016),
    equation 3.
    """
    weight = tf.square(q) / tf.reduce_sum(q, axis=0, keepdims=True)
    return weight / tf.reduce_sum(weight, axis=1, keepdims=True)


def kl_divergence(target: tf.Tensor, q: tf.Tensor, *, direction: str) -> tf.Tensor:
    """Return the mean KL divergence over cells, in nats.

    Parameters
    ----------
    target, q
        Distributions p and q, shape (N, C), clipped to [1e-7, 1] as Keras does.
    direction
        "pq" for KL(p || q), as in DEC; "qp" for KL(q || p), as in the official code.
    """
    p, q = (tf.clip_by_value(x, KL_FLOOR, 1.0) for x in (target, q))
    first, second = (p, q) if direction == "pq" else (q, p)
    return tf.reduce_mean(tf.reduce_sum(first * tf.math.log(first / second), axis=1))
