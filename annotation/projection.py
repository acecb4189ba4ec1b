"""The map of the cells in the plane, for figures: UMAP of what was clustered.

Letters: N cells, F features.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from typing import Any

import numpy as np

import devices
import utils

FEWEST = 5  # cells: UMAP starts from eigenvectors of the graph, which smaller ones do not have
# Up to so many cells the neighbours are sought exactly. That takes time N^2: 3 s for 10,000 cells.
EXACT_CELLS = 20_000
# Of more cells so many are laid out, and the others stand amid their nearest ones: the time of a
# layout that a seed decides, which is on one core, is some two minutes for so many.
LAID_OUT = 100_000
NEAREST = 3  # cells laid out amid which another one stands
# What umap-learn has numba compile anew in every process, which takes 4 s; all else of it is kept.
COMPILED = {
    "umap.umap_": ("smooth_knn_dist", "compute_membership_strengths"),
    "umap.layouts": ("_nb_optimize_layout_euclidean_single_epoch",),
}


def umap(points: np.ndarray, *, n_neighbors: int, seed: int) -> np.ndarray:
    """Return the UMAP of cells, shape (N, 2), float32; a seed gives one result on a machine.

    Source: scanpy's `pp.neighbors` and `tl.umap`, with scanpy's defaults. It is for looking at: the
    distances between clusters and their densities mean little in it.

    Parameters
    ----------
    points
        One row a cell, shape (N, F), such as `results.Trained.points`.
    n_neighbors
        Neighbours of a cell in the graph, the cell itself among them; from 2 to N are taken.
    seed
        Of an approximate graph and of the layout.

    Returns
    -------
    The coordinates. Of more than `LAID_OUT` cells so many are laid out, drawn by the seed, and each
    other one stands amid the `NEAREST` of them. Of fewer than 5 cells, and of cells that are all
    the same, they are the first two principal components, and zero where there are none.
    """
    points = np.asarray(points, np.float32)
    if len(points) <= LAID_OUT:
        return _layout(points, n_neighbors, seed)
    from pynndescent import NNDescent

    order = np.random.default_rng(seed).permutation(len(points))
    laid_out, others = np.sort(order[:LAID_OUT]), np.sort(order[LAID_OUT:])
    places = np.empty((len(points), 2), np.float32)
    places[laid_out] = _layout(points[laid_out], n_neighbors, seed)
    search = NNDescent(points[laid_out], n_neighbors=max(n_neighbors, NEAREST), random_state=seed)
    nearest, _ = search.query(points[others], k=NEAREST)
    places[others] = places[laid_out][nearest].mean(axis=1)
    return places


def _layout(points: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    """Return the UMAP of all cells, as `umap` has it."""
    n_cells = len(points)
    if n_cells < FEWEST or not np.ptp(points, axis=0).any():
        return _components(points)
    _import_umap()
    import anndata as ad
    import scanpy as sc

    cells = ad.AnnData(obsm={"points": points}, shape=(n_cells, 0))
    n_neighbors = min(max(n_neighbors, 2), n_cells)
    search = "sklearn" if n_cells <= EXACT_CELLS else _approximate_search(n_neighbors, seed)
    with warnings.catch_warnings():
        # A graph in several parts, or whose cells are alike, is what some data have.
        warnings.simplefilter("ignore")
        sc.pp.neighbors(
            cells,
            n_neighbors=n_neighbors,
            use_rep="points",
            transformer=search,
            random_state=seed,
        )
        sc.tl.umap(cells, random_state=seed)
    return cells.obsm["X_umap"].astype(np.float32)


@functools.cache
def _import_umap() -> None:
    """Import umap-learn, and have numba keep the machine code of all that is compiled of it.

    Numba keeps it as it keeps that of pynndescent: beside the modules, or in the user's cache where
    that cannot be written to. It takes it for the same processor, source and numba alone. Source:
    `numba.core.dispatcher.Dispatcher.enable_caching`, which `njit(cache=True)` calls.
    """
    devices.pin_keras()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # umap-learn imports TensorFlow where it is installed, aloud
    with devices.native_stderr_held(), utils.importing():
        importlib.import_module("umap")
    for module, names in COMPILED.items():
        for name in names:
            function: Any = getattr(importlib.import_module(module), name, None)
            if hasattr(function, "enable_caching"):  # numba may be switched off
                function.enable_caching()


def _components(points: np.ndarray) -> np.ndarray:
    """Return the first two principal components of points, (N, 2), zero where there are fewer."""
    left, scale, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    components = (left * scale)[:, :2]
    return np.pad(components, ((0, 0), (0, 2 - components.shape[1])))


def _approximate_search(n_neighbors: int, seed: int) -> Any:
    """Return pynndescent's search as scanpy wants it, a transformer of points to distances.

    Scanpy 1.11 makes it itself, but cannot read the sparse array that pynndescent 0.7 returns.
    """
    import scipy.sparse as sp
    from pynndescent import PyNNDescentTransformer

    class Search(PyNNDescentTransformer):
        """The search, with a sparse matrix as its result."""

        def fit_transform(self, X: np.ndarray, y: None = None) -> sp.csr_matrix:
            """Return the distances of each cell to its neighbours, CSR (N, N)."""
            return sp.csr_matrix(super().fit_transform(X))

    return Search(n_neighbors=n_neighbors, random_state=seed)
