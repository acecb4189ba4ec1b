"""A command in two processes: one does the job, the other waits and says how it ended.

Libraries in C, above all that of HDF5, crash on some damaged files, and no handler in the crashing
process can be trusted to say so. The process that waits turns the crash into one sentence and an
exit status. It passes on the signals that ask for an end or a checkpoint. The child writes what
it reads, and what must be cleared if it dies, into memory that both share. A command that is
called as a function, as by a test or a notebook, has one process, and nothing here changes that.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import mmap
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import console

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
BOARD_BYTES = 2**16
# Signals by which a process dies of a fault of its own.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
# Signals that come from outside, and are passed on to the process that does the job.
PASSED_ON = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
# Seconds in which a signal that both processes get, as of Ctrl-C or of `timeout`, is one.
TOGETHER = 0.1
LEAST_SECONDS, LEAST_BYTES_A_SECOND = 10.0, 100_000  # of the processor, in reading any file
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


class _Board:
    """What the child says of itself, in memory that both processes share and that outlives it.

    Parameters
    ----------
    log_file
        The log file of the command, or None.
    reading
        The file or folder that is being read, or None.
    folders
        The folder in which a run works, and those that were made for it, or None.
    """

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, BOARD_BYTES)
        self.entries: dict[str, Any] = {"log_file": None, "reading": None, "folders": None}

    def write(self, **entries: Any) -> None:
        """Change some entries; a text that does not fit is left as it was."""
        self.entries |= entries
        text = json.dumps(self.entries).encode()
        if len(text) < BOARD_BYTES:
            self.memory[: len(text) + 1] = text + b"\0"

    def read(self) -> dict[str, Any]:
        """Return the entries as the child wrote them last."""
        text = self.memory[:].partition(b"\0")[0]
        with contextlib.suppress(ValueError):  # it was killed while it wrote
            self.entries = json.loads(text)
        return self.entries


_board: _Board | None = None  # that of the child, in the child alone


# --- What the child says --------------------------------------------------------------------------


@contextlib.contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Say that a file or folder is being read during a block, so that a crash is laid to it.

    What libraries in C write to stderr in the block is dropped, and no core is dumped. The library
    of HDF5 never ends on some damaged files: the system ends the process after `reading_seconds` of
    the processor. In a process without another one that waits for it this does nothing.
    """
    if _board is None:
        yield
        return
    outer = _board.entries["reading"]
    _board.write(reading=str(path))
    try:
        with contextlib.nullcontext() if outer else _contained(reading_seconds(Path(path))):
            yield
    finally:
        _board.write(reading=outer)


def reading_seconds(path: Path) -> float:
    """Return how many seconds of the processor reading a file or folder may take.

    It is far more than any needs: the slowest, packed tables of text, are read at 1 MB a second.
    """
    size = 0
    with contextlib.suppress(OSError):
        files = path.rglob("*") if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files if file.is_file())
    return LEAST_SECONDS + size / LEAST_BYTES_A_SECOND


@contextlib.contextmanager
def _contained(seconds: float) -> Iterator[None]:
    """Have libraries in C write nothing to stderr, and the system no core, during a block.

    Python's own stderr, `_steady_stderr`, is not touched. The block ends by SIGPROF where it takes
    more seconds of the processor.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    kept = None
    with contextlib.suppress(OSError):  # there is no stderr
        kept = os.dup(2)
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
        if kept is not None:
            os.dup2(kept, 2)
            os.close(kept)


def note_log_file(path: Path) -> None:
    """Say which file has the log, so that it gets the sentence on a crash too."""
    if _board is not None:
        _board.write(log_file=str(path))


@contextlib.contextmanager
def working_in(folder: Path, made: Sequence[Path]) -> Iterator[None]:
    """Say that a run works in a folder during a block, so that it is tidied if the process dies.

    The folders that were made for it are those that are removed then, if they are empty.
    """
    if _board is None:
        yield
        return
    _board.write(folders=[os.path.abspath(path) for path in (folder, *made)])
    try:
        yield
    finally:
        _board.write(folders=None)


# --- The two processes ----------------------------------------------------------------------------


def run(main: Callable[[], int], program: str, tidy: Callable[[Path, list[Path]], None]) -> int:
    """Run a command in a child process; return the exit status, in both processes.

    Parameters
    ----------
    main
        The command, which reads the command line; it is called in the child.
    program
        Its name, with which a sentence on a crash begins.
    tidy
        Is called with the folder in which a run worked whose process has died, and with those that
        were made for it.

    Returns
    -------
    That of the command. If a file crashes the library that reads it: 2; if the child dies of a
    signal in another way: 128 and the signal's number, as shells have it.
    """
    global _board
    if not hasattr(os, "fork"):
        return main()
    console.flush_streams()
    board, (reports, reported) = _Board(), _pipe()
    passed_on = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    parent = os.getpid()
    with warnings.catch_warnings():
        # Python 3.12 and later warn of threads; NumPy's stop and start again around a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _board = board
        os.close(reports)
        _die_with(parent)
        _steady_stderr()
        signal.set_wakeup_fd(reported, warn_on_full_buffer=False)
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            status = main()
            gc.freeze()  # a process that ends need not look for garbage in all that it has imported
            return status
        except KeyboardInterrupt:  # before the command was ready for it
            console.write_line(f"{program}: interrupted; nothing was written", sys.stderr)
            return 128 + signal.SIGINT
    os.close(reported)
    received = _received(passed_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    status = _wait(child, received, reports)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    entries = board.read()
    if entries["folders"]:
        folder, *made = map(Path, entries["folders"])
        tidy(folder, made)
    return _explain(signal.Signals(os.WTERMSIG(status)), entries, program)


def _pipe() -> tuple[int, int]:
    """Return a pipe's ends for reading and writing that never block.

    Neither is inherited by other programs, nor in the place of a standard stream that is closed.
    """
    ends = []
    for low in os.pipe():
        ends.append(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3))
        os.close(low)
        os.set_blocking(ends[-1], False)
    return ends[0], ends[1]


def _die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, however that ends."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def _steady_stderr() -> None:
    """Give Python's stderr a descriptor of its own, so that 2 is that of libraries in C alone."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        number = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        stream = open(number, "w", buffering=1, encoding=encoding, errors=errors)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = stream  # type: ignore[misc]


