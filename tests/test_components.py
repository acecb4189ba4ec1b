"""Components of many cells, by the covariance of the genes, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

import components
from components import Source


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    dense = rng.poisson(rng.gamma(1.0, 1.0, (90, 6)) @ rng.gamma(1.0, 1.0, (6, 40)))
    return np.log1p(dense).astype(np.float32)


@pytest.mark.parametrize("is_sparse", [True, False])
@pytest.mark.parametrize("genes", [None, np.array([3, 0, 7, 21, 30, 12, 39])])
def test_components_of_many_cells_are_those_of_scikit_learn(values, genes, is_sparse, monkeypatch):
    monkeypatch.setattr(components, "DENSE_CELLS", 89)
    monkeypatch.setattr(components, "ROWS", 32)
    source = Source(sp.csr_matrix(values) if is_sparse else values, seed=1)
    assert source.is_large
    made = source.components(4, genes)
    chosen = values if genes is None else values[:, genes]
    pca = PCA(4, svd_solver="full")
    expected = pca.fit_transform(chosen.astype(np.float64))
    signs = np.sign((made.scores * expected).sum(axis=0))
    np.testing.assert_allclose(made.scores * signs, expected, atol=1e-4)
    np.testing.assert_allclose(made.loadings * signs, pca.components_.T, atol=1e-4)
    assert (made.loadings[np.abs(made.loadings).argmax(axis=0), np.arange(4)] > 0).all()


def test_components_of_few_cells_are_of_a_dense_copy(values):
    made = Source(sp.csr_matrix(values), seed=1).components(3, np.arange(0, 40, 2))
    expected = PCA(3, random_state=1).fit_transform(values[:, np.arange(0, 40, 2)])
    np.testing.assert_array_equal(made.scores, expected)


def test_a_covariance_larger_than_the_values_is_not_made(values, monkeypatch):
    monkeypatch.setattr(components, "DENSE_CELLS", 89)
    monkeypatch.setattr(components, "COVARIANCE_GENES", 39)
    assert not Source(values, seed=1).is_large
