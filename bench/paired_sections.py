"""The report's sections on differences between methods: tests, clustering phase, ablations.

They put into words what `paired.py` computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from bench import paired, plots, tables
from bench.document import Element, Heading, Image, Paragraph, Table
from bench.methods import described
from bench.wording import NO_VALUE, number, p_value, signed, spread

TEST = (
    "Wilcoxon's signed-rank test of ARI, paired over data sets (the means over seeds), two-sided, "
    "where there are at least 6 pairs; a pair is a data set that both ended well with each seed. "
    "Zero differences have no rank and count as ties. The statistic is the smaller sum of ranks; "
    "p (Holm) is adjusted for the number of tests in the table."
)


TEST_HEADER = ["difference", "better / worse / tied", "statistic", "p", "p (Holm)"]


def tests_section(jobs: pd.DataFrame, methods: Sequence[str]) -> Iterator[Element]:
    """Give the tests of sctag against each other method; `jobs` are those of one regime."""
    others = [m for m in methods if m != plots.OURS]
    if plots.OURS not in methods or not others:
        return
    yield Heading(3, "Is sctag better?")
    yield Paragraph(TEST)
    tests = paired.compare(jobs, [(plots.OURS, other) for other in others], same_seeds=False)
    rows = []
    for _, row in tests.iterrows():
        means = [number(row["one_ARI"], 3), number(row["other_ARI"], 3)]
        rows.append([row["other"], str(row["n"]), *means, *_test_cells(row)])
    header = ["sctag against", "data sets", "ARI of sctag", "of the other", *TEST_HEADER]
    yield Table(header, rows)


def _test_cells(row: pd.Series) -> list[str]:
    """Return the cells below TEST_HEADER of a row of `paired.compare`."""
    return [
        spread(row["mean"], row["sd"]),
        f"{row['wins']} / {row['losses']} / {row['ties']}",
        number(row["statistic"], 1),
        p_value(row["p"]),
        p_value(row["p_holm"]),
    ]


def phases_section(jobs: pd.DataFrame, methods: Sequence[str]) -> Iterator[Element]:
    """Give the comparison of the clusters before and after the clustering phase.

    Parameters
    ----------
    jobs
        Rows of `tables.jobs_table`, one regime.
    methods
        Methods in the order of the rows; those without initial clusters are left out.
    """
    scores = paired.phases(jobs)
    if scores.empty:
        return
    yield Heading(3, "What the clustering phase adds")
    yield Paragraph(
        "ARI of the initial clusters, after pretraining, and of the final ones, of the same seeds; "
        "all seeds that ended well, ± the standard deviation over data sets. The difference is "
        "tested by Wilcoxon's signed-rank test over data sets, as above; p (Holm) is adjusted for "
        "the methods without flags, and for their ablations, each for themselves."
    )
    scored = set(scores["method"])
    methods = [method for method in methods if method in scored]
    yield _phases_table(scores, methods)
    plain = [method for method in methods if method == tables.base_of(method)]
    if plain:
        yield _phases_by_set(scores, plain, tables.by_cells(jobs))


def _phases_table(scores: pd.DataFrame, methods: Sequence[str]) -> Table:
    """Return the tests of the clustering phase, a row for each method.

    p is adjusted within each of two families, the methods without flags and those with flags.
    `scores` is the table of `paired.phases`.
    """
    by_method = {method: scores[scores["method"] == method] for method in methods}
    tests = {method: paired.signed_rank(part["difference"]) for method, part in by_method.items()}
    plain = [method for method in methods if method == tables.base_of(method)]
    flagged = [method for method in methods if method not in plain]
    adjusted: dict[str, float] = {}
    for family in (plain, flagged):
        family_p = paired.holm([tests[method].p for method in family])
        adjusted.update(zip(family, family_p, strict=True))
    rows = []
    for method, part in by_method.items():
        test = pd.Series({**tests[method]._asdict(), "p_holm": adjusted[method]}, dtype=object)
        means = [number(part["initial"].mean(), 3), number(part["final"].mean(), 3)]
        rows.append([method, str(len(part)), *means, *_test_cells(test)])
    return Table(["method", "data sets", "initial ARI", "final ARI", *TEST_HEADER], rows)


def _phases_by_set(scores: pd.DataFrame, methods: Sequence[str], sets: Sequence[str]) -> Table:
    """Return the ARI before and after the clustering phase, a row for each data set."""
    indexed = scores.set_index(["dataset", "method"])
    rows = []
    for dataset in sets:
        row = [dataset]
        for method in methods:
            if (dataset, method) in indexed.index:
                values = indexed.loc[(dataset, method)]
                row += [number(values["initial"], 3), number(values["final"], 3)]
                row.append(signed(values["difference"], 3))
            else:
                row += [NO_VALUE] * 3
        rows.append(row)
    columns = ("initial", "final", "diff.")
    header = [f"{method}: {column}" for method in methods for column in columns]
    return Table(["data set", *header], rows)


def ablation_section(
    regime: str, title: str, jobs: pd.DataFrame, varied: Sequence[str]
) -> Iterator[Element]:
    """Give the comparison of each method with flags with its plain form.

    Parameters
    ----------
    regime, title
        Name of the regime in the figure's file name, and in its title.
    jobs
        Rows of `tables.jobs_table`, of that regime.
    varied
        The methods with flags.
    """
    yield Heading(3, "Ablations")
    yield Paragraph(
        "Each against the method without the flags, on the seeds that both have, paired over the "
        "data sets that both ended well with each of these; ± is the standard deviation over data "
        "sets. Tests as above; times, the geometric mean of the seconds taken over the plain "
        "method's."
    )
    pairs = [(method, tables.base_of(method)) for method in varied]
    tests = paired.compare(jobs, pairs, same_seeds=True)
    tests = tests.sort_values("mean", ascending=False, kind="stable", na_position="last")
    failed = (jobs["status"] == "failed").groupby(jobs["method"]).agg(["sum", "size"])
    rows, differences = [], {}
    for _, row in tests.iterrows():
        method = row["method"]
        if row["n"]:
            differences[method] = row["differences"]
        rows.append(
            [
                method,
                described(method) or NO_VALUE,
                str(row["n"]),
                number(row["other_ARI"], 3),
                number(row["one_ARI"], 3),
                *_test_cells(row),
                number(row["seconds_ratio"], 2),
                f"{failed.loc[method, 'sum']} of {failed.loc[method, 'size']}",
            ]
        )
    if differences:
        image = plots.ablations(differences, f"Ablations. {title}")
        yield Image(f"ablations-{regime}.png", image, "Difference in ARI from the plain method.")
    header = ["ablation", "what it is", "data sets", "plain ARI", "its ARI", *TEST_HEADER]
    yield Table([*header, "times", "failed"], rows, frozenset([0, 1]))
