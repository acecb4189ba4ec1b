"""The benchmark's report: one content, written as Markdown and as a page of its own, with tables.

`write` reads the records that `benchmark.py run` leaves, has `tables.py` do the arithmetic and
`plots.py` the figures, puts the content together as blocks and renders them twice. Nothing is
written before all of it is made.
"""

from __future__ import annotations

import base64
import html
import math
import os
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import plots
import tables
from utils import InputError

NO_VALUE = "-"
NAMES = {"macro_F1": "macro F1", "k_error": "K̂ - K", "seconds": "seconds"}
NAMES |= {"peak_memory_mb": "peak memory, MiB"}
TITLES = {
    "true": "True number of clusters",
    "estimated": "Estimated number of clusters",
    "default": "Default resolution",
}
EXPLAINED = {
    "true": "Every method is given the number of cell types among the labels.",
    "estimated": "The number of clusters is estimated without the labels.",
    "default": "Methods that find their own number of clusters, at resolution 1.",
}


# Content ------------------------------------------------------------------------------------------


class Strong(str):
    """A table's cell in bold."""


class Heading(NamedTuple):
    """A heading; level 1 is the report's title."""

    level: int
    text: str


class Paragraph(NamedTuple):
    """Plain text, escaped when rendered."""

    text: str


class Code(NamedTuple):
    """Lines to be shown as they are."""

    text: str


class Table(NamedTuple):
    """Text cells below a header; `words` are the columns that are aligned left, by number."""

    header: list[str]
    rows: list[list[str]]
    words: frozenset[int] = frozenset([0])


class Image(NamedTuple):
    """A figure: its file under figures/, its bytes, what it shows."""

    name: str
    png: bytes
    caption: str


Block = Heading | Paragraph | Code | Table | Image


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
    files["report.md"] = to_markdown(blocks).encode()
    files["report.html"] = to_html(blocks).encode()
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
    (to / "figures").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        partial = to / f"{name}.partial"
        try:
            partial.write_bytes(content)
            os.replace(partial, to / name)
        finally:
            partial.unlink(missing_ok=True)
    for kind in ("ari", "time", "memory", "ablations"):
        for name in (f"figures/{kind}-{regime}.png" for regime in tables.REGIMES):
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
    for regime in tables.REGIMES:
        part = summary[summary["regime"] == regime]
        if len(part):
            yield from regime_section(regime, jobs[jobs["regime"] == regime], part)
    yield from published_section(summary)
    yield from failures_section(jobs)
    yield from environment_section(out, records, jobs)


def in_order(methods) -> list[str]:
    """Methods as `baselines.py` lists them, then official and sctag, each before its variations."""
    import baselines

    known = [*baselines.METHODS, "official", "sctag"]
    rank = {name: i for i, name in enumerate(known)}
    return sorted(set(methods), key=lambda m: (rank.get(tables.base_of(m), -1), " " in m, m))


# One regime ---------------------------------------------------------------------------------------


def regime_section(regime: str, jobs: pd.DataFrame, summary: pd.DataFrame) -> Iterator[Block]:
    """Scores, ranks, tests, ablations and costs of one regime."""
    every = in_order(summary["method"])
    varied = tables.variations(every)
    methods = [m for m in every if m not in varied]
    own = summary[summary["method"].isin(methods)]
    yield Heading(2, TITLES[regime])
    yield Paragraph(EXPLAINED[regime])
    if varied:
        yield Paragraph(
            f"Ablations ({len(varied)}) are not in these tables but in their own, below."
        )
    yield from overall_section(own, methods)
    yield from tests_section(summary, methods)
    yield Heading(3, "Scores")
    sets = tables.by_cells(own)
    image = plots.ari(own, methods, sets, TITLES[regime])
    yield Image(f"ari-{regime}.png", image, "ARI by data set and method.")
    for measure in tables.SCORES:
        yield Heading(4, NAMES.get(measure, measure))
        yield matrix(own, methods, measure, three_decimals, best="max")
    yield Heading(4, NAMES["k_error"])
    if own["abs_k_error_mean"].dropna().eq(0).all():
        yield Paragraph("Zero for every job that ended well and whose data have labels.")
    else:
        yield matrix(own, methods, "k_error", signed, best="min", of="abs_k_error")
    yield from phases_section(jobs, every)
    if varied:
        yield from ablation_section(regime, summary, varied)
    yield from cost_section(regime, own, methods)


