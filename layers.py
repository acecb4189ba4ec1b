"""The model's own layers: each is a formula.

Letters: N cells, G genes, H hops, D latent size, C clusters. Â, the propagation matrix, is the
normalised adjacency of the kNN graph, D^-1/2 A D^-1/2, or its transpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from spektral.layers import TAGConv as SpektralTAGConv


def _require_rank_two(name: str, tensor: tf.Tensor) -> None:
    """Raise ValueError unless a tensor is a matrix."""
    if len(tensor.shape) != 2:
        raise ValueError(f"{name} must have rank 2 (cells x features), not shape {tensor.shape}")


class InputDropout(keras.layers.Dropout):
    """Keras' inverted dropout, with the random numbers drawn by Philox, 16 bits for each entry.

    Under XLA on a CPU the generator that Keras leaves TensorFlow to choose is some 25 times slower
    and took more time than the rest of a training step. The rate is rounded to a multiple of 2^-16.
    The generator of its seeds, `seed_generator`, is there at any rate: others draw from it too.
    """

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__(rate or 0.5, seed=seed)  # at rate 0 Keras would leave the generator out
        self.rate = rate

    def call(
        self,
        inputs: tf.Tensor,
        training: bool = False,
        first: tf.Tensor | int = 0,
        rows_in_all: int | None = None,
    ) -> tf.Tensor:
        """Return inputs (N, width), in training 0 with probability `rate`, else scaled.

        Where they are the rows from `first` on of a matrix of `rows_in_all` rows, they become what
        they become in it.
        """
        threshold = round(self.rate * 2**16)
        if not training or threshold == 0:
            return inputs
        rows, columns = inputs.shape
        bits = tf.random.stateless_uniform(
            [rows_in_all or rows, -(-columns // 2)],
            tf.cast(self.seed_generator.next(), tf.int32),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        if rows_in_all is not None:
            bits = tf.slice(bits, [first, 0], [rows, bits.shape[1]])
        low = tf.bitwise.bitwise_and(bits, tf.constant(2**16 - 1, tf.uint32))
        high = tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32))
        dropped = tf.concat([low, high], axis=1)[:, :columns] < tf.constant(threshold, tf.uint32)
        scaled = inputs * (2**16 / (2**16 - threshold))
        return tf.where(dropped, tf.zeros_like(scaled), scaled)


def exponents_of(hops: int, *, repeated: bool) -> list[int]:
    """Return the exponents of Â that a TAGConv reads: 0 to H, or 0, 1, 1, ... if `repeated`."""
    return [min(h, 1) if repeated else h for h in range(hops + 1)]


class TAGConv(SpektralTAGConv):
    """Topology-adaptive graph convolution: activation(sum over h = 0..H of Â^h X W_h + b).

    Spektral's layer (0.6.1 to 1.3.1) concatenates [X, ÂX, ÂX, ÂX], because its loop propagates the
    same X each time, and since 1.0 it computes Â^T X where 0.6.1 computed Â X. This layer keeps
    spektral's weights and message passing and computes what its formula says, in the direction of
    the matrix product Â X. Source: Du et al. 2017, arXiv:1710.10370, and the loop of spektral's
    `TAGConv.call`.

    Parameters
    ----------
    channels
        Number of features out.
    hops
        H >= 0. The weights are the kernel ((H + 1) n_in, channels), the W_h stacked, and the bias.
    repeated
        Whether to compute the published [X, ÂX, ÂX, ÂX] instead.
    """

    def __init__(self, channels: int, *, hops: int, repeated: bool = False, **kwargs: Any) -> None:
        super().__init__(channels, K=hops, **kwargs)
        self.hops = hops
        self.exponents = exponents_of(hops, repeated=repeated)

    def build(self, input_shape: Any) -> None:
        """Create the kernel for inputs of shape [(N, n_in), (N, N)]."""
        self.linear.build((None, (self.hops + 1) * input_shape[0][-1]))
        super().build(input_shape)

    def message(self, x: tf.Tensor, edge_weight: Any = None) -> tf.Tensor:
        """Return what each entry (i, j) of Â sends, its weight times x_j: (entries, n_in)."""
        return edge_weight[:, None] * tf.gather(x, self.index_targets)

    def aggregate(self, messages: tf.Tensor) -> tf.Tensor:
        """Return for each cell i the sum of what entries (i, j) send; spektral sums over j."""
        return self.agg(messages, self.index_sources, self.n_nodes)

    def kernels(self) -> list[tf.Tensor]:
        """Return the kernels (n_in, channels) of Â^0, Â^1, ...; those of one exponent are added."""
        by_hop = tf.split(tf.convert_to_tensor(self.linear.kernel), self.hops + 1, axis=0)
        exponents = range(max(self.exponents) + 1)
        return [
            tf.add_n([w for w, e in zip(by_hop, self.exponents, strict=True) if e == exponent])
            for exponent in exponents
        ]

    def call(self, inputs: Any, **kwargs: Any) -> tf.Tensor:
        """Return the convolution (N, channels) of X (N, n_in) over a sparse Â, by Horner's rule.

        X W_0 + Â (X W_1 + Â (X W_2 + ...)): the sparse products run on `channels` columns, not on
        n_in. Raises ValueError if X is not a matrix or Â is not a SparseTensor.
        """
        x, propagation = inputs
        _require_rank_two("x", x)
        if not isinstance(propagation, tf.SparseTensor):
            kind = type(propagation)
            raise ValueError(f"the propagation matrix must be a tf.SparseTensor, not {kind}")

        def propagate(total: tf.Tensor) -> tf.Tensor:
            return self.propagate(total, propagation, edge_weight=propagation.values)

        return self.horner(self.terms(x), propagate)

    def terms(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Return X W_0, X W_1, ..., each (N, channels), of X (N, n_in)."""
        kernels = self.kernels()
        return tf.split(x @ tf.concat(kernels, axis=1), len(kernels), axis=1)

    def horner(self, terms: list[Any], propagate: Callable[[Any], Any]) -> tf.Tensor:
        """Return the convolution (N, channels) of its terms, with a function that multiplies by Â.

        The function is called with each matrix (N, channels) that Â is multiplied with, in order.
        """
        total = terms[-1]
        for term in reversed(terms[:-1]):
            total = term + propagate(total)
        return self.activation(total + self.linear.bias)

    def call_on_propagated(self, propagated: tf.Tensor) -> tf.Tensor:
        """Return the same value as `call` from [X, ÂX, Â^2X, ...] side by side: one dense product.

        The input is constant data of shape (N, B n_in) with B = 1 + the largest exponent. The
        product is made in its dtype, everything else in float32.
        """
        _require_rank_two("propagated", propagated)
        kernel = tf.cast(tf.concat(self.kernels(), axis=0), propagated.dtype)
        return self.activation(tf.cast(propagated @ kernel, tf.float32) + self.linear.bias)


