"""Time, memory and ARI of a whole run against the number of cells, beside what a user would do.

    python -m perf.scale OUT --cells 10000 30000 100000 --time_limit 7200
    python -m perf.scale OUT --methods scvi --scvi_python ENV/bin/python --scvi_epochs 2

Every run is a process of its own on a simulated atlas (`perf.atlas`), one after the other:
`train.py` with the number of cell types, scanpy's usual steps and scVI by `baselines.py`. OUT gets
scale.json with a record for each run, scale.md with the tables, and the figure as scale.png and
scale.svg. A run that has a record is not repeated. Where scVI is trained for a few epochs only, its
time is extrapolated to the epochs of its default, and marked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import command
import results
import utils
from bench.jobs import SUITE
from bench.watched import Ended, Watched
from bench.wording import duration
from perf import atlas, growth

CELLS = (10_000, 30_000, 100_000)
METHODS = {
    "sctag": "train.py with the number of cell types",
    "scanpy": "scanpy's usual steps, Leiden at resolution 1",
    "scanpy_k": "the same at the resolution that gives the number of cell types",
    "scvi": "K-means of scVI's embedding, trained as long as its default has it",
}
POLL = 0.2  # seconds between two looks at a run
NO_SCVI = "not installed"  # status of scVI without scvi-tools
# What makes a run another one than a record's.
IDENTITY = ("method", "cells", "seed", "batch_key", "flags", "epochs_asked")


class Plan(NamedTuple):
    """What is common to all runs.

    Parameters
    ----------
    out
        Folder of the records, the logs and the runs' results, absolute.
    atlases
        Folder of the atlases, absolute.
    seed
        Seed of each method.
    batch_key
        Column of obs that each method takes for the batches, None for none.
    flags
        More flags for train.py.
    scvi_python
        The interpreter of an environment that has scvi-tools.
    scvi_epochs
        Epochs that scVI is trained at most; None for its default.
    time_limit
        Seconds that a run may take; None for no limit.
    """

    out: Path
    atlases: Path
    seed: int
    batch_key: str | None
    flags: list[str]
    scvi_python: str
    scvi_epochs: int | None
    time_limit: float | None


# --- One run --------------------------------------------------------------------------------------


def identity(method: str, cells: int, plan: Plan) -> dict[str, Any]:
    """Return what tells a run from others, as `IDENTITY` names it."""
    flags = plan.flags if method == "sctag" else []
    epochs = plan.scvi_epochs if method == "scvi" else None
    return dict(
        zip(IDENTITY, (method, cells, plan.seed, plan.batch_key, flags, epochs), strict=True)
    )


def atlas_path(cells: int, plan: Plan) -> Path:
    """Return the file of the atlas of so many cells."""
    return plan.atlases / f"{growth.size_name(cells)}.h5ad"


def run_dir(method: str, cells: int, plan: Plan) -> Path:
    """Return the folder of a run's results, which the next of the method and size replaces."""
    return plan.out / "runs" / growth.size_name(cells) / method


def command_of(method: str, cells: int, plan: Plan) -> list[str]:
    """Return the command of a run, an absolute path first."""
    common = ["--data", str(atlas_path(cells, plan)), "--seed", str(plan.seed)]
    common += ["--quiet", "--overwrite", "--out", str(run_dir(method, cells, plan))]
    if method != "scanpy":  # which finds its own number
        common += ["--n_clusters", "labels"]
    if plan.batch_key:
        common += ["--batch_key", plan.batch_key]
    if method == "sctag":
        return [sys.executable, str(SUITE / "train.py"), *common, *plan.flags]
    if method == "scvi":
        epochs = ["--epochs", str(plan.scvi_epochs)] if plan.scvi_epochs else []
        return [plan.scvi_python, "-m", "perf.scvi_part", *epochs, "--", *common]
    return [sys.executable, str(SUITE / "baselines.py"), "--method", method, *common]


