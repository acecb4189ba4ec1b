"""The measured figures of the documents are those of the records that stand beside them."""

import re
from pathlib import Path

import pytest

import settings
from bench import archive, document, paired, plots, report, tables
from bench.methods import ABLATIONS, flag_names
from bench.sections import seeds_cell
from bench.wording import signed, three_decimals

ROOT = Path(__file__).parents[1]
MARKER = "<!-- benchmark.py report -->\n"
METHODS = {  # the columns of README's table
    "PCA + K-means": "pca_kmeans",
    "spectral": "spectral",
    "Leiden at K": "leiden_k",
    "Louvain at K": "louvain_k",
    "`official`": "official",
    "`sctag`": "sctag",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs")
    archive.unpack(ROOT / "docs" / "records.jsonl.gz", out)
    return tables.read_records(out)


@pytest.fixture(scope="module")
def summary(records):
    table = tables.summarise(tables.jobs_table(records))
    return table[table["regime"] == "true"]


def test_docs_results_is_the_report_on_the_records(records, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 20)
    jobs = tables.jobs_table(records)
    summary = tables.summarise(jobs)
    elements = list(report.content(Path("results/benchmark"), records, jobs, summary))
    page = (ROOT / "docs" / "results.md").read_text()
    assert page.partition(MARKER)[2].strip() == document.to_markdown(elements[1:]).strip()
    figures = {part.name for part in elements if isinstance(part, document.Image)}
    assert {path.name for path in (ROOT / "docs" / "figures").iterdir()} == figures


def readme_table():
    """Rows of README's table of results, by the words of its header."""
    text = (ROOT / "README.md").read_text()
    lines = re.search(r"^\| ARI \| cells \|.*?\n\n", text, re.M | re.S)[0].splitlines()
    header, _, *rows = (
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if line
    )
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_the_readme_has_every_data_set_with_the_records_scores(summary):
    table = readme_table()
    seeds = int(summary["jobs"].max())
    assert set(summary["dataset"]) == {name for name in table if "mean" not in name}
    for _, row in summary.iterrows():
        for title, method in METHODS.items():
            if row["method"] == method:
                shown = table[row["dataset"]][title]
                assert shown == seeds_cell(row, "ARI", three_decimals, seeds), row


def test_the_readme_has_the_records_means(summary):
    table = readme_table()
    for measure, name in zip(tables.SCORES, ("mean", "NMI", "ACC", "macro F1"), strict=True):
        row = table["mean" if measure == "ARI" else f"mean {name}"]
        for title, method in METHODS.items():
            part = summary[summary["method"] == method]
            assert row[title] == three_decimals(part[f"{measure}_mean"].mean())


def default_rows():
    """Rows of the recipe's table of defaults: the flags in place of a default, and the figures."""
    text = (ROOT / "docs" / "recipe.md").read_text()
    section = re.search(r"^## Each default in a line\n.*?(?=^## )", text, re.M | re.S)[0]
    rows = (line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `"))
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:5]] for cells in rows}


def test_each_default_has_its_line():
    ablations = {method.removeprefix("sctag ") for group in ABLATIONS.values() for method in group}
    assert set(default_rows()) == ablations
    sctag, official = settings.defaults("sctag"), settings.defaults("official")
    named = {name for flags in ablations for name in flag_names(f"sctag {flags}")}
    refusal_only = {"variant", "round_counts"}  # decide what is refused, or only the others
    assert {name for name in sctag if sctag[name] != official[name]} - refusal_only <= named


def test_the_lines_of_the_defaults_are_the_records(records):
    jobs = tables.jobs_table(records)
    pairs = [(f"sctag {flags}", "sctag") for flags in default_rows()]
    tests = paired.compare(jobs[jobs["regime"] == "true"], pairs, same_seeds=True)
    for shown, (_, row) in zip(default_rows().values(), tests.iterrows(), strict=True):
        mean, median = (signed(x, 3) for x in (row["mean"], row["differences"].median()))
        counts = f"{row['wins']} / {row['losses']} / {row['ties']}"
        assert shown == [str(row["n"]), mean, median, counts], row["method"]
