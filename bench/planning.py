"""The plan of a benchmark, data sets x methods x regimes x seeds, and how far it has been done."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import readers
from bench import jobs, records
from bench.jobs import Job, Place
from bench.methods import ABLATIONS, default_methods, needs_n_clusters, parse_method
from utils import InputError

log = logging.getLogger("sctag")

SEEDS = (1, 2, 3, 4, 5)
NAME_BYTES = 255 - len("..json.partial")  # the limit of file systems less what surrounds a name


def plan(
    *,
    data_dir: Path = Path("data"),
    datasets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    ablations: bool = False,
    seeds: Sequence[int] = SEEDS,
    regimes: Sequence[str] = ("true",),
) -> list[Job]:
    """Return all jobs of a benchmark, checked, in the order in which they run.

    All jobs of the first seed come first, so that a benchmark in progress shows all data sets and
    methods. Methods that take a number of clusters run in the regimes "true" and "estimated", the
    others in "default".

    Parameters
    ----------
    data_dir
        Folder that holds NAME/data.h5 for each data set.
    datasets
        Names of data sets; None for all in data_dir.
    methods
        Methods as `parse_method` takes them; None for `default_methods`.
    ablations
        Whether to add those of ABLATIONS.
    seeds, regimes
        Seeds, and regimes of the number of clusters, some of `records.REGIMES`.

    Raises
    ------
    InputError
        If a data set, method or regime is unknown or unusable, or if no job is left.
    """
    datasets = _checked_datasets(datasets, data_dir)
    for regime in regimes:
        if regime not in records.REGIMES:
            raise InputError(
                f"there is no regime {regime!r}, choose from: {', '.join(records.REGIMES)}"
            )
    named = list(default_methods() if methods is None else methods)
    if ablations:
        named += [method for group in ABLATIONS.values() for method in group]
    by_regime = _methods_by_regime([parse_method(text)[0] for text in named], regimes)
    planned = [
        Job(dataset, method, regime, seed)
        for seed in dict.fromkeys(seeds)
        for dataset in dict.fromkeys(datasets)
        for regime, regime_methods in by_regime.items()
        for method in regime_methods
    ]
    if not planned:
        raise InputError(
            "no job is left: methods that find their own number of clusters run with --regimes "
            "default, all others with true or estimated"
        )
    for job in planned:
        if len(job.name.encode()) > NAME_BYTES:
            raise InputError(f"method {job.method!r} has too many flags to name a file after it")
    return planned


def _checked_datasets(datasets: Sequence[str] | None, data_dir: Path) -> Sequence[str]:
    """Return the names of the data sets, of all in data_dir if there are None.

    Raises InputError if one has no file in data_dir, or if there is none at all.
    """
    if datasets is None:
        datasets = sorted(path.parent.name for path in data_dir.glob("*/data.h5"))
        if not datasets:
            raise InputError(f"there is no NAME/data.h5 in {data_dir}: name another --data_dir")
    for name in datasets:
        if Path(name).name != name or name == "..":
            raise InputError(f"{name!r} is not the name of a data set in {data_dir}")
        readers.locate(name, data_dir)
    return datasets


def _methods_by_regime(methods: Iterable[str], regimes: Sequence[str]) -> dict[str, list[str]]:
    """Return the methods that run in each regime; the log names those that run in none."""
    different = list(dict.fromkeys(methods))
    taking = [method for method in different if needs_n_clusters(method)]
    finding = [method for method in different if not needs_n_clusters(method)]
    if taking and set(regimes) <= {"default"}:
        log.info(
            "left out  %s: such methods are told a number (true, estimated)", ", ".join(taking)
        )
    if finding and "default" not in regimes:
        log.info("left out  %s: such methods find one (default)", ", ".join(finding))
    return {regime: finding if regime == "default" else taking for regime in regimes}


class State(NamedTuple):
    """The finished part of a plan; the jobs that are in neither field are still to be run."""

    records: dict[Job, dict[str, Any]]  # of the finished jobs
    complete: set[Job]  # jobs with a complete run, from which only the record has to be made


def find_state(planned: Sequence[Job], place: Place) -> State:
    """Look for the records and the complete runs of the planned jobs.

    Raises InputError if a record is damaged, or if a folder holds another run than the job's.
    """
    state = State({}, set())
    for job in planned:
        if (place.out / job.record).exists():
            state.records[job] = records.read(place.out / job.record)
        elif jobs.is_complete(place.out / job.run_dir):
            jobs.check_folder(job, place)
            state.complete.add(job)
    return state
