"""The fast computation against the obvious one: all losses, all gradients and twenty Adam steps.

The slow road is written from the formulas alone: eager, float64, dense N x N matrices, explicit
powers of P, log Gammas. It shares no code with the suite; it is given the prepared data and the
values of the network's weights. The fast road is what `whole_graph.make_step` runs: compiled,
float32, propagated in advance or by Horner's rule, and with the two large losses in blocks of rows.
"""

from typing import NamedTuple

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import tensorflow as tf
from conftest import network
from conftest import prepared as prepare

import losses
import training
import views
import whole_graph
from blocks import Blocks
from settings import Objective
from tensors import training_data
from training import Phase

N_CELLS, N_GENES, N_CLUSTERS, LATENT_DIM = 83, 30, 4, 5
BLOCK_BYTES = 4 * 30 * 90  # some 30 rows of the heads or of the graph
WEIGHTS = (0.3, 1.0, 1.5)  # of adj, zinb and kl


class Case(NamedTuple):
    symmetric: bool
    repeated: bool
    hops: int
    direction: str
    zinb_target: str
    kl: str
    graph_loss: str = "mse"


SCTAG = Case(True, False, 3, "ax", "counts", "pq")
CASES = {
    "sctag": SCTAG._replace(graph_loss="jaccard"),
    "sctag of all pairs": SCTAG,
    "sctag of one hop": SCTAG._replace(hops=1),
    "official": Case(False, True, 3, "ax", "scaled", "qp"),
    "directed powers": Case(False, False, 3, "ax", "counts", "qp"),
    "directed powers transposed": Case(False, False, 3, "atx", "scaled", "pq"),
    "directed repeats transposed": Case(False, True, 3, "atx", "counts", "pq"),
}


def test_the_blocks_are_several_and_the_last_one_overlaps():
    """What makes the tests below say something about the blocked losses."""
    for width in (3 * N_GENES, N_CELLS):
        blocks = Blocks.fitting(N_CELLS, width, BLOCK_BYTES)
        assert blocks.n_blocks == 3
        assert blocks.n_blocks * blocks.block_rows > N_CELLS


def prepared(symmetric):
    """Random overdispersed counts of three groups and unequal depths, prepared."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 3.0, (3, N_GENES))[np.arange(N_CELLS) % 3]
    mean *= rng.uniform(0.3, 3.0, (N_CELLS, 1))
    adata = ad.AnnData(sp.csr_matrix(rng.negative_binomial(2, 2 / (2 + mean)).astype(np.float32)))
    return prepare(adata, clip=None, n_pcs=10, symmetric_graph=symmetric)


def objective_of(case):
    adj, zinb, kl = WEIGHTS
    weights = {"w_adj": adj, "w_zinb": zinb, "w_kl": kl, "graph_loss": case.graph_loss}
    return Objective(zinb_target=case.zinb_target, zinb_clip="stop", kl=case.kl, **weights)


def start(case):
    """The slow road; a network of the same weights, all random, its data and its p."""
    adata, rng = prepared(case.symmetric), np.random.default_rng(1)
    net = network(
        n_genes=N_GENES,
        seed=0,
        hidden_dim=24,
        latent_dim=LATENT_DIM,
        decoder_dims=[16, 24],
        hops=case.hops,
        tag_blocks="repeated" if case.repeated else "powers",
        direction=case.direction,
    )
    net.place_centers(np.ones((N_CLUSTERS, LATENT_DIM)), trainable=True)
    for variable in net.trainable_variables:  # biases and centres too
        fan_in = variable.shape[0] if "kernel" in variable.path else 4
        variable.assign(rng.normal(0.0, fan_in**-0.5, variable.shape))
    data = training_data(adata, net.architecture, objective_of(case), block_bytes=BLOCK_BYTES)
    p = losses.target_distribution(net.assign(net.encode(data.graph, training=False)))
    return SlowRoad(adata, net, case), net, data, p


class SlowRoad:
    """The formulas as they are printed, dense and in float64."""

    def __init__(self, adata, net, case):
        self.weights = [tf.Variable(v.numpy(), dtype=tf.float64) for v in net.trainable_variables]
        self.x = np.asarray(adata.X, np.float64)
        if case.zinb_target == "counts":
            self.y = adata.layers["counts"].toarray().astype(np.float64)
            self.size_factor = adata.obs["size_factor"].to_numpy()[:, None]
        else:
            self.y, self.size_factor = np.maximum(self.x, 0.0), 1.0  # a z-score below 0 is a zero
        self.adjacency = views.graph(adata).toarray().astype(np.float64)
        scale = np.diag(self.adjacency.sum(axis=1) ** -0.5)
        propagation = scale @ self.adjacency @ scale
        if case.direction == "atx":
            propagation = propagation.T
        exponents = [0, 1, 1, 1] if case.repeated else range(case.hops + 1)
        self.powers = [np.linalg.matrix_power(propagation, exponent) for exponent in exponents]
        q = self.assignment(self.embedding()).numpy()
        self.pairs = None if case.graph_loss == "mse" else self.random_pairs(net)
        p = q**2 / q.sum(axis=0)
        self.p, self.kl = p / p.sum(axis=1, keepdims=True), case.kl

    def embedding(self):
        k1, b1, k2, b2, *_ = self.weights
        hidden = tf.nn.relu(tf.concat([m @ self.x for m in self.powers], axis=1) @ k1 + b1)
        return tf.concat([m @ hidden for m in self.powers], axis=1) @ k2 + b2

    def assignment(self, z):
        q = 1.0 / (1.0 + tf.reduce_sum((z[:, None] - self.weights[-1][None]) ** 2, axis=2))
        return q / tf.reduce_sum(q, axis=1, keepdims=True)

    def random_pairs(self, net):
        """The pairs that the network's next step draws: for each edge another second cell."""
        state = tf.cast(net.input_dropout.seed_generator.state.value, tf.int32)
        rows, _ = self.adjacency.nonzero()
        return rows, tf.random.stateless_uniform(
            rows.shape, state, maxval=N_CELLS, dtype=tf.int32, alg="philox"
        ).numpy()

    def closeness(self):
        """The Jaccard index of two cells' neighbours, over its 95 % quantile, by sets."""
        near = [set(row.nonzero()[0]) for row in self.adjacency]
        pairs = zip(*self.adjacency.nonzero(), strict=True)
        index = np.array([len(near[i] & near[j]) / len(near[i] | near[j]) for i, j in pairs])
        return np.minimum(index / np.quantile(index, 0.95), 1.0)

    def adjacency_loss(self, z):
        v, b, bilinear = self.weights[4:7]
        h = z @ v + b
        probability = tf.sigmoid(h @ bilinear @ tf.transpose(h))
        if self.pairs is None:
            return tf.reduce_mean((probability - self.adjacency) ** 2)
        near = tf.gather_nd(probability, np.argwhere(self.adjacency))
        far = tf.gather_nd(probability, np.stack(self.pairs, axis=1))
        target = self.closeness()
        of_edges = -target * tf.math.log(near) - (1 - target) * tf.math.log(1 - near)
        return (tf.reduce_mean(of_edges) - tf.reduce_mean(tf.math.log(1 - far))) / 2

    def zinb_loss(self, z):
        k1, b1, k2, b2, k_mean, b_mean, k_theta, b_theta, k_pi, b_pi = self.weights[7:-1]
        hidden = tf.nn.relu(tf.nn.relu(z @ k1 + b1) @ k2 + b2)
        mu = tf.exp(hidden @ k_mean + b_mean) * self.size_factor
        theta, pi = tf.nn.softplus(hidden @ k_theta + b_theta), tf.sigmoid(hidden @ k_pi + b_pi)
        y, lgamma = self.y, tf.math.lgamma
        log_nb = lgamma(y + theta) - lgamma(theta) - lgamma(tf.constant(y + 1.0))
        log_nb += theta * tf.math.log(theta / (theta + mu)) + y * tf.math.log(mu / (theta + mu))
        return -tf.reduce_mean(tf.math.log(pi * (y == 0.0) + (1.0 - pi) * tf.exp(log_nb)))

    def kl_loss(self, z):
        p, q = self.p, self.assignment(z)
        first, second = (p, q) if self.kl == "pq" else (q, p)
        return tf.reduce_mean(tf.reduce_sum(first * tf.math.log(first / second), axis=1))

    def gradients(self):
        """The three losses and the gradient of their weighted sum in each weight."""
        with tf.GradientTape() as tape:
            z = self.embedding()
            values = self.adjacency_loss(z), self.zinb_loss(z), self.kl_loss(z)
            total = sum(weight * value for weight, value in zip(WEIGHTS, values, strict=True))
        return values, [g.numpy() for g in tape.gradient(total, self.weights)]


