"""The losses against SciPy, against dense arithmetic and against numbers worked out by hand."""

import numpy as np
import pytest
import scipy.sparse as sp
import tensorflow as tf
from scipy import special, stats

import likelihoods
import losses
from likelihoods import zinb_nll, zinb_nll_entries, zinb_target
from settings import specs
from tensors import RECONSTRUCTIONS, closeness_of

THETA = [1e-4, 1e-2, 0.5, 1.0, 7.3, 150.0, 1e4]
MEAN = [1e-5, 1e-2, 0.3, 1.0, 20.0, 3e3, 1e6]
COUNT = [0, 1, 2, 7, 50, 1000, 100_000]
PI_LOGIT = [-30.0, -4.0, 0.0, 2.5, 30.0]


def extreme_grid():
    """Every combination as columns: y, mean, theta, pi_logits, each (entries, 1), float64."""
    grid = np.meshgrid(COUNT, MEAN, THETA, PI_LOGIT, indexing="ij")
    return [axis.reshape(-1, 1).astype(np.float64) for axis in grid]


def inverse_softplus(theta):
    return np.where(theta > 20, theta, np.log(np.expm1(np.minimum(theta, 20))))


def reference_nll(y, mean, theta, pi_logits):
    """The textbook ZINB in float64, by SciPy: -log(pi [y = 0] + (1 - pi) NB(y))."""
    log_nb = (
        special.gammaln(y + theta)
        - special.gammaln(theta)
        - special.gammaln(y + 1)
        - theta * np.log1p(mean / theta)
        + special.xlogy(y, mean / (theta + mean))
    )
    log_keep = special.log_expit(-pi_logits) + log_nb
    return -np.where(y == 0, np.logaddexp(special.log_expit(pi_logits), log_keep), log_keep)


def raw_heads(mean, theta, pi_logits):
    heads = (np.log(mean), inverse_softplus(theta), pi_logits)
    return [tf.constant(head, tf.float32) for head in heads]


def test_reference_is_the_distribution_of_scipy():
    """The reference above, where SciPy's nbinom is itself accurate."""
    from scipy.stats import nbinom

    y, mean, theta = np.array([0.0, 1, 4, 30]), 3.0, 1.7
    pi = special.expit(0.4)
    pmf = pi * (y == 0) + (1 - pi) * nbinom.pmf(y, theta, theta / (theta + mean))
    np.testing.assert_allclose(reference_nll(y, mean, theta, 0.4), -np.log(pmf), rtol=1e-10)


def test_zinb_values_on_extremes():
    y, mean, theta, pi_logits = extreme_grid()
    target = zinb_target(y, None)
    computed = zinb_nll_entries(target, *raw_heads(mean, theta, pi_logits))[0].numpy()
    expected = reference_nll(y, mean, theta, pi_logits)
    assert np.isfinite(computed).all()
    # float32 rounds the terms that y and theta multiply
    rounding = 2e-7 * (y + np.minimum(mean, theta * np.log1p(mean / theta)) + 30)
    assert (np.abs(computed - expected) <= rounding + 1e-5 * np.abs(expected)).all()


def test_zinb_gradients_on_extremes():
    """Each partial derivative against its formula in float64."""
    y, mean, theta, pi_logits = extreme_grid()
    target = zinb_target(y, None)
    gradients = zinb_nll_entries(target, *raw_heads(mean, theta, pi_logits))[1]
    computed = [gradient.numpy().astype(np.float64) for gradient in gradients]
    assert all(np.isfinite(gradient).all() for gradient in computed)

    t = theta * np.log1p(mean / theta)
    from_nb = np.where(y == 0, special.expit(-(pi_logits + t)), 1.0)  # P(not dropped | y)
    d_log_mean = from_nb * (mean - y) * theta / (theta + mean)
    # digamma(y + theta) - digamma(theta) = the sum of 1 / (theta + k) over k below y
    digamma = special.digamma(y + theta) - special.digamma(theta)
    d_theta = np.log1p(mean / theta) + (y - mean) / (theta + mean) - digamma
    slope = special.expit(inverse_softplus(theta))  # of softplus
    inside = (theta > likelihoods.THETA_RANGE[0] * 1.001) & (
        theta < likelihoods.THETA_RANGE[1] * 0.999
    )
    d_theta_raw = from_nb * d_theta * slope
    d_pi = special.expit(pi_logits) - np.where(y == 0, special.expit(pi_logits + t), 0.0)

    inner = (mean > 1.001e-5) & (mean < 0.999e6)  # at the bounds the clip may stop the gradient
    scale = from_nb * (np.abs(mean) + y) * theta / (theta + mean)
    assert (np.abs(computed[0] - d_log_mean) <= 1e-4 * scale + 1e-6)[inner].all()
    sizes = np.abs(np.log1p(mean / theta)) + np.abs(y - mean) / (theta + mean) + np.abs(digamma)
    assert (np.abs(computed[1] - d_theta_raw) <= 1e-4 * from_nb * slope * sizes + 1e-6)[
        inside
    ].all()
    assert (np.abs(computed[2] - d_pi) <= 1e-5).all()


