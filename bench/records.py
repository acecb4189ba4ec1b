"""A record of the benchmark: one JSON file a job that says how the job ended.

Whatever reads or writes records, the running benchmark or its report, does it here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import results
from utils import InputError

JOB = ("dataset", "method", "regime", "seed")  # what a record is of
REGIMES = ("true", "estimated", "default")  # where the number of clusters comes from
SCORES = ("ARI", "NMI", "ACC", "macro_F1")
NUMBERS = (
    *("exit_status", "cells", "genes", "n_classes", "n_clusters", "empty_clusters", "seconds"),
    *("wall_seconds", "peak_memory_mb", "n_jobs", "threads"),
)


def read(path: Path) -> dict[str, Any]:
    """The record; raises InputError if the file cannot be read as one."""
    try:
        record = json.loads(path.read_text())
        reason = problem(record)
    except OSError as error:
        reason = str(error.strerror)
    except ValueError as error:  # not JSON, not UTF-8
        reason = f"not JSON: {error}"
    if reason:
        raise InputError(
            f"the record {path} is damaged ({reason}): delete it, and `benchmark.py run` "
            "makes it again"
        )
    return record


def write(path: Path, record: dict[str, Any]) -> None:
    """Put the record in its place, whole or not at all."""
    results.write_whole(path, results.as_json(record).encode())


def problem(record: Any) -> str | None:
    """What is wrong with a record's content, None if nothing is."""
    if not isinstance(record, dict):
        return "it is no JSON object"
    missing = [name for name in (*JOB, "status", "scores", "seconds") if name not in record]
    if missing:
        return f"it lacks {', '.join(missing)}"
    if not all(isinstance(record[name], str) and record[name] for name in JOB[:3]):
        return "data set, method and regime must be words"
    if record["regime"] not in REGIMES:
        return f"its regime is {record['regime']!r}, not one of {', '.join(REGIMES)}"
    if type(record["seed"]) is not int:
        return "its seed is not a whole number"
    if record["status"] not in ("ok", "failed"):
        return f"its status is {record['status']!r}, neither ok nor failed"
    wrong = [n for n in NUMBERS if record.get(n) is not None and not _is_finite(record[n])]
    if wrong:
        return f"{', '.join(wrong)} must be finite numbers"
    if record["status"] == "failed":
        return None
    needed = ("cells", "n_clusters", "seconds")
    absent = [name for name in needed if record.get(name) is None]
    if absent:
        return f"the job ended well, but {', '.join(absent)} is missing"
    for name in ("scores", "initial_scores"):
        scores = record.get(name)
        if scores is None:  # data without labels, a method without initial clusters
            continue
        if not isinstance(scores, dict) or not all(_is_finite(scores.get(s)) for s in SCORES):
            return f"{name} must hold finite {', '.join(SCORES)}"
    return None


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
