"""Principal components of some genes of a matrix, as often as they are asked for.

Of few cells they are scikit-learn's of a dense copy. Of many they come of the covariance of the
genes, which blocks of cells add up once for all choices of genes: the matrix stays as it is, sparse
or dense. Letters: N cells, G genes, P components.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh
from sklearn.decomposition import PCA

import csr_blocks

DENSE_CELLS = 20_000  # up to so many a dense copy is made
COVARIANCE_GENES = 5_000  # up to so many: beyond, the covariance is the larger one
ROWS = 4_096  # cells that are added up at once


class Components(NamedTuple):
    """Components of cells.

    Parameters
    ----------
    scores
        Shape (N, P), float32 or float64 as the values are.
    loadings
        Of the genes they are made of, shape (genes, P).
    """

    scores: np.ndarray
    loadings: np.ndarray


class Source:
    """Values of genes, of which components are made.

    Parameters
    ----------
    values
        Shape (N, G), dense or CSR, float32.
    seed
        Of scikit-learn's randomised method, where it takes that one.
    """

    def __init__(self, values: Any, *, seed: int) -> None:
        self.shape, self.seed = values.shape, seed
        n_cells, n_genes = self.shape
        self.is_large = n_cells > DENSE_CELLS and n_genes <= COVARIANCE_GENES
        if not self.is_large and sp.issparse(values):
            values = values.toarray()
        self.values = values
        if self.is_large:
            if sp.issparse(values):
                self.mean = csr_blocks.column_means(values).astype(np.float64)
            else:
                self.mean = values.mean(axis=0, dtype=np.float64)
            self.covariance = _covariance(values, self.mean)

    def components(self, number: int, genes: np.ndarray | None = None) -> Components:
        """Return so many components of genes, by their positions; of all genes for None.

        Each has the sign that makes its largest loading positive.
        """
        if not self.is_large:
            pca = PCA(number, random_state=self.seed)
            values = self.values if genes is None else self.values[:, genes]
            return Components(pca.fit_transform(values), pca.components_.T)
        genes = np.arange(self.shape[1]) if genes is None else genes
        last = len(genes) - 1
        _, vectors = eigh(
            self.covariance[np.ix_(genes, genes)], subset_by_index=[last - number + 1, last]
        )
        loadings = vectors[:, ::-1]  # the largest variance first
        largest = np.abs(loadings).argmax(axis=0)
        loadings = loadings * np.where(loadings[largest, np.arange(number)] < 0, -1, 1)
        of_all = np.zeros((self.shape[1], number), np.float32)
        of_all[genes] = loadings
        scores = self.values @ of_all
        scores -= (self.mean @ of_all).astype(np.float32)
        return Components(scores, loadings)


def _covariance(values: Any, mean: np.ndarray) -> np.ndarray:
    """Return the covariance of genes (G, G), of values (N, G) with a mean (G,)."""
    total = np.zeros((values.shape[1], values.shape[1]))
    for start in range(0, values.shape[0], ROWS):
        block = values[start : start + ROWS]
        dense = block.toarray() if sp.issparse(block) else block
        centred = dense - mean.astype(np.float32)
        total += centred.T @ centred
    return total / (values.shape[0] - 1)