BEYOND = {  # log_mean and theta_raw beyond a bound; a count that the gradient leads back for
    "large mean": (500.0, 0.0, 3.0),
    "small mean": (-20.0, 0.0, 3.0),
    "large theta": (np.log(1e5), 1e9, 1.0),
    "small theta": (np.log(30.0), -12.0, 30.0),
}


def gradients_beyond(bound, y, clip):
    log_mean, theta_raw, _ = BEYOND[bound]
    heads = [tf.constant([[x]], tf.float32) for x in (log_mean, theta_raw, 0.0)]
    target = zinb_target(np.array([[y]]), None)
    entries, gradients = zinb_nll_entries(target, *heads, clip=clip)
    assert np.isfinite(entries)
    computed = gradients.log_mean if bound.endswith("mean") else gradients.theta_raw
    return float(computed[0, 0])


@pytest.mark.parametrize("bound", BEYOND)
def test_zinb_beyond_its_bounds_is_flat_if_published(bound):
    """A head that runs away is clipped before exp: finite loss, zero gradient, never NaN."""
    for y in (0.0, 3.0, 1000.0):
        assert gradients_beyond(bound, y, "stop") == 0.0


@pytest.mark.parametrize("bound", BEYOND)
def test_a_head_beyond_its_bounds_comes_back_where_the_count_calls_it(bound):
    gradient = gradients_beyond(bound, BEYOND[bound][2], "return")
    assert gradient > 0 if "large" in bound else gradient < 0


def test_a_head_beyond_its_bounds_is_not_driven_further():
    assert gradients_beyond("small mean", 0.0, "return") == 0.0


def test_zinb_mean_is_scaled_by_the_size_factor():
    y = np.array([[0.0, 3.0], [5.0, 1.0]])
    factor = np.array([0.5, 4.0])
    heads = raw_heads(np.full((2, 2), 2.0), np.full((2, 2), 1.3), np.full((2, 2), -1.0))
    computed = zinb_nll_entries(zinb_target(y, factor), *heads)[0].numpy()
    expected = reference_nll(y, 2.0 * factor[:, None], 1.3, -1.0)
    np.testing.assert_allclose(computed, expected, rtol=1e-5)


def test_zinb_of_absurd_counts_is_that_of_the_largest_one_and_finite():
    y, mean, theta, pi_logits = extreme_grid()
    heads = raw_heads(mean, theta, pi_logits)
    of_largest = zinb_nll_entries(zinb_target(y * 0 + likelihoods.LARGEST, None), *heads)
    for count in (2.0**31, 2.0**32):
        values, gradients = zinb_nll_entries(zinb_target(y * 0 + count, None), *heads)
        for computed, expected in zip(
            (values, *gradients), (of_largest[0], *of_largest[1]), strict=True
        ):
            assert np.isfinite(computed).all()
            np.testing.assert_array_equal(computed, expected)


def test_zinb_of_z_scores_takes_the_zero_branch_below_zero():
    """The published target: entries up to 1e-8 count as zeros, the others need not be whole."""
    y = np.array([[-1.2, 0.0, 0.7, 5.25]])
    heads = raw_heads(np.full((1, 4), 0.8), np.full((1, 4), 2.0), np.full((1, 4), 0.3))
    computed = zinb_nll_entries(zinb_target(y, None), *heads)[0].numpy()
    expected = reference_nll(np.maximum(y, 0.0), 0.8, 2.0, 0.3)
    np.testing.assert_allclose(computed, expected, rtol=1e-5)


