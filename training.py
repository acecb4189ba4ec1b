"""The two training phases: pretraining of the autoencoder, then KL clustering.

Letters: N cells, G genes, D latent size, C clusters. Full batch, one compiled step for each phase;
no function here has a parameter for true labels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import anndata as ad
import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

import losses
from blocks import CACHE_BYTES
from model import SCTAG, GraphTensors, graph_tensors
from utils import TrainingError

log = logging.getLogger("sctag")

REPORTS = 10  # log lines of a phase
CHECK_EVERY = 10  # epochs between two looks at the losses: reading them waits for the device
WINDOW = 25  # epochs over which losses are averaged before they are compared: dropout is noisy
STEADY_UPDATES = 3  # updates of p in a row that must leave the labels alone before clustering stops


class TrainingData(NamedTuple):
    """All tensors of a run: the encoder's inputs and the ZINB's target.

    target: what the count decoder is fitted to: a ZINBTarget by the ZINB, a tensor (N, G) by the
    squared error. zinb_clip: "return" or "stop", see `losses.zinb_nll_entries`; block_bytes: what
    the widest array of a block may take on the device. components: (N, P) that join z where cells
    are assigned to centres, see `with_components`; P is 0 where z alone is clustered.
    """

    graph: GraphTensors
    target: losses.ZINBTarget | tf.Tensor
    zinb_clip: str
    block_bytes: int
    components: tf.Tensor


class Weights(NamedTuple):
    """Weights of the losses in their sum."""

    adj: float
    zinb: float
    kl: float


class StepLosses(NamedTuple):
    """The losses of one step, before its update; kl is 0 in pretraining.

    zinb: the loss of the counts' reconstruction, also where a squared error stands in its place.
    """

    total: tf.Tensor
    adj: tf.Tensor
    zinb: tf.Tensor
    kl: tf.Tensor


def training_data(
    adata: ad.AnnData,
    network: SCTAG,
    *,
    direction: str,
    zinb_target: str,
    zinb_clip: str,
    reconstruction: str = "zinb",
    block_bytes: int = CACHE_BYTES,
) -> TrainingData:
    """Prepared data (`preprocess.prepare`) to the tensors that the network is trained on.

    zinb_target: "counts" (raw counts, mean scaled by the size factor) or "scaled" (z-scores);
    reconstruction: "zinb", or "mse" of the z-scores, which has no other target.
    """
    if reconstruction == "mse":
        target = tf.constant(np.asarray(adata.X), tf.float32)
    elif zinb_target == "counts":
        counts = adata.layers["counts"].toarray()
        target = losses.zinb_target(counts, adata.obs["size_factor"].to_numpy())
    else:
        target = losses.zinb_target(np.asarray(adata.X), None)
    graph = graph_tensors(
        adata,
        n_propagations=network.n_propagations,
        direction=direction,
        dtype=network.product_dtype,
    )
    return TrainingData(graph, target, zinb_clip, block_bytes, tf.zeros([adata.n_obs, 0]))


def with_components(data: TrainingData, components: np.ndarray, z: np.ndarray) -> TrainingData:
    """The data with principal components beside z, scaled to the total variance of z.

    The graph convolution smooths z over neighbours and has D dimensions for all that it must tell
    the decoders; the components keep what it leaves out. Joined, neither outweighs the other.
    components: (N, P); z: (N, D) of the pretrained network, whose scale is arbitrary.
    """
    scale = np.sqrt(z.var(axis=0).sum() / max(components.var(axis=0).sum(), np.finfo(float).tiny))
    centred = components - components.mean(axis=0)
    return data._replace(components=tf.constant(scale * centred, tf.float32))


def join(z: tf.Tensor, data: TrainingData) -> tf.Tensor:
    """What is clustered: z (N, D) and the data's components, (N, D + P)."""
    return tf.concat([z, data.components], axis=1)


