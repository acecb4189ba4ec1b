"""A run that was stopped goes on from its checkpoint, and ends as if nothing had been."""

import shutil
import signal

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
from conftest import NETWORK_FLAGS, TINY, Ran, contents, eagerly, opened, write_published

import checkpoints
import clustering
import fitting
import results
import sctag
from keeper import Keeper
from utils import InputError

# Twelve epochs of each phase have looks at epochs 1 to 10 and 12.
LONG = [*TINY, "--pretrain_epochs", "12", "--maxiter", "12", "--cluster_tol", "0", "--n_pcs", "5"]
SAME = ("labels.csv", "history.csv", "model.json", "n_clusters.json")


@pytest.fixture(scope="module")
def whole(run, simulated, tmp_path_factory):
    """A run without a break."""
    out = tmp_path_factory.mktemp("whole") / "out"
    flags = [*LONG, "--data", simulated.path, "--n_clusters", "auto"]
    return opened(run(*flags, "--out", out, compiled=False), out)


@pytest.fixture
def stopped(run, simulated, tmp_path, monkeypatch):
    """Run until the snapshot of an epoch of a phase is kept, and stop there by SIGTERM."""

    def stopped(phase, epoch, *flags):
        keep = Keeper.keep

        def keep_and_stop(keeper, snapshot):
            keep(keeper, snapshot)
            if (snapshot.phase, snapshot.epoch) == (phase, epoch):
                signal.raise_signal(signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(Keeper, "keep", keep_and_stop)
            return resumed(*flags)

    def resumed(*flags):
        data = [] if "--data" in flags else ["--data", simulated.path]
        flags = [*LONG, *data, "--n_clusters", "auto", *flags]
        return run(*flags, "--out", tmp_path / "out", compiled=False)

    stopped.again, stopped.out = resumed, tmp_path / "out"
    return stopped


def assert_same(out, whole):
    for name in SAME:
        assert (out / name).read_bytes() == (whole.out / name).read_bytes(), name
    assert weights(out) == weights(whole.out)
    done = opened(Ran(0, "-\n", ""), out)
    np.testing.assert_array_equal(done.adata.obsm["X_sctag"], whole.adata.obsm["X_sctag"])
    np.testing.assert_array_equal(done.adata.obsm["sctag_proba"], whole.adata.obsm["sctag_proba"])
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.out.iterdir()}
    return done


