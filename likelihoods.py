"""Likelihoods of the count decoder: the ZINB, and the squared error that can stand in for it.

Letters: N cells, G genes. All tensors are float32 unless said otherwise. These are pure functions
of tensors, which `tensors.RECONSTRUCTIONS` applies to data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from scipy.special import gammaln

from blocks import Blocks, sum_rows
from devices import CACHE_BYTES

# The published suite's bounds (official code, `MeanAct` and `DispAct`): they keep a head that runs
# away finite. The clip acts before exp, so that no gradient there is NaN.
LOG_MEAN_RANGE = (float(np.log(1e-5)), float(np.log(1e6)))
THETA_RANGE = (1e-4, 1e4)
# Entries at or below this are zeros to the ZINB (z-scored targets have negative entries).
ZERO = 1e-8
# Larger entries count as this one: their fourth power, over the least theta, overflows float32.
LARGEST = 2.0**28
# A logit of pi at which no zero is a dropout: pi is 1e-13.
PI_LOGIT_OF_NONE = -30.0
# log Gamma is computed by Stirling's series at the argument + SHIFT, where four terms leave an
# error below 4e-9, less than float32 resolves.
SHIFT = 4


class ZINBTarget(NamedTuple):
    """The values that the ZINB is fitted to, with the part of its likelihood that never changes.

    They are tensors, or arrays of which tensors are made.

    Parameters
    ----------
    y
        Counts, or z-scores for the published target, shape (N, G). Entries up to `ZERO` count as
        zero.
    constant
        log Gamma(y + 1) - y log y + y, and 0 where y is zero, shape (N, G).
    log_size_factor
        Logarithm of the cell's depth over the median depth, 0 for z-scores, shape (N, 1).
    """

    y: Any
    constant: Any
    log_size_factor: Any


def zinb_target(y: np.ndarray, size_factor: np.ndarray | None) -> ZINBTarget:
    """Return the tensors of a ZINB target; see `zinb_arrays`."""
    return ZINBTarget(*map(tf.constant, zinb_arrays(y, size_factor)))


def zinb_arrays(y: np.ndarray, size_factor: np.ndarray | None) -> ZINBTarget:
    """Return a ZINB target as float32 arrays; the constant is computed in float64.

    Parameters
    ----------
    y
        Counts or z-scores, shape (N, G). Larger ones than `LARGEST` count as `LARGEST`.
    size_factor
        Positive factors of the cells, shape (N,), or None for a target without them.
    """
    y = np.minimum(y, LARGEST)
    positive = y > ZERO
    values = y[positive].astype(np.float64)
    constant = np.zeros(y.shape, np.float32)
    constant[positive] = gammaln(values + 1) - values * np.log(values) + values
    factor = np.ones(len(y)) if size_factor is None else np.asarray(size_factor, np.float64)
    return ZINBTarget(
        y=np.asarray(y, np.float32),
        constant=constant,
        log_size_factor=np.log(factor)[:, None].astype(np.float32),
    )


def _stirling_tail(r: tf.Tensor) -> tf.Tensor:
    """Return log Gamma(x) - [(x - 1/2) log x - x + log(2 pi)/2] at x = 1/r, for x >= SHIFT."""
    r2 = r * r
    return r * (1 / 12 - r2 * (1 / 360 - r2 * (1 / 1260 - r2 / 1680)))


def _digamma_tail(r: tf.Tensor) -> tf.Tensor:
    """Return log x - digamma(x) at x = 1/r, for x >= SHIFT."""
    r2 = r * r
    return r * (1 / 2 + r * (1 / 12 - r2 * (1 / 120 - r2 * (1 / 252 - r2 / 240))))


def _rising(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return Gamma(x + SHIFT) / Gamma(x) = x (x + 1) ... (x + SHIFT - 1) and its derivative."""
    product = x * (x + 1) * (x + 2) * (x + 3)
    slope = ((4 * x + 18) * x + 22) * x + 6
    return product, slope


