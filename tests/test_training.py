"""The two phases on a small graph, against a plain, slow road with dense matrices."""

import dataclasses

import anndata as ad
import keras
import numpy as np
import pytest
import scipy.sparse as sp
import tensorflow as tf
from conftest import network
from conftest import prepared as prepare

import likelihoods
import losses
import training
import views
import whole_graph
from settings import Objective, Training
from tensors import join, scaled_components, training_data
from training import Phase
from utils import TrainingError

OBJECTIVE = Objective(graph_loss="mse", w_adj=0.3)  # without random pairs


@pytest.fixture(scope="module")
def prepared():
    """75 cells (no multiple of a block), 20 genes, three groups."""
    return prepare()


def tensors(adata, net, **objective):
    asked = dataclasses.replace(OBJECTIVE, **objective)
    return training_data(adata, net.architecture, asked, dtype=net.product_dtype)


@tf.custom_gradient
def dense_zinb(target, *heads):
    """The mean over the whole N x G at once."""
    entries, gradients = likelihoods.zinb_nll_entries(target, *heads)
    return tf.reduce_mean(entries), lambda upstream: (
        *(None for _ in target),
        *(upstream * d / tf.size(entries, tf.float32) for d in gradients),
    )


def slow_step(net, adata, data, optimizer, p):
    """The same step, eager, with the layers' own calls and N x N matrices."""
    graph = data.graph
    with tf.GradientTape() as tape:
        x = tf.constant(adata.X)
        z = net.encoder_2([net.encoder_1([x, graph.propagation]), graph.propagation])
        left, right = net.decode_graph(z)
        probability = tf.sigmoid(tf.matmul(left, right, transpose_b=True))
        adjacency = tf.constant(views.graph(adata).toarray())
        adj = tf.reduce_mean(tf.square(probability - adjacency))
        hidden = z
        for layer in net.count_decoder:
            hidden = layer(hidden)
        zinb = dense_zinb(data.reconstruction.target, *(head(hidden) for head in net.heads))
        kl = 0.0 if p is None else losses.kl_divergence(p, net.assign(z), direction="pq")
        total = OBJECTIVE.w_adj * adj + OBJECTIVE.w_zinb * zinb + OBJECTIVE.w_kl * kl
    variables = net.trainable_variables
    optimizer.apply(tape.gradient(total, [v.value for v in variables]), variables)
    return total