def weights(out):
    """The bytes of each weight, by its name."""
    values = {}
    with h5py.File(out / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: (
                values.update({name: item[()].tobytes()})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    assert len(values) > 10
    return values


@pytest.mark.parametrize(
    ("phase", "epoch"),
    [("pretrain", 7), ("cluster", 0), ("cluster", 10)],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(stopped, whole, phase, epoch):
    """Weights, Adam's moments, the dropout's numbers, q, p, labels and history."""
    ran = stopped(phase, epoch)
    assert ran.status == 143
    sentence = ran.err.splitlines()[-1]
    assert sentence.startswith("train.py: stopped by SIGTERM; epoch")
    assert f"epoch {epoch} of {phase} is kept in {stopped.out}" in sentence
    assert [file.name for file in stopped.out.iterdir()] == ["checkpoints"]
    ran = stopped.again("--resume")
    assert f"epoch {epoch} of {phase}, from the checkpoint" in ran.out
    done = assert_same(stopped.out, whole)
    assert done.metrics["resumed"] == f"epoch {epoch} of {phase}"


def test_a_run_may_be_stopped_again_and_again(stopped, whole):
    for phase, epoch in (("pretrain", 0), ("pretrain", 12), ("cluster", 12)):
        assert stopped(phase, epoch, "--resume").status == 143
    stopped.again("--resume")
    assert_same(stopped.out, whole)


def test_a_run_that_is_stopped_between_the_phases_goes_on_there(stopped, whole, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "initial_clusters", stop)
        ran = stopped.again()
    assert ran.status == 130
    assert "train.py: interrupted; epoch 12 of pretrain is kept" in ran.err
    stopped.again("--resume")
    assert_same(stopped.out, whole)


def test_checkpoints_come_by_the_clock_and_two_are_kept(stopped, monkeypatch):
    written = []
    write = checkpoints.write
    monkeypatch.setattr(
        checkpoints, "write", lambda *args: written.append(write(*args)) or written[-1]
    )
    ran = stopped("cluster", 4, "--checkpoint_minutes", "1e-9")
    assert len(written) == 1 + 12 + 1 + 4  # the beginning and the looks of each phase
    left = sorted(path.name for path in (stopped.out / "checkpoints").iterdir())
    assert left == [path.name for path in written[-2:]]
    assert ran.status == 143
    written.clear()
    assert stopped.again("--resume", "--checkpoint_minutes", "1000").status == 0
    assert not written
    assert not (stopped.out / "checkpoints").exists()


@pytest.mark.parametrize("harm", ["truncate", "state"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(stopped, whole, harm):
    stopped("cluster", 4, "--checkpoint_minutes", "1e-9")
    newest = max((stopped.out / "checkpoints").iterdir())
    file = newest / ("state.json" if harm == "state" else "tensors.data-00000-of-00001")
    content = bytearray(file.read_bytes())
    if harm == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    ran = stopped.again("--resume")
    assert f"warning: the checkpoint {newest} is damaged" in ran.err
    assert "epoch 3 of cluster, from the checkpoint" in ran.out
    assert_same(stopped.out, whole)


def test_where_all_are_damaged_the_run_starts_anew_and_says_so(stopped, whole):
    stopped("cluster", 4)
    for path in (stopped.out / "checkpoints").iterdir():
        (path / "checksums.json").write_text("{}")
    ran = stopped.again("--resume")
    assert "is damaged (state.json is missing)" in ran.err
    assert "the run starts anew" in ran.out
    assert_same(stopped.out, whole)


def test_a_run_with_other_settings_does_not_go_on(stopped):
    stopped("pretrain", 5)
    before = contents(stopped.out)
    ran = stopped.again("--resume", "--highly_genes", "40", "--n_clusters", "4")
    assert ran.status == 2
    sentence = ran.err.splitlines()[-1]
    assert "highly_genes 50 there and 40 now" in sentence
    assert "n_clusters None there and 4 now" in sentence
    assert contents(stopped.out) == before


def test_a_run_with_other_versions_does_not_go_on(stopped, monkeypatch):
    stopped("pretrain", 5)
    monkeypatch.setattr(results, "version_of", lambda _: "1.0")
    ran = stopped.again("--resume")
    assert ran.status == 2
    assert f"keras {keras.__version__!r} there and '1.0' now" in ran.err


def test_data_are_told_by_what_they_are_not_by_where(stopped, whole, simulated, tmp_path):
    """The same in a file elsewhere goes on; a single count that differs does not."""
    stopped("pretrain", 5)
    changed = simulated.counts.copy()
    changed[0, 0] += 1
    names = {"labels": simulated.labels, "cells": simulated.cells, "genes": simulated.genes}
    other = write_published(tmp_path / "other.h5", changed, **names)
    ran = stopped.again("--resume", "--data", other)
    assert ran.status == 2
    assert "SHA-256 of the prepared data" in ran.err
    moved = tmp_path / "moved.h5"
    shutil.copy(simulated.path, moved)
    assert stopped.again("--resume", "--data", moved).status == 0
    assert_same(stopped.out, whole)


def test_checkpoints_of_a_run_that_has_ended_are_cleared(stopped):
    """It was killed between the last move of its files and the removal of its checkpoints."""
    stopped("cluster", 4)
    shutil.copytree(stopped.out / "checkpoints", stopped.out.parent / "kept")
    stopped.again("--resume")
    shutil.copytree(stopped.out.parent / "kept", stopped.out / "checkpoints")
    ran = stopped.again("--resume")
    assert ran.status == 2
    assert "holds the results of another run" in ran.err
    assert not (stopped.out / "checkpoints").exists()


def test_a_checkpoint_is_never_lost_unasked(stopped, whole):
    stopped("pretrain", 5)
    before = contents(stopped.out)
    ran = stopped.again()
    assert ran.status == 2
    assert "pass --resume to go on with it; --overwrite starts anew" in ran.err
    assert contents(stopped.out) == before
    assert "resume" not in stopped.again("--overwrite").out
    assert_same(stopped.out, whole)


def test_without_checkpoints_nothing_is_left(stopped):
    ran = stopped("pretrain", 5, "--checkpoint_minutes", "0")
    assert ran.status == 143
    assert ran.err.splitlines()[-1] == "train.py: stopped by SIGTERM; nothing was written"
    assert not stopped.out.exists()


def test_a_checkpoint_that_cannot_be_written_is_no_reason_to_lose_a_run(stopped, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    ran = stopped.again("--checkpoint_minutes", "1e-9")
    assert ran.status == 0
    assert ran.err.count("no checkpoint could be written") == 1
    assert "No space left on device" in ran.err


def test_a_notebooks_call_goes_on_from_its_folder(simulated, tmp_path, monkeypatch):
    import readers

    adata = readers.read(simulated.path)
    flags = NETWORK_FLAGS | {"no_report": True, "pretrain_epochs": 12, "gpu_option": "-1"}
    folder = tmp_path / "checkpoints"

    def stop(*_, **__):
        raise KeyboardInterrupt

    with eagerly():
        whole = sctag.cluster(adata, 3, **flags)
        with monkeypatch.context() as patch:
            patch.setattr(clustering, "centers_of", stop)
            with pytest.raises(KeyboardInterrupt) as stopped:
                sctag.cluster(adata, 3, **flags, checkpoint_dir=folder)
        assert "is kept in" in stopped.value.__notes__[0]
        with pytest.raises(InputError, match="pass resume to go on"):
            sctag.cluster(adata, 3, **flags, checkpoint_dir=folder)
        again = sctag.cluster(adata, 3, **flags, checkpoint_dir=folder, resume=True)
        with pytest.raises(InputError, match="checkpoint_dir"):
            sctag.cluster(adata, 3, **flags, resume=True)
    assert not folder.exists()
    pd.testing.assert_series_equal(again.obs["sctag"], whole.obs["sctag"])
    np.testing.assert_array_equal(again.obsm["X_sctag"], whole.obsm["X_sctag"])