class GammaRatio(NamedTuple):
    """The difference log Gamma(y + theta) - log Gamma(theta), in two parts, and its slope.

    The difference is large - log(factor) + y log(y + theta + SHIFT) - y.

    Parameters
    ----------
    large
        The difference but for the other terms.
    factor
        At least 1. It is left as a factor so that a caller can take one logarithm with its own.
    slope
        The derivative of the difference in theta, digamma(y + theta) - digamma(theta).
    """

    large: tf.Tensor
    factor: tf.Tensor
    slope: tf.Tensor


def log_gamma_ratio(y: tf.Tensor, theta: tf.Tensor) -> GammaRatio:
    """Return log Gamma(y + theta) - log Gamma(theta), without the terms that grow with y.

    The two log Gammas are never formed: at theta = 1e4 each is 8e4 and float32 would keep two
    decimals of their difference. Stirling's series is taken of the difference itself, at arguments
    moved up by SHIFT through Gamma(x + 1) = x Gamma(x). The terms y log(y + theta + SHIFT) - y
    are left to the likelihood, where they meet their counterpart.

    Both arguments have the same shape, y >= 0 and theta > 0. Source of the series: Abramowitz and
    Stegun 6.1.41 and 6.3.18.
    """
    a = theta + SHIFT
    r_a, r_b = 1.0 / a, 1.0 / (y + a)
    log_growth = tf.math.log1p(y * r_a)
    (lower, lower_slope), (upper, upper_slope) = _rising(theta), _rising(y + theta)
    r_lower = 1.0 / lower
    shifts = lower_slope * r_lower - upper_slope / upper
    return GammaRatio(
        large=(a - 0.5) * log_growth + _stirling_tail(r_b) - _stirling_tail(r_a),
        factor=upper * r_lower,
        slope=log_growth + _digamma_tail(r_a) - _digamma_tail(r_b) + shifts,
    )


class ZINBGradients(NamedTuple):
    """The derivatives of the entries of a ZINB likelihood in its three raw heads, each (N, G)."""

    log_mean: tf.Tensor
    theta_raw: tf.Tensor
    pi_logits: tf.Tensor


