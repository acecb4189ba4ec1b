"""The results folder: all files of a run or none, nothing replaced unasked, one run at a time."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import contents

import folders
import locks
import results
from utils import InputError


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def older(out):
    """A folder with the results of an earlier run and a file of the user's own."""
    out.mkdir()
    (out / results.SETTINGS).write_text("{}")
    (out / results.LABELS).write_text("older")
    (out / "notes.txt").write_text("mine")
    return out


def fill(staging, text="new"):
    (staging / results.LABELS).write_text(text)
    (staging / results.SETTINGS).write_text(text)


def test_files_appear_together_at_the_end(out):
    with folders.staged(out, overwrite=False) as staging:
        fill(staging)
        assert not (out / results.LABELS).exists()
        assert not (out / results.SETTINGS).exists()
    assert contents(out) == {results.LABELS: b"new", results.SETTINGS: b"new"}
    assert {path.name for path in out.iterdir()} == {results.LABELS, results.SETTINGS}


def test_folders_above_are_made(tmp_path):
    out = tmp_path / "results" / "Young" / "sctag-seed1"
    with folders.staged(out, overwrite=False) as staging:
        fill(staging)
    assert (out / results.LABELS).read_text() == "new"


def fail(out, error, *, overwrite=False):
    """A run that fails when its files are already written."""
    with folders.staged(out, overwrite=overwrite) as staging:
        fill(staging)
        raise error


def run_into(out, *steps):
    """A run that replaces older results; each step is given its folder before it is published."""
    with folders.staged(out, overwrite=True) as staging, folders.writing(staging):
        for step in steps:
            step(staging)


def refuse(out):
    """A run that must be refused before it starts."""
    with folders.staged(out, overwrite=False):
        pytest.fail("the block must not be entered")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_a_failure_leaves_nothing(error, out, tmp_path):
    with pytest.raises(error):
        fail(out, error)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_no_folders_above_either(tmp_path):
    """As after `--dataname TYPO`, whose results would go to results/TYPO/sctag-seed1."""
    kept = tmp_path / "results"
    kept.mkdir()
    with pytest.raises(InputError):
        fail(kept / "TYPO" / "sctag-seed1", InputError)
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_older_results_untouched(error, older):
    before = contents(older)
    with pytest.raises(error):
        fail(older, error, overwrite=True)
    assert contents(older) == before
    assert {path.name for path in older.iterdir()} == set(before)


def test_a_failure_leaves_an_empty_folder_that_was_there(out):
    out.mkdir()
    with pytest.raises(RuntimeError):
        fail(out, RuntimeError)
    assert list(out.iterdir()) == []


def test_results_of_another_run_need_overwrite(older):
    before = contents(older)
    with pytest.raises(InputError, match="--overwrite"):
        refuse(older)
    assert contents(older) == before


def test_overwrite_leaves_nothing_of_a_run_of_another_kind(older):
    for name in results.FILES:
        (older / name).write_text("older")
    with folders.staged(older, overwrite=True) as staging:
        fill(staging)
        assert set(contents(older)) > set(results.FILES)  # all there until the new ones are
    expected = {results.LABELS: b"new", results.SETTINGS: b"new", "notes.txt": b"mine"}
    assert contents(older) == expected


@pytest.mark.parametrize("name", results.FILES)
def test_any_file_of_a_run_needs_overwrite(name, out):
    out.mkdir()
    (out / name).write_text("older")
    with pytest.raises(InputError, match="--overwrite"):
        refuse(out)


def test_overwrite_replaces_results_and_nothing_else(older):
    with folders.staged(older, overwrite=True) as staging:
        fill(staging)
    expected = {results.LABELS: b"new", results.SETTINGS: b"new", "notes.txt": b"mine"}
    assert contents(older) == expected