def fast_road(net, data, p, objective):
    """What `whole_graph.make_step` computes: the losses and the gradient of their weighted sum."""

    @tf.function(jit_compile=True)
    def compute():
        with tf.GradientTape() as tape:
            computed = whole_graph.step_losses(net, data, p, objective)
        values = [variable.value for variable in net.trainable_variables]
        return (computed.adj, computed.zinb, computed.kl), tape.gradient(computed.total, values)

    return compute()


def assert_losses_agree(computed, expected, where):
    for name, a, b in zip(("adj", "zinb", "kl"), computed, expected, strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5), f"loss {name}, {where}"


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_slow_ones(name):
    slow, net, data, p = start(CASES[name])
    found_losses, computed = fast_road(net, data, p, objective_of(CASES[name]))
    expected_losses, expected = slow.gradients()
    assert_losses_agree(found_losses, expected_losses, name)
    for variable, a, b in zip(net.trainable_variables, computed, expected, strict=True):
        size = np.abs(b).max()
        assert size > 0, f"the gradient in {variable.path} is zero"
        error = np.abs(a - b).max() / size
        assert error <= 1e-4, f"the gradient in {variable.path} is off by {error:.1e} of its size"


def test_twenty_steps_are_twenty_plain_adam_steps():
    """Compiled float32 steps against Adam's formula (Keras' epsilon) on float64 gradients."""
    slow, net, data, p = start(SCTAG)
    rate, n_steps = 5e-4, 20
    optimizer = training.adam(net, Phase(n_steps, rate))
    step = whole_graph.make_step(net, data, objective_of(SCTAG), optimizer)
    first, second = ([np.zeros(w.shape) for w in slow.weights] for _ in range(2))
    for t in range(1, n_steps + 1):
        expected, gradients = slow.gradients()
        computed = step(p)
        assert_losses_agree((computed.adj, computed.zinb, computed.kl), expected, f"step {t}")
        rate_t = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        for w, g, m, v in zip(slow.weights, gradients, first, second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g**2 - v)
            w.assign_sub(rate_t * m / (np.sqrt(v) + 1e-7))
    for variable, w in zip(net.trainable_variables, slow.weights, strict=True):
        # In float32 1 - 0.999^t, and so a step, is off by up to 1e-5 of itself; an entry whose
        # gradient nearly vanishes moves by more, as Adam divides its rounding by its size.
        error = np.abs(variable.numpy() - w.numpy()).max() / (n_steps * rate)
        assert error <= 1e-3, f"{variable.path} is off by {error:.1e} of what {n_steps} steps move"
