"""The process of one job: locked, under limits, and ended with all that it started."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, BinaryIO

import psutil

from bench import jobs, records
from bench.jobs import Job, Place

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


def lock(job: Job, place: Place) -> BinaryIO | None:
    """Open the job's log and lock it; return None if another benchmark has the lock.

    The process that runs the job inherits the lock, so it holds for as long as anything may still
    write into the run's folder, even after the benchmark itself was killed.
    """
    path = place.out / job.log
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "ab")  # noqa: SIM115, whoever takes the lock closes it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


class Process:
    """A running job.

    Creating it removes what an earlier attempt at the job left and starts the job's process. `poll`
    it until it returns the record, or `kill` it, which leaves nothing but the log.

    Parameters
    ----------
    job, place
        The job, and where it runs.
    log_file
        The job's log as `lock` has opened it; the process closes it at its end.
    """

    def __init__(self, job: Job, place: Place, log_file: BinaryIO) -> None:
        self.job, self.place, self.log_file = job, place, log_file
        self.peak_memory_mb: float | None = None
        self._remove_run()
        log_file.truncate(0)
        threads = dict.fromkeys(THREADS, str(place.threads))
        run = jobs.command(job, place)
        if sys.platform == "linux":
            run = [sys.executable, "-I", "-S", "-c", LEASHED, str(os.getpid()), *run]
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            run,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            env=os.environ | threads,
            start_new_session=True,  # one group to kill; Ctrl-C reaches the benchmark alone
        )

    @property
    def seconds(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self.start

    def poll(self) -> dict[str, Any] | None:
        """Look whether the job has ended, and end it if it is beyond a limit.

        Returns its record, which is then also in its file, or None if the job goes on.
        """
        status = self.process.poll()
        message = None
        if status is None:
            message = self._fault_of_limit()
            if message is None:
                return None
        seconds = round(self.seconds, 3)
        self._end()
        if status:
            message = self._fault_of_exit(status)
        record = self._record(message)
        if status is not None and status >= 0:
            record["exit_status"] = status
        if record["status"] == "failed":
            self._remove_run()
            record |= {"seconds": seconds, "peak_memory_mb": self.peak_memory_mb}
        record["wall_seconds"] = seconds
        record["n_jobs"] = self.place.n_jobs
        record["threads"] = self.place.threads
        records.write(self.place.out / self.job.record, record)
        self.log_file.close()
        return record

    def kill(self) -> None:
        """End the job and all that it started, and leave nothing but its log."""
        self._end()
        self._remove_run()
        self.log_file.close()

    def _record(self, message: str | None) -> dict[str, Any]:
        """Return the record of the run, a failed one if there is a message that says why."""
        if message is None and not jobs.is_complete(self.place.out / self.job.run_dir):
            message = "exit status 0, but there are no results in its folder"
        if message is not None:
            return jobs.failed_record(self.job, self.place, message)
        return jobs.folder_record(self.job, self.place)

    def _end(self) -> None:
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

    def _remove_run(self) -> None:
        run_dir = self.place.out / self.job.run_dir
        if run_dir.exists():
            shutil.rmtree(run_dir)

    def _fault_of_limit(self) -> str | None:
        """Return a message if the job is beyond a limit, and note its peak memory."""
        limit = self.place.time_limit
        if limit is not None and self.seconds > limit:
            return f"stopped at the time limit of {limit:g} s"
        limit = self.place.memory_limit
        if limit is not None:
            used = round(self._memory_mb(), 1)
            self.peak_memory_mb = max(used, self.peak_memory_mb or 0.0)
            if used > limit:
                return f"stopped at the memory limit of {limit:g} MiB: it used {used:.0f} MiB"
        return None

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
        """Return the exit status or the signal, and the last line that the job printed."""
        fault = f"exit status {status}"
        if status < 0:
            fault = f"killed by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                fault += " (by another process, or by the system where memory runs out)"
        path = self.place.out / self.job.log
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{fault}: {last[:LINE_LENGTH]}"