def test_a_folder_without_results_is_used_as_it_is(out):
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with folders.staged(out, overwrite=False) as staging:
        fill(staging)
    assert set(contents(out)) == {"notes.txt", results.LABELS, results.SETTINGS}


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_file_in_the_way_is_an_input_error(below, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match=r"cannot write to the results folder .* with --out"):
        refuse(file / below)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_name_too_long_for_the_file_system_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot write to the results folder"):
        refuse(tmp_path / ("x" * 300))


# --- One run at a time ----------------------------------------------------------------------------

# A process that works in a folder until it is told to end, by a line or by a signal.
WORKER = """
import sys
from pathlib import Path
import folders
with folders.staged(Path(sys.argv[1]), overwrite=True) as staging:
    (staging / "labels.csv").write_text("half")
    print("working", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def worker(out, request):
    """A process in the middle of a run into the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(out)],
        cwd=request.config.rootpath,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "working\n"
        yield process
        process.kill()


def test_a_folder_in_which_another_process_works_is_refused(worker, out):
    before = contents(out)
    host = re.escape(socket.gethostname())
    sentence = rf"in use by another run \(process {worker.pid} on {host}, since 20\d\d-.*--out"
    with pytest.raises(InputError, match=sentence):
        refuse(out)
    assert contents(out) == before
    worker.communicate("end\n")
    assert contents(out) == {results.LABELS: b"half"}


def test_the_folder_of_a_run_that_was_killed_is_taken_over(worker, out):
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    left = {path.name.split("-")[0] for path in out.iterdir()}
    assert left == {locks.LOCK, ".partial"}
    with folders.staged(out, overwrite=False) as staging:
        fill(staging)
    assert contents(out) == {results.LABELS: b"new", results.SETTINGS: b"new"}
    assert len(list(out.iterdir())) == 2


def test_the_lock_says_who_holds_it(out):
    with folders.staged(out, overwrite=False):
        owner = json.loads((out / locks.LOCK).read_text())
    assert owner.pop("start").startswith("20")
    expected = {"process": os.getpid(), "host": socket.gethostname(), "command": sys.argv}
    assert owner == expected
    assert not out.exists()


def test_a_run_that_has_not_written_its_lock_yet_holds_it_all_the_same(out):
    out.mkdir()
    with open(out / locks.LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="in use by another run, which has just started"):
            refuse(out)


def test_a_lock_that_is_removed_while_it_is_taken_is_no_lock(out, monkeypatch):
    """The run before ends, and removes the file, when this one has opened but not locked it."""
    out.mkdir()
    path, flock, calls = out / locks.LOCK, fcntl.flock, []

    def late(descriptor, operation):
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locks.held(out):
        assert json.loads(path.read_text())["process"] == os.getpid()
        with pytest.raises(InputError, match="in use"):
            refuse(out)
    assert list(out.iterdir()) == []


def test_a_lock_of_another_run_is_not_removed(out):
    """As when the folder was deleted and made again while the run went on."""
    out.mkdir()
    with locks.held(out):
        (out / locks.LOCK).unlink()
        (out / locks.LOCK).write_text("another's")
    assert (out / locks.LOCK).read_text() == "another's"


def no_flock(*_):
    raise OSError(errno.ENOTSUP, "not supported")


def owned(out, process, host):
    out.mkdir()
    owner = locks.Owner(process, host, "2026-01-01 00:00:00", [])
    (out / locks.LOCK).write_text(json.dumps(owner._asdict()))


def test_without_flock_a_run_that_lives_keeps_its_folder(out, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock)
    with folders.staged(out, overwrite=False) as staging:
        with pytest.raises(InputError, match=r"in use .* if it is dead, delete .*/\.lock"):
            refuse(out)
        fill(staging)
    assert set(contents(out)) == {results.LABELS, results.SETTINGS}


def test_without_flock_a_dead_process_of_this_host_loses_its_folder(out, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock)
    ended = subprocess.Popen(["true"])
    ended.wait()
    owned(out, ended.pid, socket.gethostname())
    with folders.staged(out, overwrite=False) as staging:
        fill(staging)
    assert set(contents(out)) == {results.LABELS, results.SETTINGS}


