"""The registry, its command line, and the check of the files that are here."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import begin, write_published

import datasets
from bench import download

ROOT = Path(__file__).parents[1]
CONTENT = download.HDF5 + b"and no more of it"
BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Adam's file is CONTENT."""
    monkeypatch.setitem(datasets.REGISTRY, "Adam", datasets.REGISTRY["Adam"]._replace(blob=BLOB))


# ---- the registry


def test_registry_is_the_published_list():
    assert len(datasets.REGISTRY) == 18
    blobs = [known.blob for known in datasets.REGISTRY.values() if known.blob]
    assert all(re.fullmatch("[0-9a-f]{40}", blob) for blob in blobs)
    assert len(blobs) == 11
    assert len(set(datasets._BLOBS.values())) == 11
    assert set(datasets._BLOBS) <= set(datasets.REGISTRY)
    assert sum(known.in_paper is False for known in datasets.REGISTRY.values()) <= 2
    assert sum(known.cells for known in datasets.REGISTRY.values()) == 93627
    assert sum(known.classes for known in datasets.REGISTRY.values()) == 122


def test_list_prints_a_row_each_and_what_is_here(run_datasets, adam):
    begin(adam, CONTENT)
    ended, out, _ = run_datasets("list")
    header, *rows = out.split("\n\n")[0].splitlines()
    assert ended == 0
    assert header.split()[:4] == ["name", "cells", "genes", "classes"]
    assert [row.split()[0] for row in rows] == list(datasets.REGISTRY)
    assert len(rows) == 18
    assert rows[0].split()[1:7] == ["3660", "23797", "8", "Drop-seq", "?", "here"]
    assert rows[1].split()[1:8] == ["23184", "-", "8", "10x", "?", "by", "hand"]
    assert sum(" public " in row for row in rows) == 10
    assert "7475687" in out
    assert "16 of these 18" in out


# ---- the command line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fetch", "Adam", "Yung"], "no data set 'Yung', choose from: all, Adam, Bach"),
        (["verify", "Yung"], "no data set 'Yung'"),
        (["fetch"], "required: NAME"),
        (["fetch", "Adam", "--mirror", "ftp://host"], "'ftp://host' is not an address"),
        (["feed"], "invalid choice: 'feed'"),
    ],
)
def test_bad_arguments_are_one_sentence_and_status_2(run_datasets, tmp_path, args, words):
    ended, out, err = run_datasets(*args)
    assert (ended, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err
    assert not [*tmp_path.iterdir()]


def test_help_and_list_import_nothing_slow():
    code = """if True:
        import contextlib, sys, datasets
        for args in (["--help"], ["list"], ["fetch", "Yung"], ["verify", "--data_dir", "nowhere"]):
            with contextlib.suppress(SystemExit):
                datasets.main(args)
        slow = {"tensorflow", "scanpy", "anndata", "h5py", "pandas", "scipy"} & set(sys.modules)
        sys.exit(f"slow: {slow}" if slow else 0)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- verify


def known_by(monkeypatch, name, path, **changes):
    known = datasets.REGISTRY[name]._replace(blob=download.git_blob_id(path), **changes)
    monkeypatch.setitem(datasets.REGISTRY, name, known)


def layout(path):
    path.parent.mkdir()
    return write_published(path, np.eye(4, 3, dtype=int), labels=["a", "b", "a", "c"])


def test_verify_of_a_right_file_reads_nothing_else(run_datasets, adam):
    begin(adam, CONTENT)  # which no reader would open
    ended, out, err = run_datasets("verify")
    assert (ended, err) == (0, "")
    assert out == f"{'Adam':<28} right, git blob id {BLOB}\n"


def test_verify_of_another_file_says_both_ids_and_sizes(run_datasets, adam):
    layout(adam)
    ended, out, err = run_datasets("verify")
    assert (ended, out) == (1, "")
    for words in (
        download.git_blob_id(adam),
        BLOB,
        "4 cells x 3 genes x 3 classes, where the registry says 3660 x 23797 x 8",
    ):
        assert words in err


def test_verify_of_a_damaged_file(run_datasets, adam):
    begin(adam, CONTENT[:-1])
    ended, _, err = run_datasets("verify")
    assert ended == 1
    assert err.count("\n") == 1
    assert "cannot be read" in err


@pytest.mark.parametrize(("genes", "words"), [(None, "3 x ? x 3"), (7, "4 x 7 x 3")])
def test_verify_without_an_id_compares_what_is_known(
    run_datasets, tmp_path, monkeypatch, genes, words
):
    layout(tmp_path / "Bach" / "data.h5")
    known = datasets.REGISTRY["Bach"]._replace(cells=4, genes=genes, classes=3)
    monkeypatch.setitem(datasets.REGISTRY, "Bach", known)
    ended, out, err = run_datasets("verify", "Bach")
    if genes is None:
        assert (ended, err) == (0, "")
        assert (
            "no id is known; 4 cells x 3 genes x 3 classes, as the registry says 4 x ? x 3" in out
        )
    else:
        assert (ended, out) == (1, "")
        assert f"where the registry says {words}" in err


def test_verify_of_a_file_that_is_not_there(run_datasets, tmp_path):
    ended, _, err = run_datasets("verify", "Adam")
    assert ended == 1
    assert err == f"datasets.py: Adam: {tmp_path / 'Adam' / 'data.h5'}: No such file or directory\n"
    ended, _, err = run_datasets("verify")
    assert ended == 1
    assert f"none of the 18 data sets is in {tmp_path}" in err