@pytest.mark.parametrize("n_cells", [1, 16, 37])
@pytest.mark.parametrize("compiled", [False, True])
def test_blocked_zinb_is_the_dense_one(n_cells, compiled):
    """Value and gradients of the fused heads against one product and SciPy's formula by autodiff.

    The reference differentiates its own form of the likelihood, so that the written-out gradient is
    held against automatic differentiation too.
    """
    rng = np.random.default_rng(0)
    width, n_genes = 5, 4
    y = rng.poisson(1.0, (n_cells, n_genes)).astype(np.float64)
    factor = rng.uniform(0.5, 2.0, n_cells)
    arrays = [
        rng.normal(size=(n_cells, width)),
        rng.normal(0, 0.5, (width, 3 * n_genes)),
        rng.normal(0, 0.5, 3 * n_genes),
    ]
    inputs = [tf.constant(array, tf.float64) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        hidden, kernel, bias = inputs
        log_mean, theta_raw, pi_logits = tf.split(hidden @ kernel + bias, 3, axis=1)
        mean, theta = tf.exp(log_mean) * factor[:, None], tf.nn.softplus(theta_raw)
        log_nb = (
            tf.math.lgamma(y + theta)
            - tf.math.lgamma(theta)
            - special.gammaln(y + 1)
            - theta * tf.math.log1p(mean / theta)
            + y * tf.math.log(mean / (theta + mean))
        )
        keep = tf.math.log_sigmoid(-pi_logits) + log_nb
        zero = tf.reduce_logsumexp([tf.math.log_sigmoid(pi_logits), keep], axis=0)
        dense = -tf.reduce_mean(tf.where(y == 0, zero, keep))
    expected = tape.gradient(dense, inputs)

    target = zinb_target(y, factor)
    inputs = [tf.constant(array, tf.float32) for array in arrays]

    def blocked():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = zinb_nll(target, *inputs, block_bytes=16 * 12 * 4)
        return loss, tape.gradient(loss, inputs)

    loss, computed = tf.function(blocked, jit_compile=True)() if compiled else blocked()
    np.testing.assert_allclose(loss, dense, rtol=1e-5)
    for a, b in zip(computed, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def random_factors(n_cells, width=16, seed=0):
    rng = np.random.default_rng(seed)
    left, right = rng.normal(0, 0.7, (2, n_cells, width))
    adjacency = rng.random((n_cells, n_cells)) < 0.1
    rows, cols = np.nonzero(adjacency)
    edges = losses.Edges(tf.constant(rows, tf.int32), tf.constant(cols, tf.int32))
    return tf.constant(left, tf.float32), tf.constant(right, tf.float32), adjacency, edges


@pytest.mark.parametrize("n_cells", [1, 7, 64, 65])
@pytest.mark.parametrize("compiled", [False, True])
def test_blocked_adjacency_loss_is_the_dense_one(n_cells, compiled):
    """Value and gradient, N below, at and past a multiple of the block."""
    left, right, adjacency, edges = random_factors(n_cells)

    def blocked():
        with tf.GradientTape() as tape:
            tape.watch([left, right])
            loss = losses.adjacency_mse(left, right, edges, block_bytes=16 * n_cells * 4)
        return loss, tape.gradient(loss, [left, right])

    with tf.GradientTape() as tape:
        tape.watch([left, right])
        probability = tf.sigmoid(tf.matmul(left, right, transpose_b=True))
        dense = tf.reduce_mean(tf.square(probability - tf.constant(adjacency, tf.float32)))
    expected = tape.gradient(dense, [left, right])

    loss, computed = tf.function(blocked, jit_compile=True)() if compiled else blocked()
    np.testing.assert_allclose(loss, dense, rtol=1e-5)
    for a, b in zip(computed, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_adjacency_loss_by_hand():
    """Two cells, one edge, logits 0: (1/2 - 1)^2 once and (1/2)^2 three times, over four."""
    zeros = tf.zeros([2, 3])
    edges = losses.Edges(tf.constant([0]), tf.constant([1]))
    assert float(losses.adjacency_mse(zeros, zeros, edges)) == pytest.approx(0.25)


def test_target_distribution_by_hand():
    """q^2 over the column sums 1.2 and 0.8, then each row to one."""
    q = tf.constant([[0.8, 0.2], [0.4, 0.6]])
    weight = np.array([[0.64 / 1.2, 0.04 / 0.8], [0.16 / 1.2, 0.36 / 0.8]])
    expected = weight / weight.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(losses.target_distribution(q), expected, rtol=1e-6)


def test_kl_by_hand_in_both_directions():
    p = tf.constant([[0.9, 0.1], [0.5, 0.5]])
    q = tf.constant([[0.6, 0.4], [0.5, 0.5]])
    pq = (0.9 * np.log(0.9 / 0.6) + 0.1 * np.log(0.1 / 0.4)) / 2
    qp = (0.6 * np.log(0.6 / 0.9) + 0.4 * np.log(0.4 / 0.1)) / 2
    assert float(losses.kl_divergence(p, q, direction="pq")) == pytest.approx(pq, rel=1e-5)
    assert float(losses.kl_divergence(p, q, direction="qp")) == pytest.approx(qp, rel=1e-5)
    certain = tf.constant([[1.0, 0.0]])
    assert np.isfinite(losses.kl_divergence(certain, 1.0 - certain, direction="pq"))


def test_the_negative_binomial_is_scipys_and_leaves_the_third_head_alone():
    rng = np.random.default_rng(0)
    hidden, kernel, bias = rng.normal(size=(7, 4)), rng.normal(size=(4, 9)), rng.normal(size=9)
    y, factor = rng.poisson(2.0, (7, 3)).astype(float), rng.uniform(0.5, 2, 7)
    tensors = [tf.constant(x, tf.float32) for x in (hidden, kernel, bias)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        computed = likelihoods.nb_nll(zinb_target(y, factor), *tensors, block_bytes=4 * 9 * 3)
    log_mean, theta_raw, _ = np.split(hidden @ kernel + bias, 3, axis=1)
    mean, theta = np.exp(log_mean) * factor[:, None], np.log1p(np.exp(theta_raw))
    expected = -stats.nbinom.logpmf(y, theta, theta / (theta + mean)).mean()
    np.testing.assert_allclose(computed, expected, rtol=1e-5)
    gradient = tape.gradient(computed, tensors[1]).numpy()
    assert np.abs(gradient[:, :6]).min() > 0
    assert not gradient[:, 6:].any()


def test_every_reconstruction_can_be_named_by_the_flag():
    assert set(RECONSTRUCTIONS) == set(specs()["reconstruction"].choices)


def test_the_mean_square_is_of_the_first_head_and_leaves_the_others_alone():
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(7, 4)), rng.normal(size=(4, 9))
    bias, target = rng.normal(size=9), rng.normal(size=(7, 3))
    tensors = [tf.constant(x, tf.float32) for x in (target, hidden, kernel, bias)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        computed = likelihoods.mean_square(*tensors)
    expected = np.mean((hidden @ kernel[:, :3] + bias[:3] - target) ** 2)
    np.testing.assert_allclose(computed, expected, rtol=1e-5)
    gradient = tape.gradient(computed, tensors[2]).numpy()
    assert np.abs(gradient[:, :3]).min() > 0
    assert not gradient[:, 3:].any()


def test_edge_cross_entropy_is_that_of_each_pair():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 7, 3)).astype(np.float32)
    rows, cols = np.array([0, 1, 2, 6, 6]), np.array([3, 1, 5, 0, 6])
    targets, others = rng.random(5).astype(np.float32), np.array([2, 4, 4, 1, 3])

    def entropy(target, i, j):
        probability = special.expit(np.float64(left[i] @ right[j]))
        return -(target * np.log(probability) + (1 - target) * np.log1p(-probability))

    near = [entropy(t, i, j) for t, i, j in zip(targets, rows, cols, strict=True)]
    far = [entropy(0.0, i, j) for i, j in zip(rows, others, strict=True)]
    edges = losses.Edges(tf.constant(rows, tf.int32), tf.constant(cols, tf.int32))
    value = losses.edge_cross_entropy(left, right, edges, targets, tf.constant(others, tf.int32))
    assert float(value) == pytest.approx((np.mean(near) + np.mean(far)) / 2, rel=1e-5)


def test_closeness_is_the_share_of_common_neighbours():
    rng = np.random.default_rng(1)
    dense = rng.random((12, 12)) < 0.4
    dense |= dense.T | np.eye(12, dtype=bool)
    graph = sp.csr_matrix(dense.astype(np.float32))
    rows, cols = graph.nonzero()
    neighbours = [set(np.flatnonzero(row)) for row in dense]
    index = [
        len(neighbours[i] & neighbours[j]) / len(neighbours[i] | neighbours[j])
        for i, j in zip(rows, cols, strict=True)
    ]
    expected = np.minimum(np.array(index) / np.quantile(index, 0.95), 1)
    np.testing.assert_allclose(closeness_of(graph, rows, cols), expected, rtol=1e-5)
