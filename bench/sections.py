"""What the report says of one regime: scores, ranks, tests, ablations, time and memory.

`tables.py` has the arithmetic and `plots.py` draws; here it is put in words and in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from bench import plots, tables
from bench.document import Block, Heading, Image, Paragraph, Strong, Table
from bench.methods import described, in_order
from bench.wording import (
    NO_VALUE,
    amount,
    capital,
    count,
    number,
    p_value,
    signed,
    spread,
    three_decimals,
)

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
    "default": "Methods that find their own number of clusters, at resolution 1 unless a flag "
    "says otherwise.",
}


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
    yield from tests_section(jobs, methods)
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
        yield from ablation_section(regime, jobs, varied)
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


def span(values: pd.Series) -> str:
    """One whole number, or the range of several; a dash for none."""
    known = values.dropna()
    if known.empty:
        return NO_VALUE
    low, high = int(known.min()), int(known.max())
    return f"{low}" if low == high else f"{low} to {high}"


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
        "data sets of the standard deviation of ARI; |K̂ - K|, mean and median over data sets of "
        "the mean over seeds; own ARI, the mean over the data sets where "
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
        cells.append(number(row["median_abs_k_error"], 2))
        cells.append(f"{number(row['own_ARI'], 3)} ({row['own_sets']})")
        rows.append([*cells, f"{row['failed']} of {row['jobs']}"])
    header = ["method", "ARI", "NMI", "ACC", "macro F1", "rank", "best", "sd of seeds"]
    header += ["mean |K̂ - K|", "median |K̂ - K|", "own ARI (data sets)", "failed"]
    return Table(header, rows)


TEST = (
    "Wilcoxon's signed-rank test of ARI, paired over data sets (the means over seeds), two-sided, "
    "where there are at least 6 pairs; a pair is a data set that both ended well with each seed. "
    "Zero differences have no rank and count as ties. The statistic is the smaller sum of ranks; "
    "p (Holm) is adjusted for the number of tests in the table."
)


def tests_section(jobs: pd.DataFrame, methods: Sequence[str]) -> Iterator[Block]:
    """sctag against each other method."""
    others = [m for m in methods if m != plots.OURS]
    if plots.OURS not in methods or not others:
        return
    yield Heading(3, "Is sctag better?")
    yield Paragraph(TEST)
    found = tables.compare(jobs, [(plots.OURS, other) for other in others], same_seeds=False)
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


def ablation_section(regime: str, jobs: pd.DataFrame, varied: list[str]) -> Iterator[Block]:
    """Each method with flags against its plain form."""
    yield Heading(3, "Ablations")
    yield Paragraph(
        "Each against the method without the flags, on the seeds that both have, paired over the "
        "data sets that both ended well with each of these; ± is the standard deviation over data "
        "sets. Tests as above; times, the geometric mean of the seconds taken over the plain "
        "method's."
    )
    pairs = [(method, tables.base_of(method)) for method in varied]
    found = tables.compare(jobs, pairs, same_seeds=True)
    found = found.sort_values("mean", ascending=False, kind="stable", na_position="last")
    failed = (jobs["status"] == "failed").groupby(jobs["method"]).agg(["sum", "size"])
    rows, differences = [], {}
    for _, row in found.iterrows():
        method = row["method"]
        if row["n"]:
            differences[method] = row["differences"]
        score = [number(row["other_ARI"], 3), number(row["one_ARI"], 3)]
        last = [number(row["seconds_ratio"], 2)]
        last.append(f"{failed.loc[method, 'sum']} of {failed.loc[method, 'size']}")
        what = described(method) or NO_VALUE
        rows.append([method, what, str(row["n"]), *score, *_test_cells(row), *last])
    if differences:
        image = plots.ablations(differences, f"Ablations. {TITLES[regime]}")
        yield Image(f"ablations-{regime}.png", image, "Difference in ARI from the plain method.")
    header = ["ablation", "what it is", "data sets", "plain ARI", "its ARI", *TEST_HEADER]
    yield Table([*header, "times", "failed"], rows, frozenset([0, 1]))


def cost_section(regime: str, summary: pd.DataFrame, methods: list[str]) -> Iterator[Block]:
    """Time and memory, by data set and against cells."""
    yield Heading(3, "Time and memory")
    yield Paragraph(
        "From reading the file to the last result written, and the largest resident set of the "
        "job's process. Seconds are of the machine that ran most of all jobs, and of no other; see "
        "the environment for the jobs and threads that ran at once."
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
