"""What steps of sub-graphs read, kept as arrays in the machine's memory, of which none is a copy.

`tensors.py` has the same for steps of all cells. Letters: N cells, G genes, E edges of the graph,
P principal components, B batches. Nothing here knows a true label.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import scipy.sparse as sp

import batches
import views
from parts import Parts
from settings import Architecture, Objective
from tensors import RECONSTRUCTIONS, Reconstruction, Values, closeness_of, propagations, values_of


class PartedData(NamedTuple):
    """The data of a run whose steps have a few parts of the graph.

    Parameters
    ----------
    propagated
        The z-scores and their propagations X, ÂX, ..., each (N, G).
    propagation
        Â, CSR (N, N).
    closeness
        How many neighbours the cells of each edge have in common, see `tensors.closeness_of`, in
        the pattern of the adjacency, CSR (N, N).
    values
        What the count decoder must fit.
    reconstruction
        The loss of the count decoder's heads, whose target is replaced by that of a step's cells.
    components, batches
        As in `tensors.TrainingData`, arrays of the shapes (N, P) and (N, B).
    parts
        The parts of the graph.
    strategy
        What shares the steps, of `strategies.start`; None for one device.
    """

    propagated: tuple[np.ndarray, ...]
    propagation: sp.csr_matrix
    closeness: sp.csr_matrix
    values: Values
    reconstruction: Reconstruction
    components: np.ndarray
    batches: np.ndarray
    parts: Parts
    strategy: Any = None

    def with_components(self, components: np.ndarray) -> PartedData:
        """Return the same data with other components (N, P)."""
        return self._replace(components=components)

    def inputs(self, cells: Any) -> np.ndarray:
        """Return what the first layer reads of some cells, by their positions or as a slice."""
        return np.concatenate([block[cells] for block in self.propagated], axis=1)

    def target(self, cells: np.ndarray) -> Any:
        """Return what the count decoder must fit of some cells, by their positions, as arrays."""
        return self.reconstruction.target_of(self.values.of(cells))


def parted_data(
    adata: ad.AnnData,
    architecture: Architecture,
    objective: Objective,
    parts: Parts,
    *,
    block_bytes: int,
) -> PartedData:
    """Return the arrays on which a network is trained by steps of sub-graphs.

    Parameters
    ----------
    adata
        Prepared data.
    architecture, objective, block_bytes
        As of `tensors.training_data`; the loss of the graph is "jaccard".
    parts
        Of the graph of these data.
    """
    made = propagations(adata, architecture)
    adjacency = views.graph(adata).tocsr()
    rows, cols = adjacency.nonzero()
    index = closeness_of(adjacency, rows, cols)
    values = values_of(adata, objective)
    make = RECONSTRUCTIONS[objective.reconstruction]
    first = values.of(np.arange(1))
    return PartedData(
        propagated=tuple(made.blocks),
        propagation=made.matrix,
        closeness=sp.csr_matrix((index, (rows, cols)), shape=adjacency.shape),
        values=values,
        reconstruction=make(first, objective, block_bytes=block_bytes),
        components=np.zeros((adata.n_obs, 0), np.float32),
        batches=batches.one_hot(adata),
        parts=parts,
    )