class CountHeads(NamedTuple):
    """The last linear layer of the count decoder, hidden @ kernel + bias, not yet multiplied out.

    Parameters
    ----------
    hidden
        Output of the decoder's last hidden layer, shape (N, width).
    kernel, bias
        Shapes (width, 3G) and (3G,): the heads log mean, raw dispersion and logit of pi, side by
        side.
    """

    hidden: tf.Tensor
    kernel: tf.Tensor
    bias: tf.Tensor


class FactoredLogits(NamedTuple):
    """The N x N logits of the graph, left @ right^T, kept as two factors of shape (N, D + 1)."""

    left: tf.Tensor
    right: tf.Tensor


class AdjacencyDecoder(keras.layers.Layer):
    """Decoder of the graph: logits s = Y W Y^T with Y = z V + b, returned as two factors.

    With z' = [z, 1] and V' = [V; b] it holds s = z' (V' W V'^T) z'^T, so the product has rank D + 1
    whatever the width. The weights are V (D, width), b (width,) and W (width, width). W is free, so
    s need not be symmetric. Source: official code, a linear Dense of 32 units and a bilinear layer.
    """

    def __init__(
        self, width: int = 32, *, kernel_initializer: Any = "glorot_uniform", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Create V, b and W for z of shape (N, D)."""
        latent_dim = input_shape[-1]
        glorot = self.kernel_initializer
        self.kernel = self.add_weight(
            shape=(latent_dim, self.width), initializer=glorot, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")
        self.bilinear = self.add_weight(
            shape=(self.width, self.width), initializer=glorot, name="bilinear"
        )

    def call(self, z: tf.Tensor) -> FactoredLogits:
        """Return the factors z' M and z' for z (N, D), with M = V' W V'^T of (D + 1, D + 1)."""
        _require_rank_two("z", z)
        extended = tf.concat([z, tf.ones_like(z[:, :1])], axis=1)  # (N, D + 1)
        kernel = tf.concat([self.kernel, tf.expand_dims(self.bias, 0)], axis=0)  # (D + 1, width)
        folded = tf.matmul(kernel @ self.bilinear, kernel, transpose_b=True)  # (D + 1, D + 1)
        return FactoredLogits(left=extended @ folded, right=extended)


class SoftAssignment(keras.layers.Layer):
    """Student-t similarity of cells to cluster centres with one degree of freedom.

    q_ij = (1 + |x_i - c_j|^2)^-1, each row scaled to sum to one. The weight is the centres (C, F),
    where F is the number of features that are clustered. Source: DEC (Xie 2016), equation 1 with
    alpha = 1.
    """

    def __init__(self, n_clusters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_clusters = n_clusters

    def build(self, input_shape: Any) -> None:
        """Create the centres, zeros until they are assigned, for points of shape (N, F)."""
        self.centers = self.add_weight(
            shape=(self.n_clusters, input_shape[-1]), initializer="zeros", name="centers"
        )

    def call(self, points: tf.Tensor) -> tf.Tensor:
        """Return q (N, C) for points (N, F)."""
        _require_rank_two("points", points)
        centers = tf.convert_to_tensor(self.centers)
        differences = tf.expand_dims(points, 1) - tf.expand_dims(centers, 0)  # (N, C, F)
        similarity = 1.0 / (1.0 + tf.reduce_sum(tf.square(differences), axis=2))  # (N, C)
        return similarity / tf.reduce_sum(similarity, axis=1, keepdims=True)
