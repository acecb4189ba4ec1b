"""What every module may need and none owns: errors, the stopwatch, signals, checksums."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


class CommandError(Exception):
    """An error that a user can act on: one sentence that says what is wrong, where, what to do.

    A command prints it on stderr without a traceback and exits with `status`.
    """

    status = 1


class InputError(CommandError, ValueError):
    """The user's input cannot be used."""

    status = 2


class TrainingError(CommandError):
    """Training cannot go on, because a loss is no longer finite."""


class Stopwatch:
    """A clock that adds up the seconds of each phase of a run by the phase's name."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a block under the name `phase`; blocks of one name add up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.seconds.get(phase, 0.0) + time.perf_counter() - start
            self.seconds[phase] = round(seconds, 3)

    def total(self) -> dict[str, float]:
        """Return the seconds of each phase, and as `total` those since the stopwatch was made."""
        return self.seconds | {"total": round(time.perf_counter() - self.start, 3)}


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end, as `stopped_by_signals` has it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


LOST_SECONDS = 0.05  # after which an interruption that was lost is tried again

# What asks a run to end: kill, and what SLURM sends before a time limit (`--signal=USR1@60`).
STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@contextlib.contextmanager
def handled(
    numbers: Sequence[int], handler: Callable[[int, Any], None] | signal.Handlers
) -> Iterator[None]:
    """Have signals call a handler during a block, in the main thread; in others nothing changes.

    A signal that is ignored, or whose handler is not of Python, is left alone.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    before = {n: was for n, was in before.items() if was not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Have the signals of `STOPS` end a block by the exception `Stopped`, as Ctrl-C does by its.

    One that is raised in a callback of Python's own, such as that of a lock of an import, reaches
    nobody: its signal is sent again.
    """
    before, is_over = sys.unraisablehook, threading.Event()

    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    def again(number: int) -> None:
        if not is_over.is_set():
            os.kill(os.getpid(), number)

    def notice(lost: Any) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            before(lost)
            return
        number = getattr(lost.exc_value, "number", signal.SIGINT)
        timer = threading.Timer(LOST_SECONDS, again, [number])
        timer.daemon = True
        timer.start()

    sys.unraisablehook = notice
    try:
        with handled(STOPS, stop):
            yield
    finally:
        is_over.set()
        sys.unraisablehook = before


@contextlib.contextmanager
def interruptions_held(*, dropped: bool = False) -> Iterator[None]:
    """Have Ctrl-C, a notebook's stop and the signals of `STOPS` wait until a block has ended.

    With `dropped` they are forgotten where it ends well: what they would end is over then.
    """
    waiting: list[int] = []
    try:
        with handled([signal.SIGINT, *STOPS], lambda number, _: waiting.append(number)):
            yield
        if dropped:
            waiting.clear()
    finally:
        for number in waiting[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Have Python look for no garbage during a block that imports large packages.

    It looks again and again at all that has been imported, which is no garbage: a third of the
    time that importing TensorFlow and scanpy takes.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def is_writable(folder: Path) -> bool:
    """Return whether a folder can be written to, or made where there is none yet."""
    nearest = next((path for path in (folder, *folder.parents) if os.path.exists(path)), folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def data_name(path: Path) -> str:
    """Return what the data of a file or folder are called: its name without the ending.

    Data in a file that is called the same wherever it lies have the name of its folder.
    """
    if path.name in ("data.h5", "matrix.mtx", "matrix.mtx.gz"):
        return path.resolve().parent.name
    name = path.name if path.name not in ("", "..") else path.resolve().name
    stem = Path(name.removesuffix(".gz")).stem
    return stem if stem.strip(".") else name  # "..", of "...h5", would lead out of a folder


def data_names(paths: Sequence[Path]) -> list[str]:
    """Return what the data of several files or folders are called, no two of them the same.

    They are the names by `data_name`. Where these repeat, as those of A/filtered.h5 and
    B/filtered.h5, they are the names of the nearest folders above that differ, here A and B, and
    where there are none, the names are numbered.
    """
    names = [data_name(path) for path in paths]
    folders = [[folder.name for folder in path.resolve().parents] for path in paths]
    for level in (names, *map(list, zip(*folders, strict=False))):
        if len({*level}) == len(level):
            return level
    return [f"{name}-{number}" for number, name in enumerate(names, start=1)]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    That of a folder is of the names of all files in it, each with its own SHA-256, in order.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model and the widest vectors that TensorFlow can use there.

    Seconds depend on both. On Linux for example "AMD EPYC, avx2"; elsewhere what Python knows.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    pairs = (line.partition(":") for line in lines)
    properties = {key.strip(): value.strip() for key, _, value in pairs}
    flags = properties.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2", "avx") if name in flags), None)
    model = properties.get("model name") or platform.processor() or platform.machine()
    return f"{model}, {vectors}" if vectors else model


def peak_memory_mb() -> float:
    """Return the largest resident set of this process so far, in MiB.

    Linux counts it for each program (`VmHWM`). The figure of `getrusage`, which is all there is on
    other systems, a process inherits from the one that started it, however large that was.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
