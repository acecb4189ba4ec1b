"""The steps of training that are timed: their data, their networks, one epoch of each phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from settings import Settings
from utils import CACHE_BYTES

HOPS, GENES, NEIGHBORS = 3, 500, 15
HIDDEN, LATENT, DECODER = 128, 15, (128, 256, 512)
CLUSTERS = 8
# Both variants with the published preparation, and with 3 hops.
SIZES: dict[str, Any] = {
    "hops": HOPS,
    "hidden_dim": HIDDEN,
    "latent_dim": LATENT,
    "decoder_dims": list(DECODER),
    "kl": "qp",
}


def simulated(n_cells: int, seed: int = 0) -> Any:
    """Return sparse negative binomial counts of `CLUSTERS` cell types and 2 * GENES genes."""
    import anndata as ad
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    n_genes = 2 * GENES
    profiles = rng.gamma(0.5, 1.0, n_genes) * np.exp(rng.normal(0, 0.8, (CLUSTERS, n_genes)))
    blocks = []
    for start in range(0, n_cells, 2000):
        rows = min(2000, n_cells - start)
        depth = rng.lognormal(0, 0.4, (rows, 1))
        mean = profiles[rng.integers(0, CLUSTERS, rows)] * depth
        counts = rng.negative_binomial(2, 2 / (2 + mean)).astype(np.float32)
        blocks.append(sp.csr_matrix(counts))
    return ad.AnnData(sp.vstack(blocks, format="csr"))


def prepared(source: str) -> Any:
    """Return the prepared data of a file, or of so many simulated cells, for every method."""
    import preprocess
    import readers

    adata = simulated(int(source)) if source.isdigit() else readers.read(Path(source))
    published = Settings.of("official", highly_genes=GENES, k_neighbors=NEIGHBORS)
    return preprocess.prepare(adata, published, seed=0)


class OwnPhase(NamedTuple):
    """What a step of the suite is made of, in one of the two phases.

    Parameters
    ----------
    name
        "pretrain" or "cluster".
    network, data, settings, optimizer
        What `whole_graph.make_step` takes.
    p
        The target distribution (N, C) of the clustering phase, or None before it.
    road
        What gathers the cells of a step and takes it, `subgraphs.SubGraphs`; None where a step has
        all cells.
    """

    name: str
    network: Any
    data: Any
    settings: Settings
    optimizer: Any
    p: Any
    road: Any = None

    def plain_step(self) -> Callable:
        """Return the step, not compiled; it takes what `given` has and returns a `Taken`."""
        if self.road is not None:
            return self.road.plain_step(self.settings, self.optimizer)
        import whole_graph

        return whole_graph.plain_step(self.network, self.data, self.settings, self.optimizer)

    def given(self) -> Given:
        """Return what the step is given at each call, of sub-graphs the first."""
        if self.road is None:
            return Given(self.p)
        batch = self.road.batch(0)
        return Given(self.p, batch, self.road.stale(batch))


class Given(NamedTuple):
    """What a step is given at each call.

    Parameters
    ----------
    p
        See `OwnPhase`.
    batch, stale
        What a step of sub-graphs reads, `subgraphs.Batch`, and the messages that its cells' other
        neighbours sent last; None for one of all cells.
    """

    p: Any
    batch: Any = None
    stale: Any = None

    def arguments(self) -> tuple:
        """Return the arguments of the step."""
        return (self.p,) if self.batch is None else (self.batch, self.stale, self.p)


def made_clusters(n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return centres (C, D) and a target distribution (N, C), both drawn at random."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 0.1, (CLUSTERS, LATENT)).astype(np.float32)
    return centers, rng.dirichlet(np.ones(CLUSTERS), n_cells).astype(np.float32)


def make_steps(method: str, adata: Any) -> dict[str, Callable]:
    """Return the method's epoch in each phase, a function that waits for its result."""
    if method == "published":
        import tensorflow as tf

        from perf.published import Published

        network = Published(adata.X, adata.obsp["connectivities"])
        centers, p = map(tf.constant, made_clusters(adata.n_obs))
        network.centers = centers
        return {
            "pretrain": lambda: network.step()[1].numpy(),
            "cluster": lambda: network.step(p)[2].numpy(),
        }
    import whole_graph

    def epoch(phase: OwnPhase) -> Callable:
        step = whole_graph.make_step(phase.network, phase.data, phase.settings, phase.optimizer)
        step(phase.p)  # traced before the next phase, and the centres
        return lambda: step(phase.p).total.numpy()

    return {phase.name: epoch(phase) for phase in own_phases(method, adata)}


def own_phases(method: str, adata: Any, *, block_bytes: int = CACHE_BYTES) -> Iterator[OwnPhase]:
    """Yield both phases of `official`, or of `sctag` with 3 true hops, in float32.

    The cluster centres are placed between them: the pretraining step is to be traced before the
    second is asked for. `block_bytes` are those of `tensors.training_data`. A step has so many
    cells as in a run.
    """
    import tensorflow as tf

    import arrays
    import parts
    import tensors
    import training
    import views
    from model import SCTAG
    from subgraphs import SubGraphs

    settings = Settings.of(method, **SIZES)
    network = SCTAG(settings, n_genes=adata.n_vars, seed=0)
    cells, road = parts.cells_of_step(settings, adata.n_obs), None
    data: Any
    if cells is None:
        data = tensors.training_data(adata, settings, settings, block_bytes=block_bytes)
    else:
        circle = parts.parts_of(views.graph(adata), cells, seed=0)
        data = arrays.parted_data(adata, settings, settings, circle, block_bytes=block_bytes)
        road = SubGraphs(network, data)
        road.begin()

    def phase(name: str, learning_rate: float, p: Any) -> OwnPhase:
        optimizer = training.adam(network, training.Phase(1, learning_rate))
        return OwnPhase(name, network, data, settings, optimizer, p, road)

    yield phase("pretrain", 1e-4, None)
    centers, p = made_clusters(adata.n_obs)
    network.place_centers(centers, trainable=settings.train_centers)
    yield phase("cluster", 5e-4, tf.constant(p))
