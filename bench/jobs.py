"""One job of the benchmark: its names, its command, and the record that it ends in.

A job is one data set, method, regime of the number of clusters, and seed. It runs in a process of
its own through the public command, `train.py` or `baselines.py`. However it ends, one JSON record
says so; a job that has a record is finished.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import results
import utils
from bench import methods
from data_settings import LABEL_KEY
from settings import specs

if TYPE_CHECKING:
    import pandas as pd

SUITE = Path(__file__).resolve().parents[1]  # the folder of the commands
N_CLUSTERS = {"true": "labels", "estimated": "auto", "default": None}  # --n_clusters by regime
# Flags that say where a run reads and writes and on what it runs, not what it computes.
ANYWHERE = {"round_counts", *(name for name, spec in specs().items() if spec.neutral)}


class Job(NamedTuple):
    """One run to be made; its paths are relative to the benchmark's folder."""

    dataset: str
    method: str  # a word and its flags: "sctag hops=1"
    regime: str  # a key of N_CLUSTERS
    seed: int

    @property
    def slug(self) -> str:
        """The method's name in paths."""
        return self.method.replace(" ", "+")

    @property
    def name(self) -> str:
        """The name that the job's files share."""
        return f"{self.slug}-{self.regime}-seed{self.seed}"

    @property
    def run_dir(self) -> Path:
        """The folder of the run's results."""
        return Path("runs", self.dataset, self.name)

    @property
    def log(self) -> Path:
        """The file of what the run prints, which is also the job's lock."""
        return Path("runs", self.dataset, f"{self.name}.log")

    @property
    def record(self) -> Path:
        """The file of the job's record."""
        return Path("records", self.dataset, f"{self.name}.json")


