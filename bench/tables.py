"""The benchmark's arithmetic, from the records of its jobs to the tables of the report.

A job is a data set, a method, a regime (where the number of clusters comes from) and a seed. Means
are taken over seeds first, then over data sets, so that every data set counts the same. A method
has *finished* a data set if it ran there and no seed failed; only finished ones are compared.
The measures are ARI, NMI, ACC, macro_F1 (at most 1), k_error (number of clusters minus number of
cell types), its absolute value abs_k_error, seconds and peak_memory_mb (MiB).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench import records
from bench.records import JOB, REGIMES, SCORES
from utils import InputError

MEASURES = (*SCORES, "k_error", "abs_k_error", "seconds", "peak_memory_mb")
# Fields of a record that are columns of the jobs' table, before the scores and after them.
FIRST = (
    "status",
    "message",
    "exit_status",
    "cells",
    "genes",
    "n_classes",
    "n_clusters",
    "empty_clusters",
    "seconds",
    "wall_seconds",
    "peak_memory_mb",
)
LAST = ("suite_commit", "data_sha256", "n_jobs", "threads")
EQUAL = 6  # decimals in which two means of a score must agree to be a tie

PUBLISHED = Path(__file__).parents[1] / "data" / "published_scores.csv"
PUBLISHED_COLUMNS = [
    "dataset",
    "method",
    "ARI",
    "NMI",
    "ACC",
    "n_clusters",
    "honest",
    "status",
    "source",
    "remark",
]
# The name of the published means over data sets, and those data sets.
ELEVEN = "mean of eleven"
ELEVEN_SETS = (
    "Quake_Smart-seq2_Trachea",
    "Quake_10x_Bladder",
    "Quake_10x_Spleen",
    "Quake_Smart-seq2_Diaphragm",
    "Quake_10x_Limb_Muscle",
    "Quake_Smart-seq2_Limb_Muscle",
    "Romanov",
    "Adam",
    "Muraro",
    "Young",
    "Quake_Smart-seq2_Lung",
)


# --- Records --------------------------------------------------------------------------------------


def read_records(out: Path) -> list[dict[str, Any]]:
    """Read all records, OUT/records/*/*.json.

    Raises InputError if there is none, if one is damaged, or if two are of the same job.
    """
    paths = sorted(out.glob("records/*/*.json"))
    if not paths:
        raise InputError(
            f"{out} holds no records of a benchmark ({out / 'records'}/*/*.json): "
            "make them with `python benchmark.py run --out FOLDER`, or name the right folder"
        )
    all_records = []
    paths_of_jobs: dict[tuple, Path] = {}
    for path in paths:
        record = records.read(path)
        job = tuple(record[name] for name in JOB)
        if job in paths_of_jobs:
            raise InputError(
                f"{path} and {paths_of_jobs[job]} are records of the same job: remove one"
            )
        paths_of_jobs[job] = path
        all_records.append(record)
    return all_records


