"""Damaged files, and files that lie, for all that reads one: refused in a sentence, or read.

`fuzzing.py` damages the bytes of files; hypothesis (https://hypothesis.readthedocs.io) makes up
what is in them. SCTAG_FUZZ_FILES says how many files the longer run damages, SCTAG_FUZZ_SEED by
which seed.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fuzzing
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from annotation import cell_types
from bench import records
from formats import matrices, text
from inputs import selection, true_labels
from new_cells import prediction
from settings import Settings, specs
from utils import InputError

# The same examples each time: what a longer run finds is a test of its own then.
SAME = settings(max_examples=100, deadline=None, derandomize=True, database=None)


# --- Damaged bytes --------------------------------------------------------------------------------


def fuzzed(*flags):
    """Run the fuzzer in a process of its own, without TensorFlow and threads; its summary."""
    done = subprocess.run(
        [sys.executable, fuzzing.__file__, *map(str, flags)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def check(summary, files):
    assert summary["failures"] == []
    assert summary["tried"] == files
    assert summary["read"] > 0.1 * files
    assert summary["refused"] > 0.1 * files
    assert {kind for kind, counts in summary["kinds"].items() if counts["read"]} == {*fuzzing.SEEDS}


def test_damaged_files_are_refused_in_a_sentence_or_read():
    # Of changed JSON 2 in 100 are read: of so few files a seed may have none.
    check(fuzzed("--files", 2000, "--seed", 2), 2000)


@pytest.mark.slow
def test_many_more_damaged_files_are_too():
    files = int(os.environ.get("SCTAG_FUZZ_FILES", 20_000))
    seed = os.environ.get("SCTAG_FUZZ_SEED", 1)
    check(fuzzed("--files", files, "--seed", seed, "--jobs", os.cpu_count()), files)


def test_a_file_is_damaged_the_same_way_by_the_same_seed():
    corpus = {"labels": {"a.csv": b"cell,label\n1,2\n" * 9}, "cells": {"a.txt": b"1\n2\n"}}
    cases = [[fuzzing.case(corpus, seed, number) for number in range(50)] for seed in (0, 0, 1)]
    assert cases[0] == cases[1] != cases[2]
    assert len({repr(case) for case in cases[0]}) > 40


def _crash(path, number):
    os.kill(os.getpid(), signal.SIGSEGV)


def _loop(path, number):
    while True:
        pass


def _take_memory(path, number):
    raise InputError("too little memory") from MemoryError()


@pytest.mark.parametrize(
    ("read", "content", "outcome", "reason"),
    [
        (lambda path, _: [][0], b"a", "failed", "IndexError"),
        (lambda path, _: Path("written").write_text(""), b"a", "failed", "it writes"),
        (lambda path, _: os.system("true"), b"a", "failed", "os.system"),
        (lambda path, _: np.float64(1) / 0, b"a", "failed", "divide by zero"),
        (_take_memory, b"a", "failed", "it takes more than"),
        (_crash, b"a", "failed", "SIGSEGV"),
        (_crash, b"\x89HDF", "crashed", "SIGSEGV"),
        (_loop, b"a", "failed", "hang"),
        (readers.check_path, b"", "refused", "empty"),
    ],
)
def test_the_fuzzer_tells_of(read, content, outcome, reason, tmp_path, monkeypatch):
    """Three files of one kind, of which the second goes wrong in this way."""

    def second(path, number):
        if number == 1:
            read(path, number) if read is not readers.check_path else read(path)

    monkeypatch.setattr(fuzzing, "HANG", 0.2)
    monkeypatch.setattr(fuzzing, "SEEDS", {"x": fuzzing.Seed(lambda folder: None, second)})
    monkeypatch.setattr(fuzzing, "changed", lambda content, other, draw: content)
    outcomes = sorted(fuzzing.fuzz({"x": {"a": content}}, 0, range(3), tmp_path))
    assert [case[2] for case in outcomes] == ["read", outcome, "read"]
    assert reason in outcomes[1][3]


# --- Made-up contents -----------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=9,
)
CELLS = st.sampled_from(
    [
        *("", " ", '"', '""', "'", "0", "1", "-1", "2.5", "1e9", "nan", "inf", "T", "CD3E"),
        *("#", "cell", "gene", "cell_type", "\ufeff", "\0", "é", "9" * 30, "x,y", "a;b", "\r"),
    ]
)
TABLES = st.builds(
    lambda rows, separator, end: end.join(separator.join(row) for row in rows),
    st.lists(st.lists(CELLS, max_size=4), max_size=5),
    st.sampled_from([",", "\t", ";"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("made_up")


def read_or_refused(function, *arguments):
    """Return what a function returns, or None where it refuses in one line."""
    try:
        return function(*arguments)
    except InputError as error:
        sentence = str(error)
    assert sentence
    assert "\n" not in sentence
    return None


@SAME
@given(content=JSON | st.dictionaries(st.just("settings"), JSON, min_size=1))
def test_settings_of_any_json(content, folder):
    (folder / "prepared.h5ad").write_text("")
    (folder / "settings.json").write_text(json.dumps(content))
    read_or_refused(prediction.settings_of, folder)


@SAME
@given(changes=st.dictionaries(st.sampled_from([*specs()]), JSON, max_size=3))
def test_settings_of_which_some_are_anything(changes, folder):
    (folder / "prepared.h5ad").write_text("")
    values = Settings().to_json() | changes
    (folder / "settings.json").write_text(json.dumps({"settings": values}))
    read = read_or_refused(prediction.settings_of, folder)
    assert read is None or isinstance(read, Settings)


@SAME
@given(changes=st.dictionaries(st.sampled_from([*fuzzing._record()]), JSON, max_size=2))
def test_a_record_of_which_some_is_anything(changes, folder):
    path = folder / "record.json"
    path.write_text(json.dumps(fuzzing._record() | changes))
    read_or_refused(records.read, path)
    read_or_refused(fuzzing.archive.unpack, path, folder / f"unpacked{os.urandom(8).hex()}")


@SAME
@given(content=TABLES)
def test_tables_of_text(content, folder):
    path = folder / "table.csv"
    path.write_bytes(content.encode())
    read_or_refused(readers.read, path)
    read_or_refused(text.entries, path)
    read_or_refused(cell_types.read_sets, path)
    read_or_refused(true_labels.table, Settings(labels=path))
    read_or_refused(selection.request, Settings(cells=path))


WHOLE = st.integers(-3, 9) | st.sampled_from([2**31 - 1, 2**31, 2**62, -(2**63)])
PIECE = st.lists(WHOLE, max_size=6)


def dense(data, indices, indptr, shape):
    """Return a matrix of its pieces in CSR, entry by entry; None where they do not fit."""
    rows, columns = shape
    starts_and_ends = len(indptr) == rows + 1 and indptr[0] == 0 and len(indices) == len(data)
    if not starts_and_ends or indptr != sorted(indptr) or indptr[-1] != len(data):
        return None
    values = np.zeros(shape)
    for row in range(rows):
        for place in range(indptr[row], indptr[row + 1]):
            if not 0 <= indices[place] < columns:
                return None
            values[row, indices[place]] += data[place]
    return values


@settings(SAME, max_examples=300)
@given(
    pieces=st.tuples(PIECE, PIECE, PIECE)
    | st.tuples(st.just([5, 6]), st.lists(WHOLE, min_size=2, max_size=2), PIECE)
    | st.tuples(st.just([5, 6]), st.permutations([0, 2]), st.permutations([0, 1, 2])),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 4)) | st.tuples(WHOLE, WHOLE),
    kind=st.sampled_from(["i8", "u8"]),
)
def test_pieces_of_a_sparse_matrix(pieces, shape, kind):
    data, indices, indptr = (np.array(piece, "i8").astype(kind) for piece in pieces)
    with h5py.File("pieces", "w", driver="core", backing_store=False) as file:
        group = file.create_group("X")
        group["data"], group["indices"], group["indptr"] = data, indices, indptr
        group["shape"] = np.array(shape, "i8")
        read = read_or_refused(matrices.sparse, group, "X")
    if max(shape) < 100 and min(shape) >= 0 and kind == "i8":
        expected = dense(*pieces, shape) if pieces[2] else None
        assert (read is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(read.toarray(), expected)


def test_the_embedded_data_are_far_from_all_bounds():
    path = Path(fuzzing.__file__).parents[1] / "data/pbmc68k_reduced/data.h5"
    assert readers.read(path).n_obs == 700
