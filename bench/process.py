"""The process of one job: locked, under limits, and ended with all that it started."""

from __future__ import annotations

import fcntl
import shutil
from typing import Any, BinaryIO

from bench import jobs, records
from bench.jobs import Job, Place
from bench.watched import Watched


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
        self._remove_run()
        log_file.truncate(0)
        self.watched = Watched(
            jobs.command(job, place),
            log_file,
            threads=place.threads,
            time_limit=place.time_limit,
            memory_limit=place.memory_limit,
        )

    @property
    def seconds(self) -> float:
        """Seconds since the process was started."""
        return self.watched.seconds

    def poll(self) -> dict[str, Any] | None:
        """Look whether the job has ended, and end it if it is beyond a limit.

        Returns its record, which is then also in its file, or None if the job goes on.
        """
        ended = self.watched.poll()
        if ended is None:
            return None
        record = self._record(ended.fault)
        if ended.status is not None and ended.status >= 0:
            record["exit_status"] = ended.status
        if record["status"] == "failed":
            self._remove_run()
            peak = self.watched.peak_memory_mb
            record |= {"seconds": ended.seconds, "peak_memory_mb": peak}
        record["wall_seconds"] = ended.seconds
        record["n_jobs"] = self.place.n_jobs
        record["threads"] = self.place.threads
        records.write(self.place.out / self.job.record, record)
        self.log_file.close()
        return record

    def kill(self) -> None:
        """End the job and all that it started, and leave nothing but its log."""
        self.watched.kill()
        self._remove_run()
        self.log_file.close()

    def _record(self, message: str | None) -> dict[str, Any]:
        """Return the record of the run, a failed one if there is a message that says why."""
        if message is None and not jobs.is_complete(self.place.out / self.job.run_dir):
            message = "exit status 0, but there are no results in its folder"
        if message is not None:
            return jobs.failed_record(self.job, self.place, message)
        return jobs.folder_record(self.job, self.place)

    def _remove_run(self) -> None:
        run_dir = self.place.out / self.job.run_dir
        if run_dir.exists():
            shutil.rmtree(run_dir)
