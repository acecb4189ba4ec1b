"""A command in a process of its own: under limits, watched, and ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import psutil

LAST_WRITES = 10.0  # seconds in which the system ends killed processes, at most
# The variables in which numpy, scipy, scikit-learn, numba, igraph and TensorFlow look up their
# number of threads.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
TAIL_BYTES = 8192  # at the end of a log, in which its last line is sought
LINE_LENGTH = 300  # characters of that line that a message quotes
# Linux ends a process with its parent if asked to (1 is PR_SET_PDEATHSIG). No handler sees that a
# benchmark is killed outright; this way it leaves no jobs behind even then.
LEASHED = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "if os.getppid() == int(sys.argv[1]):\n"  # the parent has not died already
    "    os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Ended(NamedTuple):
    """How a command ended.

    Parameters
    ----------
    status
        Its exit status, negative for a signal; None if it was stopped at a limit.
    fault
        What went wrong, in words; None after exit status 0.
    seconds
        Seconds since its start.
    at_time_limit
        Whether it was stopped at the limit of time.
    """

    status: int | None
    fault: str | None
    seconds: float
    at_time_limit: bool = False


class Watched:
    """A running command. `poll` it until it has ended, or `kill` it.

    Parameters
    ----------
    command
        The command, an absolute path first.
    log_file
        What the command prints goes there, after what the file has already. Whoever opened it
        closes it.
    threads
        Number of threads that its libraries are to use.
    time_limit
        Seconds that it may take; None for no limit.
    memory_limit
        MiB that it and all that it starts may use together; None for no limit, and then memory is
        not looked at. With infinity it is, and `peak_memory_mb` has the largest value seen.
    environment
        Variables of its environment beside those of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: BinaryIO,
        *,
        threads: int,
        time_limit: float | None = None,
        memory_limit: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log_file, self.time_limit, self.memory_limit = log_file, time_limit, memory_limit
        self.peak_memory_mb: float | None = None
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", LEASHED, str(os.getpid()), *command]
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            env=os.environ | dict.fromkeys(THREADS, str(threads)) | dict(environment or {}),
            start_new_session=True,  # one group to kill; Ctrl-C reaches this process alone
        )

    @property
    def seconds(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self.start

    def poll(self) -> Ended | None:
        """Look whether the command has ended, and end it, with all it started, beyond a limit."""
        status = self.process.poll()
        fault, late = None, False
        if status is None:
            late = self.time_limit is not None and self.seconds > self.time_limit
            fault = self._fault_of_time() if late else self._fault_of_memory()
            if fault is None:
                return None
        seconds = round(self.seconds, 3)
        self.kill()
        if status:
            fault = self._fault_of_exit(status)
        return Ended(status, fault, seconds, late)

    def kill(self) -> None:
        """Kill the process, its group, and children that have left the group."""
        members = []
        if self.process.returncode is None:  # not waited for yet: its id is still its own
            members = self._members()
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(members[1:], timeout=LAST_WRITES)  # before their files are removed

    def _fault_of_time(self) -> str:
        return f"stopped at the time limit of {self.time_limit:g} s"

    def _fault_of_memory(self) -> str | None:
        """Return a message if the command is beyond the limit, and note its peak memory."""
        limit = self.memory_limit
        if limit is None:
            return None
        used = round(self._memory_mb(), 1)
        self.peak_memory_mb = max(used, self.peak_memory_mb or 0.0)
        if used <= limit:
            return None
        return f"stopped at the memory limit of {limit:g} MiB: it used {used:.0f} MiB"

    def _memory_mb(self) -> float:
        """Return the resident memory of the process and its descendants in MiB."""
        total = 0
        for member in self._members():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
        return total / 2**20

    def _members(self) -> list[psutil.Process]:
        """Return the process and its descendants, the process itself first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def _fault_of_exit(self, status: int) -> str:
        """Return the exit status or the signal, and the last line that the command printed."""
        fault = f"exit status {status}"
        if status < 0:
            fault = f"killed by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                fault += " (by another process, or by the system where memory runs out)"
        path = Path(self.log_file.name)
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{fault}: {last[:LINE_LENGTH]}"
