"""The benchmark's arithmetic: from one record a job to every table of the report.

A job is a data set, a method, a regime (where the number of clusters comes from) and a seed. Means
are taken over seeds first, then over data sets, so that every data set counts the same. A method
has *finished* a data set if it ran there and no seed failed; only finished ones are compared.
Measures: ARI, NMI, ACC, macro_F1 (at most 1), k_error (clusters found minus classes), seconds,
peak_memory_mb (MiB). Nothing here draws or formats.
"""

from __future__ import annotations

import json
import math
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
PLAIN = ("status", "message", "exit_status", "cells", "genes", "n_classes", "n_clusters")
PLAIN += ("empty_clusters", "seconds", "wall_seconds", "peak_memory_mb")
LAST = ("suite_commit", "data_sha256", "n_jobs", "threads")
EQUAL = 6  # decimals in which two means of a score must agree to be a tie
FEWEST_PAIRS = 6  # with five, no outcome of the signed-rank test has a two-sided p below .05

PUBLISHED = Path(__file__).parents[1] / "data" / "published_scores.csv"
PUBLISHED_COLUMNS = [
    *("dataset", "method", "ARI", "NMI", "ACC", "n_clusters", "honest", "status", "source"),
    "remark",
]
# The data sets behind the published means, and the name of those rows.
ELEVEN = "mean of eleven"
ELEVEN_SETS = (
    *("Quake_Smart-seq2_Trachea", "Quake_10x_Bladder", "Quake_10x_Spleen"),
    *("Quake_Smart-seq2_Diaphragm", "Quake_10x_Limb_Muscle", "Quake_Smart-seq2_Limb_Muscle"),
    *("Romanov", "Adam", "Muraro", "Young", "Quake_Smart-seq2_Lung"),
)


# Records ------------------------------------------------------------------------------------------


def read_records(out: Path) -> list[dict[str, Any]]:
    """Every OUT/records/*/*.json. Raises InputError if there is none or one is damaged."""
    paths = sorted(out.glob("records/*/*.json"))
    if not paths:
        raise InputError(
            f"{out} holds no records of a benchmark ({out / 'records'}/*/*.json): "
            "make them with `python benchmark.py run --out FOLDER`, or name the right folder"
        )
    found, seen = [], {}
    for path in paths:
        record = records.read(path)
        job = tuple(record[name] for name in JOB)
        if job in seen:
            raise InputError(f"{path} and {seen[job]} are records of the same job: remove one")
        seen[job] = path
        found.append(record)
    return found


