"""The losses, as pure functions of tensors.

Letters: N cells, G genes, D latent size, C clusters, E edges of the kNN graph. All tensors are
float32 unless said otherwise; every loss is a scalar in nats or, for the graph, a squared
probability. Nothing here forms an N x N array.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy.special import gammaln

# The published suite's bounds (official code, `MeanAct` and `DispAct`): they keep a head that runs
# away finite, and the clip acts before exp so that its gradient is zero there instead of NaN.
LOG_MEAN_RANGE = (float(np.log(1e-5)), float(np.log(1e6)))
THETA_RANGE = (1e-4, 1e4)
# Entries at or below this are zeros to the ZINB (z-scored targets have negative entries).
ZERO = 1e-8
# Keras' KL divergence, which the official code calls, clips both arguments to this.
KL_FLOOR = 1e-7
# log Gamma is computed by Stirling's series at the argument + SHIFT, where four terms leave an
# error below 4e-9, less than float32 resolves.
SHIFT = 4


class ZINBTarget(NamedTuple):
    """What the ZINB is fitted to, with the part of its likelihood that never changes.

    y: (N, G) counts, or z-scores for the published target; entries up to `ZERO` count as zero.
    constant: (N, G) log Gamma(y + 1) - y log y + y, and 0 where y is zero.
    log_size_factor: (N, 1) log of the cell's depth over the median depth; 0 for z-scores.
    """

    y: tf.Tensor
    constant: tf.Tensor
    log_size_factor: tf.Tensor


def zinb_target(y: np.ndarray, size_factor: np.ndarray | None) -> ZINBTarget:
    """Tensors of a ZINB target, the constant computed in float64.

    y: (N, G) array; size_factor: (N,) positive, or None for a target without one.
    """
    positive = y > ZERO
    safe = np.where(positive, y, 1.0).astype(np.float64)
    constant = np.where(positive, gammaln(safe + 1) - safe * np.log(safe) + safe, 0.0)
    factor = np.ones(len(y)) if size_factor is None else np.asarray(size_factor, np.float64)
    return ZINBTarget(
        y=tf.constant(y, tf.float32),
        constant=tf.constant(constant, tf.float32),
        log_size_factor=tf.constant(np.log(factor)[:, None], tf.float32),
    )


def _stirling_tail(x: tf.Tensor) -> tf.Tensor:
    """log Gamma(x) - [(x - 1/2) log x - x + log(2 pi)/2], for x >= SHIFT."""
    r = 1.0 / x
    r2 = r * r
    return r * (1 / 12 - r2 * (1 / 360 - r2 * (1 / 1260 - r2 / 1680)))


def _digamma_tail(x: tf.Tensor) -> tf.Tensor:
    """log x - digamma(x), for x >= SHIFT."""
    r = 1.0 / x
    r2 = r * r
    return r * (1 / 2 + r * (1 / 12 - r2 * (1 / 120 - r2 * (1 / 252 - r2 / 240))))


@tf.custom_gradient
def log_gamma_ratio(y: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """log Gamma(y + theta) - log Gamma(theta) - y log(y + theta + SHIFT) + y, elementwise.

    The two log Gammas are never formed: at theta = 1e4 each is 8e4 and float32 would keep two
    decimals of their difference. Stirling's series is taken of the difference itself, at arguments
    moved up by SHIFT through Gamma(x + 1) = x Gamma(x). The y log(...) - y, the part that grows
    with y, is left to `zinb_nll`, where it meets its counterpart.

    y: >= 0; theta: > 0, same shape; differentiable in theta only (y is data). Source of the
    series: Abramowitz and Stegun 6.1.41 and 6.3.18.
    """
    a = theta + SHIFT
    b = y + a
    log_growth = tf.math.log1p(y / a)
    lowered = [(theta + k) / (y + theta + k) for k in range(SHIFT)]  # each in (0, 1]
    product = lowered[0] * lowered[1] * lowered[2] * lowered[3]
    value = (a - 0.5) * log_growth + _stirling_tail(b) - _stirling_tail(a) + tf.math.log(product)

    def gradient(upstream: tf.Tensor) -> tuple[None, tf.Tensor]:
        steps = [y / ((theta + k) * (y + theta + k)) for k in range(SHIFT)]
        digamma_difference = log_growth + _digamma_tail(a) - _digamma_tail(b) + sum(steps)
        return None, upstream * (digamma_difference - y / b)

    return value, gradient


def zinb_nll(
    target: ZINBTarget, log_mean: tf.Tensor, theta_raw: tf.Tensor, pi_logits: tf.Tensor
) -> tf.Tensor:
    """Mean negative log-likelihood of a zero-inflated negative binomial, in nats per entry.

    P(y) = pi [y = 0] + (1 - pi) NB(y; mean mu, dispersion theta), with mu = exp(log_mean) times the
    cell's size factor, theta = softplus(theta_raw), pi = sigmoid(pi_logits); exp(log_mean) and
    theta are clipped to the published bounds. Computed in log space from the logits: with
    t = -log NB(0) = theta log(1 + mu/theta),

        y = 0:  softplus(pi_logits) - logaddexp(pi_logits, -t)
        y > 0:  softplus(pi_logits) + t + y (log(y / (y + theta + SHIFT)) + log(1 + theta/mu))
                + constant(y) - log_gamma_ratio(y, theta)

    log_mean, theta_raw, pi_logits: (N, G), any real. Returns a scalar. For y up to 1e5 the absolute
    error of an entry is about 1e-7 y: the rounding of float32 in the terms that y multiplies.
    Source: the scTAG paper's ZINB loss; log-space form as in scvi-tools' `log_zinb_positive`.
    """
    return tf.reduce_mean(zinb_nll_entries(target, log_mean, theta_raw, pi_logits))


def zinb_nll_entries(
    target: ZINBTarget, log_mean: tf.Tensor, theta_raw: tf.Tensor, pi_logits: tf.Tensor
) -> tf.Tensor:
    """The (N, G) entries that `zinb_nll` averages; same arguments, nats."""
    log_mu = tf.clip_by_value(log_mean, *LOG_MEAN_RANGE) + target.log_size_factor
    mu = tf.exp(log_mu)
    theta = tf.clip_by_value(tf.nn.softplus(theta_raw), *THETA_RANGE)
    t = theta * tf.math.log1p(mu / theta)
    not_dropped = tf.nn.softplus(pi_logits)  # -log(1 - pi)

    log_zero = tf.maximum(pi_logits, -t) + tf.math.log1p(tf.exp(-tf.abs(pi_logits + t)))
    positive = target.y > ZERO
    y = tf.where(positive, target.y, 1.0)
    # log1p and a log apart, not one log of the product: its gradient keeps theta beside a large mu.
    surprise = y * (tf.math.log(y / (y + theta + SHIFT)) + tf.math.log1p(theta / mu))
    nb = t + surprise + target.constant - log_gamma_ratio(y, theta)
    return not_dropped + tf.where(positive, nb, -log_zero)


class Edges(NamedTuple):
    """The ones of the adjacency matrix A: A[rows[e], cols[e]] = 1. rows, cols: (E,) int32."""

    rows: tf.Tensor
    cols: tf.Tensor


def _sigmoid_square_sum(left: tf.Tensor, right: tf.Tensor, block_rows: int):
    """Sum of sigmoid(s)^2 over s = left @ right^T and its gradients, in blocks of rows of s.

    left, right: (N, F). Returns the sum, d sum / d left and d sum / d right, each (N, F). One pass:
    a block of s is used for the value and both gradients while it is in the cache.
    """
    n_cells, width = left.shape
    n_blocks = -(-n_cells // block_rows)
    padded = tf.pad(left, [[0, n_blocks * block_rows - n_cells], [0, 0]])

    def one_block(index, total, d_left, d_right):
        start = index * block_rows
        block = tf.slice(padded, [start, 0], [block_rows, width])
        probability = tf.sigmoid(tf.matmul(block, right, transpose_b=True))  # (block_rows, N)
        real = tf.cast(start + tf.range(block_rows) < n_cells, left.dtype)[:, None]
        square = real * probability * probability
        d_logits = 2.0 * square * (1.0 - probability)
        d_left = tf.tensor_scatter_nd_update(d_left, [[index]], [d_logits @ right])
        d_right += tf.matmul(d_logits, block, transpose_a=True)
        return index + 1, total + tf.reduce_sum(square), d_left, d_right

    start = (
        tf.constant(0),
        tf.constant(0.0, left.dtype),
        tf.zeros([n_blocks, block_rows, width], left.dtype),
        tf.zeros_like(right),
    )
    _, total, d_left, d_right = tf.while_loop(
        lambda index, *_: index < n_blocks, one_block, start, maximum_iterations=n_blocks
    )
    return total, tf.reshape(d_left, [-1, width])[:n_cells], d_right


def adjacency_mse(
    left: tf.Tensor, right: tf.Tensor, edges: Edges, *, block_rows: int = 256
) -> tf.Tensor:
    """Mean over all N x N pairs of (sigmoid(s) - A)^2, s = left @ right^T, without an N x N array.

    As A is binary, sum (sigmoid(s) - A)^2 = sum sigmoid(s)^2 - 2 sum over edges sigmoid(s) + E. The
    first sum runs in blocks of `block_rows` rows; memory O(block_rows x N).

    left, right: (N, F), the two factors that `AdjacencyDecoder` returns. Returns a scalar.
    Source: the paper's reconstruction loss of the graph; official code `MSE(adj, A_out)`.
    """

    @tf.custom_gradient
    def square_sum(left: tf.Tensor, right: tf.Tensor):
        total, d_left, d_right = _sigmoid_square_sum(left, right, block_rows)
        return total, lambda upstream: (upstream * d_left, upstream * d_right)

    of_edges = tf.reduce_sum(tf.gather(left, edges.rows) * tf.gather(right, edges.cols), axis=1)
    n_cells, n_edges = left.shape[0], edges.rows.shape[0]
    total = square_sum(left, right) - 2.0 * tf.reduce_sum(tf.sigmoid(of_edges)) + float(n_edges)
    return total / float(n_cells) ** 2


def target_distribution(q: tf.Tensor) -> tf.Tensor:
    """The sharpened assignment p: q^2 over the column sum of q, each row scaled to sum to one.

    q: (N, C), rows sum to one. Returns (N, C). Source: DEC (Xie 2016), equation 3.
    """
    weight = tf.square(q) / tf.reduce_sum(q, axis=0, keepdims=True)
    return weight / tf.reduce_sum(weight, axis=1, keepdims=True)


def kl_divergence(target: tf.Tensor, q: tf.Tensor, *, direction: str) -> tf.Tensor:
    """Mean over cells of KL(p || q) ("pq", as DEC) or of KL(q || p) ("qp", as the official code).

    target, q: (N, C) distributions p and q, clipped to [1e-7, 1] as Keras does. Scalar, nats.
    """
    p, q = (tf.clip_by_value(x, KL_FLOOR, 1.0) for x in (target, q))
    first, second = (p, q) if direction == "pq" else (q, p)
    return tf.reduce_mean(tf.reduce_sum(first * tf.math.log(first / second), axis=1))
