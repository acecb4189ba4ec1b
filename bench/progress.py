"""Progress of a benchmark: a live line on a terminal, a log line for each job, the time left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from bench import wording
from bench.jobs import Job, Place

if TYPE_CHECKING:
    from bench.process import Process

log = logging.getLogger("sctag")


def mean_seconds(records: Mapping[Job, dict[str, Any]]) -> Callable[[Job], float] | None:
    """Return a function that estimates the seconds of a job from the finished ones.

    The estimate is the mean over the finished jobs of its data set and method, if there are any,
    else of its method, else over all. None if no finished job has a time.
    """
    measured: dict[tuple[str, ...], list[float]] = {}
    for job, record in records.items():
        seconds = record.get("wall_seconds") or record.get("seconds")
        if seconds is not None:
            for key in _groups(job):
                measured.setdefault(key, []).append(seconds)
    if not measured:
        return None

    def estimate(job: Job) -> float:
        alike = next(measured[key] for key in _groups(job) if key in measured)
        return sum(alike) / len(alike)

    return estimate


def _groups(job: Job) -> list[tuple[str, ...]]:
    """Return the keys of the jobs that a job is like, from the most alike to all."""
    return [(job.dataset, job.method), (job.method,), ()]


def seconds_left(
    records: Mapping[Job, dict[str, Any]],
    waiting: Collection[Job],
    running: Mapping[Job, float],
    n_jobs: int,
) -> float | None:
    """Estimate the seconds until every job is done.

    Parameters
    ----------
    records
        Records of the finished jobs.
    waiting
        Jobs that have not begun.
    running
        The seconds that each running job has taken so far.
    n_jobs
        Number of jobs that run at once.

    Returns
    -------
    Seconds; None if no finished job has a time to estimate them from.
    """
    estimate = mean_seconds(records)
    if estimate is None:
        return None
    rest = [max(0.0, estimate(job) - so_far) for job, so_far in running.items()]
    return (sum(rest) + sum(map(estimate, waiting))) / n_jobs


class Progress:
    """The progress of a benchmark, shown on a terminal and logged.

    Parameters
    ----------
    planned
        All jobs.
    records
        Records of the finished jobs, to which `ended` adds.
    place
        Where the jobs run.
    quiet
        Whether to leave out the live line.
    """

    def __init__(
        self,
        planned: Sequence[Job],
        records: dict[Job, dict[str, Any]],
        place: Place,
        *,
        quiet: bool,
    ) -> None:
        self.total, self.records, self.place = len(planned), records, place
        self.bar = tqdm(
            total=self.total,
            initial=len(records),
            leave=False,
            disable=True if quiet else None,
            bar_format="jobs {n_fmt}/{total_fmt} |{bar:20}| {desc}",
        )

    def state(self, waiting: Collection[Job], running: Collection[Process]) -> str:
        """Return the numbers of running and failed jobs and the time left, in words."""
        failed = sum(record["status"] == "failed" for record in self.records.values())
        so_far = {process.job: process.seconds for process in running}
        left = seconds_left(self.records, waiting, so_far, self.place.n_jobs)
        state = f"{len(running)} running, {failed} failed"
        if left is None or not (waiting or running):
            return state
        return f"{state}, {wording.duration(left)} left"

    def ended(
        self,
        job: Job,
        record: dict[str, Any],
        waiting: Collection[Job],
        running: Collection[Process],
    ) -> None:
        """Add the record of a job that has ended, and log its outcome."""
        self.records[job] = record
        self.bar.update()
        name = f"{job.dataset}  {job.method}  {job.regime}  seed {job.seed}"
        count = f"{len(self.records):>{len(str(self.total))}}/{self.total}"
        if record["status"] == "failed":
            path = self.place.out / job.log
            log.warning("%s  failed  %s: %s (%s)", count, name, record["message"], path)
            return
        scores = record["scores"] or {}
        ari = f"  ARI {scores['ARI']:.4f}" if "ARI" in scores else ""
        seconds = record["wall_seconds"] or record["seconds"]
        state = self.state(waiting, running)
        log.info("%s  ok      %s  %.1f s%s  | %s", count, name, seconds, ari, state)

    def show(self, waiting: Collection[Job], running: Collection[Process]) -> None:
        """Bring the live line up to date."""
        if not self.bar.disable:
            self.bar.set_description_str(self.state(waiting, running))
