"""The documents: their figures are those of the records, their links, flags and defaults exist."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import baselines
import benchmark
import datasets
import predict
import readers
import settings
import train
from bench import archive, document, paired, plots, report, tables
from bench.methods import ABLATIONS, flag_names
from bench.wording import signed, three_decimals
from command import as_text
from lab import judge, prepare
from perf import run_step, scale, speed

ROOT = Path(__file__).parents[1]
MARKER = "<!-- benchmark.py report -->\n"
METHODS = {  # the rows of the tables of means
    "PCA + K-means": "pca_kmeans",
    "spectral clustering": "spectral",
    "Leiden at K": "leiden_k",
    "Louvain at K": "louvain_k",
    "scanpy's usual steps, Leiden at K": "scanpy_k",
    "`sctag` without its network": "no_network",
    "scTAG, variant `official`": "official",
    "scTAG, variant `sctag` (default)": "sctag",
}
WITHOUT_NUMBER = {  # the rows of the tables without the number of clusters, and their regime
    "Leiden at resolution 1": ("leiden", "default"),
    "scanpy's usual steps, resolution 1": ("scanpy", "default"),
    "PCA + K-means, estimated": ("pca_kmeans", "estimated"),
    "scTAG, variant `sctag`, estimated": ("sctag", "estimated"),
}
LEFT_OUT = {
    "scanpy's usual steps, resolution 1",
    "spectral clustering",
    "Louvain at K",
    "PCA + K-means, estimated",
}  # of README
GROUPS = ("the twelve", "the eight", "all twenty")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README_LINES = 160


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs")
    archive.unpack(ROOT / "docs" / "records.jsonl.gz", out)
    return tables.read_records(out)


@pytest.fixture(scope="module")
def jobs(records):
    return tables.jobs_table(records)


@pytest.fixture(scope="module")
def summary(jobs):
    return tables.summarise(jobs)


def test_docs_results_is_the_report_on_the_records(records, jobs, summary, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 20)
    blocks = list(report.content(Path("results/benchmark"), records, jobs, summary))
    page = (ROOT / "docs" / "results.md").read_text()
    assert page.partition(MARKER)[2].strip() == document.to_markdown(blocks[1:]).strip()
    figures = {block.name for block in blocks if isinstance(block, document.Image)}
    assert {path.name for path in (ROOT / "docs" / "figures").iterdir()} == figures


# ---- measured figures in README and in the words of the other pages


def cells_of(line):
    """The cells of a line of a table, without bold."""
    return [cell.strip(" *") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def table_after(page, header):
    """Rows of the table whose header begins so: the first cell, and the others by their titles."""
    lines = page.read_text().partition(f"\n{header}")[2].splitlines()
    titles = cells_of(header + lines[0])[1:]
    rows = [cells_of(line) for line in lines[2 : lines.index("")]]
    return {row[0]: dict(zip(titles, row[1:], strict=True)) for row in rows}


def words_of(page):
    """The text of a page before any generated part, each run of white space as one space."""
    return " ".join(page.read_text().partition(MARKER)[0].split())


def short(value):
    """Three decimals without the zero before the point, as the pages have it in sentences."""
    return three_decimals(value).removeprefix("0")


def means_over_groups(summary, method, regime):
    """Mean ARI of a method over the twelve data sets, the eight and all, as text.

    A dash stands where a data set of the group was not measured.
    """
    part = summary[(summary["regime"] == regime) & (summary["method"] == method)]
    names = set(summary["dataset"])
    shown = []
    for group in (set(judge.TWELVE), names - set(judge.TWELVE), names):
        rows = part[part["dataset"].isin(group)]
        whole = set(rows["dataset"]) == group and rows["ok"].min() > 0
        shown.append(three_decimals(rows["ARI_mean"].mean()) if whole else "-")
    return dict(zip(GROUPS, shown, strict=True))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_tables_of_means_are_the_records(page, summary):
    regimes = {"given": {title: (method, "true") for title, method in METHODS.items()}}
    regimes["not given"] = WITHOUT_NUMBER
    for words, methods in regimes.items():
        shown = table_after(ROOT / page, f"| method, {words} the number |")
        expected = {title: means_over_groups(summary, *of) for title, of in methods.items()}
        assert shown == {title: expected[title] for title in shown}
        assert set(expected) - set(shown) <= (LEFT_OUT if page == "README.md" else set())


def test_the_words_on_the_leads_are_the_records(summary, jobs):
    words = words_of(ROOT / "docs" / "results.md")
    ari = tables.pivot(summary[summary["regime"] == "true"], "ARI_mean", finished=True)
    ari = ari[[method for method in METHODS.values() if method != "official"]]
    assert len(ari.dropna()) == 20
    leads = ari.rsub(ari["sctag"], axis=0)
    for method, words_of_method in (("leiden_k", "Leiden at K"), ("no_network", "`no_network`")):
        mean, median = (
            signed(x, 3).replace("0.", ".") for x in (leads[method].mean(), leads[method].median())
        )
        assert f"over {words_of_method} {mean} in the mean and {median} in the median" in words
    below = (ari["sctag"] - ari[list(judge.CHEAP)].max(axis=1)).sort_values()
    assert f"at most {short(-below.iloc[0])} below the best" in words
    assert f"({below.index[0]})" in words
    runs = jobs[(jobs["method"] == "sctag") & (jobs["regime"] == "true")]
    spread = runs.groupby("dataset")["ARI"].std()
    assert f"standard deviation over seeds is {short(spread.mean())}" in words
    phase = runs[["initial_ARI", "ARI"]].mean()
    assert "takes the mean from {} to {}".format(*map(short, phase)) in words


# ---- the lines of the defaults


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


def test_the_lines_of_the_defaults_are_the_records(jobs):
    pairs = [(f"sctag {flags}", "sctag") for flags in default_rows()]
    compared = paired.compare(jobs[jobs["regime"] == "true"], pairs, same_seeds=True)
    for shown, (_, row) in zip(default_rows().values(), compared.iterrows(), strict=True):
        mean, median = (signed(x, 3) for x in (row["mean"], row["differences"].median()))
        counts = f"{row['wins']} / {row['losses']} / {row['ties']}"
        assert shown == [str(row["n"]), mean, median, counts], row["method"]


def test_the_table_of_the_variants_has_every_difference_and_both_defaults():
    rows = table_after(ROOT / "docs" / "variants.md", "| setting | official |")
    shown = {name.strip("`-"): (row["official"], row["sctag"]) for name, row in rows.items()}
    sctag, official = settings.defaults("sctag"), settings.defaults("official")
    assert shown == {
        name: (as_text(official[name]), as_text(sctag[name]))
        for name in sctag
        if name != "variant" and sctag[name] != official[name]
    }


# ---- README's length and commands, links, flags


def test_the_readme_is_short_and_has_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES
    for command in ("make train", "make test"):
        assert any(line.split("#")[0].strip() == command for line in lines)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them of the words."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    seen, made = {}, set()
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        made.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\[[^\[\]]*\]\(([^()\s]+)\)", page.read_text())
    for link in links:
        if re.match(r"\w+:", link):  # an address
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def flags_of(parser):
    """The flags of a parser and of its commands that its help shows."""
    shown = set()
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            shown.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            shown.update(*map(flags_of, action.choices.values()))
    return {flag for flag in shown if flag.startswith("--")}


@pytest.fixture(scope="module")
def known_flags():
    known = {"--help"}
    for name, spec in settings.specs().items():
        known |= {f"--{name}", f"--no-{name}"} if bool in spec.types else {f"--{name}"}
    parsers = (module.build_parser() for module in (benchmark, datasets, predict))
    return known.union(*map(flags_of, parsers))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_is_named_exists(page, known_flags, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speed.py", "--help"])
    timing = (lambda _: speed.main(), lambda _: run_step.main(), scale.main)
    for parse in (baselines.parse, train.main, judge.parse, prepare.parse, *timing):
        with pytest.raises(SystemExit):
            parse(["--help"])
    of_help = set(re.findall(r"^ +(--\w+)", capsys.readouterr().out, re.M))
    named = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", page.read_text()))
    of_others = {"--NAME", "--no-NAME", "--requeue", "--signal"}  # the last two are of SLURM
    assert named - of_others <= known_flags | of_help


# ---- README's notebook


@pytest.mark.slow
def test_the_readmes_notebook_runs_as_it_stands(tmp_path):
    cells = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    assert 5 <= sum(map(bool, cells.splitlines())) <= 8
    adata = readers.read(ROOT / "data" / "pbmc68k_reduced" / "data.h5")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "notebook.py").write_text(cells + 'print(adata.obs["sctag"].notna().sum())\n')
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(adata.n_obs)


# ---- the notebook (here, so that it does not start last of all files)


NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
# Fewer epochs than a user wants: only that it runs is looked at.
SHORTER = {
    "old, 8, seed=1,": "old, 8, seed=1, pretrain_epochs=10, maxiter=2,",
    '"--no_report",': '"--no_report", "--pretrain_epochs", "10", "--maxiter", "2",',
}


@pytest.fixture
def place(tmp_path):
    """A folder like notebooks/, so that what the notebook writes does not stay there."""
    for name in ("data", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


@pytest.mark.slow
def test_the_notebook_runs(place, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for before, after in SHORTER.items():
        cells = [cell for cell in notebook.cells if before in cell.source]
        assert len(cells) == 1
        cells[0].source = cells[0].source.replace(before, after)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(place)]))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    folder = {"metadata": {"path": str(place)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()


def test_its_outputs_are_kept_and_tell_nothing_of_the_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert sum(bool(cell.outputs) for cell in code) >= 7
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    texts = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text())
    assert not re.search(r"site-packages|/home/|/tmp/|/work/|/root/", texts)