def objective(
    network: SCTAG, data: TrainingData, p: tf.Tensor | None, *, weights: Weights, kl: str
) -> StepLosses:
    """What a step lowers: the losses at the network's weights, input dropout on.

    p: (N, C), or None in pretraining; kl: "pq" or "qp". Differentiable in all that can be trained.
    """
    z = network.encode(data.graph, training=True)
    fit = {"block_bytes": data.block_bytes}
    adj = losses.adjacency_mse(*network.decode_graph(z), data.graph.edges, **fit)
    heads = network.decode_counts(z)
    if isinstance(data.target, losses.ZINBTarget):
        zinb = losses.zinb_nll(data.target, *heads, clip=data.zinb_clip, **fit)
    else:
        zinb = losses.mean_square(data.target, *heads)
    divergence = tf.constant(0.0)
    if p is not None:
        divergence = losses.kl_divergence(p, network.assign(join(z, data)), direction=kl)
    total = weights.adj * adj + weights.zinb * zinb + weights.kl * divergence
    return StepLosses(total=total, adj=adj, zinb=zinb, kl=divergence)


def adam(
    network: SCTAG, learning_rate: float | keras.optimizers.schedules.LearningRateSchedule
) -> keras.optimizers.Optimizer:
    """Adam on what can be trained of the network, with its state at the start."""
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(network.trainable_variables)
    return optimizer


def make_step(
    network: SCTAG,
    data: TrainingData,
    *,
    optimizer: keras.optimizers.Optimizer,
    weights: Weights,
    kl: str,
) -> Callable[[tf.Tensor | None], StepLosses]:
    """One compiled full-batch step on what can be trained; both phases are made by this.

    The step takes the target distribution p (N, C) of the clustering phase, or None before it,
    and returns the losses that its gradient was taken of. optimizer: of `adam`; kl: "pq" or "qp".
    """
    variables = network.trainable_variables

    @tf.function(jit_compile=True)
    def step(p: tf.Tensor | None) -> StepLosses:
        with tf.GradientTape() as tape:
            found = objective(network, data, p, weights=weights, kl=kl)
        values = [variable.value for variable in variables]
        optimizer.apply(tape.gradient(found.total, values), variables)
        return found

    return step