@pytest.mark.parametrize("content", ["", None])
def test_without_flock_nobody_knows_whether_others_live(content, out, monkeypatch):
    """One on another host, and one that has not written its name yet."""
    monkeypatch.setattr(fcntl, "flock", no_flock)
    owned(out, 1, "elsewhere")
    if content is not None:
        (out / locks.LOCK).write_text(content)
    with pytest.raises(InputError, match="if it is dead, delete"):
        refuse(out)


def test_the_first_error_of_a_lock_is_that_of_the_folder(out, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(InputError, match=r"cannot write to the results folder .*output error"):
        refuse(out)
    assert not out.exists()


# --- Moves that fail, and moves that are killed ---------------------------------------------------

NEW_FILES = (results.LABELS, results.METRICS, results.SETTINGS)


def fill_three(staging):
    for name in NEW_FILES:
        (staging / name).write_text("new")


class Killed(BaseException):
    """The process dies: nothing that comes after has an effect."""


def generation(folder):
    """Which run the files of the folder are of; they must be of one where there are settings."""
    texts = {path.name: path.read_text() for path in folder.iterdir() if path.name in results.FILES}
    if results.SETTINGS in texts:
        assert set(texts.values()) == {texts[results.SETTINGS]}
        assert len(texts) == 3
    return texts.get(results.SETTINGS)


def publish_until(out, monkeypatch, step, failure):
    """Replace older results, the move number `step` failing; return how many there were."""
    moves, replace = [], os.replace

    def counted(source, target):
        if step in (len(moves), None):
            generation(out)  # it is also looked at in the middle, as by another process
        moves.append(source)
        if len(moves) - 1 == step or (failure is Killed and None is not step < len(moves)):
            raise failure
        replace(source, target)

    with monkeypatch.context() as patch, folders.staged(out, overwrite=True) as staging:
        fill_three(staging)
        patch.setattr(os, "replace", counted)
        if failure is Killed:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
    return len(moves)


@pytest.fixture
def of_three(out):
    """The results of an earlier run: one file that the next has not, and a file of the user's."""
    out.mkdir()
    for name in (results.DENOISED, results.LABELS, results.SETTINGS):
        (out / name).write_text("older")
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "a.h5").write_text("kept")
    return out


N_MOVES = 3 + 1 + 3  # old files out, the folder's new name, new files in


def test_files_are_of_one_run_at_each_step(of_three, monkeypatch):
    assert publish_until(of_three, monkeypatch, None, None) == N_MOVES
    assert generation(of_three) == "new"
    assert set(contents(of_three)) == {*NEW_FILES, "checkpoints/a.h5"}
    assert {path.name for path in of_three.iterdir()} == {*NEW_FILES, "checkpoints"}


@pytest.mark.parametrize("step", range(N_MOVES))
@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EBUSY])
def test_a_move_that_fails_leaves_all_as_it_was(step, number, of_three, monkeypatch):
    before = contents(of_three)
    reason = os.strerror(number)
    with pytest.raises(InputError, match=rf"cannot write .*{reason}.*--out.*is as it was"):
        publish_until(of_three, monkeypatch, step, OSError(number, reason))
    assert contents(of_three) == before
    assert not list(of_three.glob(".*"))


@pytest.mark.parametrize("step", range(N_MOVES))
def test_an_interruption_in_a_move_comes_too_late(step, of_three, monkeypatch):
    """The run is over when all is moved, and ends well."""
    replace, moves = os.replace, []

    def interrupted(source, target):
        replace(source, target)
        if len(moves) == step:
            signal.raise_signal(signal.SIGINT)
        moves.append(source)

    monkeypatch.setattr(os, "replace", interrupted)
    run_into(of_three, fill_three)
    assert len(moves) > step
    assert generation(of_three) == "new"
    assert not list(of_three.glob(".*"))


