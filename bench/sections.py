"""The report's sections on one regime: scores, ranks, tests, ablations, time and memory.

They put into words and in order what `tables.py` computes and `plots.py` draws; the sections on
differences between methods are in `paired_sections.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from bench import plots, tables
from bench.document import Element, Heading, Image, Paragraph, Strong, Table
from bench.methods import in_order
from bench.paired_sections import ablation_section, phases_section, tests_section
from bench.wording import NO_VALUE, amount, capital, count, number, signed, three_decimals

NAMES = {
    "macro_F1": "macro F1",
    "k_error": "K̂ - K",
    "seconds": "seconds",
    "peak_memory_mb": "peak memory, MiB",
}
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


def regime_section(regime: str, jobs: pd.DataFrame, summary: pd.DataFrame) -> Iterator[Element]:
    """Give the elements of all sections on one regime.

    Parameters
    ----------
    regime
        The regime's name, a key of TITLES.
    jobs
        Its rows of `tables.jobs_table`.
    summary
        Its rows of `tables.summarise`.
    """
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
        yield from ablation_section(regime, TITLES[regime], jobs, varied)
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
    """Return a table of data sets x methods with mean ± standard deviation in each cell.

    The best of a row is bold, with all that have the same text, unless the whole row has it.

    Parameters
    ----------
    summary
        Rows of `tables.summarise`, one regime.
    methods
        The columns.
    measure
        The measure that is shown.
    show
        Function that gives the text of a number.
    best
        Which mean is the best, "max" or "min".
    of
        The measure that decides on the best, if it is another one than the measure shown.
    """
    rows, seeds = [], int(summary["jobs"].max())
    for dataset in tables.by_cells(summary):
        part = summary[summary["dataset"] == dataset].set_index("method")
        means = part.loc[tables.is_finished(part), f"{of or measure}_mean"].dropna()
        texts = {method: show(mean) for method, mean in means.items()}
        top = show(means.agg(best)) if len(set(texts.values())) > 1 else None
        row = [dataset, span(part["cells"]), span(part["n_classes"])]
        for method in methods:
            text = NO_VALUE
            if method in part.index:
                text = seeds_cell(part.loc[method], measure, show, seeds)
            row.append(Strong(text) if top and texts.get(method) == top else text)
        rows.append(row)
    return Table(["data set", "cells", "K", *methods], rows)


def seeds_cell(row: pd.Series, measure: str, show: Callable[[float], str], seeds: int) -> str:
    """Return the text of one method on one data set.

    Parameters
    ----------
    row
        A row of `tables.summarise`.
    measure
        The measure that is shown.
    show
        Function that gives the text of a number.
    seeds
        The number of seeds in the report.

    Returns
    -------
    Mean ± standard deviation, and the number of seeds that ended well if not all of them did.
    """
    if not row["ok"]:
        return f"failed (0/{row['jobs']})"
    mean, sd = row[f"{measure}_mean"], row[f"{measure}_sd"]
    if math.isnan(mean):
        return NO_VALUE
    text = show(mean) + ("" if math.isnan(sd) else f" ± {show(sd).lstrip('+')}")
    return text if row["ok"] == seeds else f"{text} ({row['ok']}/{max(row['jobs'], seeds)})"


def span(values: pd.Series) -> str:
    """Return one whole number, or the range of several; a dash if all are missing."""
    known = values.dropna()
    if known.empty:
        return NO_VALUE
    low, high = int(known.min()), int(known.max())
    return f"{low}" if low == high else f"{low} to {high}"


def overall_section(summary: pd.DataFrame, methods: Sequence[str]) -> Iterator[Element]:
    """Give the means and ranks over data sets, of the methods that ran on all of them, and of all.

    Parameters
    ----------
    summary
        Rows of `tables.summarise`, one regime.
    methods
        The methods to compare.
    """
    yield Heading(3, "Over the data sets")
    everywhere = tables.ran_everywhere(summary, methods)
    groups = [everywhere] if everywhere else []
    if len(everywhere) < len(methods):
        groups.append(list(methods))
    for group in groups:
        comparison = tables.overall(summary, group)
        yield Paragraph(_which_sets(comparison, group, methods))
        yield _overall_table(comparison)
    yield Paragraph(
        "Rank is the mean rank by ARI, 1 the best, ties sharing their mean rank; best, the number "
        "of data sets on which no method of the table has a higher ARI; sd of seeds, the mean over "
        "data sets of the standard deviation of ARI; |K̂ - K|, mean and median over data sets of "
        "the mean over seeds; own ARI, the mean over the data sets where "
        "the method has any score, of which there may be more, or easier ones, than the others "
        "have; failed, of all its jobs here."
    )


def _which_sets(comparison: tables.Overall, group: Sequence[str], methods: Sequence[str]) -> str:
    """Return the sentences on the data sets of a comparison of a group of the methods."""
    who = "all methods" if len(group) == len(methods) else "the methods that ran on every data set"
    n_sets = count(len(comparison.sets), "data set")
    text = f"Over {n_sets} where {who} ended well with each seed"
    if not comparison.left_out:
        return f"{text}, which are all."
    reasons = "; ".join(
        f"{reason} {', '.join(sets)}" for reason, sets in comparison.left_out.items()
    )
    return f"{text}. Left out: {reasons}."


def _overall_table(comparison: tables.Overall) -> Table:
    """Return the table of a comparison; the best means, rank and number of sets are bold."""
    table = comparison.table
    best = {name: number(table[name].max(), 3) for name in tables.SCORES}
    best["rank"] = number(table["rank"].min(), 2)
    best["best"] = str(table["best"].max())

    def cell(row: pd.Series, name: str, digits: int) -> str:
        text = number(row[name], digits)
        return Strong(text) if len(table) > 1 and text == best[name] != NO_VALUE else text

    rows = []
    for _, row in table.iterrows():
        rows.append(
            [
                row["method"],
                *(cell(row, name, 3) for name in tables.SCORES),
                cell(row, "rank", 2),
                cell(row, "best", 0) if comparison.sets else NO_VALUE,
                number(row["seeds_sd"], 3),
                number(row["abs_k_error"], 2),
                number(row["median_abs_k_error"], 2),
                f"{number(row['own_ARI'], 3)} ({row['own_sets']})",
                f"{row['failed']} of {row['jobs']}",
            ]
        )
    header = ["method", "ARI", "NMI", "ACC", "macro F1", "rank", "best", "sd of seeds"]
    header += ["mean |K̂ - K|", "median |K̂ - K|", "own ARI (data sets)", "failed"]
    return Table(header, rows)


def cost_section(regime: str, summary: pd.DataFrame, methods: Sequence[str]) -> Iterator[Element]:
    """Give time and memory of the methods, by data set and against the number of cells.

    Parameters
    ----------
    regime
        A key of TITLES.
    summary
        Rows of `tables.summarise`, of that regime.
    methods
        The methods to show.
    """
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