def matrix(
    summary: pd.DataFrame,
    methods: Sequence[str],
    measure: str,
    show: Callable[[float], str],
    *,
    best: str,
    of: str | None = None,
) -> Table:
    """Data sets x methods, mean ± sd in each cell.

    show: a number's text. In bold is a row's "max" or "min", whichever best says, of the means of
    the measure (or of another, `of`), with all that read the same, unless all of them do.
    """
    rows, seeds = [], int(summary["jobs"].max())
    for dataset in tables.by_cells(summary):
        here = summary[summary["dataset"] == dataset].set_index("method")
        means = here.loc[tables.is_finished(here), f"{of or measure}_mean"].dropna()
        texts = {method: show(mean) for method, mean in means.items()}
        top = show(means.agg(best)) if len(set(texts.values())) > 1 else None
        row = [dataset, span(here["cells"]), span(here["n_classes"])]
        for method in methods:
            text = NO_VALUE
            if method in here.index:
                text = seeds_cell(here.loc[method], measure, show, seeds)
            row.append(Strong(text) if top and texts.get(method) == top else text)
        rows.append(row)
    return Table(["data set", "cells", "K", *methods], rows)


def seeds_cell(row: pd.Series, measure: str, show: Callable[[float], str], seeds: int) -> str:
    """One method on one data set: mean ± sd, and how many seeds if not all ended well."""
    if not row["ok"]:
        return f"failed (0/{row['jobs']})"
    mean, sd = row[f"{measure}_mean"], row[f"{measure}_sd"]
    if math.isnan(mean):
        return NO_VALUE
    text = show(mean) + ("" if math.isnan(sd) else f" ± {show(sd).lstrip('+')}")
    return text if row["ok"] == seeds else f"{text} ({row['ok']}/{max(row['jobs'], seeds)})"


def overall_section(summary: pd.DataFrame, methods: Sequence[str]) -> Iterator[Block]:
    """Means and ranks over data sets: of the methods that ran on all of them, and of all."""
    yield Heading(3, "Over the data sets")
    everywhere = tables.ran_everywhere(summary, methods)
    groups = [everywhere] if everywhere else []
    if len(everywhere) < len(methods):
        groups.append(list(methods))
    for group in groups:
        found = tables.overall(summary, group)
        yield Paragraph(_which_sets(found, group, methods))
        yield _overall_table(found)
    yield Paragraph(
        "Rank is the mean rank by ARI, 1 the best, ties sharing their mean rank; best, the number "
        "of data sets on which no method of the table has a higher ARI; sd of seeds, the mean over "
        "data sets of the standard deviation of ARI; own ARI, the mean over the data sets where "
        "the method has any score, of which there may be more, or easier ones, than the others "
        "have; failed, of all its jobs here."
    )


def _which_sets(found: tables.Overall, group: Sequence[str], methods: Sequence[str]) -> str:
    who = "all methods" if len(group) == len(methods) else "the methods that ran on every data set"
    text = f"Over {count(len(found.sets), 'data set')} where {who} ended well with each seed"
    if not found.left_out:
        return f"{text}, which are all."
    reasons = "; ".join(f"{why} {', '.join(sets)}" for why, sets in found.left_out.items())
    return f"{text}. Left out: {reasons}."


