"""The benchmark's report: tables and figures of its records, as Markdown and as a page of its own.

`write` reads the records that `benchmark.py run` leaves and puts the content together, which
`document.py` writes twice. What is said of a regime stands in `sections.py`, and here what
stands beside: published figures, failures, environment. Nothing is written before all of it is
made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import results
from bench import document, plots, tables
from bench.document import Block, Code, Heading, Image, Paragraph, Table
from bench.methods import in_order
from bench.records import REGIMES
from bench.sections import regime_section, seeds_cell
from bench.wording import NO_VALUE, count, duration, listed, number, three_decimals
from utils import InputError


def write(out: Path, to: Path) -> str:
    """Write the report on OUT/records into the folder `to`; returns the line the command ends with.

    report.md, report.html (self-contained), jobs.csv (a row a job), summary.csv (a row for each
    data set, method and regime), figures/*.png. Raises InputError if there are no records, if one
    is damaged, or if `to` cannot be written.
    """
    records = tables.read_records(out)
    jobs = tables.jobs_table(records)
    summary = tables.summarise(jobs)
    blocks = list(content(out, records, jobs, summary))
    files = {f"figures/{b.name}": b.png for b in blocks if isinstance(b, Image)}
    files["jobs.csv"] = jobs.to_csv(index=False, float_format="%.10g").encode()
    files["summary.csv"] = summary.to_csv(index=False, float_format="%.10g").encode()
    files["report.md"] = document.to_markdown(blocks).encode()
    files["report.html"] = document.to_html(blocks).encode()
    try:
        _replace(to, files)
    except OSError as error:
        raise InputError(
            f"cannot write the report to {to} ({error.strerror}): choose another folder with --to"
        ) from None
    failed = int((jobs["status"] == "failed").sum())
    return (
        f"{to / 'report.md'} and report.html: {count(len(jobs), 'job')}, {failed} failed; "
        f"{count(jobs['dataset'].nunique(), 'data set')}, "
        f"{count(jobs['method'].nunique(), 'method')}"
    )


def _replace(to: Path, files: dict[str, bytes]) -> None:
    """Each file whole or not at all; figures of an earlier report that this one lacks go."""
    for name, content in files.items():
        results.write_whole(to / name, content)
    for kind in ("ari", "time", "memory", "ablations"):
        for name in (f"figures/{kind}-{regime}.png" for regime in REGIMES):
            if name not in files:
                (to / name).unlink(missing_ok=True)


def content(
    out: Path, records: list[dict[str, Any]], jobs: pd.DataFrame, summary: pd.DataFrame
) -> Iterator[Block]:
    """The blocks of the report, from title to environment."""
    failed = int((jobs["status"] == "failed").sum())
    yield Heading(1, "Benchmark")
    yield Paragraph(
        f"{count(jobs['dataset'].nunique(), 'data set')}, "
        f"{count(jobs['method'].nunique(), 'method')}, seeds {listed(jobs['seed'])}: "
        f"{count(len(jobs), 'job')}, {failed or 'none'} failed. "
        "Scores are mean ± standard deviation (n - 1) over the seeds that ended well; "
        "(3/5) says that 3 of 5 seeds did, and no ± that there was one. The best of a row is bold; "
        "a method with a failed seed cannot be the best. NMI is normalised by the arithmetic mean; "
        "ACC and macro F1 follow the best one-to-one match of clusters and cell types; "
        "K̂ - K is the number of clusters found minus the number of cell types."
    )
    for regime in REGIMES:
        part = summary[summary["regime"] == regime]
        if len(part):
            yield from regime_section(regime, jobs[jobs["regime"] == regime], part)
    yield from published_section(summary)
    yield from failures_section(jobs)
    yield from environment_section(out, records, jobs)


# What stands beside -------------------------------------------------------------------------------


def published_section(summary: pd.DataFrame) -> Iterator[Block]:
    """Published figures on the same data sets, in columns of their own."""
    published = tables.read_published()
    here = set(summary["dataset"])
    if set(tables.ELEVEN_SETS) <= here:
        here.add(tables.ELEVEN)
    shown = published[published["dataset"].isin(here)]
    yield Heading(2, "Published figures")
    if shown.empty:
        yield Paragraph("None is known for these data sets.")
        return
    yield Paragraph(
        "Collected from papers and public code, not measured here, and never part of a mean, rank "
        "or test above. They are of their authors' files, filters and seeds; files of the same "
        "name may differ in cells and genes. Honest: no label touched training or the choice of "
        "the epoch; figures that are not honest are not comparable. Ours: mean ± standard "
        "deviation over seeds, in the regime of the same kind (true, or estimated where the "
        "number of clusters was not given)."
    )
    ours = [m for m in ("official", plots.OURS) if m in set(summary["method"])]
    rows = []
    for _, row in shown.iterrows():
        regime = "true" if row["n_clusters"] == "true" else "estimated"
        part = summary[summary["regime"] == regime]
        own = [our_ari(part, row["dataset"], method) for method in ours]
        scores = [row[name] or NO_VALUE for name in ("ARI", "NMI", "ACC")]
        scores[0] = "failed" if row["status"] == "failed" else scores[0]
        rest = [row[name] or NO_VALUE for name in ("n_clusters", "honest", "source", "remark")]
        rows.append([row["dataset"], *own, row["method"], *scores, *rest])
    header = ["data set", *(f"ours: {m}, ARI" for m in ours), "published: method"]
    header += [f"published: {name}" for name in ("ARI", "NMI", "ACC")]
    header += ["number of clusters", "honest", "source", "remark"]
    words = [0, len(ours) + 1, *range(len(header) - 4, len(header))]
    yield Table(header, rows, frozenset(words))


def our_ari(summary: pd.DataFrame, dataset: str, method: str) -> str:
    """Our score to stand beside a published one."""
    if dataset == tables.ELEVEN:
        return number(tables.mean_of_eleven(summary, method), 3)
    row = summary[(summary["dataset"] == dataset) & (summary["method"] == method)]
    if row.empty:
        return NO_VALUE
    seeds = int(summary["jobs"].max())
    return seeds_cell(row.iloc[0], "ARI", three_decimals, seeds)


def failures_section(jobs: pd.DataFrame) -> Iterator[Block]:
    """Every failed job with its message; seeds that failed alike share a row."""
    failed = jobs[jobs["status"] == "failed"]
    yield Heading(2, "Failures")
    if failed.empty:
        yield Paragraph(f"None of the {count(len(jobs), 'job')} failed.")
        return
    yield Paragraph(f"{len(failed)} of {count(len(jobs), 'job')} failed.")
    failed = failed.assign(message=failed["message"].fillna("no message"))
    groups = failed.groupby(["regime", "dataset", "method", "message"], observed=True)["seed"]
    rows = [
        [dataset, method, str(regime), listed(seeds), message]
        for (regime, dataset, method, message), seeds in groups
    ]
    yield Table(["data set", "method", "regime", "seeds", "message"], rows, frozenset(range(5)))


def environment_section(
    out: Path, records: list[dict[str, Any]], jobs: pd.DataFrame
) -> Iterator[Block]:
    """The command, the time it took, and what it ran on and with."""
    yield Heading(2, "Environment")
    yield Paragraph("Commands that run these jobs, and make this report:")
    yield Code("\n".join([*commands(out, records), f"python benchmark.py report --out {_q(out)}"]))
    total, lost = tables.machine_seconds(jobs)
    yield Paragraph(
        f"The jobs took {duration(total)} in total, one after another counted; "
        f"{duration(lost)} of it in jobs that failed."
    )
    untimed = int((~jobs["timed"]).sum())
    if untimed:
        yield Paragraph(
            f"{count(untimed, 'job')} ran on another machine than most: their seconds stand in "
            "jobs.csv and in no table or figure."
        )
    yield Paragraph(_uneven(jobs))
    found = tables.environment(records)
    several = [item for item, part in found.groupby("item", sort=False) if len(part) > 1]
    if several:
        yield Paragraph(f"The jobs differ in: {', '.join(several)}.")
    else:
        yield Paragraph("Machine, versions and commit are the same in all jobs.")
    changed = tables.different_data(jobs)
    if changed:
        yield Paragraph(f"Jobs read files of different content of: {', '.join(changed)}.")
    rows = [[row["item"], row["value"], str(row["jobs"])] for _, row in found.iterrows()]
    yield Table(["what", "value", "jobs"], rows, frozenset([0, 1]))


def _uneven(jobs: pd.DataFrame) -> str:
    """Whether each method has each seed on each data set on which it ran."""
    seeds = jobs.groupby(["regime", "dataset", "method"], observed=True)["seed"].agg(frozenset)
    every = frozenset(jobs["seed"])
    short = seeds[seeds != every]
    if short.empty:
        return f"Every method has the seeds {listed(every)} on each data set where it ran."
    where = [f"{method} on {dataset} ({regime})" for regime, dataset, method in short.index]
    more = f" and {len(where) - 5} more" if len(where) > 5 else ""
    return f"Not all of the seeds {listed(every)} were run of: {'; '.join(where[:5])}{more}."


def commands(out: Path, records: list[dict[str, Any]]) -> list[str]:
    """`benchmark.py run` commands that make these jobs.

    Methods that ran on the same data sets, with the same seeds and regimes, share one.
    """
    folders = sorted({str((r.get("settings") or {}).get("data_dir") or "") for r in records})
    where = f" --data_dir {shlex.quote(folders[-1])}" if folders[-1] not in ("", "data") else ""
    plans: dict[tuple, list[str]] = {}
    for method in in_order(record["method"] for record in records):
        ran: dict[str, tuple[set, set]] = {}
        for record in (r for r in records if r["method"] == method):
            regimes, seeds = ran.setdefault(record["dataset"], (set(), set()))
            regimes.add(record["regime"])
            seeds.add(record["seed"])
        alike: dict[tuple, list[str]] = {}
        for dataset, (regimes, seeds) in ran.items():
            known = tuple(regime for regime in REGIMES if regime in regimes)
            alike.setdefault((known, tuple(sorted(seeds))), []).append(dataset)
        for (regimes, seeds), datasets in alike.items():
            plans.setdefault((tuple(datasets), regimes, seeds), []).append(method)
    return [
        f"python benchmark.py run --out {_q(out)}{where} --datasets {_q(*datasets)} "
        f"--methods {_q(*methods)} --seeds {_q(*seeds)} --regimes {_q(*regimes)}"
        for (datasets, regimes, seeds), methods in plans.items()
    ]


def _q(*words: Any) -> str:
    return shlex.join(map(str, words))
