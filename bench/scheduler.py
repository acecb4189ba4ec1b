"""Running jobs: each in a process of its own under limits, several at once.

A job's log file is also its lock, which the job's process inherits. So no job ever runs twice at
once, even where several benchmarks share a folder, or where one was killed and its jobs live on.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from bench import jobs, records
from bench.jobs import Job, Place
from bench.process import Process, lock
from bench.progress import Progress
from utils import CommandError

log = logging.getLogger("sctag")

POLL_SECONDS = 0.2


class Stopped(CommandError):
    """A signal ended the benchmark."""

    status = 130


def begin(job: Job, place: Place) -> Process | dict[str, Any] | None:
    """Start a job, unless it is finished or another benchmark runs it.

    A complete run without a record, of a benchmark that was killed between the two or made by
    hand, is not run again: its record is made from it.

    Returns
    -------
    The running job; its record, if it is finished; None if another benchmark has locked it.
    """
    log_file = lock(job, place)
    if log_file is None:
        return None
    started = False
    try:
        if (place.out / job.record).exists():  # another benchmark has ended it in the meantime
            return records.read(place.out / job.record)
        if jobs.is_complete(place.out / job.run_dir):
            record = jobs.folder_record(job, place)
            records.write(place.out / job.record, record)
            return record
        process = Process(job, place, log_file)
        started = True
        return process
    finally:
        if not started:
            log_file.close()


@contextlib.contextmanager
def signals_noted() -> Iterator[list[str]]:
    """Give a list to which the name of each signal is added that asks this process to end.

    The caller looks at it between two steps, so that no signal tears a record. A signal that is
    ignored from the start, as under nohup, stays ignored.
    """
    names: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        names.append(signal.Signals(number).name)

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield names
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_jobs(
    planned: Sequence[Job], place: Place, finished: dict[Job, dict[str, Any]], *, quiet: bool
) -> None:
    """Run the planned jobs that have no record yet, `place.n_jobs` at once.

    However this ends, no process that it started is left.

    Parameters
    ----------
    planned
        The jobs in the order in which they begin.
    place
        Where they run, and their limits.
    finished
        Records of the finished jobs; those of the others are added.
    quiet
        Whether to leave out the live line on the terminal.

    Raises
    ------
    Stopped
        If a signal asks the benchmark to end.
    """
    waiting = [job for job in planned if job not in finished]
    running: list[Process] = []
    progress = Progress(planned, finished, place, quiet=quiet)
    is_announced = False
    with signals_noted() as signals, contextlib.closing(progress.bar):
        try:
            while waiting or running:
                _begin_some(waiting, running, place, progress, signals)
                if signals:
                    raise Stopped(
                        f"stopped by {signals[0]}; {len(running)} running jobs were ended, and "
                        "the same command goes on from here"
                    )
                if waiting and not running and not is_announced:
                    log.info("waiting   for %d jobs that another benchmark runs", len(waiting))
                    is_announced = True
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


def _begin_some(
    waiting: list[Job],
    running: list[Process],
    place: Place,
    progress: Progress,
    signals: Sequence[str],
) -> None:
    """Move jobs from `waiting` to `running` until enough run, a signal comes, or none can begin."""
    for job in list(waiting):
        if signals or len(running) == place.n_jobs:
            return
        begun = begin(job, place)
        if begun is None:
            continue
        waiting.remove(job)
        if isinstance(begun, Process):
            running.append(begun)
        else:
            progress.ended(job, begun, waiting, running)