def _received(numbers: Sequence[int]) -> int:
    """Catch these signals, and a child's end; return a pipe that gets their numbers."""
    received, catch = _pipe()
    for number in (*numbers, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(catch, warn_on_full_buffer=False)
    return received


def _wait(child: int, received: int, reports: int) -> int:
    """Return the wait status with which the child ends; pass signals on to it until then.

    Those of a terminal, and of programs such as `timeout`, go to both processes. So a signal is
    passed on only if the child does not report it, before or after, within `TOGETHER`.

    Parameters
    ----------
    child
        Its process id.
    received, reports
        Pipes with the numbers of the signals that this process gets, and that the child gets.
    """
    seen: dict[int, float] = {}  # when the child had a signal last
    due: dict[int, float] = {}  # when one is to be passed on
    pipes = [received, reports]
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        now = time.monotonic()
        seconds = max(0.0, min(due.values()) - now) if due else None
        ready = select.select(pipes, [], [], seconds)[0]
        now = time.monotonic()
        if reports in ready:
            numbers = os.read(reports, 64)
            if not numbers:  # the child has closed its end
                pipes.remove(reports)
            for number in numbers:
                seen[number] = now
                due.pop(number, None)
        if received in ready:
            for number in os.read(received, 64):
                is_new = now - seen.get(number, -TOGETHER) >= TOGETHER
                if number != signal.SIGCHLD and is_new:
                    due.setdefault(number, now + TOGETHER)
        for number in [number for number, then in due.items() if then <= now]:
            del due[number]
            os.kill(child, number)  # it is not waited for yet, so its id is still its own


def _explain(number: signal.Signals, entries: dict[str, Any], program: str) -> int:
    """Say of what the child died, and return the exit status.

    Parameters
    ----------
    number
        The signal.
    entries
        Those of the board.
    program
        The command's name.
    """
    path, status = entries["reading"], 128 + number
    if path and number in CRASHES:
        status = 2
        problem = (
            f"{path}: crashes {_library_of(path)} ({number.name}): the file is damaged, copy or "
            "download it again"
        )
    elif path and number == signal.SIGPROF:
        status = 2
        problem = (
            f"{path}: {_library_of(path)} comes to no end on it ({number.name}): the file is "
            "damaged, copy or download it again"
        )
    elif number == signal.SIGKILL:
        doing = f" while it read {path}" if path else ""
        problem = (
            f"was killed{doing} ({number.name}), by the system if memory ran out: close other "
            "programs, or take a machine with more of it"
        )
    elif number in CRASHES:
        problem = (
            f"a library crashed ({number.name}), and not in reading a file: run it again, and if "
            "it crashes again, report it with the command"
        )
    else:
        problem = f"ended by {number.name}"
    line = f"{program}: error: {problem}"
    console.write_line(console.painted(line, "red", sys.stderr), sys.stderr)
    if entries["log_file"]:
        with console.opened(quiet=True), contextlib.suppress(ValueError):
            console.add_log_file(Path(entries["log_file"]), line)
    console.flush_streams()
    return status


def _library_of(path: str) -> str:
    """Return what reads a file, in words, by its first bytes."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
            return "the HDF5 library"
    return "the library that reads it"
