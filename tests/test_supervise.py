"""The two processes of a command: how it ends where a file, a signal or the system ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import supervise

ROOT = Path(__file__).parent.parent
START = """
import ctypes, os, signal, sys, time
from pathlib import Path
import command, folders, supervise
def crash():
    os.write(2, b"HDF5-DIAG: Error detected")
    ctypes.string_at(0)
def main():
    return command.run_command("a.py", job, quiet=True, log_file=Path("a.log"))
"""
# Counts the signals that reach the job, and ends at the last of them.
COUNTING = """
count = dict.fromkeys([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], 0)
def handle(number, _):
    count[number] += 1
def job():
    for number in count:
        signal.signal(number, handle)
    Path("child").write_text(f"{os.getpid()}")
    while not count[signal.SIGTERM]:
        time.sleep(.01)
    time.sleep(.5)
    return str(list(count.values()))
"""


def program(job, folder):
    """Write a command with this job, for a process with the environment that goes with it."""
    (folder / "a.py").write_text(
        START + job + "sys.exit(supervise.run(main, 'a.py', folders.tidy))\n"
    )
    return [sys.executable, "a.py"], os.environ | {"PYTHONPATH": str(ROOT)}


def ended(job, folder, **options):
    command, env = program(job, folder)
    options = {"capture_output": True, "text": True, "check": False} | options
    return subprocess.run(command, cwd=folder, env=env, **options)


@pytest.fixture
def started(tmp_path):
    """Start a command whose job is `COUNTING`; the process, once its job has begun."""
    command, env = program(COUNTING, tmp_path)
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def is_running(pid):
    """Return whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("content", "library"),
    [(supervise.HDF5_SIGNATURE, "the HDF5 library"), (b"a,b", "the library that reads it")],
)
def test_a_crash_in_reading_is_one_sentence_that_names_the_file(content, library, tmp_path):
    (tmp_path / "x.h5").write_bytes(content)
    job = """
def job():
    with folders.staged(Path("new/out"), overwrite=False) as staging:
        (staging / "half").write_text("")
        with supervise.reading("folder"), supervise.reading("x.h5"):
            crash()
"""
    done = ended(job, tmp_path)
    sentence = (
        f"a.py: error: x.h5: crashes {library} (SIGSEGV): the file is damaged, copy or download "
        "it again\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)
    assert (tmp_path / "a.log").read_text().endswith(sentence)
    assert not (tmp_path / "new").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a.py", "a.log", "x.h5"}


def test_a_process_that_ends_looks_for_no_garbage(tmp_path):
    """Python would look through all that is imported, which takes over a second."""
    job = """
import atexit, gc
def job():
    atexit.register(lambda: os.write(1, b"%d left" % (len(gc.get_objects()) // 1000)))
    return "done"
"""
    assert ended(job, tmp_path).stdout == "done\n0 left"


def test_a_reader_that_comes_to_no_end_is_ended(tmp_path):
    """As the library of HDF5 does on some damaged files, where no handler of Python is called."""
    (tmp_path / "x").write_bytes(supervise.HDF5_SIGNATURE)
    job = """
def job():
    supervise.LEAST_SECONDS = .1
    with supervise.reading("x"):
        while True: pass
"""
    done = ended(job, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "a.py: error: x: the HDF5 library comes to no end on it (SIGPROF): the file is damaged, "
        "copy or download it again\n"
    )


def test_the_time_that_reading_may_take_ends_with_it(tmp_path):
    job = """
def job():
    supervise.LEAST_SECONDS = .2
    with supervise.reading("x"), supervise.reading("y"):
        pass
    start = time.process_time()
    while time.process_time() - start < .5: pass
    return "done"
"""
    assert ended(job, tmp_path).stdout == "done\n"


@pytest.mark.parametrize("size", [0, 10**6])
def test_a_larger_file_may_take_longer(size, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x").write_bytes(bytes(size))
    for path in (tmp_path / "folder", tmp_path / "folder/x"):
        assert supervise.reading_seconds(path) == 10 + size / 100_000
    assert supervise.reading_seconds(tmp_path / "none") == 10


@pytest.mark.parametrize(
    ("dying", "status", "words"),
    [
        ("crash()", 139, ["HDF5-DIAG", "SIGSEGV", "not in reading a file"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, ["SIGKILL", "memory ran out"]),
        ("os.kill(os.getpid(), signal.SIGALRM)", 142, ["ended by SIGALRM"]),
    ],
)
def test_another_death_has_its_own_sentence_and_the_status_of_a_shell(
    dying, status, words, tmp_path
):
    job = f"def job():\n    with supervise.reading('x'): pass\n    {dying}\n"
    done = ended(job, tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert all(word in done.stderr for word in words)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_the_status_of_the_job_is_that_of_the_command(status, tmp_path):
    assert ended(f"main = lambda: {status}\n", tmp_path).returncode == status
    assert ended(f"main = lambda: sys.exit({status})\n", tmp_path).returncode == status


def test_what_python_prints_while_it_reads_is_shown(tmp_path):
    job = """
def job():
    with supervise.reading("x"):
        print("a warning", file=sys.stderr)
        os.write(2, b"of a library")
    os.write(2, b"later")
    return "the last line"
"""
    done = ended(job, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the last line\n", "a warning\nlater")


def test_streams_that_are_closed_are_no_reason_to_fail(tmp_path):
    command, env = program("def job():\n    Path('made').write_text('')\n    return ''\n", tmp_path)
    line = f"{' '.join(command)} >&- 2>&- <&-"
    assert subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, check=False).returncode == 0
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_reaches_the_job_once(to_all, started):
    """One that is sent to the command alone, and one that its whole group gets, as by Ctrl-C."""
    send = os.killpg if to_all else os.kill
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        send(started.pid, number)
        if to_all and number == signal.SIGINT:  # as `timeout` does: to the command, then to all
            os.kill(started.pid, number)
        time.sleep(3 * supervise.TOGETHER)
    assert started.communicate()[0] == "[1, 1, 1]\n"
    assert started.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have nothing like it")
def test_the_job_ends_with_a_command_that_is_killed(started, tmp_path):
    child = int((tmp_path / "child").read_text())
    assert is_running(child)
    started.kill()
    started.wait()
    limit = time.monotonic() + 10
    while is_running(child) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not is_running(child)


@pytest.mark.parametrize("name", ["train", "predict", "baselines"])
def test_the_commands_are_started_so(name):
    """As a script, and, but for the rivals', as the command that is installed."""
    assert "supervise.run(main, " in (ROOT / f"{name}.py").read_text()
    if name != "baselines":
        assert f'"sctag.{name}:start"' in (ROOT / "pyproject.toml").read_text()


def test_a_file_that_crashes_hdf5_is_refused_by_the_command(simulated, tmp_path):
    """The real readers, with an HDF5 that crashes on every file that it opens."""
    script = f"""
import ctypes, sys
import h5py, train
h5py.File = lambda *_: ctypes.string_at(0)
sys.argv = ["train.py", "--data", "{simulated.path}", "--out", "out"]
sys.exit(train.start())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"train.py: error: {simulated.path}: crashes the HDF5 library (SIGSEGV): "
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
