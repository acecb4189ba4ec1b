"""Steps of sub-graphs that several devices share: data-parallel training under `tf.distribute`.

Each replica has as many cells of a step as every other. It computes what is expensive, the first
graph convolution and the count decoder, for its own cells. Between these the few numbers that the
second graph convolution reads of each cell are gathered from all replicas, so each of them has the
embedding of all cells of the step, and with it the loss of the graph. The mean over replicas of the
losses, and of their gradients, is that of a step on one device, to rounding.

The weights are plain variables of each process, which replicas get as tensors; each process applies
the same mean gradient to its own. So checkpoints, and all cells in chunks, are as on one device.
Letters: B cells of a step, R replicas, D latent size, C clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from arrays import PartedData
from losses import StepLosses
from model import SCTAG
from settings import Objective
from strategies import with_all_workers
from subgraphs import Batch, Rows, SubGraphs
from whole_graph import Step


class Own(NamedTuple):
    """What a replica reads of its own cells; p has a tensor (B / R, C), or none in pretraining."""

    rows: Rows
    p: list[tf.Tensor]


class SharedSubGraphs(SubGraphs):
    """Steps of sub-graphs on the replicas of `data.strategy`, which divide the cells of a step."""

    def __init__(self, network: SCTAG, data: PartedData) -> None:
        super().__init__(network, data)
        self.strategy, self.seed = data.strategy, network.input_dropout.seed_generator.state
        self.size = self.parts.cells // self.strategy.num_replicas_in_sync  # cells of a replica
        numbers = self._of_replicas(lambda replica: tf.constant(replica))
        local = [int(number) for number in self.strategy.experimental_local_results(numbers)]
        self.first = self.size * min(local)  # of the cells of this process among those of a step
        self.gatherer.own = slice(self.first, self.first + self.size * len(local))

    def _of_replicas(self, of_replica: Callable[[int], Any]) -> Any:
        """Return a value for each replica of this process, by a function of its number."""
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: of_replica(context.replica_id_in_sync_group)
        )

    def make_step(self, objective: Objective, optimizer: keras.optimizers.Optimizer) -> Step:
        """Return a step of an optimizer of `training.adam`, compiled between its exchanges."""
        shared = self._shared(objective)

        @tf.function(jit_compile=True, autograph=False)
        def update(gradients: list[tf.Tensor], seed: tf.Tensor) -> None:
            optimizer.apply(gradients, self.network.trainable_variables)
            self.seed.assign(seed)

        def step(epoch: int, p: tf.Tensor | None) -> StepLosses:
            batch = self.batch(epoch - 1)
            values = [tf.convert_to_tensor(variable) for variable in self.network.variables]
            stale = self.stale(batch)
            with with_all_workers():
                computed, messages, gradients, seed = shared(
                    self._own(batch, p), batch._replace(rows=None), stale, values
                )
                update(gradients, seed)
                self.remember(batch, messages)
            return computed

        return step

    def _own(self, batch: Batch, p: tf.Tensor | None) -> Any:
        """Return `Own` for each replica of this process, from p (N, C) of all cells."""
        cells = batch.cells[self.gatherer.own]
        of_process = Own(batch.rows, [] if p is None else [tf.gather(p, cells)])

        def of_replica(number: int) -> Any:
            start = number * self.size - self.first
            return tf.nest.map_structure(lambda t: t[start : start + self.size], of_process)

        # A GPU would first get the rows of all.
        with tf.device("CPU"):
            return self._of_replicas(of_replica)

    # --- What replicas compute --------------------------------------------------------------------

    def _shared(self, objective: Objective) -> Callable[..., Any]:
        """Return what computes a step on all replicas: mean losses and gradients, messages, seed.

        What XLA compiles cannot hold an exchange between replicas, so the parts before and after it
        are compiled. They read the network's variables as tensors, in the order of
        `network.variables`; the seed is what they leave of its dropout's.
        """
        before = tf.function(self._own_terms, jit_compile=True, autograph=False)
        after = tf.function(
            lambda *read: self._own_losses(objective, *read), jit_compile=True, autograph=False
        )
        trainable = {id(variable) for variable in self.network.trainable_variables}
        trained = [i for i, v in enumerate(self.network.variables) if id(v) in trainable]
        at_seed = next(i for i, v in enumerate(self.network.variables) if v is self.seed)

        def replica(
            own: Own, batch: Batch, stale: list[tf.Tensor], values: list[tf.Tensor]
        ) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group * self.size
            weights = [values[index] for index in trained]
            with tf.GradientTape() as tape:
                tape.watch(weights)
                own_terms, seed = before(values, own.rows.propagated, first)
                terms = context.all_gather(own_terms, axis=0)  # (B, H + 1, D)
                terms = tf.ensure_shape(terms, [self.parts.cells, *own_terms.shape[1:]])
                values = [*values[:at_seed], seed, *values[at_seed + 1 :]]
                (computed, messages), seed = after(values, terms, own, first, batch, stale)
            gradients = tape.gradient(computed.total, weights)
            means = context.all_reduce(tf.distribute.ReduceOp.MEAN, [*computed, *gradients])
            return means, messages, seed

        @tf.function(autograph=False)
        def shared(
            own: Any, batch: Batch, stale: list[tf.Tensor], values: list[tf.Tensor]
        ) -> tuple[StepLosses, list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
            of_replicas = self.strategy.run(replica, args=(own, batch, stale, values))
            means, messages, seed = tf.nest.map_structure(
                lambda values: self.strategy.experimental_local_results(values)[0], of_replicas
            )
            size = len(StepLosses._fields)
            return StepLosses(*means[:size]), messages, means[size:], seed

        return shared

    def _own_terms(
        self, values: list[tf.Tensor], propagated: tf.Tensor, first: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the terms of a replica's cells, (B / R, H + 1, D), and the next seed.

        `first` is the number of its first cell among those of the step, by which their dropout is
        that of the step on one device.
        """

        def compute() -> tf.Tensor:
            place = {"first": first, "rows_in_all": self.parts.cells}
            return tf.stack(self.terms(propagated, training=True, **place), axis=1)

        return self._with_values(values, compute)

    def _own_losses(
        self,
        objective: Objective,
        values: list[tf.Tensor],
        terms: tf.Tensor,
        own: Own,
        first: tf.Tensor,
        batch: Batch,
        stale: list[tf.Tensor],
    ) -> tuple[tuple[StepLosses, list[tf.Tensor]], tf.Tensor]:
        """Return the losses of a replica's cells, the messages (B, D), and the next seed.

        The terms are of all cells of the step, and so is the graph's loss.
        """

        def compute() -> tuple[StepLosses, list[tf.Tensor]]:
            z, messages = self.embedding(tf.unstack(terms, axis=1), batch, stale)
            adj = self.graph_loss(self.network.decode_graph(z), batch)
            own_z = tf.slice(z, [first, 0], [self.size, z.shape[1]])
            p = own.p[0] if own.p else None
            return self.losses_of_rows(own_z, adj, own.rows, p, objective), messages

        return self._with_values(values, compute)

    def _with_values(
        self, values: list[tf.Tensor], compute: Callable[[], Any]
    ) -> tuple[Any, tf.Tensor]:
        """Return what is computed with a network of these values, and its dropout's next seed."""
        mapping = list(zip(self.network.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            return compute(), scope.get_current_value(self.seed)
