"""The benchmark's report: tables and figures of its records, as Markdown and as one HTML page.

The sections on each regime are in `sections.py`; this module adds those on published figures,
failures and the environment. Nothing is written before all of the report is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import results
import spreadsheet
from bench import document, plots, tables
from bench.document import Code, Element, Heading, Image, Paragraph, Table
from bench.methods import in_order
from bench.records import REGIMES
from bench.sections import regime_section, seeds_cell
from bench.wording import NO_VALUE, count, duration, listed, number, three_decimals
from utils import InputError


def write(out: Path, to: Path) -> str:
    """Write the report on the records of OUT/records.

    Parameters
    ----------
    out
        Folder of the benchmark.
    to
        Folder of the report, which gets report.md, report.html (in one file), jobs.csv (a row for
        each job), summary.csv (a row for each data set, method and regime) and figures/*.png.

    Returns
    -------
    The line that the command ends with.

    Raises
    ------
    InputError
        If there are no records, if one is damaged, or if `to` cannot be written.
    """
    records = tables.read_records(out)
    jobs = tables.jobs_table(records)
    summary = tables.summarise(jobs)
    elements = list(content(out, records, jobs, summary))
    files = {f"figures/{e.name}": e.png for e in elements if isinstance(e, Image)}
    files["jobs.csv"] = spreadsheet.as_csv(jobs, digits=10).encode()
    files["summary.csv"] = spreadsheet.as_csv(summary, digits=10).encode()
    files["report.md"] = document.to_markdown(elements).encode()
    files["report.html"] = document.to_html(elements).encode()
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


def _replace(to: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, each whole or not at all, and delete figures that only an older report had.

    Raises OSError if a file cannot be written.
    """
    for name, content in files.items():
        results.write_whole(to / name, content)
    for kind in ("ari", "time", "memory", "ablations"):
        for name in (f"figures/{kind}-{regime}.png" for regime in REGIMES):
            if name not in files:
                (to / name).unlink(missing_ok=True)


def content(
    out: Path, records: Sequence[dict[str, Any]], jobs: pd.DataFrame, summary: pd.DataFrame
) -> Iterator[Element]:
    """Give the elements of the report, from the title to the environment.

    Parameters
    ----------
    out
        Folder of the benchmark, as the report names it in commands.
    records, jobs, summary
        All records, and their tables of `tables.jobs_table` and `tables.summarise`.
    """
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


# --- Published figures, failures, environment -----------------------------------------------------


def published_section(summary: pd.DataFrame) -> Iterator[Element]:
    """Give the published figures on the data sets of the summary, in columns of their own."""
    published = tables.read_published()
    sets = set(summary["dataset"])
    if set(tables.ELEVEN_SETS) <= sets:
        sets.add(tables.ELEVEN)
    shown = published[published["dataset"].isin(sets)]
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
    yield _published_table(shown, summary, ours)


def _published_table(published: pd.DataFrame, summary: pd.DataFrame, ours: Sequence[str]) -> Table:
    """Return the published figures, a row for each, beside the ARI of our own methods."""
    rows = []
    for _, row in published.iterrows():
        regime = "true" if row["n_clusters"] == "true" else "estimated"
        part = summary[summary["regime"] == regime]
        own = [our_ari(part, row["dataset"], method) for method in ours]
        scores = [row[name] or NO_VALUE for name in ("ARI", "NMI", "ACC")]
        if row["status"] == "failed":
            scores[0] = "failed"
        rest = [row[name] or NO_VALUE for name in ("n_clusters", "honest", "source", "remark")]
        rows.append([row["dataset"], *own, row["method"], *scores, *rest])
    header = ["data set", *(f"ours: {method}, ARI" for method in ours), "published: method"]
    header += [f"published: {name}" for name in ("ARI", "NMI", "ACC")]
    header += ["number of clusters", "honest", "source", "remark"]
    words = [0, len(ours) + 1, *range(len(header) - 4, len(header))]
    return Table(header, rows, frozenset(words))


def our_ari(summary: pd.DataFrame, dataset: str, method: str) -> str:
    """Return the text of our ARI that stands beside a published figure.

    Parameters
    ----------
    summary
        Rows of `tables.summarise`, one regime.
    dataset
        Name of a data set, or of the published means.
    method
        One of our own methods.
    """
    if dataset == tables.ELEVEN:
        return number(tables.mean_of_eleven(summary, method), 3)
    row = summary[(summary["dataset"] == dataset) & (summary["method"] == method)]
    if row.empty:
        return NO_VALUE
    seeds = int(summary["jobs"].max())
    return seeds_cell(row.iloc[0], "ARI", three_decimals, seeds)


def failures_section(jobs: pd.DataFrame) -> Iterator[Element]:
    """Give every failed job with its message; seeds with the same message share a row."""
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
    out: Path, records: Sequence[dict[str, Any]], jobs: pd.DataFrame
) -> Iterator[Element]:
    """Give the commands, the time that the jobs took, and what they ran on and with."""
    yield Heading(2, "Environment")
    yield Paragraph("Commands that run these jobs, and make this report:")
    report_command = f"python benchmark.py report --out {_quoted(out)}"
    yield Code("\n".join([*commands(out, records), report_command]))
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
    yield Paragraph(_seeds_sentence(jobs))
    counts = tables.environment(records)
    several = [item for item, part in counts.groupby("item", sort=False) if len(part) > 1]
    if several:
        yield Paragraph(f"The jobs differ in: {', '.join(several)}.")
    else:
        yield Paragraph("Machine, versions and commit are the same in all jobs.")
    changed = tables.different_data(jobs)
    if changed:
        yield Paragraph(f"Jobs read files of different content of: {', '.join(changed)}.")
    rows = [[row["item"], row["value"], str(row["jobs"])] for _, row in counts.iterrows()]
    yield Table(["what", "value", "jobs"], rows, frozenset([0, 1]))


def _seeds_sentence(jobs: pd.DataFrame) -> str:
    """Return a sentence on whether each method has each seed on each data set where it ran."""
    seeds = jobs.groupby(["regime", "dataset", "method"], observed=True)["seed"].agg(frozenset)
    every = frozenset(jobs["seed"])
    short = seeds[seeds != every]
    if short.empty:
        return f"Every method has the seeds {listed(every)} on each data set where it ran."
    places = [f"{method} on {dataset} ({regime})" for regime, dataset, method in short.index]
    more = f" and {len(places) - 5} more" if len(places) > 5 else ""
    return f"Not all of the seeds {listed(every)} were run of: {'; '.join(places[:5])}{more}."


def commands(out: Path, records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the `benchmark.py run` commands that make these jobs and no others.

    Methods that ran on the same data sets, with the same seeds and regimes, share a command.
    """
    folders = sorted({str((r.get("settings") or {}).get("data_dir") or "") for r in records})
    folder = f" --data_dir {shlex.quote(folders[-1])}" if folders[-1] not in ("", "data") else ""
    by_plan: dict[tuple, list[str]] = {}
    for method in in_order(record["method"] for record in records):
        for plan in _plans([record for record in records if record["method"] == method]):
            by_plan.setdefault(plan, []).append(method)
    return [
        f"python benchmark.py run --out {_quoted(out)}{folder} --datasets {_quoted(*datasets)} "
        f"--methods {_quoted(*methods)} --seeds {_quoted(*seeds)} --regimes {_quoted(*regimes)}"
        for (datasets, regimes, seeds), methods in by_plan.items()
    ]


def _plans(records: Sequence[dict[str, Any]]) -> list[tuple]:
    """Return the tuples (data sets, regimes, seeds), all tuples, that make one method's jobs.

    Data sets on which the method ran in the same regimes with the same seeds share one.
    """
    ran: dict[str, tuple[set[str], set[int]]] = {}
    for record in records:
        regimes, seeds = ran.setdefault(record["dataset"], (set(), set()))
        regimes.add(record["regime"])
        seeds.add(record["seed"])
    alike: dict[tuple, list[str]] = {}
    for dataset, (regimes, seeds) in ran.items():
        ordered = tuple(regime for regime in REGIMES if regime in regimes)
        alike.setdefault((ordered, tuple(sorted(seeds))), []).append(dataset)
    return [(tuple(datasets), *key) for key, datasets in alike.items()]


def _quoted(*words: Any) -> str:
    """Return the words as a shell takes them."""
    return shlex.join(map(str, words))
