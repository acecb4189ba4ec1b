"""The cells of a large graph in parts, and the few parts of which each step of training is made.

The cells are ordered by communities of the graph, and the order, as a circle, is cut into parts of
equally many cells, for each pass at another place. A step takes a few random parts. How probable it
is that two cells are in one step then depends on their distance on the circle alone, so that what a
step computes can be weighted to have the whole graph's value as its expectation. Letters: N cells,
P parts of s cells, k parts of a step, T steps of a pass, so that P = k T; at most P - 1 cells, at
another place in each pass, are in none. Nothing here knows TensorFlow or a true label.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from settings import BATCH_CELLS, WHOLE_CELLS, Settings

if TYPE_CHECKING:
    import scipy.sparse as sp

log = logging.getLogger("sctag")

TOGETHER = 8  # parts of a step: fewer keep more edges within a step, more are more alike
FINER = 8.0  # factor between two resolutions of communities
ITERATIONS = 2  # of Leiden, scanpy's default: until no cell moves takes 20 times as long
FINEST = 1e4  # resolution beyond which none is tried


def cells_of_step(settings: Settings, n_cells: int) -> int | None:
    """Return how many cells a step is to have, at most, or None where it has all cells."""
    asked = settings.batch_cells
    if asked is None and n_cells > WHOLE_CELLS and settings.graph_loss == "jaccard":
        asked = BATCH_CELLS
    return None if asked is None or asked >= n_cells else asked


class Parts(NamedTuple):
    """The order of the cells, and how it is cut.

    Parameters
    ----------
    order
        The cells in the order of the circle, shape (N,).
    steps
        T, the steps of a pass.
    """

    order: np.ndarray
    steps: int

    @property
    def size(self) -> int:
        """The cells s of a part."""
        return len(self.order) // (TOGETHER * self.steps)

    @property
    def cells(self) -> int:
        """The cells k s of a step."""
        return TOGETHER * self.size

    @property
    def left_out(self) -> int:
        """The cells that are in no step of a pass."""
        return len(self.order) - self.steps * self.cells

    @property
    def far(self) -> int:
        """The distance beyond which no two cells are in one part, or left out together."""
        return max(self.size, self.left_out)

    def of_step(self, step: int, *, seed: int) -> np.ndarray:
        """Return the positions of the cells of a step on the circle, shape (k s,).

        Steps are counted from 0. A pass is a random partition of the circle, decided by the seed
        and the number of the pass alone; each of its parts is in one of its steps.
        """
        number, place = divmod(step, self.steps)
        random = np.random.default_rng([seed, number])
        start = random.integers(len(self.order))
        parts = random.permutation(TOGETHER * self.steps)
        first = start + self.size * parts[TOGETHER * place : TOGETHER * (place + 1)]
        return (first[:, None] + np.arange(self.size)).ravel() % len(self.order)

    def distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the distances of pairs of positions on the circle, or `far` if that is less."""
        distance = np.abs(first - second)
        return np.minimum(np.minimum(distance, len(self.order) - distance), self.far)

    def weights(self) -> np.ndarray:
        """Return 1 / the probability that two cells are in a step, by their distance on the circle.

        Of the shape (far + 1,). At distance 0 it is that of a single cell, N / (k s).
        """
        n_cells, n_parts = len(self.order), TOGETHER * self.steps
        distance = np.arange(self.far + 1)
        in_one_part = n_parts * np.maximum(self.size - distance, 0) / n_cells
        left_out = 2 * self.left_out - np.maximum(
            self.left_out - distance, 0
        )  # one of them, or both
        in_some_part = 1 - left_out / n_cells
        of_pair = (TOGETHER - 1) / (n_parts - 1)  # that the step of one part has another one
        share = in_one_part + (in_some_part - in_one_part) * of_pair
        return (self.steps / share).astype(np.float32)


def parts_of(graph: sp.csr_matrix, batch_cells: int, *, seed: int) -> Parts:
    """Return parts of a kNN graph for steps of at most `batch_cells` cells; log what they are.

    The graph has the shape (N, N), and more cells than a step.
    """
    n_cells = graph.shape[0]
    steps = -(-n_cells // batch_cells)
    order = community_order(graph, n_cells // (TOGETHER * steps), seed=seed)
    parts = Parts(order, steps)
    weights, place = parts.weights(), np.argsort(order)
    rows, cols = graph.nonzero()
    together = weights[0] / weights[parts.distance(place[rows], place[cols])]
    log.info(
        "subgraphs steps of %d of %d cells, %d steps a pass; a step has %.0f %% of the neighbours "
        "of its cells",
        *(parts.cells, n_cells, steps, 100 * together.mean()),
    )
    return parts


def community_order(graph: sp.csr_matrix, size: int, *, seed: int) -> np.ndarray:
    """Return the cells in an order in which neighbours are near each other, shape (N,).

    They are sorted by Leiden's communities of the graph (N, N), within these by communities of a
    finer resolution, and so on until a community has `size` cells or fewer on average.
    """
    import clustering

    number = int(math.log(FINEST / clustering.DEFAULT_RESOLUTION, FINER)) + 1
    resolutions = [clustering.DEFAULT_RESOLUTION * FINER**level for level in range(number)]
    levels: list[np.ndarray] = []
    for labels in clustering.leiden_levels(
        clustering.undirected(graph), resolutions, seed=seed, iterations=ITERATIONS
    ):
        levels.append(labels)
        if graph.shape[0] <= size * (int(labels.max()) + 1):
            break
    return np.lexsort(levels[::-1])
