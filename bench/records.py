"""Records of the benchmark's jobs: one JSON file for each job says how the job ended.

The running benchmark and its report both read and write records through this module.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import results
from bench import methods
from utils import InputError

JOB = ("dataset", "method", "regime", "seed")  # the fields that say which job a record is of
REGIMES = ("true", "estimated", "default")  # where the number of clusters comes from
SCORES = ("ARI", "NMI", "ACC", "macro_F1")
NUMBERS = (
    "exit_status",
    "cells",
    "genes",
    "n_classes",
    "n_clusters",
    "empty_clusters",
    "seconds",
    "wall_seconds",
    "peak_memory_mb",
    "n_jobs",
    "threads",
)


def read(path: Path) -> dict[str, Any]:
    """Read and check one record; see `parse`. Raises InputError if the file holds none."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        reason = str(error.strerror)
    except ValueError as error:
        reason = str(error)
    raise InputError(
        f"the record {path} is damaged ({reason}): delete it, and `benchmark.py run` makes it again"
    )


def parse(text: str | bytes) -> dict[str, Any]:
    """Return the record in a JSON text, checked, with its method under the present name.

    Every record enters the program here. Its settings and command keep the names that they had
    when the job ran. Raises ValueError, with the reason in words, if the text is no record.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested too deeply
        raise ValueError(f"not JSON: {error}") from None
    reason = problem(record)
    if reason:
        raise ValueError(reason)
    return record | {"method": methods.present_name(record["method"])}


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record to its file, which appears whole or not at all."""
    results.write_whole(path, results.as_json(record).encode())


def problem(record: Any) -> str | None:
    """Return what is wrong with a record's content, in words; None if nothing is."""
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
    return _problem_of_results(record) if record["status"] == "ok" else None


def _problem_of_results(record: dict[str, Any]) -> str | None:
    """Return what is wrong with the results of a job that ended well; None if nothing is."""
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
