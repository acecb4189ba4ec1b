"""The fast steps of `official` against the plain transcription of the published computation."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import tensorflow as tf

import model
import preprocess
import training
from perf.published import CLUSTER_RATE, PRETRAIN_RATE, W_ADJ, W_KL, W_ZINB, Published

N_CELLS, N_GENES = 83, 30  # no multiple of a block


@pytest.fixture(scope="module")
def prepared():
    rng = np.random.default_rng(0)
    rate = np.full((N_CELLS, N_GENES), 1.0)
    for group in range(3):
        rate[group::3, group * 8 : group * 8 + 8] = 6.0
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    settings = {"n_genes": N_GENES, "gene_selection": "seurat", "clip": None, "n_pcs": 10, "k": 6}
    return preprocess.prepare(adata, symmetric=False, exact_knn_cells=10**6, seed=0, **settings)


def both(prepared):
    """The suite's network and data, and the published one with the same weights."""
    sizes = {"hidden_dim": 24, "latent_dim": 5, "hops": 3}
    net = model.SCTAG(
        n_genes=N_GENES, decoder_dims=[16, 24], repeated=True, dropout=0.0, seed=3, **sizes
    )
    data = training.training_data(
        prepared, net, direction="ax", zinb_target="scaled", zinb_clip="stop"
    )
    slow = Published(prepared.X, prepared.obsp["connectivities"], decoder_dims=(16, 24), **sizes)
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
    step = training.make_step(
        net,
        data,
        optimizer=training.adam(net, rate),
        weights=training.Weights(adj=W_ADJ, zinb=W_ZINB, kl=W_KL),
        kl="qp",
    )
    for _ in range(20):
        fast_losses, slow_losses = step(p), slow.step(p)
        for fast, expected in zip(
            (fast_losses.adj, fast_losses.zinb, fast_losses.kl), slow_losses, strict=True
        ):
            assert float(fast) == pytest.approx(float(expected), rel=1e-5, abs=1e-7)
    for mine, theirs in zip(weights, slow.variables, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=20 * rate * 0.02)