def jobs_table(found: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a record: what identifies its job, the outcome, every measure.

    Scores and k_error are NaN where the job failed or the data have no labels. timed: whether it
    ran on the machine that ran most of these jobs, so that its seconds can be compared.
    """
    rows = []
    for record in found:
        is_ok = record["status"] == "ok"
        row = {name: record[name] for name in JOB} | {name: record.get(name) for name in PLAIN}
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
    """One row for each data set, method and regime: seeds, failures, mean and sd of each measure.

    Means and standard deviations (n - 1; NaN for one seed) are over the seeds that ended well;
    those of the seconds over the timed ones among them, see `jobs_table`. Columns MEASURE_mean and
    MEASURE_sd; jobs, ok, failed count seeds.
    """
    groups = ["regime", "dataset", "method"]
    jobs = jobs.assign(abs_k_error=jobs["k_error"].abs(), is_ok=jobs["status"] == "ok")
    jobs = jobs.assign(seconds=jobs["seconds"].where(jobs["timed"]))
    grouped = jobs.groupby(groups, observed=True, sort=True)
    counts = grouped["is_ok"].agg(jobs="size", ok="sum")
    sizes = grouped[["cells", "genes", "n_classes"]].max()
    values = jobs[jobs["is_ok"]].groupby(groups, observed=True)[list(MEASURES)].agg(["mean", "std"])
    values.columns = [f"{name}_{'sd' if how == 'std' else how}" for name, how in values.columns]
    table = counts.join(sizes).join(values).reset_index()
    table.insert(table.columns.get_loc("ok") + 1, "failed", table["jobs"] - table["ok"])
    return table


def is_finished(summary: pd.DataFrame) -> pd.Series:
    """Whether the method has finished the data set, a row of the summary each."""
    return (summary["ok"] > 0) & (summary["failed"] == 0)


def pivot(summary: pd.DataFrame, column: str, *, finished: bool) -> pd.DataFrame:
    """A column of one regime's summary as data sets x methods, NaN where there is no value.

    finished: leave out what was not finished.
    """
    wide = summary.assign(value=summary[column].where(is_finished(summary) | (not finished)))
    return wide.pivot(index="dataset", columns="method", values="value").astype(float)


def by_cells(summary: pd.DataFrame) -> list[str]:
    """The data sets in the order of their numbers of cells, of unknown size last."""
    cells = summary.groupby("dataset")["cells"].max().astype("Float64")
    return list(cells.reset_index().sort_values(["cells", "dataset"])["dataset"])


# Methods over data sets ---------------------------------------------------------------------------


def base_of(method: str) -> str:
    """The method without its flags: "sctag" of "sctag hops=3 kl=qp"."""
    return method.split(maxsplit=1)[0]


def variations(methods: Sequence[str]) -> list[str]:
    """The methods with flags whose plain form is among the methods too: the ablations."""
    return [m for m in methods if m != base_of(m) and base_of(m) in methods]


class Overall(NamedTuple):
    """Methods over the data sets that all of them have finished, and why others are left out."""

    table: pd.DataFrame  # one row a method; see `overall`
    sets: list[str]
    left_out: dict[str, list[str]]  # why: the data sets


def overall(summary: pd.DataFrame, methods: Sequence[str]) -> Overall:
    """Compare methods over data sets, in one regime's summary.

    Columns, over the common sets: the mean of each measure's means, of abs_k_error also the median
    (median_abs_k_error); rank, the mean rank by ARI (1 is best, ties share their mean rank); best,
    the sets where no method's ARI is higher; seeds_sd, the mean over sets of the seeds' standard
    deviation of ARI. Over what each method has: own_ARI, of the own_sets sets with at least one
    seed that ended well; jobs and failed.
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
    """Data sets by the reason why a method has no ARI there, several where several have none."""
    failed = rows.set_index(["dataset", "method"])["failed"]
    reasons: dict[str, list[str]] = {}
    for dataset, values in ari.iterrows():
        for method in values.index[values.isna()]:
            seeds = failed.get((dataset, method))
            why = "was not run on" if seeds is None else "failed on" if seeds else "has no score on"
            reasons.setdefault(f"{method} {why}", []).append(dataset)
    return reasons


def ran_everywhere(summary: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """The methods that have jobs, failed ones too, on every data set that any of them has."""
    rows = summary[summary["method"].isin(methods)]
    sets = rows.groupby("method")["dataset"].nunique()
    return [m for m in methods if sets.get(m, 0) == rows["dataset"].nunique()]


# Paired comparisons -------------------------------------------------------------------------------


class SignedRank(NamedTuple):
    """Wilcoxon's signed-rank test of paired differences; no test where pairs are too few."""

    n: int  # pairs
    mean: float  # of the differences, NaN without any
    sd: float  # of the differences (n - 1), NaN for one
    wins: int
    losses: int
    ties: int
    statistic: float  # the smaller sum of ranks; NaN where there is no test
    p: float  # two-sided; NaN where there is no test


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Test whether paired differences lie around zero (Wilcoxon 1945; scipy's `wilcoxon`).

    NaN differences are no pairs. Zero ones, to six decimals, count as pairs and ties but have no
    rank; if all are zero, p is 1. p is exact for up to 50 ranked differences without equal sizes,
    up to 13 with, else normal.
    """
    from scipy.stats import wilcoxon

    pairs = np.asarray(differences, dtype=float)
    pairs = pairs[~np.isnan(pairs)].round(EQUAL)
    ranked = pairs[pairs != 0]
    statistic = p = math.nan
    if len(pairs) >= FEWEST_PAIRS:
        statistic, p = wilcoxon(ranked) if len(ranked) else (0.0, 1.0)
    return SignedRank(
        n=len(pairs),
        mean=float(pairs.mean()) if len(pairs) else math.nan,
        sd=float(pairs.std(ddof=1)) if len(pairs) > 1 else math.nan,
        wins=int((pairs > 0).sum()),
        losses=int((pairs < 0).sum()),
        ties=len(pairs) - len(ranked),
        statistic=float(statistic),
        p=float(p),
    )


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down method (1979); NaN stays, uncounted.

    The i-th smallest of m, from 0, becomes the largest of (m - j) p_(j), j <= i, at most 1.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def paired(jobs: pd.DataFrame, one: str, other: str, *, same_seeds: bool) -> pd.DataFrame:
    """Means over seeds of two methods on each data set that both have finished, in one regime.

    same_seeds: of the seeds that both ran there, so that neither has more than the other; what
    other seeds did, failures too, does not count then. Columns ARI_one, ARI_other, seconds_one,
    seconds_other (NaN where none was timed); a row a data set, by name.
    """
    both = jobs[jobs["method"].isin([one, other])]
    if same_seeds:
        both = both[both.groupby(["dataset", "seed"])["method"].transform("nunique") == 2]
    columns = {}
    for measure in ("ARI", "seconds"):
        wide = pivot(summarise(both), f"{measure}_mean", finished=True)
        wide = wide.reindex(columns=[one, other])
        columns |= {f"{measure}_one": wide[one], f"{measure}_other": wide[other]}
    return pd.DataFrame(columns).dropna(subset=["ARI_one", "ARI_other"])


def compare(
    jobs: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, same_seeds: bool
) -> pd.DataFrame:
    """Signed-rank tests of the ARI of one method minus another's, per-set means, in one regime.

    pairs: (one, other) methods; same_seeds: as `paired`. Columns: method (one), other, one_ARI and
    other_ARI (means over the paired sets), those of `SignedRank`, p_holm (over all the pairs
    given), seconds_ratio (geometric mean over the sets of one's over other's), differences (a
    series, by data set).
    """
    rows = []
    for one, other in pairs:
        both = paired(jobs, one, other, same_seeds=same_seeds)
        differences = both["ARI_one"] - both["ARI_other"]
        ratio = np.exp(np.log(both["seconds_one"] / both["seconds_other"]).mean())
        row = {"method": one, "other": other, "one_ARI": both["ARI_one"].mean()}
        row |= {"other_ARI": both["ARI_other"].mean()} | signed_rank(differences)._asdict()
        rows.append(row | {"seconds_ratio": float(ratio), "differences": differences})
    table = pd.DataFrame(rows)
    if rows:
        table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    return table


def phases(jobs: pd.DataFrame) -> pd.DataFrame:
    """What the clustering phase changes: ARI of the initial and of the final clusters.

    jobs: of one regime; those without initial scores are passed over. One row for each method and
    data set, means over seeds: initial, final, difference (final minus initial, of each seed).
    """
    scored = jobs.dropna(subset=["initial_ARI", "ARI"])
    scored = scored.assign(difference=scored["ARI"] - scored["initial_ARI"])
    columns = {"initial_ARI": "initial", "ARI": "final", "difference": "difference"}
    means = scored.groupby(["method", "dataset"])[list(columns)].mean()
    return means.rename(columns=columns).reset_index()


# What stands beside -------------------------------------------------------------------------------


def read_published() -> pd.DataFrame:
    """The published figures, as the text that stands in the file: nothing is computed with them."""
    table = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    if list(table.columns) != PUBLISHED_COLUMNS:
        raise InputError(f"{PUBLISHED} must have the columns {', '.join(PUBLISHED_COLUMNS)}")
    return table


def mean_of_eleven(summary: pd.DataFrame, method: str) -> float:
    """Mean ARI over the data sets of the published means; NaN unless all are finished."""
    finished = summary[is_finished(summary) & (summary["method"] == method)]
    ari = finished.set_index("dataset")["ARI_mean"].reindex(list(ELEVEN_SETS))
    return float(ari.mean(skipna=False))


def environment(found: list[dict[str, Any]]) -> pd.DataFrame:
    """What the jobs ran on and with: one row for each item and value, with the number of jobs.

    Items are machine keys, `suite commit`, `jobs at once`, `threads` and package versions; a record
    that does not tell one is not counted. Columns: item, value, jobs.
    """
    rows = []
    for record in found:
        told = dict(record.get("machine") or {})
        told |= {"suite commit": record.get("suite_commit"), "jobs at once": record.get("n_jobs")}
        told |= {"threads a job": record.get("threads")} | (record.get("versions") or {})
        rows += [(item, str(value)) for item, value in told.items() if value is not None]
    table = pd.DataFrame(rows, columns=["item", "value"])
    items = {item: i for i, item in enumerate(dict.fromkeys(table["item"]))}
    counts = table.value_counts().rename("jobs").reset_index()
    counts["order"] = counts["item"].map(items)
    counts = counts.sort_values(["order", "jobs", "value"], ascending=[True, False, True])
    return counts.drop(columns="order").reset_index(drop=True)


def different_data(jobs: pd.DataFrame) -> list[str]:
    """The data sets whose jobs read files of different content."""
    files = jobs.groupby("dataset")["data_sha256"].nunique()
    return list(files.index[files > 1])


def machine_seconds(jobs: pd.DataFrame) -> tuple[float, float]:
    """Wall seconds of all jobs, and of the failed ones among them; the run's own where none."""
    seconds = jobs["wall_seconds"].fillna(jobs["seconds"]).fillna(0.0)
    return float(seconds.sum()), float(seconds[jobs["status"] == "failed"].sum())