def has_scvi(python: str) -> bool:
    """Return whether an interpreter exists and has scvi-tools."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('scvi') is None)"
    try:
        done = subprocess.run([python, "-c", look], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def outcome_of(folder: Path) -> dict[str, Any]:
    """Return what a record takes from the results of a run that ended well."""
    metrics = json.loads((folder / results.METRICS).read_text())
    notes = json.loads((folder / results.SETTINGS).read_text())
    return {
        "seconds": metrics["seconds"],
        "peak_memory_mb": metrics["peak_memory_mb"],
        "ari": metrics["scores"]["ARI"],
        "n_clusters": sum(size > 0 for size in metrics["cluster_sizes"]),
        "epochs": metrics["epochs"] if "default_epochs" in metrics else None,
        "default_epochs": metrics.get("default_epochs"),
        "versions": notes["versions"],
        "data_sha256": notes["data"]["sha256"],
    }


def measure(method: str, cells: int, plan: Plan) -> growth.Record:
    """Make a run and return its record, however it ends."""
    words = command_of(method, cells, plan)
    environment = results.environment()
    record = identity(method, cells, plan) | {
        "status": "ok",
        "reason": None,
        "command": words,
        "suite_commit": environment["suite_commit"],
        "machine": environment["machine"],
        "threads": threads(),
        "time_limit": plan.time_limit,
    }
    empty = dict.fromkeys(("seconds", "wall_seconds", "peak_memory_mb", "ari", "n_clusters"))
    if method == "scvi" and not has_scvi(plan.scvi_python):
        reason = f"{plan.scvi_python} has no scvi-tools; see --scvi_python"
        return record | empty | {"status": NO_SCVI, "reason": reason}
    folder = run_dir(method, cells, plan)
    shutil.rmtree(folder, ignore_errors=True)
    ended, peak = watch(words, folder.with_suffix(".log"), plan.time_limit)
    record |= empty | {"wall_seconds": ended.seconds, "peak_memory_mb": peak}
    if ended.fault is not None:
        status = growth.TIMED_OUT if ended.at_time_limit else "failed"
        return record | {"status": status, "reason": ended.fault}
    try:
        return record | outcome_of(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"its results cannot be read ({type(error).__name__}: {error})"
        return record | {"status": "failed", "reason": reason}


def threads() -> int:
    """Return the number of cores that this process may use, which is that of a run's threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def watch(words: Sequence[str], log: Path, time_limit: float | None) -> tuple[Ended, float | None]:
    """Run a command with a log until it ends; return how it ended, and the peak MiB seen."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        watched = Watched(
            words,
            file,
            threads=threads(),
            time_limit=time_limit,
            memory_limit=math.inf,
            environment={"PYTHONPATH": str(SUITE)},
        )
        try:
            while (ended := watched.poll()) is None:
                time.sleep(POLL)
        except BaseException:  # Ctrl-C, too
            watched.kill()
            raise
    return ended, watched.peak_memory_mb


# --- All runs -------------------------------------------------------------------------------------


def read_records(path: Path) -> list[growth.Record]:
    """Return the records of scale.json, none where there is no such file."""
    if not path.exists():
        return []
    try:
        records = json.loads(path.read_text())["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise utils.InputError(
            f"{path} holds no records ({type(error).__name__}: {error}): delete it, or choose "
            "another folder"
        ) from None
    return list(records)


def write_all(records: Sequence[growth.Record], out: Path) -> None:
    """Write the records, the tables and the figure, each file whole or not at all."""
    files = {
        "scale.json": results.as_json({"runs": list(records)}).encode(),
        "scale.md": growth.to_markdown(records, "scale.png").encode(),
        "scale.png": growth.draw(records, "png"),
        "scale.svg": growth.draw(records, "svg"),
    }
    for name, content in files.items():
        results.write_whole(out / name, content)


def measure_all(
    methods: Sequence[str], sizes: Sequence[int], plan: Plan, *, again: bool = False
) -> list[growth.Record]:
    """Make all runs that have no record yet, the smallest atlas first, and return all records.

    The files are written after every run. With `again` these runs are made and recorded anew. scVI
    that was not installed is tried again.
    """
    records = read_records(plan.out / "scale.json")
    for cells in sorted(sizes):
        path = atlas_path(cells, plan)
        if not path.exists():
            print(f"{cells:>9,} cells: writing {path}", flush=True)
            atlas.write(path, cells, seed=atlas.SEED)
        for method in methods:
            of_run = identity(method, cells, plan)
            same = [r for r in records if {key: r[key] for key in IDENTITY} == of_run]
            if not again and any(record["status"] != NO_SCVI for record in same):
                continue
            record = measure(method, cells, plan)
            records = [other for other in records if other not in same] + [record]
            write_all(records, plan.out)
            print(line_of(record), flush=True)
    return records


def line_of(record: growth.Record) -> str:
    """Return a run in a line."""
    head = f"{record['cells']:>9,} cells  {growth.name_of(record):<9} "
    if record["status"] != "ok":
        return f"{head}{record['status']}: {record['reason']}"
    mark = " (extrapolated)" if growth.is_extrapolated(record) else ""
    return (
        f"{head}{duration(growth.total_seconds(record))}{mark}, "
        f"{growth.memory_gib(record):.2f} GiB, ARI {record['ari']:.3f}"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    one = command.number(int, low=1)
    words = "; ".join(f"{name}: {sentence}" for name, sentence in METHODS.items())
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder of the records, the table and the figure")
    add("--cells", type=command.number(int, low=100), nargs="+", default=CELLS, metavar="N")
    add("--methods", nargs="+", choices=METHODS, default=["sctag", "scanpy", "scvi"], help=words)
    add("--atlases", type=Path, metavar="DIR", help="where 10k.h5ad, ... are or are written")
    add("--seed", type=command.seed, default=1, help="seed of each method")
    add("--batch_key", metavar="KEY", help="`batch`: every method is told the batches")
    add("--flags", type=shlex.split, default=[], help='more flags for train.py, as "--hops 2"')
    add("--scvi_python", default=sys.executable, metavar="PATH", help="interpreter with scvi-tools")
    add("--scvi_epochs", type=one, help="epochs of scVI, at most; its time is extrapolated")
    add("--time_limit", type=command.number(float, above=0), help="seconds that a run may take")
    add("--again", action="store_true", help="repeat runs that have a record")
    given = parser.parse_args(argv)
    out = given.out.absolute()
    plan = Plan(
        out=out,
        atlases=(given.atlases or out / "atlases").absolute(),
        seed=given.seed,
        batch_key=given.batch_key,
        flags=given.flags,
        scvi_python=given.scvi_python,
        scvi_epochs=given.scvi_epochs,
        time_limit=given.time_limit,
    )
    try:
        write_all(measure_all(given.methods, given.cells, plan, again=given.again), out)
    except utils.InputError as error:
        parser.error(str(error))
    print(f"{out / 'scale.md'}, {out / 'scale.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
