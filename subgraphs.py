"""Steps of training on a few parts of the graph each, and all cells layer by layer in chunks.

A step has the cells of a few parts, with inputs that were propagated on the whole graph, so the
first graph convolution is exact. The second one needs the message of each neighbour: of one in the
step it is computed, of one that is not it is remembered from the last step that had it. No edge is
dropped; a message may be old. Source: GNNAutoScale (Fey et al. 2021, arXiv:2106.05609); parts as in
Cluster-GCN (Chiang et al. 2019, arXiv:1905.07953). Losses over pairs of cells, and the gradient
that goes through messages, are weighted by one over the probability that both cells are in a step.

Letters: N cells, B cells of a step, D latent size, C clusters, E edges of the graph, M entries of
the rows of Â of the cells of a step, filled up to the same number in each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import losses
from arrays import PartedData
from layers import FactoredLogits
from losses import Edges, StepLosses
from model import BLOCK_CELLS, SCTAG
from settings import Objective
from tensors import points_of
from whole_graph import Step, Taken, losses_of, take_step

PREFETCHED = 2  # steps whose rows are gathered while another one computes


class Entries(NamedTuple):
    """The entries (i, j) of Â in the rows of the cells of a step, each array (M,).

    Parameters
    ----------
    rows, cols
        Where i and j are among the cells of the step; cols is 0 where j is not in it.
    cells
        j among all cells.
    values
        The entries themselves; 0 where there is none, and the array is only filled up.
    closeness
        How many neighbours i and j have in common, see `tensors.closeness_of`.
    weights
        1 / the probability that both are in a step; 0 where j is not in this one.
    """

    rows: Any
    cols: Any
    cells: Any
    values: Any
    closeness: Any
    weights: Any


class Rows(NamedTuple):
    """What `arrays.PartedData` has of some cells: a row of each array for each of them."""

    propagated: Any
    target: Any
    components: Any
    batches: Any


class Batch(NamedTuple):
    """What a step reads, arrays or tensors.

    Parameters
    ----------
    cells, places
        The cells among all cells and on the circle of `parts.Parts`, both (B,).
    degree
        How many edges each cell begins, (B,).
    rows
        `Rows` of these cells, or of the process's own where several share the step.
    entries
        See `Entries`.
    """

    cells: Any
    places: Any
    degree: Any
    rows: Any
    entries: Entries


class Gatherer:
    """Gathers what a step reads, in the machine's memory."""

    own = slice(None)  # the cells of a step of which rows are gathered: all, unless it is shared

    def __init__(self, data: PartedData, *, transposed: bool) -> None:
        self.data, self.parts = data, data.parts
        self.propagation = data.propagation
        first = data.closeness.indptr
        closeness = data.closeness.T.tocsr() if transposed else data.closeness
        closeness.sort_indices()
        self.closeness = closeness.data  # in the order of the entries of Â
        self.degree = np.diff(first).astype(np.float32)
        self.place = np.argsort(self.parts.order)
        self.weights = self.parts.weights()
        of_cell = np.diff(self.propagation.indptr)[self.parts.order]
        before = np.concatenate([[0], np.cumsum(np.concatenate([of_cell, of_cell]))])
        size = self.parts.size
        of_part = before[size:] - before[:-size]
        self.n_entries = int(of_part.max()) * (self.parts.cells // size)

    def batch(self, step: int, *, seed: int) -> Batch:
        """Return what a step reads, counted from 0."""
        places = self.parts.of_step(step, seed=seed)
        cells = self.parts.order[places]
        return Batch(
            cells=cells.astype(np.int32),
            places=places.astype(np.int32),
            degree=self.degree[cells],
            rows=self._rows(cells[self.own]),
            entries=self._entries(cells),
        )

    def _rows(self, cells: np.ndarray) -> Rows:
        data = self.data
        return Rows(
            *(data.inputs(cells), data.target(cells), data.components[cells], data.batches[cells])
        )

    def _entries(self, cells: np.ndarray) -> Entries:
        """Return the entries in the rows of cells."""
        starts = self.propagation.indptr[cells]
        lengths = self.propagation.indptr[cells + 1] - starts
        rows = np.repeat(np.arange(len(cells)), lengths)
        at = np.arange(len(rows)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        others = self.propagation.indices[at]
        column = np.full(len(self.place), -1)
        column[cells] = np.arange(len(cells))
        cols = column[others]
        distance = self.parts.distance(self.place[cells][rows], self.place[others])

        def filled(values: np.ndarray, dtype: type, fill: int = 0) -> np.ndarray:
            array: np.ndarray = np.full(self.n_entries, fill, dtype)
            array[: len(values)] = values
            return array

        return Entries(
            rows=filled(rows, np.int32, len(cells) - 1),
            cols=filled(np.maximum(cols, 0), np.int32),
            cells=filled(others, np.int32),
            values=filled(self.propagation.data[at], np.float32),
            closeness=filled(self.closeness[at], np.float32),
            weights=filled(np.where(cols >= 0, self.weights[distance], 0.0), np.float32),
        )


class SubGraphs:
    """Steps of a few parts of the graph, and embedding and assignment of all cells in chunks.

    Parameters
    ----------
    network
        What is trained.
    data
        What the steps read.
    """

    def __init__(self, network: SCTAG, data: PartedData) -> None:
        self.network, self.data, self.parts = network, data, data.parts
        self.transposed = network.architecture.direction == "atx"
        self.gatherer = Gatherer(data, transposed=self.transposed)
        self.steps_of_pass = self.parts.steps
        # The messages of all cells (N, D), of each product with Â in its order.
        shape = (len(self.parts.order), network.architecture.latent_dim)
        products = max(network.encoder_2.exponents)
        self.remembered = [tf.Variable(tf.zeros(shape)) for _ in range(products)]
        self.batches: Iterator[Batch] = iter(())
        self.next: tuple[int, int] | None = None  # seed and step of the next of them

    def begin(self) -> None:
        """Remember the messages of all cells at the network's weights."""
        self.encode()

    def close(self) -> None:
        """Gather nothing more for steps to come, until one is taken."""
        self.batches, self.next = iter(()), None

    def make_step(self, objective: Objective, optimizer: keras.optimizers.Optimizer) -> Step:
        """Return a compiled step of an optimizer of `training.adam`; each has the same shapes."""
        plain = self.plain_step(objective, optimizer)

        @tf.function(jit_compile=True, autograph=False)
        def compiled(batch: Batch, stale: list[tf.Tensor], p: tf.Tensor | None) -> Any:
            taken = plain(batch, stale, p)
            return taken.losses, taken.messages

        def step(epoch: int, p: tf.Tensor | None) -> StepLosses:
            batch = self.batch(epoch - 1)
            computed, messages = compiled(batch, self.stale(batch), p)
            self.remember(batch, messages)
            return computed

        return step

    def plain_step(
        self, objective: Objective, optimizer: keras.optimizers.Optimizer
    ) -> Callable[[Batch, list[tf.Tensor], tf.Tensor | None], Taken]:
        """Return one step of an optimizer of `training.adam`, not compiled.

        It takes what `batch` and `stale` return, and p (N, C) of all cells or None.
        """

        def step(batch: Batch, stale: list[tf.Tensor], p: tf.Tensor | None) -> Taken:
            return take_step(
                self.network, optimizer, lambda: self.losses(batch, stale, p, objective)
            )

        return step

    def batch(self, step: int) -> Batch:
        """Return what a step reads, counted from 0; those after it are gathered meanwhile."""
        seed = self.network.seed
        if self.next != (seed, step):
            like = self.gatherer.batch(step, seed=seed)
            dataset = tf.data.Dataset.from_generator(
                lambda: (self.gatherer.batch(s, seed=seed) for s in itertools.count(step)),
                output_signature=tf.nest.map_structure(
                    lambda array: tf.TensorSpec(array.shape, array.dtype), like
                ),
            )
            self.batches = iter(dataset.prefetch(PREFETCHED))
        self.next = (seed, step + 1)
        return next(self.batches)

    def stale(self, batch: Batch) -> list[tf.Tensor]:
        """Return the remembered messages of the neighbours of the cells of a step, each (M, D)."""
        return [tf.gather(memory, batch.entries.cells) for memory in self.remembered]

    def remember(self, batch: Batch, messages: list[tf.Tensor]) -> None:
        """Remember the messages of the cells of a step, each (B, D)."""
        for memory, message in zip(self.remembered, messages, strict=True):
            memory.scatter_update(tf.IndexedSlices(message, batch.cells))

    # --- The losses of a step ---------------------------------------------------------------------

    def losses(
        self, batch: Batch, stale: list[tf.Tensor], p: tf.Tensor | None, objective: Objective
    ) -> tuple[StepLosses, list[tf.Tensor]]:
        """Return the losses of a step, and the messages (B, D) of its cells.

        With messages that are not old the expectation of each loss over many steps is that of all
        cells. So is that of the gradient of what is a mean over cells, with one hop; that of the
        graph's loss, and of more hops, goes through three cells at once, and is near it. `p` is of
        all cells (N, C), see `whole_graph.step_losses`.
        """
        terms = self.terms(batch.rows.propagated, training=True)
        z, messages = self.embedding(terms, batch, stale)
        adj = self.graph_loss(self.network.decode_graph(z), batch)
        of_cells = None if p is None else tf.gather(p, batch.cells)
        return self.losses_of_rows(z, adj, batch.rows, of_cells, objective), messages

    def terms(self, inputs: Any, *, training: bool, **place: Any) -> list[tf.Tensor]:
        """Return the terms of the second graph convolution of cells, each (n, D), of their inputs.

        `place` says where they stand among those of a step, see `layers.InputDropout`.
        """
        rows = tf.cast(inputs, self.network.product_dtype)
        propagated = self.network.input_dropout(rows, training=training, **place)
        return self.network.encoder_2.terms(self.network.encoder_1.call_on_propagated(propagated))

    def embedding(
        self, terms: list[tf.Tensor], batch: Batch, stale: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return z (B, D) of the cells of a step, of their terms, and their messages (B, D)."""
        messages: list[tf.Tensor] = []

        def propagate(total: tf.Tensor) -> tf.Tensor:
            messages.append(total)
            return self._product(total, batch.entries, stale[len(messages) - 1])

        return self.network.encoder_2.horner(terms, propagate), messages

    def losses_of_rows(
        self, z: tf.Tensor, adj: tf.Tensor, rows: Rows, p: tf.Tensor | None, objective: Objective
    ) -> StepLosses:
        """Return the losses of cells with z (n, D) and p (n, C), of which `rows` has the rows."""
        data = self.data._replace(
            reconstruction=self.data.reconstruction._replace(target=rows.target),
            components=rows.components,
            batches=rows.batches,
        )
        return losses_of(self.network, z, adj, data, p, objective)

    def _product(self, total: tf.Tensor, entries: Entries, stale: tf.Tensor) -> tf.Tensor:
        """Return the rows of Â of a step times the messages of all cells, (B, D).

        A gradient goes through the messages of the cells of the step only. There it is scaled by
        one over the probability that the second cell of an entry is in a step that has the first.
        """
        fresh = tf.gather(total, entries.cols)  # (M, D)
        fixed = tf.stop_gradient(fresh)
        scale = entries.weights[:, None] / self.gatherer.weights[0]
        scaled = fixed + scale * (fresh - fixed)
        used = tf.where(entries.weights[:, None] > 0, scaled, stale)
        sent = entries.values[:, None] * used
        return tf.math.unsorted_segment_sum(sent, entries.rows, total.shape[0])

    def graph_loss(self, logits: FactoredLogits, batch: Batch) -> tf.Tensor:
        """Return the part of a step in `losses.edge_cross_entropy` of the whole graph.

        Of the edges those of which the step has both cells, weighted; of the random pairs as many
        for each cell of the step, with a second cell of the step, weighted to be one of all cells.
        """
        entries, n_cells = batch.entries, len(self.parts.order)
        ends = (entries.cols, entries.rows) if self.transposed else (entries.rows, entries.cols)
        near = losses.pair_entropy(*logits, Edges(*ends), entries.closeness)
        size, n_edges = self.parts.cells, self.data.closeness.nnz
        draws = max(1, round(n_edges / n_cells))
        others = tf.random.stateless_uniform(
            [size, draws],
            tf.cast(self.network.input_dropout.seed_generator.next(), tf.int32),
            maxval=size,
            dtype=tf.int32,
            alg="philox",
        )
        apart = tf.abs(batch.places[:, None] - tf.gather(batch.places, others))
        distance = tf.minimum(tf.minimum(apart, n_cells - apart), self.parts.far)
        weights = tf.gather(tf.constant(self.gatherer.weights), distance)
        weights *= batch.degree[:, None] / (draws * self.gatherer.weights[0])
        firsts = tf.repeat(tf.range(size), draws)
        pairs = Edges(firsts, tf.reshape(others, [-1]))
        far = losses.pair_entropy(*logits, pairs, tf.zeros([size * draws]))
        total = tf.reduce_sum(entries.weights * near)
        total += tf.reduce_sum(tf.reshape(weights, [-1]) * far)
        return 0.5 * total / n_edges

    # --- All cells --------------------------------------------------------------------------------

    def encode(self) -> np.ndarray:
        """Return the embedding z (N, D) of every cell, dropout off; all messages are remembered.

        It is `SCTAG.encode` of the whole graph, to rounding: each layer of all cells before the
        next, its products in chunks of cells.
        """
        chunks = []
        for start in range(0, len(self.parts.order), BLOCK_CELLS):
            inputs = self.data.inputs(slice(start, start + BLOCK_CELLS))
            chunks.append(self.terms(inputs, training=False))
        terms = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
        memories = iter(self.remembered)

        def propagate(total: np.ndarray) -> np.ndarray:
            next(memories).assign(total)
            return self.data.propagation @ total

        return np.asarray(self.network.encoder_2.horner(terms, propagate))

    def assign(self) -> tf.Tensor:
        """Return the assignment q (N, C) of every cell to the centres, dropout off."""
        points = points_of(self.encode(), self.data)
        starts = range(0, len(points), BLOCK_CELLS)
        chunks = [points[start : start + BLOCK_CELLS] for start in starts]
        return tf.concat([self.network.assign(tf.constant(chunk)) for chunk in chunks], axis=0)