def rate_at(schedule: str, learning_rate: float, epochs: int):
    """The optimizer's rate: the same at every epoch ("constant"), or falling to 0 ("cosine").

    epochs: of the phase, at most; the cosine ends there, so it wants a phase that is not stopped
    before. Source: Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    if schedule == "constant":
        return learning_rate
    return keras.optimizers.schedules.CosineDecay(learning_rate, epochs)


def _run_epochs(
    phase: str,
    epochs: int,
    one_epoch: Callable[[int], StepLosses],
    settled: Callable[[list[dict]], str | None],
    *,
    quiet: bool,
) -> list[dict[str, float | int | str]]:
    """Run a phase with its progress bar, log lines and check of the losses; returns its history.

    `settled` reads the history now and then and returns why the phase may stop, or None. Raises
    TrainingError when a loss is not finite.
    """
    history: list[dict] = []
    pending: list[StepLosses] = []
    start = time.perf_counter()
    every = max(1, epochs // REPORTS)
    with tqdm(
        total=epochs, desc=f"{phase:<9}", leave=False, disable=True if quiet else None
    ) as bar:
        for epoch in range(1, epochs + 1):
            pending.append(one_epoch(epoch))
            if epoch % CHECK_EVERY and epoch % every and epoch not in (1, epochs):
                continue
            for step_losses in pending:
                values = {name: float(x) for name, x in step_losses._asdict().items()}
                history.append({"phase": phase, "epoch": len(history) + 1, **values})
                if not np.isfinite(values["total"]):
                    raise TrainingError(
                        f"the loss is {values['total']} at epoch {len(history)} of {phase}: "
                        "try a lower learning rate"
                    )
            last = history[-1]
            shown = {name: last[name] for name in ("zinb", "adj", "kl")}
            bar.set_postfix({name: f"{value:.4f}" for name, value in shown.items()}, refresh=False)
            bar.update(len(pending))
            pending.clear()
            reason = settled(history) if epoch < epochs else None
            if reason or epoch % every == 0 or epoch in (1, epochs):
                text = "  ".join(f"{name} {value:9.5f}" for name, value in shown.items())
                seconds = time.perf_counter() - start
                log.info(f"{phase:<9} {epoch:>5}/{epochs}  {text}  {seconds:7.1f} s")
            if reason:
                log.info(f"{phase:<9} stopped at epoch {epoch}: {reason}")
                break
    return history


def pretraining(
    network: SCTAG,
    data: TrainingData,
    *,
    epochs: int,
    learning_rate: float,
    schedule: str,
    tolerance: float,
    weights: Weights,
    quiet: bool,
) -> Callable[[int], list[dict]]:
    """A function that trains encoder and decoders on the graph and the ZINB, from a seed's weights.

    Called with a seed it leaves the network pretrained and returns one row of losses an epoch; the
    step is compiled once for all calls, and each begins anew, whatever came before. It raises
    TrainingError when a loss is not finite. epochs: at most so many; it stops before when the loss
    has settled, by less than the share `tolerance` between the means of two successive windows of
    `WINDOW` epochs (0: never).
    """
    optimizer = adam(network, rate_at(schedule, learning_rate, epochs))
    step = make_step(network, data, optimizer=optimizer, weights=weights, kl="pq")
    start = [variable.numpy() for variable in optimizer.variables]

    def settled(history: list[dict]) -> str | None:
        if not tolerance or len(history) % WINDOW or len(history) < 2 * WINDOW:
            return None
        totals = [row["total"] for row in history[-2 * WINDOW :]]
        before, now = np.mean(totals[:WINDOW]), np.mean(totals[WINDOW:])
        gain = (before - now) / abs(before)
        if gain >= tolerance:
            return None
        return f"the loss fell by {gain:.2%} in {WINDOW} epochs, less than {tolerance:.2%}"

    def pretrain_from(seed: int) -> list[dict]:
        network.restart(seed)
        for variable, value in zip(optimizer.variables, start, strict=True):
            variable.assign(value)
        return _run_epochs("pretrain", epochs, lambda _: step(None), settled, quiet=quiet)

    return pretrain_from


def embed(network: SCTAG, data: TrainingData) -> np.ndarray:
    """The embedding z (N, D) of every cell, dropout off. Raises TrainingError if not finite."""
    return _finite(network.encode(data.graph, training=False).numpy(), "the embedding")


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    """The values, checked: a step's losses are taken before its update, so none tells of the last.

    Raises TrainingError if one is not finite.
    """
    if not np.isfinite(values).all():
        raise TrainingError(f"{what} is not finite after training: try a lower learning rate")
    return values


class Clustered(NamedTuple):
    """What the clustering phase ends with: labels (N,), q (N, C), and a row of losses an epoch."""

    labels: np.ndarray
    q: np.ndarray
    history: list[dict]


def cluster(
    network: SCTAG,
    data: TrainingData,
    *,
    epochs: int,
    learning_rate: float,
    schedule: str,
    tolerance: float,
    weights: Weights,
    kl: str,
    update_interval: int,
    final_labels: str,
    quiet: bool,
) -> Clustered:
    """Sharpen the clusters from the centres already placed, with p refreshed at intervals.

    epochs: at most so many, or 0, which leaves all as it is; it stops before when the labels have
    settled: at `STEADY_UPDATES` refreshes in a row less than the share `tolerance` of the cells has
    changed its label (0: never; the stopping rule of DEC and scDeepCluster, made patient).

    final_labels: "final" for the q of the final weights, "refresh" for the q of which the last p
    was made (at epoch 296 of 300 by default, as published).
    """
    optimizer = adam(network, rate_at(schedule, learning_rate, epochs))
    step = make_step(network, data, optimizer=optimizer, weights=weights, kl=kl)

    @tf.function(jit_compile=True)
    def soft_assignment() -> tf.Tensor:
        return network.assign(join(network.encode(data.graph, training=False), data))

    state: dict[str, tf.Tensor] = {}
    changed: list[float] = []  # at each refresh but the first, the share of cells with a new label

    def one_epoch(epoch: int) -> StepLosses:
        if (epoch - 1) % update_interval == 0:
            before, state["q"] = state.get("q"), soft_assignment()
            state["p"] = losses.target_distribution(state["q"])
            if before is not None:
                moved = np.argmax(before, axis=1) != np.argmax(state["q"], axis=1)
                changed.append(float(np.mean(moved)))
        return step(state["p"])

    def settled(_: list[dict]) -> str | None:
        last = changed[-STEADY_UPDATES:]
        if len(last) < STEADY_UPDATES or max(last) >= tolerance:
            return None
        return (
            f"at each of the last {STEADY_UPDATES} updates of p less than {tolerance:.2%} of the "
            "cells changed cluster"
        )

    history = _run_epochs("cluster", epochs, one_epoch, settled, quiet=quiet)
    final = _finite(soft_assignment().numpy(), "the assignment")
    q = state["q"].numpy() if final_labels == "refresh" and epochs else final
    return Clustered(labels=q.argmax(axis=1), q=q, history=history)
