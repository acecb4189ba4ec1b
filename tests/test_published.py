"""The fast steps of `official` against the plain transcription of the published computation."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import grouped_counts, network
from conftest import prepared as prepare

import training
import views
import whole_graph
from perf.published import CLUSTER_RATE, PRETRAIN_RATE, W_ADJ, W_KL, W_ZINB, Published
from settings import Objective
from tensors import training_data
from training import Phase

N_CELLS, N_GENES = 83, 30  # no multiple of a block
OBJECTIVE = Objective(
    zinb_target="scaled",
    zinb_clip="stop",
    graph_loss="mse",
    w_adj=W_ADJ,
    w_zinb=W_ZINB,
    w_kl=W_KL,
    kl="qp",
)


@pytest.fixture(scope="module")
def prepared():
    return prepare(grouped_counts(N_CELLS, N_GENES, level=6.0), clip=None, n_pcs=10)


def both(prepared):
    """The suite's network and data, and the published one with the same weights."""
    sizes = {"hidden_dim": 24, "latent_dim": 5, "hops": 3}
    net = network(n_genes=N_GENES, seed=3, decoder_dims=[16, 24], tag_blocks="repeated", **sizes)
    data = training_data(prepared, net.architecture, OBJECTIVE)
    slow = Published(prepared.X, views.graph(prepared), decoder_dims=(16, 24), **sizes)
    decoder = net.graph_decoder
    weights = [
        *net.encoder_1.linear.weights,
        *net.encoder_2.linear.weights,
        decoder.kernel,
        decoder.bias,
        *(w for layer in (*net.count_decoder, *net.heads) for w in layer.weights),
        decoder.bilinear,
    ]
    for mine, theirs in zip(weights, slow.variables, strict=True):
        theirs.assign(mine)
    return net, data, slow, weights


@pytest.mark.parametrize("phase", ["pretrain", "cluster"])
def test_twenty_steps_agree(prepared, phase):
    net, data, slow, weights = both(prepared)
    p, rate = None, PRETRAIN_RATE
    if phase == "cluster":
        rate = CLUSTER_RATE
        z = training.embed(net, data)
        centers = z[:3] + 0.1
        net.place_centers(centers, trainable=False)
        slow.centers = tf.constant(centers)
        q = slow.assign(slow.encode()).numpy()
        p = q**2 / q.sum(axis=0)
        p = tf.constant(p / p.sum(axis=1, keepdims=True), tf.float32)
        slow.optimizer.learning_rate.assign(rate)
    step = whole_graph.make_step(net, data, OBJECTIVE, training.adam(net, Phase(20, rate)))
    for _ in range(20):
        fast_losses, slow_losses = step(p), slow.step(p)
        for fast, expected in zip(
            (fast_losses.adj, fast_losses.zinb, fast_losses.kl), slow_losses, strict=True
        ):
            assert float(fast) == pytest.approx(float(expected), rel=1e-5, abs=1e-7)
    for mine, theirs in zip(weights, slow.variables, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=20 * rate * 0.02)