class Place(NamedTuple):
    """Where all jobs of a benchmark run, and what each of them may use.

    Parameters
    ----------
    out
        Folder of the benchmark.
    data_dir
        Folder that holds NAME/data.h5 for each data set.
    time_limit
        Seconds that a job may take; None for no limit.
    memory_limit
        MiB that a job's process and all that it starts may use together; None for no limit.
    n_jobs
        Number of jobs that run at once.
    """

    out: Path
    data_dir: Path
    time_limit: float | None = None
    memory_limit: float | None = None
    n_jobs: int = 1

    @property
    def threads(self) -> int:
        """Threads of each job: its share of the cores that this process may use."""
        cores = os.cpu_count() or 1
        if hasattr(os, "sched_getaffinity"):
            cores = len(os.sched_getaffinity(0))
        return max(1, cores // self.n_jobs)


# --- The command ----------------------------------------------------------------------------------


def command(job: Job, place: Place) -> list[str]:
    """Return the public command that makes the job's run folder, from the interpreter on."""
    word = job.method.split()[0]
    program, flag, more = "baselines.py", "--method", []
    if word in methods.OWN:
        program, flag, more = "train.py", "--variant", ["--no_report", "--no_h5ad"]
    words = [sys.executable, str(SUITE / program), flag, word]
    words += methods.command_flags(job.method)
    words += ["--dataname", job.dataset, "--data_dir", str(place.data_dir)]
    words += ["--seed", str(job.seed)]
    n_clusters = N_CLUSTERS[job.regime]
    if n_clusters:
        words += ["--n_clusters", n_clusters]
    words += ["--round_counts", "--quiet", "--overwrite", *more]
    return [*words, "--out", str(place.out / job.run_dir)]


# --- The run's folder -----------------------------------------------------------------------------


def is_complete(run_dir: Path) -> bool:
    """Return whether the folder holds a whole run: its settings are the last file to appear."""
    return (run_dir / results.SETTINGS).is_file()


def check_folder(job: Job, place: Place) -> None:
    """Check that the complete run in the job's folder is a run of that job.

    The job's record is going to be made from it, and a run made by hand can be any run. Raises
    InputError if its settings are other ones than the job's, or cannot be read.
    """
    path = place.out / job.run_dir / results.SETTINGS
    method, expected = methods.parse_method(job.method)
    word = "variant" if method.split()[0] in methods.OWN else "method"
    expected |= {"dataname": job.dataset, "seed": job.seed, "n_clusters": N_CLUSTERS[job.regime]}
    needed = {"dataname", word, "seed", "n_clusters", *methods.flag_names(method)}
    try:
        recorded = methods.present_settings(json.loads(path.read_text())["settings"])
        # What this suite has no flag for, or had none for at the time, cannot differ.
        compared = (recorded.keys() & expected.keys() - ANYWHERE) | needed
        differing = sorted(name for name in compared if recorded.get(name) != expected[name])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise utils.InputError(
            f"{path} is not a run's settings ({type(error).__name__}: {error}): delete its folder"
        ) from None
    if differing:
        raise utils.InputError(
            f"{path.parent} holds another run ({', '.join(differing)} differ): move it elsewhere"
        )


@functools.cache
def _cell_types(path: Path, label_key: str) -> pd.Series | None:
    """Return the true labels of all cells of a data file, None if it has none."""
    import readers

    return readers.read_labels(readers.read(path), label_key)


def count_classes(
    job: Job, place: Place, metrics: dict[str, Any], settings: dict[str, Any]
) -> int | None:
    """Count the distinct true labels of the cells that a complete run has clustered.

    Parameters
    ----------
    job, place
        Of the run.
    metrics, settings
        Contents of the run's metrics.json and of "settings" in its settings.json.

    Returns
    -------
    The number of cell types; None if the data have no labels.
    """
    if job.regime == "true":  # the run has counted them
        return metrics["n_clusters"]
    path = place.data_dir / job.dataset / "data.h5"
    cell_types = _cell_types(path, settings.get("label_key") or LABEL_KEY)
    if cell_types is None:
        return None
    with open(place.out / job.run_dir / results.LABELS, newline="") as file:
        cells = [row["cell"] for row in csv.DictReader(file)]
    return int(cell_types.loc[cells].nunique()) or None


# --- The record -----------------------------------------------------------------------------------


def folder_record(job: Job, place: Place) -> dict[str, Any]:
    """Return the record of a complete run folder, a failed one if the folder cannot be read.

    Its exit status, seconds on the wall and share of the machine are None: only who watched the
    run knows them.
    """
    try:
        return _ok_record(job, place)
    except (OSError, ValueError, KeyError, TypeError, utils.InputError) as error:
        message = f"its results cannot be read ({type(error).__name__}: {error})"
        return failed_record(job, place, message)


def _ok_record(job: Job, place: Place) -> dict[str, Any]:
    run_dir = place.out / job.run_dir
    metrics = json.loads((run_dir / results.METRICS).read_text())
    notes = json.loads((run_dir / results.SETTINGS).read_text())
    sizes = metrics["cluster_sizes"]
    return {
        **job._asdict(),
        "status": "ok",
        "message": None,
        "exit_status": None,
        "cells": metrics["cells"],
        "genes": metrics["genes"],
        "n_classes": count_classes(job, place, metrics, notes["settings"]),
        "n_clusters": sum(size > 0 for size in sizes),
        "empty_clusters": sum(size == 0 for size in sizes),
        "scores": metrics["scores"],
        "initial_scores": metrics.get("initial_scores"),
        "seconds": metrics["seconds"]["total"],
        "wall_seconds": None,
        "peak_memory_mb": metrics["peak_memory_mb"],
        "command": notes["command"],
        "settings": notes["settings"],
        "versions": notes["versions"],
        "suite_commit": notes["suite_commit"],
        "machine": notes["machine"],
        "data_sha256": notes["data"]["sha256"],
        "n_jobs": None,
        "threads": None,
    }


# Asked once: a long benchmark may have many failures.
_environment = functools.cache(results.environment)
_sha256 = functools.cache(utils.sha256)


def failed_record(job: Job, place: Place, message: str) -> dict[str, Any]:
    """Return the record of a job without results; the message says why it has none."""
    environment = _environment()
    return {
        **job._asdict(),
        "status": "failed",
        "message": message,
        "exit_status": None,
        "cells": None,
        "genes": None,
        "n_classes": None,
        "n_clusters": None,
        "empty_clusters": None,
        "scores": None,
        "initial_scores": None,
        "seconds": None,
        "wall_seconds": None,
        "peak_memory_mb": None,
        "command": command(job, place)[1:],  # as sys.argv, which runs record
        "settings": None,
        "versions": environment["versions"],
        "suite_commit": environment["suite_commit"],
        "machine": environment["machine"],
        "data_sha256": _sha256(place.data_dir / job.dataset / "data.h5"),
        "n_jobs": None,
        "threads": None,
    }