@pytest.mark.parametrize("phase", ["pretrain", "cluster"])
def test_twenty_fast_steps_are_twenty_slow_steps(prepared, phase):
    """Compiled, blocked and pre-propagated against eager and dense, from the same weights."""
    fast, slow = network(), network()
    data = tensors(prepared, fast)
    p = None
    if phase == "cluster":
        centers = np.random.default_rng(1).normal(size=(3, 4))
        for net in (fast, slow):
            net.place_centers(centers, trainable=True)
        q = fast.assign(fast.encode(data.graph, training=False))
        p = losses.target_distribution(q)
    step = whole_graph.make_step(fast, data, OBJECTIVE, training.adam(fast, Phase(20, 1e-3)))
    optimizer = keras.optimizers.Adam(1e-3)
    for _ in range(20):
        fast_total = float(step(p).total)
        slow_total = float(slow_step(slow, prepared, data, optimizer, p))
        assert fast_total == pytest.approx(slow_total, rel=1e-5)
    assert step.experimental_get_tracing_count() == 1
    for a, b in zip(fast.trainable_variables, slow.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_targets_are_counts_with_size_factors_or_z_scores_without(prepared):
    net = network()
    raw = tensors(prepared, net).reconstruction.target
    np.testing.assert_array_equal(raw.y, prepared.layers["counts"].toarray())
    log_factor = np.log(prepared.obs["size_factor"].to_numpy(np.float32))[:, None]
    np.testing.assert_allclose(raw.log_size_factor, log_factor, atol=1e-6)
    scaled = tensors(prepared, net, zinb_target="scaled").reconstruction.target
    np.testing.assert_array_equal(scaled.y, prepared.X)
    np.testing.assert_array_equal(scaled.log_size_factor, np.zeros((75, 1)))


def pretrain(net, data, epochs=12, learning_rate=1e-2, **changes):
    phase = Phase(epochs, learning_rate, **changes)
    return training.Pretraining(net, data, OBJECTIVE, phase, quiet=True).run(net.seed)


def run(net, data, **changes):
    """Twelve epochs of clustering from the centres of the first three cells."""
    z = training.embed(net, data)
    net.place_centers(z[:3], trainable=changes.pop("trainable", True))
    settings = {"maxiter": 12, "cluster_lr": 1e-2, "cluster_tol": 0.0, "update_interval": 5}
    training_settings = Training(**(settings | changes))
    return training.cluster(net, data, OBJECTIVE, training_settings, quiet=True)


@pytest.mark.usefixtures("without_xla")
def test_pretraining_lowers_the_losses_and_records_every_epoch(prepared):
    net = network(dropout=0.2)
    data = tensors(prepared, net)
    history = pretrain(net, data, epochs=33)
    assert [row["epoch"] for row in history] == list(range(1, 34))
    assert {row["phase"] for row in history} == {"pretrain"}
    assert history[-1]["zinb"] < history[0]["zinb"]
    assert all(row["kl"] == 0 for row in history)


@pytest.mark.usefixtures("without_xla")
def test_final_labels_come_from_the_final_weights(prepared):
    net = network()
    data = tensors(prepared, net)
    clustered = run(net, data)
    q = net.assign(training.embed(net, data)).numpy()
    np.testing.assert_allclose(clustered.q, q, atol=1e-5)
    np.testing.assert_array_equal(clustered.labels, q.argmax(axis=1))


@pytest.mark.usefixtures("without_xla")
def test_refresh_labels_come_from_the_last_refresh(prepared):
    """Refreshes before epochs 1, 6 and 11: the q after ten epochs, as published."""
    net, shorter = network(), network()
    data = tensors(prepared, net)
    clustered = run(net, data, final_labels="refresh")
    after_ten = run(shorter, data, maxiter=10, final_labels="final")
    np.testing.assert_allclose(clustered.q, after_ten.q, atol=1e-5)
    assert np.abs(clustered.q - net.assign(training.embed(net, data)).numpy()).max() > 1e-4


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("trainable", [False, True])
def test_centers_move_only_when_trained(prepared, trainable):
    net = network()
    data = tensors(prepared, net)
    start = training.embed(net, data)[:3]
    run(net, data, trainable=trainable)
    moved = np.abs(net.assignment.centers.numpy() - start).max()
    assert (moved > 1e-3) == trainable


@pytest.mark.usefixtures("without_xla")
def test_losses_that_are_not_finite_end_the_phase_in_one_sentence(prepared, caplog):
    net = network()
    data = tensors(prepared, net)
    with pytest.raises(TrainingError, match="nan at epoch 2 of pretrain, also after going back"):
        pretrain(net, data, epochs=40, learning_rate=1e30)
    assert caplog.text.count("goes back to epoch") == 1


class Broken:
    """Steps of a phase, of which the one at an epoch leaves a loss, or the weights, not finite."""

    def __init__(self, epoch, what, net):
        self.epoch, self.what, self.net, self.make = epoch, what, net, whole_graph.make_step
        self.count = 0

    def __call__(self, *args):
        step = self.make(*args)

        def breaking(p):
            self.count += 1
            values = step(p)
            if self.count == self.epoch and self.what == "weights":
                weights = self.net.trainable_variables[0]
                weights.assign(weights * np.nan)
            elif self.count == self.epoch:
                values = values._replace(total=values.total * np.inf)
            return values

        return breaking


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("what", ["loss", "weights"])
@pytest.mark.parametrize("phase", ["pretrain", "cluster"])
def test_after_one_loss_that_is_not_finite_training_goes_on_at_a_lower_rate(
    prepared, monkeypatch, caplog, phase, what
):
    """From the last look before it, by a tenth: Adam's steps are as long as its rate."""
    net = network(dropout=0.2)
    data = tensors(prepared, net)
    kept = []
    monkeypatch.setattr(whole_graph, "make_step", Broken(14, what, net))
    if phase == "pretrain":
        trained = training.Pretraining(net, data, OBJECTIVE, Phase(20, 1e-2), quiet=True)
        history = trained.run(1, keep=kept.append)
    else:
        net.place_centers(training.embed(net, data)[:3], trainable=True)
        long = Training(maxiter=20, cluster_lr=1e-2, cluster_tol=0.0, update_interval=5)
        done = training.cluster(net, data, OBJECTIVE, long, quiet=True, keep=kept.append)
        history = done.history
    assert [row["epoch"] for row in history] == list(range(1, 21))
    assert np.isfinite([row["total"] for row in history]).all()
    assert "training goes back to epoch 12, and on at a tenth" in caplog.text
    epochs = [snapshot.epoch for snapshot in kept]
    at = {epoch: snapshot for epoch, snapshot in zip(epochs, kept, strict=True)}
    assert epochs == [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert [at[epoch].rate for epoch in (12, 14)] == [1.0, 0.1]

    def moved(first, second):
        pairs = zip(at[first].network, at[second].network, strict=True)
        return np.median(np.concatenate([np.abs(a - b).ravel() for a, b in pairs if a.ndim > 1]))

    assert moved(12, 14) == pytest.approx(0.1 * moved(10, 12), rel=0.5)
    assert history[:12] == at[12].history


@pytest.mark.usefixtures("without_xla")
def test_pretraining_stops_when_the_loss_has_settled_and_says_why(prepared, caplog):
    """Two windows of 25 epochs are the least; a rate of 1e-9 moves nothing."""
    caplog.set_level("INFO", logger="sctag")
    net = network()
    data = tensors(prepared, net)
    still = {"learning_rate": 1e-9, "epochs": 130}
    assert len(pretrain(net, data, tolerance=0.01, **still)) == 50
    assert "stopped at epoch 50: the loss fell by 0.00% in 25 epochs" in caplog.text
    assert len(pretrain(net, data, tolerance=0.0, **still)) == 130


def test_a_restart_is_the_run_of_its_own_seed(prepared):
    """Weights, Adam's moments and the dropout's numbers all begin anew, to the last bit."""
    net = network(dropout=0.2)
    data = tensors(prepared, net)
    pretraining = training.Pretraining(net, data, OBJECTIVE, Phase(7, 1e-2), quiet=True)
    computed = [(pretraining.run(s), training.embed(net, data), net.state()) for s in (5, 6, 5)]
    alone = network(dropout=0.2, seed=6)
    assert computed[1][0] == pretrain(alone, data, epochs=7)
    np.testing.assert_array_equal(computed[1][1], training.embed(alone, data))
    assert computed[2][0] == computed[0][0]
    np.testing.assert_array_equal(computed[2][1], computed[0][1])
    assert np.abs(computed[0][1] - computed[1][1]).max() > 1e-3
    net.restore(computed[1][2])
    np.testing.assert_array_equal(training.embed(net, data), computed[1][1])


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("phase", ["pretrain", "cluster"])
def test_a_cosine_ends_at_rate_zero(prepared, phase):
    """Half of the rate halfway, next to nothing at the end, constant otherwise; in both phases."""
    assert float(training.adam(network(), Phase(10, 0.4)).learning_rate) == pytest.approx(0.4)
    rate = training.adam(network(), Phase(10, 0.4, schedule="cosine"))._learning_rate
    np.testing.assert_allclose([rate(0), rate(5), rate(10)], [0.4, 0.2, 0.0], atol=1e-6)

    moved = {}
    for schedule in ("constant", "cosine"):
        net = network()
        data = tensors(prepared, net)
        if phase == "pretrain":
            rows = pretrain(net, data, epochs=40, schedule=schedule)
        else:
            rows = run(net, data, maxiter=40, lr_schedule=schedule).history
        totals = [row["zinb"] for row in rows]
        moved[schedule] = abs(totals[-1] - totals[-2]) / abs(totals[1] - totals[0])
    assert moved["cosine"] < 0.1 * moved["constant"]


@pytest.mark.usefixtures("without_xla")
def test_pretraining_goes_on_while_the_loss_falls(prepared):
    net = network()
    assert len(pretrain(net, tensors(prepared, net), tolerance=0.001, epochs=130)) == 130


@pytest.mark.usefixtures("without_xla")
def test_clustering_stops_when_the_labels_have_settled_and_says_why(prepared, caplog):
    """p is made before epochs 1, 6, 11 and 16; the labels stand still at the last three of them."""
    caplog.set_level("INFO", logger="sctag")
    data = tensors(prepared, network())
    still = {"cluster_lr": 1e-9, "maxiter": 40}
    assert len(run(network(), data, cluster_tol=0.01, **still).history) == 16
    assert "stopped at epoch 16: at each of the last 3 updates" in caplog.text
    assert len(run(network(), data, cluster_tol=0.0, **still).history) == 40


@pytest.mark.usefixtures("without_xla")
def test_counts_in_the_thousands_do_not_leave_the_heads_stuck():
    """At a high rate all heads run beyond their bounds; only with clip "return" they come back."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2.0, 2000.0, (1, 20)), (75, 20)).astype(np.float32)
    adata = prepare(ad.AnnData(sp.csr_matrix(counts)))
    last = {}
    for clip in ("stop", "return"):
        net = network()
        data = tensors(adata, net, zinb_clip=clip)
        last[clip] = pretrain(net, data, epochs=100, learning_rate=0.03)[-1]["zinb"]
    assert last["return"] < last["stop"] - 0.5


@pytest.mark.usefixtures("without_xla")
def test_bfloat16_products_train_to_nearly_the_same_loss(prepared):
    """Weights, embedding and losses stay float32; only the large products are rounded."""
    last = {}
    for precision in ("float32", "mixed_bfloat16"):
        net = network(precision=precision)
        data = tensors(prepared, net)
        assert data.graph.propagated.dtype == net.decode_counts(tf.zeros([2, 4])).hidden.dtype
        assert (data.graph.propagated.dtype == tf.bfloat16) == (precision == "mixed_bfloat16")
        last[precision] = pretrain(net, data, epochs=60)[-1]["zinb"]
        assert {variable.dtype for variable in net.trainable_variables} == {"float32"}
        assert training.embed(net, data).dtype == np.float32
    assert last["mixed_bfloat16"] != last["float32"]
    assert last["mixed_bfloat16"] == pytest.approx(last["float32"], rel=0.02)


def test_components_join_z_centred_and_with_the_same_total_variance(prepared):
    net = network()
    data = tensors(prepared, net)
    z, components = training.embed(net, data), views.features(prepared, metric=False)
    assert join(z, data).shape == z.shape
    points = join(z, data.with_components(scaled_components(components, z))).numpy()
    np.testing.assert_array_equal(points[:, :4], z)
    added = points[:, 4:]
    np.testing.assert_allclose(added.mean(axis=0), 0, atol=1e-4)
    n_components = prepared.obsm["X_pca"].shape[1]
    for view in (added[:, :n_components], added[:, n_components:]):  # neither outweighs z
        np.testing.assert_allclose(view.var(axis=0).sum(), z.var(axis=0).sum(), rtol=1e-4)
    ratio = added / components
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-2)


@pytest.mark.usefixtures("without_xla")
def test_the_joint_is_what_the_clustering_phase_assigns(prepared):
    net = network(dropout=0.2)
    data = tensors(prepared, net)
    z = training.embed(net, data)
    data = data.with_components(scaled_components(views.features(prepared, metric=True), z))
    points = join(z, data).numpy()
    net.place_centers(points[:3], trainable=True)
    before = net.assignment.centers.numpy()
    settings = Training(maxiter=4, cluster_lr=1e-2, cluster_tol=0.0, update_interval=2)
    done = training.cluster(net, data, OBJECTIVE, settings, quiet=True)
    q = net.assign(join(training.embed(net, data), data)).numpy()
    np.testing.assert_allclose(done.q, q, rtol=1e-3, atol=1e-5)
    moved = np.abs(net.assignment.centers.numpy() - before)
    assert moved[:, :4].max() > 1e-3  # beside z
    assert moved[:, 4:].max() > 1e-3  # beside the components
