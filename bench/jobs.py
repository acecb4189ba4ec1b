"""One job of the benchmark: its name, its command, and the record that it ends in.

A job is one data set, method, regime of the number of clusters, and seed. It runs in a process of
its own through the public command, `train.py` or `baselines.py`. However it ends, one JSON record
says how; a job that has a record is finished.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import results
import utils
from bench import methods

SUITE = Path(__file__).resolve().parents[1]
N_CLUSTERS = {"true": "labels", "estimated": "auto", "default": None}  # --n_clusters by regime
# Flags that say where a run reads and writes and on what it runs, not what it computes.
ANYWHERE = {"data", "data_dir", "out", "overwrite", "quiet", "round_counts", "gpu_option"}


class Job(NamedTuple):
    """One run to be made; its paths are relative to the benchmark's folder."""

    dataset: str
    method: str  # a word and its flags: "sctag hops=1"
    regime: str  # a key of N_CLUSTERS
    seed: int

    @property
    def slug(self) -> str:
        """The method as it stands in paths."""
        return self.method.replace(" ", "+")

    @property
    def name(self) -> str:
        """What the job's files are called."""
        return f"{self.slug}-{self.regime}-seed{self.seed}"

    @property
    def run_dir(self) -> Path:
        """The run's own results folder."""
        return Path("runs", self.dataset, self.name)

    @property
    def log(self) -> Path:
        """What the run printed; also the job's lock."""
        return Path("runs", self.dataset, f"{self.name}.log")

    @property
    def record(self) -> Path:
        """How the job ended."""
        return Path("records", self.dataset, f"{self.name}.json")


class Place(NamedTuple):
    """Where jobs run and what each may use; one for all jobs of a benchmark.

    time_limit: seconds; memory_limit: MiB of the process and all that it starts, together.
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
    """The public command that makes the job's run folder."""
    word = job.method.split()[0]
    program, flag = (
        ("train.py", "--variant") if word in methods.OWN else ("baselines.py", "--method")
    )
    n_clusters = N_CLUSTERS[job.regime]
    return [
        *(sys.executable, str(SUITE / program), flag, word, *methods.command_flags(job.method)),
        *("--dataname", job.dataset, "--data_dir", str(place.data_dir), "--seed", str(job.seed)),
        *(["--n_clusters", n_clusters] if n_clusters else []),
        *("--round_counts", "--quiet", "--overwrite", "--out", str(place.out / job.run_dir)),
    ]


# --- The record -----------------------------------------------------------------------------------


def is_complete(run_dir: Path) -> bool:
    """Whether the folder holds a whole run: a run's settings are the last file to appear."""
    return (run_dir / results.SETTINGS).is_file()


def check_folder(job: Job, place: Place) -> None:
    """Raises InputError if the job's folder holds a complete run of something else.

    Its record is going to be made from it, and a run made by hand can be any run.
    """
    path = place.out / job.run_dir / results.SETTINGS
    method, expected = methods.parse_method(job.method)
    word = "variant" if method.split()[0] in methods.OWN else "method"
    expected |= {"dataname": job.dataset, "seed": job.seed, "n_clusters": N_CLUSTERS[job.regime]}
    needed = {"dataname", word, "seed", "n_clusters", *methods.flag_names(method)}
    try:
        found = json.loads(path.read_text())["settings"]
        # What this suite has no flag for, or had none for at the time, cannot differ.
        known = (found.keys() & expected.keys() - ANYWHERE) | needed
        differing = sorted(name for name in known if found.get(name) != expected[name])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise utils.InputError(
            f"{path} is not a run's settings ({type(error).__name__}: {error}): delete its folder"
        ) from None
    if differing:
        raise utils.InputError(
            f"{path.parent} holds another run ({', '.join(differing)} differ): move it elsewhere"
        )


@functools.cache
def _cell_types(path: Path, label_key: str):
    """All labels of a data file, as `readers.read_labels` returns them."""
    import readers

    return readers.read_labels(readers.read(path), label_key)


def count_classes(job: Job, place: Place, metrics: dict, settings: dict) -> int | None:
    """The number of distinct true labels of the cells that were clustered; None without labels."""
    if job.regime == "true":  # the run has counted them
        return metrics["n_clusters"]
    path = place.data_dir / job.dataset / "data.h5"
    cell_types = _cell_types(path, settings.get("label_key") or "cell_type1")
    if cell_types is None:
        return None
    with open(place.out / job.run_dir / results.LABELS, newline="") as file:
        cells = [row["cell"] for row in csv.DictReader(file)]
    return int(cell_types.loc[cells].nunique()) or None


def _base(job: Job) -> dict[str, Any]:
    return job._asdict() | {"status": None, "message": None, "exit_status": None}


def folder_record(job: Job, place: Place) -> dict[str, Any]:
    """The record of a complete run folder, a failed one if the folder cannot be read.

    Whoever watched the run adds its exit status, seconds on the wall and share of the machine.
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
    return _base(job) | {
        "status": "ok",
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
    """The record of a job without results, and why it has none."""
    unknown = ("cells", "genes", "n_classes", "n_clusters", "empty_clusters", "scores")
    unknown += ("initial_scores", "seconds", "wall_seconds", "peak_memory_mb", "settings")
    environment = _environment()
    return (
        _base(job)
        | {"status": "failed", "message": message}
        | dict.fromkeys(unknown)
        | {"command": command(job, place)[1:]}  # as sys.argv, which runs record
        | {name: environment[name] for name in ("versions", "suite_commit", "machine")}
        | {"data_sha256": _sha256(place.data_dir / job.dataset / "data.h5")}
        | {"n_jobs": None, "threads": None}
    )
