"""What a person sees of a run and may keep: live lines, log file, TensorBoard, interruptions."""

import contextlib
import io
import logging
import os
import re
import signal
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import TINY, contents, eagerly

import console
import devices
import sctag
import utils

STAMPED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.*)")
ESCAPES = re.compile(r"\x1b\[\d+m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """The lines that a terminal shows in the end: a carriage return starts its line over."""
    lines = []
    for line in ESCAPES.sub("", text).split("\n"):
        shown = []
        for part in line.split("\r"):
            shown[: len(part)] = part
        lines.append("".join(shown).rstrip())
    return [line for line in lines if line]


def logged(path):
    """The lines of a log file without their times; each has one."""
    return [STAMPED.fullmatch(line)[1] for line in path.read_text().splitlines()]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal with colours, to be put in the place of stderr."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


@pytest.fixture(scope="module")
def watched(run, simulated, tmp_path_factory):
    """A run in a terminal, with a log file and TensorBoard; its folder and how it ended."""
    folder = tmp_path_factory.mktemp("watched")
    flags = [*TINY, "--pretrain_epochs", "23", "--maxiter", "12", "--n_clusters", "3"]
    flags += ["--log_file", folder / "logs" / "a.log", "--tensorboard", folder / "board"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        ran = run(
            "--data", simulated.path, *flags, "--out", folder / "out", compiled=False, terminal=True
        )
    assert ran.status == 0
    return folder, ran


# --- Live lines -----------------------------------------------------------------------------------


def test_each_step_shows_a_live_line_that_vanishes(watched):
    _, ran = watched
    steps = ["reading the data", "preparing the data", "starting TensorFlow"]
    steps += ["placing the initial clusters", "writing the files"]
    positions = [ESCAPES.sub("", ran.err).index(f"\r{step}  00:00") for step in steps]
    assert positions == sorted(positions)
    assert re.search(r"\rpretrain : .*/23 \[\d\d:\d\d left, zinb=", ran.err)
    assert screen(ran.err) == []
    assert "\r" not in ran.out


def test_a_live_line_shows_the_time_again_while_a_step_takes_long(terminal, monkeypatch):
    monkeypatch.setattr(console, "TICK", 0.001)
    with contextlib.redirect_stderr(terminal), console.status("counting", quiet=False):
        for _ in range(1000):
            if terminal.getvalue().count("  00:") > 1:
                break
            time.sleep(0.01)
        assert terminal.getvalue().count("  00:") > 1
        assert screen(terminal.getvalue())[0].startswith("counting  00:")
    assert screen(terminal.getvalue()) == []


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb"), None])
def test_colours_and_live_lines_are_for_terminals_that_have_them(variable, terminal, monkeypatch):
    if variable:
        monkeypatch.setenv(*variable)
    with contextlib.redirect_stderr(terminal), console.opened(quiet=False):
        with console.bar("phase", 4, quiet=False) as bar:
            bar.update(3)
            bar.refresh()
        with console.status("step", quiet=False):
            logging.getLogger("sctag").warning("warning: a")
    text = terminal.getvalue()
    assert ("\x1b[" in text) == (variable is None)
    assert ("\r" in text) == (variable != ("TERM", "dumb"))
    assert screen(text) == ["warning: a"]


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_a_pipe_gets_plain_lines(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    with console.status("step", quiet=False), console.bar("phase", 4, quiet=False) as bar:
        bar.update(4)
    assert stream is None or stream.getvalue() == ""


def test_quiet_shows_no_live_line(terminal):
    with contextlib.redirect_stderr(terminal), console.status("step", quiet=True):
        console.bar("phase", 4, quiet=True).update(4)
    assert terminal.getvalue() == ""


# --- The log file ---------------------------------------------------------------------------------


def test_the_log_file_has_every_line_with_its_time(watched):
    folder, ran = watched
    first, *lines = logged(folder / "logs" / "a.log")
    assert first.startswith("start     ")
    assert lines == [*ran.out.splitlines(), *screen(ran.err)]
    assert lines[-1].startswith("ACC= ")


def test_it_is_appended_to_with_quiet_too_and_where_a_run_fails(run, simulated, tmp_path):
    path = tmp_path / "a.log"
    flags = ["--data", simulated.path, "--log_file", path, "--out", tmp_path / "out", "--quiet"]
    failed = run(*flags, "--label_key", "nothing")
    assert failed.status == 2
    assert failed.out == ""
    before = path.read_bytes()
    lines = logged(path)
    assert lines[-1] == failed.err.rstrip("\n")
    assert lines[-1].startswith("train.py: error: ")
    done = run(*flags, *TINY, "--n_clusters", "3", compiled=False)
    assert path.read_bytes().startswith(before)
    more = logged(path)[len(lines) :]
    assert more[0].startswith("start     ")
    assert any(line.startswith("pretrain ") for line in more)
    assert [more[-1]] == done.out.splitlines()


def test_a_log_file_that_cannot_be_written_is_refused(refused, simulated, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "a.log", tmp_path):
        message = refused("--data", simulated.path, "--log_file", path)
        assert f"cannot write to the log file {path}" in message


def test_nothing_else_is_taken_for_a_log_file(refused, simulated):
    before = simulated.path.read_bytes()
    message = refused("--data", simulated.path, "--log_file", simulated.path)
    assert "is no log file" in message
    assert simulated.path.read_bytes() == before


def test_a_full_disk_under_the_log_file_is_no_reason_to_lose_a_run(capsys):
    from pathlib import Path

    with console.opened(quiet=False):
        console.add_log_file(Path("/dev/full"), "start")
        logging.getLogger("sctag").info("a line")
    assert capsys.readouterr() == ("a line\n", "")


def test_a_notebook_has_no_log_file(simulated):
    adata = ad.AnnData(sp.csr_matrix(simulated.counts, dtype=np.float32))
    with pytest.raises(utils.InputError, match="log_file is for files"):
        sctag.cluster(adata, log_file="a.log")


# --- TensorBoard ----------------------------------------------------------------------------------


def scalars(folder):
    """What the event files of a folder hold: a value by tag and step."""
    import tensorflow as tf

    events = tf.data.TFRecordDataset([str(path) for path in folder.iterdir()])
    values = {}
    for event in map(tf.compat.v1.Event.FromString, events.as_numpy_iterator()):
        for value in event.summary.value:
            assert (value.tag, event.step) not in values
            values[value.tag, event.step] = value.simple_value
    return values


def test_tensorboard_has_the_losses_of_the_history(watched):
    folder, _ = watched
    history = pd.read_csv(folder / "out" / "history.csv")
    assert len(history) == 23 + 12
    values = scalars(folder / "board")
    assert len(values) == 4 * len(history)
    for row in history.to_dict("records"):
        for name in ("total", "adj", "zinb", "kl"):
            value = values[f"{row['phase']}/{name}", row["epoch"]]
            assert value == pytest.approx(row[name], rel=1e-6)


def test_events_can_be_read_while_training_runs_and_a_full_disk_is_a_warning(
    tmp_path, monkeypatch, caplog
):
    import tensorflow as tf

    import epochs

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "the disk is full")

    row = {"phase": "pretrain", "total": 2.0, "adj": 1.5, "zinb": 0.5, "kl": 0.0}
    with epochs.tensorboard(tmp_path) as watch:
        watch([row | {"epoch": 1}])
        assert scalars(tmp_path)["pretrain/adj", 1] == 1.5
        monkeypatch.setattr(tf.summary.experimental, "write_raw_pb", full)
        watch([row | {"epoch": 2}])
        watch([row | {"epoch": 3}])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith("warning: ")
    assert messages[0].endswith("the disk is full")


def test_a_folder_for_tensorboard_that_cannot_be_written_is_refused(refused, simulated, tmp_path):
    (tmp_path / "file").write_text("no folder")
    message = refused("--data", simulated.path, "--tensorboard", tmp_path / "file" / "board")
    assert "choose another one with --tensorboard" in message


# --- Interruptions --------------------------------------------------------------------------------


def interrupted(*_, **__):
    raise KeyboardInterrupt


LATE = {
    "the markers": "annotation.markers.rank",
    "the page": "report.page.write",
    "the files": "results.write_run",
}


@pytest.mark.parametrize("step", LATE)
def test_a_run_that_is_interrupted_late_leaves_one_sentence_and_nothing_else(
    step, run, simulated, tmp_path, monkeypatch
):
    monkeypatch.setattr("annotation.projection.umap", lambda points, **_: points[:, :2])
    monkeypatch.setattr(LATE[step], interrupted)
    flags = [flag for flag in TINY if flag != "--no_report"]
    flags += ["--n_clusters", "3", "--out", tmp_path / "out", "--quiet"]
    flags += ["--checkpoint_minutes", "0"]
    ran = run("--data", simulated.path, *flags, compiled=False)
    assert ran.status == 130
    assert ran.out == ""
    assert ran.err.splitlines()[-1] == "train.py: interrupted; nothing was written"
    assert all(line.startswith("warning: ") for line in ran.err.splitlines()[:-1])
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "step", ["training.embed", "outcome.annotated.complete", "annotation.markers.rank"]
)
def test_a_notebooks_call_that_is_interrupted_leaves_the_data_as_they_were(
    step, simulated, monkeypatch
):
    adata = ad.AnnData(sp.csr_matrix(simulated.counts, dtype=np.float32))
    adata.obs["sctag"] = adata.obs["size_factor"] = 1.0
    adata.obsm["X_umap"] = np.ones((adata.n_obs, 2))
    adata.uns["neighbors"] = {"connectivities_key": "connectivities"}
    adata.uns["log1p"] = {"base": None}
    before = adata.copy()
    monkeypatch.setattr("annotation.projection.umap", lambda points, **_: points[:, :2])
    monkeypatch.setattr(step, interrupted)
    flags = {"hidden_dim": 16, "decoder_dims": [16], "latent_dim": 4, "highly_genes": 50}
    with eagerly(), pytest.raises(KeyboardInterrupt):
        sctag.cluster(adata, 3, copy=False, pretrain_epochs=3, maxiter=2, **flags)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert adata.raw is None
    assert adata.uns == before.uns
    assert list(adata.obsm) == ["X_umap"]
    assert (adata.obsm["X_umap"] == 1).all()
    assert list(adata.obsp) == list(adata.layers) == []
    assert (adata.X != before.X).nnz == 0


def test_an_interruption_waits_for_the_end_of_a_block():
    steps = []

    def block():
        with utils.interruptions_held():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("after")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert steps == ["after"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_library_announced_is_not_shown_where_the_user_interrupts(capfd):
    def block(error):
        with devices.native_stderr_held():
            os.write(2, b"aloud")
            raise error

    for error, shown in ((KeyboardInterrupt, ""), (ValueError, "aloud")):
        with pytest.raises(error):
            block(error)
        assert capfd.readouterr().err == shown
