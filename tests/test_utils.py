"""How a command ends, and the small tools of every module."""

import gc
import io
import signal
import threading

import pytest
from conftest import ran

import command
import utils
from bench import scheduler


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (utils.InputError("no such file"), 2, "error: no such file"),
        (utils.TrainingError("the loss is nan"), 1, "error: the loss is nan"),
        (scheduler.Stopped("by SIGTERM"), 130, "error: by SIGTERM"),
        (OSError(28, "disk full"), 1, "error: [Errno 28] disk full; half is there"),
        (KeyboardInterrupt(), 130, "interrupted; half is there"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_status(error, status, sentence):
    def job():
        raise error

    def main(_):
        return command.run_command("a.py", job, quiet=True, left="half is there")

    assert ran(main, [], io.StringIO()) == (status, "", f"a.py: {sentence}\n")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fma avx avx2\n", "AMD EPYC, avx2"),
        ("model name\t: Xeon\nflags\t\t: avx avx2 avx512f\n" * 2, "Xeon, avx512f"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", "aarch64"),
        (None, "aarch64"),
    ],
)
def test_the_processor_is_told_as_far_as_known(cpuinfo, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(utils.platform, "processor", lambda: "")
    monkeypatch.setattr(utils.platform, "machine", lambda: "aarch64")
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert utils.processor(tmp_path / "cpuinfo") == expected


def test_the_checksum_of_a_folder_is_that_of_its_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "one").write_bytes(b"1")
        (tmp_path / name / "sub" / "two").write_bytes(b"2")
    first, second = tmp_path / "a", tmp_path / "b"
    assert utils.sha256(first) == utils.sha256(second) != utils.sha256(first / "sub")
    (second / "sub" / "two").write_bytes(b"3")
    assert utils.sha256(first) != utils.sha256(second)
    (second / "sub" / "two").write_bytes(b"2")
    (second / "one").rename(second / "ones")
    assert utils.sha256(first) != utils.sha256(second)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_callback_of_python_itself_still_ends_the_job(number):
    """What a finaliser raises reaches nobody, so that the signal must come again."""

    class Finalised:
        def __del__(self):
            signal.raise_signal(number)

    def job():
        with utils.stopped_by_signals():
            Finalised()
            threading.Event().wait(30)

    with pytest.raises(KeyboardInterrupt):
        job()


def test_nothing_is_collected_while_packages_are_imported():
    assert gc.isenabled()
    with utils.importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), utils.importing():
        raise ImportError
    assert gc.isenabled()


def test_imports_leave_collecting_off_where_it_was_off():
    gc.disable()
    try:
        with utils.importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