@pytest.mark.parametrize("step", range(N_MOVES))
def test_a_move_that_is_killed_is_completed_or_undone_by_the_next_run(step, of_three, monkeypatch):
    before = contents(of_three)
    with pytest.raises(Killed):
        publish_until(of_three, monkeypatch, step, Killed)
    assert generation(of_three) == ("older" if step == 0 else None)
    with pytest.raises(InputError, match="--overwrite"):
        refuse(of_three)
    assert not list(of_three.glob(".*"))
    if step <= 3:  # the new files had not become `.new` yet
        assert contents(of_three) == before
    else:
        assert generation(of_three) == "new"
        assert set(contents(of_three)) == {*NEW_FILES, "checkpoints/a.h5"}


def test_a_move_that_can_neither_be_made_nor_undone_is_mended_by_the_next_run(
    of_three, monkeypatch
):
    """The disk fails for good in the middle."""
    before, replace, moves = contents(of_three), os.replace, []

    def failing(source, target):
        moves.append(source)
        if len(moves) > 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    with monkeypatch.context() as patch:

        def break_disk(_):
            patch.setattr(os, "replace", failing)

        with pytest.raises(InputError, match=r"nor undo what was moved.*\.replaced and \.new"):
            run_into(of_three, fill_three, break_disk)
    assert generation(of_three) is None
    with pytest.raises(InputError, match="--overwrite"):
        refuse(of_three)
    assert generation(of_three) == "new"
    assert contents(of_three)["checkpoints/a.h5"] == before["checkpoints/a.h5"]


# --- Disks ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, mounted for the test."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("mounting is not permitted")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def write_text(staging):
    (staging / results.LABELS).write_bytes(bytes(2**20))


def write_adata(staging):
    import anndata as ad

    rng = np.random.default_rng(0)
    counts = rng.integers(0, 2**31, (400, 500)).astype(np.float64)
    results.write_h5ad(staging / results.DATA, ad.AnnData(counts))


@pytest.mark.parametrize("write", [write_text, write_adata])
def test_a_full_disk_is_one_sentence(write, small_disk):
    out = small_disk / "out"
    with folders.staged(out, overwrite=False) as staging:
        fill(staging, "older")
    with pytest.raises(InputError, match=r"cannot write .*No space left.*make room.*as it was"):
        run_into(out, write)
    assert contents(out) == {results.LABELS: b"older", results.SETTINGS: b"older"}
    assert len(list(out.iterdir())) == 2


def test_a_disk_that_is_full_already_is_refused_at_the_start(small_disk):
    with open(small_disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError):  # noqa: PT012
        while True:
            file.write(bytes(2**12))
    with pytest.raises(InputError, match=r"cannot write to the results folder .*No space left"):
        refuse(small_disk / "out")
    assert {path.name for path in small_disk.iterdir()} == {"filler"}


def of_hdf5(number):
    return RuntimeError(f"Can't decrement id ref count (errno = {number}, error message = ...)")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("kind", [lambda number: OSError(number, "words"), of_hdf5])
def test_a_disk_that_fails_is_one_sentence(kind, number, older):
    before = contents(older)
    expected = rf"cannot write the results to .*{os.strerror(number)}.*--out.*as it was"

    def fail_at_disk(_):
        try:
            raise kind(number)
        except Exception as error:
            raise ValueError("Error raised while writing key") from error

    with pytest.raises(InputError, match=expected):
        run_into(older, fail_at_disk)
    assert contents(older) == before


@pytest.mark.parametrize("write", [[fill], [write_adata], []])
def test_a_folder_that_is_removed_during_the_run_is_one_sentence(write, out):
    """Before the files are written, or after that and before they are moved."""
    with pytest.raises(InputError, match=r"was removed, or its disk detached, .*--out"):
        run_into(out, lambda _: shutil.rmtree(out), *write)
    assert not out.exists()


@pytest.mark.parametrize("error", [ValueError("errno unknown"), FileNotFoundError(2, "elsewhere")])
def test_an_error_that_is_not_of_the_disk_stays_what_it_is(error, out):
    def fail_elsewhere(_):
        raise error

    with pytest.raises(type(error), match=str(error.args[-1])):
        run_into(out, fail_elsewhere)