def _overall_table(found: tables.Overall) -> Table:
    best = {name: number(found.table[name].max(), 3) for name in tables.SCORES}
    best |= {"rank": number(found.table["rank"].min(), 2), "best": str(found.table["best"].max())}

    def cell(row: pd.Series, name: str, digits: int) -> str:
        text = number(row[name], digits)
        return Strong(text) if len(found.table) > 1 and text == best[name] != NO_VALUE else text

    rows = []
    for _, row in found.table.iterrows():
        cells = [row["method"], *(cell(row, name, 3) for name in tables.SCORES)]
        has_sets = len(found.sets) > 0
        cells += [cell(row, "rank", 2), cell(row, "best", 0) if has_sets else NO_VALUE]
        cells += [number(row["seeds_sd"], 3), number(row["abs_k_error"], 2)]
        cells.append(f"{number(row['own_ARI'], 3)} ({row['own_sets']})")
        rows.append([*cells, f"{row['failed']} of {row['jobs']}"])
    header = ["method", "ARI", "NMI", "ACC", "macro F1", "rank", "best", "sd of seeds"]
    return Table([*header, "mean |K̂ - K|", "own ARI (data sets)", "failed"], rows)


TEST = (
    "Wilcoxon's signed-rank test of ARI, paired over data sets (the means over seeds), two-sided, "
    "where there are at least 6 pairs; a pair is a data set that both ended well with each seed. "
    "Zero differences have no rank and count as ties. The statistic is the smaller sum of ranks; "
    "p (Holm) is adjusted for the number of tests in the table."
)


def tests_section(summary: pd.DataFrame, methods: Sequence[str]) -> Iterator[Block]:
    """sctag against each other method."""
    others = [m for m in methods if m != plots.OURS]
    if plots.OURS not in methods or not others:
        return
    yield Heading(3, "Is sctag better?")
    yield Paragraph(TEST)
    found = tables.compare(summary, [(plots.OURS, other) for other in others])
    rows = []
    for _, row in found.iterrows():
        score = [number(row["one_ARI"], 3), number(row["other_ARI"], 3)]
        rows.append([row["other"], str(row["n"]), *score, *_test_cells(row)])
    header = ["sctag against", "data sets", "ARI of sctag", "of the other", *TEST_HEADER]
    yield Table(header, rows)


TEST_HEADER = ["difference", "better / worse / tied", "statistic", "p", "p (Holm)"]


def _test_cells(row: pd.Series) -> list[str]:
    return [
        spread(row["mean"], row["sd"]),
        f"{row['wins']} / {row['losses']} / {row['ties']}",
        number(row["statistic"], 1),
        p_value(row["p"]),
        p_value(row["p_holm"]),
    ]


def phases_section(jobs: pd.DataFrame, methods: Sequence[str]) -> Iterator[Block]:
    """Whether the clustering phase earns its place."""
    found = tables.phases(jobs)
    if found.empty:
        return
    yield Heading(3, "What the clustering phase adds")
    yield Paragraph(
        "ARI of the initial clusters, after pretraining, and of the final ones, of the same seeds; "
        "all seeds that ended well, ± the standard deviation over data sets. The difference is "
        "tested by Wilcoxon's signed-rank test over data sets, as above; p (Holm) is adjusted for "
        "the methods without flags, and for their ablations, each for themselves."
    )
    rows, tests = [], {}
    for method in (m for m in methods if m in set(found["method"])):
        part = found[found["method"] == method]
        tests[method] = tables.signed_rank(part["difference"])
        means = [number(part["initial"].mean(), 3), number(part["final"].mean(), 3)]
        rows.append([method, str(len(part)), *means])
    plain = [m for m in tests if m == tables.base_of(m)]
    adjusted = {}
    for family in (plain, [m for m in tests if m not in plain]):
        found_p = tables.holm([tests[m].p for m in family])
        adjusted |= dict(zip(family, found_p, strict=True))
    for row in rows:
        test = tests[row[0]]._asdict() | {"p_holm": adjusted[row[0]]}
        row += _test_cells(pd.Series(test, dtype=object))
    yield Table(["method", "data sets", "initial ARI", "final ARI", *TEST_HEADER], rows)
    if not plain:
        return
    wide = found.set_index(["dataset", "method"])
    rows = []
    for dataset in tables.by_cells(jobs):
        row = [dataset]
        for key in ((dataset, method) for method in plain):
            values = wide.loc[key] if key in wide.index else None
            row += [NO_VALUE] * 3 if values is None else _phase_cells(values)
        rows.append(row)
    header = [f"{method}: {what}" for method in plain for what in ("initial", "final", "diff.")]
    yield Table(["data set", *header], rows)


