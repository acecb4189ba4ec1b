"""Counts: the one form of a matrix, and what is refused as no counts."""

import numpy as np
import pytest
import scipy.sparse as sp

from formats import raw_counts
from utils import InputError

COUNTS = np.array([[0, 3, 0], [1, 0, 2], [0, 0, 7], [5, 1, 0]])


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix])
@pytest.mark.parametrize("dtype", [np.int16, np.float16, np.float64, np.uint8])
def test_every_matrix_of_numbers_gets_the_one_form(form, dtype):
    matrix = form(COUNTS).astype(dtype) if dtype != np.float16 else COUNTS.astype(dtype)
    counts = raw_counts.canonical(matrix, "X")
    assert isinstance(counts, sp.csr_matrix)
    assert counts.dtype == np.float32
    assert counts.has_canonical_format
    assert counts.nnz == 6
    np.testing.assert_array_equal(counts.toarray(), COUNTS)
    assert raw_counts.canonical(counts, "X") is counts


def test_entries_stored_twice_are_summed_and_stored_zeros_go():
    data, columns, rows = [200, 100, 0, 7], [1, 1, 0, 2], [0, 3, 4]
    matrix = sp.csr_matrix((np.array(data, np.uint8), columns, rows), shape=(2, 3))
    counts = raw_counts.canonical(matrix, "X")
    np.testing.assert_array_equal(counts.toarray(), [[0, 300, 0], [0, 0, 7]])  # uint8 would wrap
    assert counts.nnz == 2
    assert matrix.nnz == 4  # the input is left as it is


def test_counts_beyond_float32_stay_exact():
    counts = raw_counts.canonical(np.array([[2.0**24 + 1, 1.0]]), "X")
    assert counts.dtype == np.float64
    assert counts[0, 0] == 2**24 + 1


@pytest.mark.parametrize("matrix", [np.array(["a"]), np.ones(3), [[1, 2]], np.array([["a", "b"]])])
def test_what_is_no_matrix_of_numbers_is_refused(matrix):
    with pytest.raises(InputError, match=r"adata\.X is not a matrix of numbers"):
        raw_counts.canonical(matrix, "adata.X")


def check(values, *, round_counts=False):
    return raw_counts.check(sp.csr_matrix(values), round_counts=round_counts, where="a.h5")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_whole_values_are_counts(dtype):
    counts = sp.csr_matrix(COUNTS.astype(dtype))
    checked, warning = raw_counts.check(counts, round_counts=True, where="a.h5")
    assert checked is counts
    assert warning is None


def test_whole_counts_of_equal_depth_are_counts():
    assert check([[1.0, 2.0], [3.0, 0.0]])[1] is None


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_cells_or_no_genes(shape):
    with pytest.raises(InputError, match=f"a.h5: {shape[0]} cells x {shape[1]} genes"):
        check(np.zeros(shape))


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "NaN"), (-np.inf, "infinite"), (-0.5, "negative, as in scaled")]
)
@pytest.mark.parametrize("round_counts", [False, True])
def test_impossible_values(value, words, round_counts):
    values = COUNTS.astype(float)
    values[1, 2] = values[3, 0] = value
    words = f"a.h5: 2 of 6 stored values are {words}.*, the first at cell 1, gene 2"
    with pytest.raises(InputError, match=words):
        check(values, round_counts=round_counts)


def poisson_counts():
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 2.0, (40, 1))
    return rng.poisson(depth * rng.gamma(0.5, 4.0, 30)).astype(float)


def scaled_depth(counts, target):
    return counts / counts.sum(axis=1, keepdims=True) * target


@pytest.mark.parametrize(
    ("normalise", "words"),
    [
        (lambda x: scaled_depth(x, 1e4), "all cells have the same sum:"),
        (lambda x: np.vstack([0 * x[:1], scaled_depth(x, 1.0)]), "all cells have the same sum:"),
        (lambda x: np.log1p(scaled_depth(x, 1e4)), "same sum once log1p is undone"),
        (lambda x: np.log2(1 + scaled_depth(x, 1e4)), "the largest is .* are not whole"),
        (lambda x: np.log1p(x[:, :9]), "the largest is .* are not whole"),
        (np.sqrt, "the largest is .* are not whole"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("round_counts", [False, True])
def test_normalised_values_are_refused(normalise, words, dtype, round_counts):
    values = normalise(poisson_counts()).astype(dtype)
    with pytest.raises(InputError, match=f"a.h5: the values look normalised.*{words}.*--layer"):
        check(values, round_counts=round_counts)


def test_expected_counts_are_rounded_up_if_asked():
    values = np.array([[0, 3.2, 0], [1, 0, 2], [0, 0.5, 7], [5, 1, 0]])
    counts = sp.csr_matrix(values)
    with pytest.raises(InputError, match=r"2 of 7 non-zero values are not whole.*--round_counts"):
        raw_counts.check(counts, round_counts=False, where="a.h5")
    rounded, warning = raw_counts.check(counts, round_counts=True, where="a.h5")
    np.testing.assert_array_equal(rounded.toarray(), np.ceil(values))
    np.testing.assert_array_equal(counts.toarray(), values)
    assert warning == "a.h5: 2 of 7 non-zero values are not whole and were rounded up"


def test_large_expected_counts_do_not_overflow():
    values = poisson_counts() * 1e3 + 0.25
    assert check(values, round_counts=True)[0].max() > 1e3