def zinb_nll_entries(
    target: ZINBTarget,
    log_mean: tf.Tensor,
    theta_raw: tf.Tensor,
    pi_logits: tf.Tensor,
    *,
    clip: str = "return",
) -> tuple[tf.Tensor, ZINBGradients]:
    """Return the negative log-likelihood of each entry under a ZINB, in nats, and its gradients.

    P(y) = pi [y = 0] + (1 - pi) NB(y; mean mu, dispersion theta), with mu = exp(log_mean) times the
    cell's size factor, theta = softplus(theta_raw), pi = sigmoid(pi_logits); exp(log_mean) and
    theta are clipped to the published bounds. Computed in log space from the logits: with
    t = -log NB(0) = theta log(1 + mu/theta),

        y = 0:  softplus(pi_logits) - logaddexp(pi_logits, -t)
        y > 0:  softplus(pi_logits) + t + constant(y) - log_gamma_ratio(y, theta)
                + y log(y (theta + mu) / (mu (y + theta + SHIFT)))

    The gradients are written out, so that they share the value's logarithms and divide nothing by
    what may vanish: with r the probability that y comes from the NB (1 where y > 0),

        d/d log_mean  = r (mu - y) theta / (theta + mu)
        d/d theta     = r (log(1 + mu/theta) + (y - mu) / (theta + mu) - digamma difference)
        d/d pi_logits = pi - (1 - r)

    Beyond a bound the value is flat, and with clip="stop", as published, so is the gradient: a head
    that has run there never comes back, and counts in the thousands drive all of them there in a
    few steps. With clip="return" the gradient at the bound acts on it where it leads back.

    log_mean, theta_raw, pi_logits: (N, G), any real. For y up to 1e5 the absolute error of an entry
    is about 1e-7 y: the rounding of float32 in the terms that y multiplies. Logarithms are what a
    step spends its time on beside the matrix products, so exp(-|x|) serves softplus and sigmoid
    both, and logarithms that would be added are taken of one product. Source: the scTAG paper's
    ZINB loss; log-space form as in scvi-tools' `log_zinb_positive`.
    """
    clipped = tf.clip_by_value(log_mean, *LOG_MEAN_RANGE)
    mu = tf.exp(clipped + target.log_size_factor)
    theta_decay = tf.exp(-tf.abs(theta_raw))
    unclipped = tf.maximum(theta_raw, 0.0) + tf.math.log1p(theta_decay)  # softplus
    theta = tf.clip_by_value(unclipped, *THETA_RANGE)
    pi_decay = tf.exp(-tf.abs(pi_logits))
    positive = target.y > ZERO
    y = tf.where(positive, target.y, 1.0)

    both = theta + mu
    log_ratio = tf.math.log1p(mu / theta)
    t = theta * log_ratio
    balance = pi_logits + t  # logit of the probability that a zero is a dropout
    decay = tf.exp(-tf.abs(balance))
    gamma_ratio = log_gamma_ratio(y, theta)
    surprise = y * tf.math.log(y * both / (mu * (y + theta + SHIFT)))
    nb = t + surprise + target.constant - gamma_ratio.large
    # One logarithm for softplus(pi_logits) and for logaddexp, or for the gamma ratio's factor.
    factor = (1.0 + pi_decay) * tf.where(positive, gamma_ratio.factor, 1.0 / (1.0 + decay))
    at_zero = -tf.maximum(pi_logits, -t)
    entries = tf.maximum(pi_logits, 0.0) + tf.math.log(factor) + tf.where(positive, nb, at_zero)

    dropped = tf.where(positive, 0.0, _sigmoid(balance, decay))
    excess = mu - tf.where(positive, y, 0.0)
    d_theta = log_ratio - excess / both - tf.where(positive, gamma_ratio.slope, 0.0)
    slope = _sigmoid(theta_raw, theta_decay)  # of softplus; far below the bound it vanishes
    slope = tf.maximum(slope, THETA_RANGE[0]) if clip == "return" else slope
    d_theta = _through_clip(unclipped, theta, d_theta, clip) * slope
    d_log_mean = _through_clip(log_mean, clipped, excess * (theta / both), clip)
    return entries, ZINBGradients(
        log_mean=(1.0 - dropped) * d_log_mean,
        theta_raw=(1.0 - dropped) * d_theta,
        pi_logits=_sigmoid(pi_logits, pi_decay) - dropped,
    )


def _through_clip(x: tf.Tensor, clipped: tf.Tensor, gradient: tf.Tensor, clip: str) -> tf.Tensor:
    """Return the gradient in x of a function of `clipped`; see `zinb_nll_entries` for `clip`."""
    passes = clipped == x
    if clip == "return":  # descent moves x against the gradient
        passes |= (x - clipped) * gradient > 0
    return tf.where(passes, gradient, 0.0)


def _sigmoid(x: tf.Tensor, decay: tf.Tensor) -> tf.Tensor:
    """Return sigmoid(x), where decay = exp(-|x|) is known already."""
    return tf.where(x > 0, 1.0, decay) / (1.0 + decay)