def _phase_cells(values: pd.Series) -> list[str]:
    scores = [number(values[name], 3) for name in ("initial", "final")]
    return [*scores, signed(values["difference"], 3)]


def ablation_section(regime: str, summary: pd.DataFrame, varied: list[str]) -> Iterator[Block]:
    """Each method with flags against its plain form."""
    yield Heading(3, "Ablations")
    yield Paragraph(
        "Each against the method without the flags, paired over the data sets that both ended well "
        "with each seed; ± is the standard deviation over data sets. Tests as above; times, the "
        "geometric mean of the seconds taken over the plain method's."
    )
    found = tables.compare(summary, [(method, tables.base_of(method)) for method in varied])
    found = found.sort_values("mean", ascending=False, kind="stable", na_position="last")
    counts = summary.groupby("method")[["jobs", "failed"]].sum()
    rows, differences = [], {}
    for _, row in found.iterrows():
        method = row["method"]
        if row["n"]:
            differences[method] = tables.ari_differences(summary, method)
        score = [number(row["other_ARI"], 3), number(row["one_ARI"], 3)]
        last = [number(row["seconds_ratio"], 2)]
        last.append(f"{counts.loc[method, 'failed']} of {counts.loc[method, 'jobs']}")
        rows.append([method, str(row["n"]), *score, *_test_cells(row), *last])
    if differences:
        image = plots.ablations(differences, f"Ablations. {TITLES[regime]}")
        yield Image(f"ablations-{regime}.png", image, "Difference in ARI from the plain method.")
    header = ["ablation", "data sets", "plain ARI", "its ARI", *TEST_HEADER, "times", "failed"]
    yield Table(header, rows)


def cost_section(regime: str, summary: pd.DataFrame, methods: list[str]) -> Iterator[Block]:
    """Time and memory, by data set and against cells."""
    yield Heading(3, "Time and memory")
    yield Paragraph(
        "From reading the file to the last result written, and the largest resident set of the "
        "job's process. See the environment for the jobs and threads that ran at once."
    )
    for measure, kind, label in (
        ("seconds", "time", "seconds"),
        ("peak_memory_mb", "memory", "peak memory, MiB"),
    ):
        yield Heading(4, capital(NAMES[measure]))
        if summary[f"{measure}_mean"].notna().any():
            image = plots.against_cells(
                summary, methods, f"{measure}_mean", label=label, title=TITLES[regime]
            )
            yield Image(f"{kind}-{regime}.png", image, f"{capital(label)} against cells.")
        yield matrix(summary, methods, measure, amount, best="min")


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
            known = tuple(regime for regime in tables.REGIMES if regime in regimes)
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


# Numbers as text ----------------------------------------------------------------------------------


def number(value: float, digits: int) -> str:
    """With so many decimals; a dash if there is none."""
    return NO_VALUE if pd.isna(value) else f"{value:.{digits}f}"


def three_decimals(value: float) -> str:
    """A score."""
    return f"{value:.3f}"


def signed(value: float, digits: int = 1) -> str:
    """With its sign, none for zero; a real minus."""
    if pd.isna(value):
        return NO_VALUE
    text = f"{value:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def spread(mean: float, sd: float) -> str:
    """A difference of scores and its standard deviation, left out where it is missing."""
    return signed(mean, 3) + ("" if pd.isna(sd) else f" ± {sd:.3f}")


def p_value(p: float) -> str:
    """Three decimals, and no p of 0."""
    return NO_VALUE if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def amount(value: float) -> str:
    """Seconds or MiB: one decimal below 100, whole above."""
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def span(values: pd.Series) -> str:
    """One whole number, or the range of several; a dash for none."""
    known = values.dropna()
    if known.empty:
        return NO_VALUE
    low, high = int(known.min()), int(known.max())
    return f"{low}" if low == high else f"{low} to {high}"