def jobs_table(all_records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return a table with a row for each record: its job, its outcome, every measure.

    Scores and k_error are NaN where the job failed or the data have no labels. The column `timed`
    says whether the job ran on the machine that ran most of these jobs, so that its seconds can be
    compared.
    """
    rows = []
    for record in all_records:
        is_ok = record["status"] == "ok"
        row = {name: record.get(name) for name in (*JOB, *FIRST)}
        for prefix, key in (("", "scores"), ("initial_", "initial_scores")):
            scores = (is_ok and record.get(key)) or {}
            row |= {prefix + name: scores.get(name, np.nan) for name in SCORES}
        has_classes = is_ok and record.get("n_classes") is not None
        row["k_error"] = record["n_clusters"] - record["n_classes"] if has_classes else np.nan
        row |= {name: record.get(name) for name in LAST}
        row["command"] = shlex.join(map(str, record.get("command") or []))
        row["machine"] = json.dumps(record.get("machine"), sort_keys=True)
        rows.append(row)
    jobs = pd.DataFrame(rows)
    jobs["timed"] = jobs["machine"] == jobs["machine"].mode()[0]
    for name in ("exit_status", "cells", "genes", "n_classes", "n_clusters", "empty_clusters"):
        jobs[name] = pd.array(jobs[name], dtype="Int64")
    for name in ("seconds", "wall_seconds", "peak_memory_mb"):
        jobs[name] = jobs[name].astype(float)
    jobs["regime"] = pd.Categorical(jobs["regime"], REGIMES, ordered=True)
    return jobs.sort_values(list(JOB), ignore_index=True)


def summarise(jobs: pd.DataFrame) -> pd.DataFrame:
    """Summarise the jobs of each regime, data set and method over their seeds.

    Parameters
    ----------
    jobs
        Table of `jobs_table`, all of it or some of its rows.

    Returns
    -------
    A table with a row for each regime, data set and method. The columns jobs, ok and failed count
    seeds; cells, genes and n_classes are the largest numbers; MEASURE_mean and MEASURE_sd are the
    mean and the standard deviation (n - 1, NaN for one seed) over the seeds that ended well, of
    the seconds over the timed ones among them.
    """
    groups = ["regime", "dataset", "method"]
    jobs = jobs.assign(abs_k_error=jobs["k_error"].abs(), is_ok=jobs["status"] == "ok")
    jobs = jobs.assign(seconds=jobs["seconds"].where(jobs["timed"]))
    grouped = jobs.groupby(groups, observed=True, sort=True)
    counts = grouped["is_ok"].agg(jobs="size", ok="sum")
    sizes = grouped[["cells", "genes", "n_classes"]].max()
    values = jobs[jobs["is_ok"]].groupby(groups, observed=True)[list(MEASURES)].agg(["mean", "std"])
    endings = {"mean": "mean", "std": "sd"}
    values.columns = [f"{name}_{endings[statistic]}" for name, statistic in values.columns]
    table = counts.join(sizes).join(values).reset_index()
    table.insert(table.columns.get_loc("ok") + 1, "failed", table["jobs"] - table["ok"])
    return table


def is_finished(summary: pd.DataFrame) -> pd.Series:
    """Return, for each row of the summary, whether the method has finished the data set."""
    return (summary["ok"] > 0) & (summary["failed"] == 0)


def pivot(summary: pd.DataFrame, column: str, *, finished: bool) -> pd.DataFrame:
    """Return a column of one regime's summary as a table of data sets x methods.

    It has NaN where there is no value and, with `finished`, where the method has not finished the
    data set.
    """
    wide = summary.assign(value=summary[column].where(is_finished(summary) | (not finished)))
    return wide.pivot(index="dataset", columns="method", values="value").astype(float)


def by_cells(summary: pd.DataFrame) -> list[str]:
    """Return the data sets in the order of their numbers of cells, of unknown size last."""
    cells = summary.groupby("dataset")["cells"].max().astype("Float64")
    return list(cells.reset_index().sort_values(["cells", "dataset"])["dataset"])


# --- Methods over data sets -----------------------------------------------------------------------


def base_of(method: str) -> str:
    """Return the method without its flags: "sctag" of "sctag hops=3 kl=qp"."""
    return method.split(maxsplit=1)[0]


def variations(methods: Sequence[str]) -> list[str]:
    """Return the ablations: methods with flags whose plain form is among the methods too."""
    return [m for m in methods if m != base_of(m) and base_of(m) in methods]


class Overall(NamedTuple):
    """A comparison of methods over the data sets that all of them have finished; see `overall`."""

    table: pd.DataFrame
    sets: list[str]
    left_out: dict[str, list[str]]


def overall(summary: pd.DataFrame, methods: Sequence[str]) -> Overall:
    """Compare methods over data sets.

    Parameters
    ----------
    summary
        Table of `summarise`, one regime of it.
    methods
        The methods to compare.

    Returns
    -------
    table
        A row for each method. Over the common data sets: the mean of each measure's means, named
        as the measure, and the median of abs_k_error, median_abs_k_error; `rank`, the mean rank by
        ARI, where 1 is the best and ties share their mean rank; `best`, the number of data sets
        where no method's ARI is higher; `seeds_sd`, the mean over data sets of the standard
        deviation of ARI over seeds. Over all that the method has: own_ARI, the mean ARI over the
        own_sets data sets where at least one seed ended well; jobs and failed, both counted.
    sets
        The common data sets: all methods have finished them.
    left_out
        The other data sets, by the reason.
    """
    rows = summary[summary["method"].isin(methods)]
    ari = pivot(rows, "ARI_mean", finished=True).reindex(columns=list(methods))
    common = ari.dropna().round(EQUAL)
    table = pd.DataFrame(index=pd.Index(methods, name="method"))
    for name in MEASURES:
        means = pivot(rows, f"{name}_mean", finished=True).reindex(columns=list(methods))
        table[name] = means.loc[common.index].mean()
        if name == "abs_k_error":
            table["median_abs_k_error"] = means.loc[common.index].median()
    table["rank"] = common.rank(axis=1, ascending=False, method="average").mean()
    table["best"] = common.eq(common.max(axis=1), axis=0).sum()
    sds = pivot(rows, "ARI_sd", finished=True).reindex(columns=list(methods))
    table["seeds_sd"] = sds.loc[common.index].mean()
    by_method = rows.groupby("method")
    table["own_ARI"] = by_method["ARI_mean"].mean()
    table["own_sets"] = by_method["ARI_mean"].count()
    table[["jobs", "failed"]] = by_method[["jobs", "failed"]].sum()
    return Overall(table.reset_index(), list(common.index), _left_out(rows, ari))


def _left_out(rows: pd.DataFrame, ari: pd.DataFrame) -> dict[str, list[str]]:
    """Return the data sets that are not common to all methods, by the reason.

    A data set has a reason for each method without an ARI there.

    Parameters
    ----------
    rows
        Summary of the methods.
    ari
        Mean ARI, data sets x methods, NaN where a method has not finished the data set.
    """
    failed = rows.set_index(["dataset", "method"])["failed"]
    reasons: dict[str, list[str]] = {}
    for dataset, values in ari.iterrows():
        for method in values.index[values.isna()]:
            seeds = failed.get((dataset, method))
            if seeds is None:
                reason = f"{method} was not run on"
            else:
                reason = f"{method} {'failed' if seeds else 'has no score'} on"
            reasons.setdefault(reason, []).append(dataset)
    return reasons


def ran_everywhere(summary: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """Return the methods that ran on every data set of the summary where any of them ran."""
    rows = summary[summary["method"].isin(methods)]
    sets = rows.groupby("method")["dataset"].nunique()
    return [m for m in methods if sets.get(m, 0) == rows["dataset"].nunique()]


# --- Published figures and the environment --------------------------------------------------------


def read_published() -> pd.DataFrame:
    """Read the published figures as text: nothing is computed with them.

    Raises InputError if the file has other columns than PUBLISHED_COLUMNS.
    """
    table = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    if list(table.columns) != PUBLISHED_COLUMNS:
        raise InputError(f"{PUBLISHED} must have the columns {', '.join(PUBLISHED_COLUMNS)}")
    return table


def mean_of_eleven(summary: pd.DataFrame, method: str) -> float:
    """Return a method's mean ARI over ELEVEN_SETS; NaN unless it has finished all of them."""
    finished = summary[is_finished(summary) & (summary["method"] == method)]
    ari = finished.set_index("dataset")["ARI_mean"].reindex(list(ELEVEN_SETS))
    return float(ari.mean(skipna=False))


def environment(all_records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Count the jobs by what they ran on and with.

    Items are the keys of `machine`, the suite's commit, the jobs at once, the threads of a job and
    the packages; a record in which an item is missing is not counted.

    Returns
    -------
    A table with the columns item, value and jobs, and a row for each value of each item: items in
    the order of the records, the most frequent value of each first.
    """
    rows = []
    for record in all_records:
        items = {
            **(record.get("machine") or {}),
            "suite commit": record.get("suite_commit"),
            "jobs at once": record.get("n_jobs"),
            "threads a job": record.get("threads"),
            **(record.get("versions") or {}),
        }
        rows += [(item, str(value)) for item, value in items.items() if value is not None]
    table = pd.DataFrame(rows, columns=["item", "value"])
    ranks = {item: i for i, item in enumerate(dict.fromkeys(table["item"]))}
    counts = table.value_counts().rename("jobs").reset_index()
    counts["order"] = counts["item"].map(ranks)
    counts = counts.sort_values(["order", "jobs", "value"], ascending=[True, False, True])
    return counts.drop(columns="order").reset_index(drop=True)


def different_data(jobs: pd.DataFrame) -> list[str]:
    """Return the data sets whose jobs read files of different content."""
    files = jobs.groupby("dataset")["data_sha256"].nunique()
    return list(files.index[files > 1])


def machine_seconds(jobs: pd.DataFrame) -> tuple[float, float]:
    """Return the total seconds of all jobs, and of the failed ones among them.

    They are seconds on the wall, or those that the run itself counted where nobody watched it.
    """
    seconds = jobs["wall_seconds"].fillna(jobs["seconds"]).fillna(0.0)
    return float(seconds.sum()), float(seconds[jobs["status"] == "failed"].sum())
