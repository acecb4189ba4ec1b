"""The layers on graphs that can be drawn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from spektral.layers import TAGConv as SpektralTAGConv

from layers import AdjacencyDecoder, InputDropout, SoftAssignment, TAGConv

# Four cells; a row lists whom a cell listens to: 0 -> 0, 1;  1 -> 2;  2 -> 2, 3;  3 -> 0.
# Not symmetric, so that A X and A^T X differ, and A^2 is not A.
A = np.array(
    [
        [0.5, 0.5, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.5, 0.5],
        [1.0, 0.0, 0.0, 0.0],
    ]
)
A_SQUARED = np.array(
    [
        [0.25, 0.25, 0.5, 0.0],
        [0.0, 0.0, 0.5, 0.5],
        [0.5, 0.0, 0.25, 0.25],
        [0.5, 0.5, 0.0, 0.0],
    ]
)
X = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 3.0], [4.0, 1.0]])


def sparse(matrix):
    return tf.sparse.reorder(tf.sparse.from_dense(tf.constant(matrix, tf.float32)))


def tag(hops, repeated=False, layer=TAGConv):
    """A layer whose W_h is 10^h times a fixed matrix, so that each hop can be told apart."""
    w = np.array([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0]])
    kwargs = {"K": hops} if layer is SpektralTAGConv else {"hops": hops, "repeated": repeated}
    convolution = layer(3, **kwargs)
    convolution([tf.constant(X, tf.float32), sparse(A)])
    kernel = np.concatenate([10.0**h * w for h in range(hops + 1)])
    convolution.linear.set_weights([kernel, np.array([0.5, 0.0, -0.5])])
    return convolution, w


def by_hand(propagated, w):
    """sum over h of (P_h X) 10^h W + b, with P_0 = 1 and the other P_h written out."""
    terms = [10.0**h * p @ X @ w for h, p in enumerate([np.eye(4), *propagated])]
    return sum(terms) + np.array([0.5, 0.0, -0.5])


def test_square_is_written_out_right():
    np.testing.assert_array_equal(A @ A, A_SQUARED)


@pytest.mark.parametrize("matrix", [A, A.T], ids=["ax", "atx"])
def test_tagconv_takes_powers_in_the_given_direction(matrix):
    convolution, w = tag(hops=2)
    computed = convolution([tf.constant(X, tf.float32), sparse(matrix)])
    squared = A_SQUARED if matrix is A else A_SQUARED.T
    np.testing.assert_allclose(computed, by_hand([matrix, squared], w), rtol=1e-6)


@pytest.mark.parametrize("matrix", [A, A.T], ids=["ax", "atx"])
def test_tagconv_repeats_the_first_hop_as_published(matrix):
    convolution, w = tag(hops=3, repeated=True)
    computed = convolution([tf.constant(X, tf.float32), sparse(matrix)])
    np.testing.assert_allclose(computed, by_hand([matrix] * 3, w), rtol=1e-6)


def test_spektral_repeats_the_first_hop_and_transposes():
    """Why we have a layer of our own; if spektral mends it, this says so."""
    convolution, w = tag(hops=3, layer=SpektralTAGConv)
    computed = convolution([tf.constant(X, tf.float32), sparse(A)])
    np.testing.assert_allclose(computed, by_hand([A.T] * 3, w), rtol=1e-6)


@pytest.mark.parametrize("repeated", [False, True])
def test_blocks_and_horner_agree(repeated):
    """Propagating the input once, or the output by Horner's rule: one number."""
    convolution, _ = tag(hops=3, repeated=repeated)
    blocks = [X, A @ X] if repeated else [X, A @ X, A @ A @ X, A @ A @ A @ X]
    on_blocks = convolution.call_on_propagated(tf.constant(np.concatenate(blocks, 1), tf.float32))
    horner = convolution([tf.constant(X, tf.float32), sparse(A)])
    np.testing.assert_allclose(on_blocks, horner, rtol=1e-5)


def test_tagconv_activation_and_gradient_reach_every_hop():
    convolution = TAGConv(3, hops=2, activation="relu", kernel_initializer="ones")
    x = tf.constant(X, tf.float32)
    with tf.GradientTape() as tape:
        out = convolution([x, sparse(A)])
        loss = tf.reduce_sum(out)
    assert float(tf.reduce_min(out)) >= 0.0
    kernel_gradient = tape.gradient(loss, convolution.linear.kernel.value)
    assert kernel_gradient.shape == (6, 3)
    assert (np.abs(kernel_gradient.numpy()).sum(axis=1) > 0).all()


def test_tagconv_says_what_it_cannot_take():
    convolution, _ = tag(hops=1)
    with pytest.raises(ValueError, match="rank 2"):
        convolution.call([tf.zeros([2, 4, 2]), sparse(A)])
    with pytest.raises(ValueError, match="SparseTensor"):
        convolution.call([tf.constant(X, tf.float32), tf.constant(A, tf.float32)])


def test_adjacency_decoder_factors_are_the_bilinear_form():
    """left @ right^T against H W H^T, with the Dense of 32 units done in full."""
    keras.utils.set_random_seed(0)
    decoder = AdjacencyDecoder(32)
    z = tf.random.stateless_normal([9, 5], [1, 2])
    factors = decoder(z)
    decoder.bias.assign(tf.random.stateless_normal([32], [3, 4]))
    factors = decoder(z)
    h = z @ decoder.kernel + decoder.bias
    expected = tf.matmul(h @ decoder.bilinear, h, transpose_b=True)
    assert factors.left.shape == factors.right.shape == (9, 6)
    logits = tf.matmul(factors.left, factors.right, transpose_b=True)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_soft_assignment_by_hand():
    """Squared distances 0 and 4, then 1 and 1: similarities 1 and 1/5, then 1/2 and 1/2."""
    assignment = SoftAssignment(2)
    z = tf.constant([[0.0, 0.0], [1.0, 0.0]])
    assignment.build((None, 2))
    assignment.centers.assign([[0.0, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(assignment(z), [[5 / 6, 1 / 6], [0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("columns", [300, 301])
def test_input_dropout(compiled, columns):
    """Off outside training; in training the rate, the scale and a new mask for each call."""
    dropout = InputDropout(0.25, seed=3)
    x = tf.ones([200, columns])
    assert dropout(x, training=False) is x
    draw = tf.function(lambda: dropout(x, training=True), jit_compile=compiled)
    first, second = draw().numpy(), draw().numpy()
    assert set(np.unique(first)) == {np.float32(0.0), np.float32(4 / 3)}
    dropped = first == 0.0
    assert np.mean(dropped) == pytest.approx(0.25, abs=0.01)
    assert np.mean(dropped & (second == 0.0)) == pytest.approx(0.25**2, abs=0.01)
    # the two halves of a word are as good as independent
    half = (columns + 1) // 2
    both = dropped[:, : columns - half] & dropped[:, half:]
    assert np.mean(both) == pytest.approx(0.25**2, abs=0.01)


def test_input_dropout_keeps_the_mean_at_a_rate_that_is_rounded():
    x = tf.ones([400, 1000])
    for rate in (0.2, 0.9):
        assert float(tf.reduce_mean(InputDropout(rate, seed=1)(x, training=True))) == pytest.approx(
            1.0, abs=0.02
        )
    assert InputDropout(1e-6, seed=1)(x, training=True) is x