def zinb_nll(
    target: ZINBTarget,
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    *,
    clip: str = "return",
    block_bytes: int = CACHE_BYTES,
) -> tf.Tensor:
    """Return the mean ZINB negative log-likelihood of the heads hidden @ kernel + bias, in nats.

    The heads are by far the largest layers, and nothing is needed of their (N, 3G) output but a sum
    and a gradient. So cells go through in blocks of rows: each block's product, its likelihood and
    the gradient's two products while it is in the cache. Memory O(block_bytes) besides the
    gradients themselves.

    Parameters
    ----------
    target
        Values to fit, shape (N, G).
    hidden, kernel, bias
        The heads, see `layers.CountHeads`. Products are made in the dtype of `hidden`, everything
        else in float32.
    clip
        "return" or "stop", see `zinb_nll_entries`.
    block_bytes
        Bytes that a block of the (N, 3G) heads may take.

    Returns
    -------
    A scalar, the mean of `zinb_nll_entries` over N x G, differentiable in all three heads.
    """
    n_cells, n_genes = target.y.shape
    blocks = Blocks.fitting(n_cells, 3 * n_genes, block_bytes)
    dtype = hidden.dtype

    @tf.custom_gradient
    def nll(hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple:
        cast_kernel = tf.cast(kernel, dtype)

        def one_block(
            index: tf.Tensor,
            total: tf.Tensor,
            d_hidden: tf.Tensor,
            d_kernel: tf.Tensor,
            d_bias: tf.Tensor,
        ) -> tuple:
            rows, *target_rows = (blocks.take(part, index) for part in (hidden, *target))
            new = blocks.new(index)
            heads = tf.split(tf.cast(rows @ cast_kernel, tf.float32) + bias, 3, axis=1)
            entries, gradients = zinb_nll_entries(ZINBTarget(*target_rows), *heads, clip=clip)
            d_heads = tf.concat(gradients, axis=1)  # (block_rows, 3G)
            cast_d_heads = tf.cast(d_heads, dtype)
            new_rows = rows * tf.cast(new, dtype)
            return (
                index + 1,
                total + sum_rows(entries, new),
                blocks.put(d_hidden, index, tf.matmul(cast_d_heads, cast_kernel, transpose_b=True)),
                d_kernel + tf.cast(tf.matmul(new_rows, cast_d_heads, transpose_a=True), tf.float32),
                d_bias + tf.reduce_sum(d_heads * new, axis=0),
            )

        _, total, d_hidden, d_kernel, d_bias = blocks.run(
            one_block,
            tf.constant(0.0),
            blocks.empty(hidden.shape[1], dtype),
            tf.zeros_like(kernel),
            tf.zeros_like(bias),
        )
        scale = 1.0 / (float(n_cells) * n_genes)

        def gradient(upstream: tf.Tensor) -> tuple:
            d_rows = tf.cast(blocks.join(d_hidden), tf.float32)
            return tf.cast(upstream * scale * d_rows, dtype), *(
                upstream * scale * d for d in (d_kernel, d_bias)
            )

        return total * scale, gradient

    return nll(hidden, kernel, bias)


def nb_nll(
    target: ZINBTarget,
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    *,
    clip: str = "return",
    block_bytes: int = CACHE_BYTES,
) -> tf.Tensor:
    """Return the mean negative log-likelihood of a negative binomial without zero inflation.

    It is `zinb_nll` with the third head held where pi vanishes, so that head learns nothing.
    """
    n_genes = target.y.shape[1]
    no_kernel = tf.zeros_like(kernel[:, 2 * n_genes :])
    no_pi = tf.fill([n_genes], PI_LOGIT_OF_NONE)
    return zinb_nll(
        target,
        hidden,
        tf.concat([kernel[:, : 2 * n_genes], no_kernel], axis=1),
        tf.concat([bias[: 2 * n_genes], no_pi], axis=0),
        clip=clip,
        block_bytes=block_bytes,
    )


def mean_square(
    target: tf.Tensor, hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
    """Return the mean squared error of the first of the three heads, in place of the ZINB.

    The target is z-scores, shape (N, G); the other two heads are not used. Memory is O(N G).
    """
    n_genes = target.shape[1]
    mean = tf.cast(hidden @ tf.cast(kernel[:, :n_genes], hidden.dtype), tf.float32)
    return tf.reduce_mean(tf.square(mean + bias[:n_genes] - target))