def listed(values) -> str:
    """Different whole numbers in order: "1, 2, 3"."""
    return ", ".join(str(value) for value in sorted(set(values)))


def capital(text: str) -> str:
    """With a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def count(n: int, noun: str) -> str:
    """ "1 job", "2 jobs"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def duration(seconds: float) -> str:
    """In the unit that suits: seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# Rendering ----------------------------------------------------------------------------------------


def to_markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub's Markdown; figures are files under figures/."""
    parts = []
    for block in blocks:
        match block:
            case Heading(level, text):
                parts.append(f"{'#' * level} {_md(text)}")
            case Paragraph(text):
                parts.append(_md_lines(text))
            case Code(text):
                parts.append("\n".join(f"    {line}" for line in text.splitlines()))
            case Image(name, _, caption):
                parts.append(f"![{_md(caption)}](figures/{name})")
            case Table(header, rows, words):
                rule = ["---" if i in words else "---:" for i in range(len(header))]
                lines = [map(_md, header), rule, *(map(_md_cell, row) for row in rows)]
                parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    """Text without meaning to Markdown or HTML; an underscore within a word has none."""
    text = re.sub(r"([\\`*|\[\]~$]|<(?=[\w/!?])|&(?=[#\w]))", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _md_lines(text: str) -> str:
    """A paragraph in lines of up to 100 characters, none of which starts a list or a heading."""
    lines = textwrap.wrap(_md(text), 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join(re.sub(r"^([-+#>=]|\d+(?=[.)]))", _escaped_start, line) for line in lines)


def _escaped_start(match: re.Match) -> str:
    start = match[0]
    return f"{start}\\" if start.isdigit() else f"\\{start}"


def _md_cell(text: str) -> str:
    return f"**{_md(text)}**" if isinstance(text, Strong) else _md(text)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
p, figcaption { max-width: 48rem; }
h2 { margin-top: 3rem; border-bottom: 2px solid #1a1a1a; }
h3 { margin-top: 2rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #666; vertical-align: bottom; }
td.word, th.word { text-align: left; }
td:first-child, th:first-child { position: sticky; left: 0; background: #fff; }
td.long { white-space: normal; min-width: 18rem; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: 0.8rem; white-space: pre-wrap; }
"""
LONG = 40  # characters from which a cell of words is wrapped


def to_html(blocks: Sequence[Block]) -> str:
    """The blocks as one page that needs nothing else: figures inlined, no script, no network."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    parts = [_html_block(i, block) for i, block in enumerate(blocks)]
    links = [
        f'<a href="#s{i}">{html.escape(block.text)}</a>'
        for i, block in enumerate(blocks)
        if isinstance(block, Heading) and block.level == 2
    ]
    parts.insert(1, f"<nav>{' · '.join(links)}</nav>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html_block(i: int, block: Block) -> str:
    match block:
        case Heading(level, text):
            return f'<h{level} id="s{i}">{html.escape(text)}</h{level}>'
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Image(_, png, caption):
            source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            text = html.escape(caption)
            image = f'<img src="{source}" alt="{text}">'
            return f"<figure>{image}<figcaption>{text}</figcaption></figure>"
        case Table(header, rows, words):
            top = "".join(_html_cell("th", i, text, words) for i, text in enumerate(header))
            lines = [
                "".join(_html_cell("td", i, text, words) for i, text in enumerate(row))
                for row in rows
            ]
            body = "\n".join(f"<tr>{line}</tr>" for line in lines)
            head = f"<thead><tr>{top}</tr></thead>"
            return f'<div class="wide"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _html_cell(tag: str, column: int, text: str, words: frozenset[int]) -> str:
    inner = html.escape(text)
    inner = f"<strong>{inner}</strong>" if isinstance(text, Strong) else inner
    kinds = ["word"] * (column in words) + ["long"] * (tag == "td" and len(text) > LONG)
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<{tag}{kind}>{inner}</{tag}>"
