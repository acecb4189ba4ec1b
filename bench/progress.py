"""How far a benchmark is: a live line on a terminal, a line a job everywhere, and the time left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

from bench import wording
from bench.jobs import Job, Place

log = logging.getLogger("sctag")


def mean_seconds(records: dict[Job, dict[str, Any]]) -> Callable[[Job], float | None]:
    """How long a job may take, from those that are finished; None while there are none.

    The mean of its data set and method, else of its method, else of all.
    """
    known: dict[tuple, list[float]] = {}
    for job, record in records.items():
        seconds = record.get("wall_seconds") or record.get("seconds")
        if seconds is not None:
            for key in ((job.dataset, job.method), (job.method,), ()):
                known.setdefault(key, []).append(seconds)

    def expected(job: Job) -> float | None:
        for key in ((job.dataset, job.method), (job.method,), ()):
            if key in known:
                return sum(known[key]) / len(known[key])
        return None

    return expected


def seconds_left(
    records: dict[Job, dict[str, Any]],
    waiting: Sequence[Job],
    running: dict[Job, float],
    n_jobs: int,
) -> float | None:
    """Seconds until everything is done, from the finished jobs; None if there is none.

    running: the seconds that each running job has taken so far.
    """
    expected = mean_seconds(records)
    if expected(next(iter((*waiting, *running)), Job("", "", "", 0))) is None:
        return None
    rest = [max(0.0, expected(job) - so_far) for job, so_far in running.items()]
    return (sum(rest) + sum(map(expected, waiting))) / n_jobs


class Progress:
    """What has been done and what is left: a live line on a terminal, a line a job everywhere."""

    def __init__(self, planned: Sequence[Job], records: dict, place: Place, *, quiet: bool) -> None:
        self.total, self.records, self.place = len(planned), records, place
        self.bar = tqdm(
            total=self.total,
            initial=len(records),
            leave=False,
            disable=True if quiet else None,
            bar_format="jobs {n_fmt}/{total_fmt} |{bar:20}| {desc}",
        )

    def state(self, waiting: Sequence[Job], running: Sequence) -> str:
        """Running, failed and time left, in words."""
        failed = sum(record["status"] == "failed" for record in self.records.values())
        so_far = {process.job: process.seconds for process in running}
        left = seconds_left(self.records, waiting, so_far, self.place.n_jobs)
        state = f"{len(running)} running, {failed} failed"
        if left is None or not (waiting or running):
            return state
        return f"{state}, {wording.duration(left)} left"

    def ended(self, job: Job, record: dict[str, Any], waiting, running) -> None:
        """Take a record in, and say so."""
        self.records[job] = record
        self.bar.update()
        what = f"{job.dataset}  {job.method}  {job.regime}  seed {job.seed}"
        count = f"{len(self.records):>{len(str(self.total))}}/{self.total}"
        if record["status"] == "failed":
            logged = self.place.out / job.log
            log.warning("%s  failed  %s: %s (%s)", count, what, record["message"], logged)
            return
        scores = record["scores"] or {}
        ari = f"  ARI {scores['ARI']:.4f}" if "ARI" in scores else ""
        seconds = record["wall_seconds"] or record["seconds"]
        state = self.state(waiting, running)
        log.info("%s  ok      %s  %.1f s%s  | %s", count, what, seconds, ari, state)

    def show(self, waiting: Sequence[Job], running: Sequence) -> None:
        """Bring the live line up to date."""
        if not self.bar.disable:
            self.bar.set_description_str(self.state(waiting, running))
