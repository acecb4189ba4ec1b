"""The model's own layers: each is a formula.

Letters: N cells, F features in, C_out features out, K hops, D latent size, C clusters. P is the
propagation matrix: the normalised adjacency of the kNN graph (A X), or its transpose (A^T X).
"""

from __future__ import annotations

from typing import NamedTuple

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
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Inputs (N, F); in training each entry is 0 with probability `rate`, else scaled."""
        threshold = round(self.rate * 2**16)
        if not training or threshold == 0:
            return inputs
        rows, columns = inputs.shape
        bits = tf.random.stateless_uniform(
            [rows, -(-columns // 2)],
            tf.cast(self.seed_generator.next(), tf.int32),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        low = tf.bitwise.bitwise_and(bits, tf.constant(2**16 - 1, tf.uint32))
        high = tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32))
        dropped = tf.concat([low, high], axis=1)[:, :columns] < tf.constant(threshold, tf.uint32)
        scaled = inputs * (2**16 / (2**16 - threshold))
        return tf.where(dropped, tf.zeros_like(scaled), scaled)


class TAGConv(SpektralTAGConv):
    """Topology-adaptive graph convolution, activation(sum over h = 0..K of P^h X W_h + b).

    Spektral's layer (0.6.1 to 1.3.1) concatenates [X, PX, PX, PX], because its loop propagates the
    same X each time, and since 1.0 it computes P^T X where 0.6.1 computed P X. This one keeps
    spektral's weights and message passing and computes what its formula says, in the direction of
    the matrix product P X. `repeated=True` gives the published blocks [X, PX, PX, PX].

    channels: C_out; hops: K >= 0. Weights: kernel ((K + 1) F, C_out), the W_h stacked, and bias.
    Source: Du et al. 2017, arXiv:1710.10370, and the loop of spektral's `TAGConv.call`.
    """

    def __init__(self, channels: int, *, hops: int, repeated: bool = False, **kwargs) -> None:
        super().__init__(channels, K=hops, **kwargs)
        self.exponents = [min(h, 1) if repeated else h for h in range(hops + 1)]

    def build(self, input_shape) -> None:
        """Create the kernel for inputs of shape [(N, F), (N, N)]."""
        self.linear.build((None, (self.K + 1) * input_shape[0][-1]))
        super().build(input_shape)

    def message(self, x: tf.Tensor, edge_weight: tf.Tensor | None = None) -> tf.Tensor:
        """Entry (i, j) of P sends w_ij x_j ... (E, F)."""
        return edge_weight[:, None] * tf.gather(x, self.index_targets)

    def aggregate(self, messages: tf.Tensor) -> tf.Tensor:
        """... to cell i, which sums what it is sent: (N, F). Spektral's default is the reverse."""
        return self.agg(messages, self.index_sources, self.n_nodes)

    def kernels(self) -> list[tf.Tensor]:
        """The kernels (F, C_out) of P^0, P^1, ...: those of one exponent are added, exactly."""
        by_hop = tf.split(tf.convert_to_tensor(self.linear.kernel), self.K + 1, axis=0)
        exponents = range(max(self.exponents) + 1)
        return [
            tf.add_n([w for w, e in zip(by_hop, self.exponents, strict=True) if e == exponent])
            for exponent in exponents
        ]

    def call(self, inputs, **kwargs) -> tf.Tensor:
        """X (N, F) and the sparse P (N, N) to (N, C_out), by Horner's rule.

        X W_0 + P (X W_1 + P (X W_2 + ...)): the sparse products run on C_out columns, not on F.
        Raises ValueError if X is not a matrix or P is not a SparseTensor.
        """
        x, p = inputs
        _require_rank_two("x", x)
        if not isinstance(p, tf.SparseTensor):
            raise ValueError(f"the propagation matrix must be a tf.SparseTensor, not {type(p)}")
        kernels = self.kernels()
        terms = tf.split(x @ tf.concat(kernels, axis=1), len(kernels), axis=1)  # each (N, C_out)
        total = terms[-1]
        for term in reversed(terms[:-1]):
            total = term + self.propagate(total, p, edge_weight=p.values)
        return self.activation(total + self.linear.bias)

    def call_on_blocks(self, blocks: tf.Tensor) -> tf.Tensor:
        """[X, PX, P^2 X, ...] side by side, as constant data, to (N, C_out): one dense product.

        blocks: (N, B F) with B = 1 + the largest exponent. The same value as `call`. The product is
        made in the dtype of the blocks, everything else in float32.
        """
        _require_rank_two("blocks", blocks)
        kernel = tf.cast(tf.concat(self.kernels(), axis=0), blocks.dtype)
        return self.activation(tf.cast(blocks @ kernel, tf.float32) + self.linear.bias)


class FactoredLogits(NamedTuple):
    """The N x N logits of the graph, left @ right^T, kept as factors of shape (N, D + 1)."""

    left: tf.Tensor
    right: tf.Tensor


class AdjacencyDecoder(keras.layers.Layer):
    """Logits of the graph, s = H W H^T with H = z V + b, returned as two factors.

    With z' = [z, 1] and V' = [V; b] it holds s = z' (V' W V'^T) z'^T, so the product has rank D + 1
    whatever the width. Weights: V (D, width), b (width,), W (width, width). W is free, so s need
    not be symmetric. Source: official code, a linear Dense of 32 units and a bilinear layer.
    """

    def __init__(self, width: int = 32, *, kernel_initializer="glorot_uniform", **kwargs) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape) -> None:
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
        """z: (N, D). Returns the factors z' M and z', M = V' W V'^T of shape (D + 1, D + 1)."""
        _require_rank_two("z", z)
        extended = tf.concat([z, tf.ones_like(z[:, :1])], axis=1)  # (N, D + 1)
        kernel = tf.concat([self.kernel, tf.expand_dims(self.bias, 0)], axis=0)  # (D + 1, width)
        folded = tf.matmul(kernel @ self.bilinear, kernel, transpose_b=True)  # (D + 1, D + 1)
        return FactoredLogits(left=extended @ folded, right=extended)


class SoftAssignment(keras.layers.Layer):
    """Student-t similarity of cells to cluster centres with one degree of freedom.

    q_ij = (1 + |z_i - c_j|^2)^-1, each row scaled to sum to one. Weight: centers (C, D).
    Source: DEC (Xie 2016), equation 1 with alpha = 1.
    """

    def __init__(self, n_clusters: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.n_clusters = n_clusters

    def build(self, input_shape) -> None:
        """Create the centres, zeros until they are assigned, for z of shape (N, D)."""
        self.centers = self.add_weight(
            shape=(self.n_clusters, input_shape[-1]), initializer="zeros", name="centers"
        )

    def call(self, z: tf.Tensor) -> tf.Tensor:
        """z: (N, D). Returns q (N, C)."""
        _require_rank_two("z", z)
        centers = tf.convert_to_tensor(self.centers)
        differences = tf.expand_dims(z, 1) - tf.expand_dims(centers, 0)  # (N, C, D)
        similarity = 1.0 / (1.0 + tf.reduce_sum(tf.square(differences), axis=2))  # (N, C)
        return similarity / tf.reduce_sum(similarity, axis=1, keepdims=True)
