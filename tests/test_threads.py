"""On how many threads small and large data are computed."""

import numpy as np
import pytest
from conftest import write_published
from threadpoolctl import threadpool_info, threadpool_limits

import preprocess
import threads
from utils import InputError


def most_threads():
    """The largest number of threads of a library that is loaded."""
    return max(library["num_threads"] for library in threadpool_info())


@pytest.fixture
def two_threads():
    """Whatever the machine or its environment says."""
    with threads.suited_to(1), threadpool_limits(2):
        yield


def test_small_data_have_one_thread_and_larger_ones_what_there_is(two_threads):
    with threads.suited_to(threads.SMALL + 1):
        assert most_threads() == 2
    with threads.suited_to(threads.SMALL):
        assert most_threads() == 1
    assert most_threads() == 2


def test_the_threads_are_back_after_an_error(two_threads):
    with pytest.raises(ZeroDivisionError), threads.suited_to(1):
        raise ZeroDivisionError
    assert most_threads() == 2


@pytest.mark.parametrize(("small", "expected"), [(59, 2), (60, 1)])
def test_a_run_is_computed_on_threads_that_suit_its_cells(
    small, expected, two_threads, run, monkeypatch, tmp_path
):
    seen = []

    def prepare(*_, **__):
        seen.append(most_threads())
        raise InputError("enough")

    monkeypatch.setattr(threads, "SMALL", small)
    monkeypatch.setattr(preprocess, "prepare", prepare)
    counts = np.random.default_rng(0).poisson(2, (60, 20))
    path = write_published(tmp_path / "data.h5", counts)
    assert run("--data", path, "--n_clusters", 2, "--out", tmp_path / "out").status == 2
    assert seen == [expected]
