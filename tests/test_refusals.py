"""Runs that cannot be done or that fail: one sentence, and nothing lost or half-written."""

import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import FILES, TINY, assert_same_clustering, contents, opened, write_published

# --- What cannot be used: one sentence, status 2, nothing left ------------------------------------


def changed(simulated, row=3, column=5, value=0.0):
    counts = simulated.counts.astype(np.float64)
    counts[row, column] = value
    return counts


def normalised(simulated):
    return simulated.counts / simulated.counts.sum(axis=1, keepdims=True) * 1e4


BAD_DATA = {  # what the file holds (of `write_published`), further flags, a part of the sentence
    "no_exprs": (lambda s: {"counts": None}, [], "exprs"),
    "labels_short": (lambda s: {"labels": s.labels[:-1]}, [], "119 entries"),
    "cell_names_short": (lambda s: {"cells": s.cells[:-1]}, [], "119 entries"),
    "gene_names_long": (lambda s: {"genes": [*s.genes, "one more"]}, [], "201 entries"),
    "one_dimension": (lambda s: {"counts": s.counts.ravel()}, [], "not a matrix"),
    "nan": (lambda s: {"counts": changed(s, value=np.nan)}, [], "NaN"),
    "infinite": (lambda s: {"counts": changed(s, value=np.inf)}, [], "infinite"),
    "negative": (lambda s: {"counts": changed(s, value=-1)}, [], "negative"),
    "logarithms": (lambda s: {"counts": np.log1p(normalised(s))}, [], "normalised"),
    "depths": (lambda s: {"counts": normalised(s)}, [], "normalised"),
    "depths_rounded": (
        lambda s: {"counts": normalised(s)},
        ["--round_counts"],
        "normalised",
    ),
    "normalised_official": (
        lambda s: {"counts": np.log1p(normalised(s))},
        ["--variant", "official"],
        "normalised",
    ),
    "not_whole": (lambda s: {"counts": changed(s, value=1.5)}, [], "--round_counts"),
    "all_zero": (lambda s: {"counts": s.counts * 0}, [], "zero"),
    "no_cells": (
        lambda s: {"counts": s.counts[:0], "labels": None, "cells": None},
        ["--n_clusters", "3"],
        "0 cells",
    ),
    "no_labels": (
        lambda s: {"labels": None, "age": np.arange(120)},
        ["--n_clusters", "labels"],
        "(present: age)",
    ),
    "no_columns": (lambda s: {"labels": None}, ["--n_clusters", "labels"], "(present: none)"),
    "label_key_absent": (
        lambda s: {},
        ["--label_key", "type", "--n_clusters", "3"],
        "(present: cell_type1)",
    ),
    "one_label": (lambda s: {"labels": ["T"] * 120}, [], "needs 2 or more"),
    "only_missing_labels": (
        lambda s: {"labels": [""] * 120},
        ["--n_clusters", "labels"],
        "needs 2 or more",
    ),
    "two_numbers_of_clusters": (
        lambda s: {},
        ["--n_clusters", "3", "--resolution", "1"],
        "give one of them",
    ),
    "more_clusters_than_cells": (lambda s: {}, ["--n_clusters", "121"], "120 cells"),
    "more_neighbours_than_cells": (lambda s: {}, ["--k_neighbors", "120"], "--k_neighbors 120"),
    "layer_of_published": (lambda s: {}, ["--layer", "counts"], "--layer counts"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_are_refused_in_one_sentence(case, refused, simulated, tmp_path):
    content, flags, part = BAD_DATA[case]
    whole = {
        "counts": simulated.counts,
        "labels": simulated.labels,
        "cells": simulated.cells,
        "genes": simulated.genes,
    }
    path = write_published(tmp_path / "data.h5", **(whole | content(simulated)))
    assert part in refused("--data", path, *flags)


BAD_FLAGS = {
    "one_cluster": (["--n_clusters", "1"], "at least 2"),
    "no_pretraining": (["--pretrain_epochs", "0"], "at least 1"),
    "maxiter": (["--maxiter", "-3"], "at least 0"),
    "no_neighbours": (["--k_neighbors", "0"], "at least 1"),
    "variant": (["--variant", "published"], "sctag"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_refused_in_one_sentence(case, refused, simulated):
    flags, part = BAD_FLAGS[case]
    assert part in refused("--data", simulated.path, *flags)


def test_a_missing_file_is_refused_with_those_that_are_there(refused, simulated):
    message = refused("--data", simulated.path.with_name("brain.h5ad"))
    assert "no such file" in message
    assert "data.h5" in message


def test_a_missing_data_set_is_refused_with_those_that_are_there(refused, simulated):
    data_dir = simulated.path.parents[1]
    message = refused("--dataname", "Young", "--data_dir", data_dir)
    assert "'Young'" in message
    assert simulated.path.parent.name in message


def test_a_missing_data_folder_is_refused(refused, tmp_path):
    assert "nowhere" in refused("--data_dir", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"cell,gene\n1,2\n", "not an HDF5 file"),
        (b"", "empty"),
        (None, "directory"),
    ],
)
@pytest.mark.parametrize("name", ["cells.h5", "cells.h5ad"])
def test_what_is_no_hdf5_file_is_refused(name, content, part, refused, tmp_path):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    assert part in refused("--data", path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share, refused, simulated, tmp_path):
    whole = simulated.path.read_bytes()
    (tmp_path / "data.h5").write_bytes(whole[: int(share * len(whole))])
    assert "cut short" in refused("--data", tmp_path / "data.h5")


def test_a_csr_group_whose_pieces_disagree_is_refused(refused, simulated, tmp_path):
    matrix = sp.csr_matrix(simulated.counts)
    path = write_published(tmp_path / "data.h5", None, labels=simulated.labels)
    with h5py.File(path, "a") as file:
        file["exprs/data"], file["exprs/indices"] = matrix.data, matrix.indices
        file["exprs/indptr"], file["exprs/shape"] = matrix.indptr, [120, 100]
    assert "shape [120, 100]" in refused("--data", path)


def test_an_absent_layer_is_refused_with_those_that_are_there(refused, base):
    message = refused("--data", base.out / "prepared.h5ad", "--layer", "loops")
    assert "'loops'" in message
    assert "from: X, counts, raw" in message


@pytest.mark.parametrize("below", ["file", "file/sub", "x" * 300])
def test_a_folder_that_cannot_be_written_is_refused_first(below, refused, simulated, tmp_path):
    (tmp_path / "file").write_text("mine")
    message = refused("--data", tmp_path / "not_read_yet.h5", out=tmp_path / below)
    assert "cannot write to the results folder" in message
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_mistyped_data_set_leaves_no_results_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--dataname", "TYPO", "--data_dir", tmp_path).status == 2
    assert list(tmp_path.iterdir()) == []


def test_no_tensorflow_before_the_last_check(request, tmp_path):
    """--k_neighbors can only be judged once empty cells are gone: the last of the checks."""
    script = """
import sys
import train
status = train.main(sys.argv[1:])
print(status, sorted({"tensorflow", "keras", "spektral"} & {*sys.modules}))
"""
    flags = ["--dataname", "pbmc68k_reduced", "--k_neighbors", "700", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", script, *flags, "--out", str(tmp_path / "out")],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2 []\n"
    assert done.stderr.count("\n") == 1


# --- Older results, and runs that fail ------------------------------------------------------------


@pytest.fixture
def older(base, tmp_path):
    """A copy of a run's results, marked, so that it would be seen if they were replaced."""
    folder = tmp_path / "older"
    shutil.copytree(base.out, folder)
    (folder / "labels.csv").write_text("older")
    return folder


def test_a_second_run_is_refused_and_leaves_the_results(refused, older, simulated):
    before = contents(older)
    message = refused("--data", simulated.path, *TINY, out=older)
    assert "--overwrite" in message
    assert contents(older) == before


def test_overwrite_replaces_the_results(run, older, base, simulated):
    ran = run("--data", simulated.path, *TINY, "--out", older, "--overwrite", compiled=False)
    assert_same_clustering(opened(ran, older), base)
    assert set(contents(older)) == FILES


def test_bad_data_leave_older_results_untouched(refused, older, tmp_path):
    before = contents(older)
    refused("--data", tmp_path / "missing.h5", "--overwrite", out=older)
    assert contents(older) == before


ABSURD = {
    "pretraining": ["--pretrain_lr", "1e30"],
    "last_step_of_pretraining": ["--pretrain_lr", "1e30", "--pretrain_epochs", "1"],
    "clustering": ["--cluster_lr", "1e30", "--maxiter", "3"],
    "last_step_of_clustering": ["--cluster_lr", "1e30", "--maxiter", "1"],
}


@pytest.mark.parametrize("case", ABSURD)
def test_a_loss_that_is_not_finite_ends_the_run(case, run, older, simulated):
    """Status 1, one sentence, no results; the last step is not seen in any loss."""
    before = contents(older)
    flags = ["--data", simulated.path, *TINY, *ABSURD[case], "--out", older, "--overwrite"]
    ran = run(*flags, "--quiet", compiled=False)
    assert ran.status == 1
    assert ran.out == ""
    warning = r"(warning: .* goes back to epoch \d, and on at a tenth of the learning rate\n)?"
    kept = rf"epoch \d of \w+ is kept in {older}/checkpoints/"
    assert re.fullmatch(rf"{warning}train\.py: error: .*learning rate; {kept}.*\n", ran.err)
    left = contents(older)
    assert {name: left[name] for name in left if not name.startswith("checkpoints/")} == before


def test_an_interrupted_run_leaves_nothing(run, monkeypatch, simulated, tmp_path):
    import readers

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(readers, "read", interrupted)
    ran = run("--data", simulated.path, "--out", tmp_path / "out")
    assert ran.status == 130
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
