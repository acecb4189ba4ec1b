"""The published computation, written plainly: eager, with the N x N adjacency in memory.

Our own transcription of the official pipeline's mathematics (docs/variants.md, column "official"),
kept as slow and as obvious as it was published. `speed.py` times it beside the suite, and the tests
hold the suite's fast steps against it. It shares no code with the suite's model or losses.
"""

from __future__ import annotations

import keras
import numpy as np
import scipy.sparse as sp
import tensorflow as tf
from spektral.layers import TAGConv

W_ADJ, W_ZINB, W_KL = 0.3, 1.0, 1.5
PRETRAIN_RATE, CLUSTER_RATE = 1e-4, 5e-4


class Published:
    """scTAG as published, on z-scores x (N, G) and a binary, directed adjacency (N, N)."""

    def __init__(
        self,
        x: np.ndarray,
        adjacency: sp.csr_matrix,
        *,
        hidden_dim: int = 128,
        latent_dim: int = 15,
        decoder_dims: tuple[int, ...] = (128, 256, 512),
        hops: int = 3,
    ) -> None:
        self.x = tf.constant(x, tf.float32)
        self.adjacency = tf.constant(adjacency.toarray(), tf.float32)  # (N, N)
        degree = np.asarray(adjacency.sum(axis=1)).ravel()
        scale = sp.diags(degree**-0.5)
        # spektral 1.3.1 computes A^T X where the official suite's 0.6.1 computed A X
        propagation = (scale @ adjacency @ scale).T.toarray()
        self.propagation = tf.sparse.from_dense(tf.constant(propagation, tf.float32))
        dense = keras.layers.Dense
        self.encoder_1 = TAGConv(hidden_dim, K=hops, activation="relu")
        self.encoder_2 = TAGConv(latent_dim, K=hops)
        self.graph_dense = dense(32)
        self.decoder = [dense(units, "relu") for units in decoder_dims]
        self.heads = [dense(x.shape[1]) for _ in range(3)]
        self.bilinear = keras.Variable(keras.initializers.GlorotUniform(seed=0)((32, 32)))
        self.centers: tf.Tensor | None = None
        self.losses(p=None)  # creates the weights
        self.optimizer = keras.optimizers.Adam(PRETRAIN_RATE)

    @property
    def variables(self) -> list[keras.Variable]:
        """Every trained weight: of encoder, graph decoder, count decoder and heads, in order."""
        layers = [self.encoder_1, self.encoder_2, self.graph_dense, *self.decoder, *self.heads]
        return [w for layer in layers for w in layer.trainable_weights] + [self.bilinear]

    def encode(self) -> tf.Tensor:
        """z (N, D)."""
        hidden = self.encoder_1([self.x, self.propagation])
        return self.encoder_2([hidden, self.propagation])

    def adjacency_loss(self, z: tf.Tensor) -> tf.Tensor:
        """Mean squared error of sigmoid(H W H^T) against the whole N x N adjacency."""
        h = self.graph_dense(z)
        reconstruction = tf.sigmoid(tf.matmul(h @ self.bilinear.value, h, transpose_b=True))
        return tf.reduce_mean(tf.square(self.adjacency - reconstruction))

    def zinb_loss(self, z: tf.Tensor) -> tf.Tensor:
        """The textbook ZINB negative log-likelihood of the z-scores, averaged over N x G."""
        h = z
        for layer in self.decoder:
            h = layer(h)
        raw_mean, raw_theta, raw_pi = (head(h) for head in self.heads)
        mean = tf.clip_by_value(tf.exp(raw_mean), 1e-5, 1e6)
        theta = tf.clip_by_value(tf.nn.softplus(raw_theta), 1e-4, 1e4)
        pi, y, eps = tf.sigmoid(raw_pi), self.x, 1e-10
        gammas = (
            tf.math.lgamma(theta + eps) + tf.math.lgamma(y + 1.0) - tf.math.lgamma(y + theta + eps)
        )
        powers = (theta + y) * tf.math.log(1.0 + mean / (theta + eps)) + y * (
            tf.math.log(theta + eps) - tf.math.log(mean + eps)
        )
        nb_case = gammas + powers - tf.math.log(1.0 - pi + eps)
        zero_nb = tf.pow(theta / (theta + mean + eps), theta)
        zero_case = -tf.math.log(pi + (1.0 - pi) * zero_nb + eps)
        return tf.reduce_mean(tf.where(y < 1e-8, zero_case, nb_case))

    def assign(self, z: tf.Tensor) -> tf.Tensor:
        """Student-t soft assignment q (N, C) to the frozen centres."""
        centers = tf.convert_to_tensor(self.centers)
        distances = tf.reduce_sum(tf.square(z[:, None] - centers[None]), axis=2)
        q = 1.0 / (1.0 + distances)
        return q / tf.reduce_sum(q, axis=1, keepdims=True)

    def losses(self, p: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The three losses, unweighted: adjacency, ZINB and KL(q || p), 0 without p."""
        z = self.encode()
        kl = tf.constant(0.0)
        if p is not None:
            q = tf.clip_by_value(self.assign(z), 1e-7, 1.0)
            kl = tf.reduce_mean(tf.reduce_sum(q * tf.math.log(q / p), axis=1))
        return self.adjacency_loss(z), self.zinb_loss(z), kl

    def gradients(self, p: tf.Tensor | None) -> tuple[tuple, list[tf.Tensor]]:
        """The three losses and the gradient of their weighted sum in each of `variables`."""
        with tf.GradientTape() as tape:
            adj, zinb, kl = self.losses(p)
            total = W_ADJ * adj + W_ZINB * zinb + W_KL * kl
        return (adj, zinb, kl), tape.gradient(total, [v.value for v in self.variables])

    def step(self, p: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One epoch: the losses, then an Adam update."""
        values, gradients = self.gradients(p)
        self.optimizer.apply(gradients, self.variables)
        return values
