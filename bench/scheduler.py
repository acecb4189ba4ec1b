"""Jobs at work: each in a process of its own under limits, several at once.

A job's log file is also its lock, which its process inherits. So several benchmarks in one folder,
and one that was killed and its leftovers, never run the same job at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import psutil

from bench import jobs, records
from bench.jobs import Job, Place
from bench.progress import Progress
from utils import CommandError

log = logging.getLogger("sctag")

POLL_SECONDS = 0.2
LAST_WRITES = 10.0  # seconds in which the system ends what was killed, at most
# What numpy, scipy, scikit-learn, numba, igraph and TensorFlow ask for their number of threads.
THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"),
    *("LOKY_MAX_CPU_COUNT", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
)
TAIL_BYTES, LINE_LENGTH = 8192, 300  # of a log: where its last line is sought, and how much is told
# Linux ends a process with its parent if asked to (1 is PR_SET_PDEATHSIG). A benchmark that is
# killed outright, which no handler sees, so leaves no jobs behind.
LEASHED = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "if os.getppid() == int(sys.argv[1]):\n"  # it has not died already
    "    os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Stopped(CommandError):
    """A signal ended the benchmark."""

    status = 130


# --- The process ----------------------------------------------------------------------------------


def lock(job: Job, place: Place) -> BinaryIO | None:
    """The job's log, locked for this process and those that inherit it; None if another has it.

    The process that runs the job inherits the lock, so that it holds for as long as anything may
    still write into the run's folder, even after the benchmark itself was killed.
    """
    path = place.out / job.log
    path.parent.mkdir(parents=True, exist_ok=True)
    log = open(path, "ab")  # noqa: SIM115, whoever takes the lock closes it
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        return None
    return log


class Process:
    """A job that is running: poll it for its record, or kill it and it has never been.

    log: of `lock`. What an earlier attempt at the job left is removed first.
    """

    def __init__(self, job: Job, place: Place, log: BinaryIO) -> None:
        self.job, self.place, self.log = job, place, log
        self.peak_memory_mb: float | None = None
        self._remove_run()
        log.truncate(0)
        threads = dict.fromkeys(THREADS, str(place.threads))
        run = jobs.command(job, place)
        if sys.platform == "linux":
            run = [sys.executable, "-I", "-S", "-c", LEASHED, str(os.getpid()), *run]
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            run,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | threads,
            start_new_session=True,  # one group to kill; Ctrl-C reaches the benchmark alone
        )

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.start

    def poll(self) -> dict[str, Any] | None:
        """The record, written, if the job has ended or was stopped at a limit; None if it runs."""
        status = self.process.poll()
        message = None
        if status is None:
            message = self._over_a_limit()
            if message is None:
                return None
        seconds = round(self.seconds, 3)
        self._end()
        if message is None and status != 0:
            message = self._how_it_failed(status)
        record = self._record(message)
        if status is not None and status >= 0:
            record["exit_status"] = status
        if record["status"] == "failed":
            self._remove_run()
            record |= {"seconds": seconds, "peak_memory_mb": self.peak_memory_mb}
        record |= {"wall_seconds": seconds}
        record |= {"n_jobs": self.place.n_jobs, "threads": self.place.threads}
        records.write(self.place.out / self.job.record, record)
        self.log.close()
        return record

    def kill(self) -> None:
        """End the job and all that it started, and leave nothing but its log."""
        self._end()
        self._remove_run()
        self.log.close()

    def _record(self, message: str | None) -> dict[str, Any]:
        if message is None and not jobs.is_complete(self.place.out / self.job.run_dir):
            message = "exit status 0, but there are no results in its folder"
        if message is not None:
            return jobs.failed_record(self.job, self.place, message)
        return jobs.folder_record(self.job, self.place)

    def _end(self) -> None:
        """Kill the process, its group, and children that have left the group."""
        members = []
        if self.process.returncode is None:  # not waited for yet: the number is still its own
            members = self._members()
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(members[1:], timeout=LAST_WRITES)  # their files are removed next

    def _remove_run(self) -> None:
        run_dir = self.place.out / self.job.run_dir
        if run_dir.exists():
            shutil.rmtree(run_dir)

    def _over_a_limit(self) -> str | None:
        """Which limit it is beyond, in a sentence."""
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
        """Resident memory of the process and its descendants in MiB."""
        total = 0
        for member in self._members():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
        return total / 2**20

    def _members(self) -> list[psutil.Process]:
        """The process and all that it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def _how_it_failed(self, status: int) -> str:
        """The exit status or the signal, and the last line that the job printed."""
        how = f"exit status {status}"
        if status < 0:
            how = f"killed by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                how += " (by another process, or by the system where memory runs out)"
        path = self.place.out / self.job.log
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{how}: {last[:LINE_LENGTH]}"


def begin(job: Job, place: Place) -> Process | dict[str, Any] | None:
    """Start a job; or its record, where it has one or its run is complete; None if it is locked.

    A complete run without a record is one that was killed between the two, or made by hand.
    """
    log = lock(job, place)
    if log is None:
        return None
    started = False
    try:
        if (place.out / job.record).exists():  # another benchmark has ended it in the meantime
            return records.read(place.out / job.record)
        if jobs.is_complete(place.out / job.run_dir):
            record = jobs.folder_record(job, place)
            records.write(place.out / job.record, record)
            return record
        process = Process(job, place, log)
        started = True
        return process
    finally:
        if not started:
            log.close()


# --- All jobs -------------------------------------------------------------------------------------


@contextlib.contextmanager
def signals_noted() -> Iterator[list[str]]:
    """A list that gets the name of each signal that asks the process to end.

    They are looked at between two steps, so that none tears a record. A signal that is ignored, as
    nohup does, stays so.
    """
    noted: list[str] = []
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, _: noted.append(signal.Signals(number).name))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_jobs(planned: Sequence[Job], place: Place, records: dict, *, quiet: bool) -> None:
    """Run what has no record yet, `place.n_jobs` at once; adds to `records`.

    Raises Stopped on a signal. However this ends, no process of it is left.
    """
    waiting = [job for job in planned if job not in records]
    running: list[Process] = []
    progress = Progress(planned, records, place, quiet=quiet)
    elsewhere_said = False
    with signals_noted() as signals, contextlib.closing(progress.bar):
        try:
            while waiting or running:
                for job in list(waiting):
                    if signals or len(running) == place.n_jobs:
                        break
                    begun = begin(job, place)
                    if begun is None:
                        continue
                    waiting.remove(job)
                    if isinstance(begun, Process):
                        running.append(begun)
                    else:
                        progress.ended(job, begun, waiting, running)
                if signals:
                    raise Stopped(
                        f"stopped by {signals[0]}; {len(running)} running jobs were ended, and "
                        "the same command goes on from here"
                    )
                if waiting and not running and not elsewhere_said:
                    log.info("waiting   for %d jobs that another benchmark runs", len(waiting))
                    elsewhere_said = True
                progress.show(waiting, running)
                time.sleep(POLL_SECONDS)
                for process in list(running):
                    record = process.poll()
                    if record is not None:
                        running.remove(process)
                        progress.ended(process.job, record, waiting, running)
        finally:
            for process in running:
                process.kill()
