"""The report: its arithmetic against values made by hand, and what is written."""

import html.parser
import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from bench import document, paired, plots, report, tables
from utils import InputError

SCORES = ("ARI", "NMI", "ACC", "macro_F1")
ALL = frozenset({"report.md", "report.html", "jobs.csv", "summary.csv"})


def record(dataset, method, seed, ari, *, regime="true", initial=None, **changed):
    """A record as `benchmark.py run` leaves it; ari None: the job failed."""
    is_ok = ari is not None
    return {
        "dataset": dataset,
        "method": method,
        "regime": regime,
        "seed": seed,
        "status": "ok" if is_ok else "failed",
        "message": None if is_ok else "stopped at the time limit of 9 s",
        "exit_status": 0 if is_ok else None,
        "cells": 100 if is_ok else None,
        "genes": 50 if is_ok else None,
        "n_classes": 4 if is_ok else None,
        "n_clusters": 4 if is_ok else None,
        "empty_clusters": 0 if is_ok else None,
        "scores": dict.fromkeys(SCORES, ari) if is_ok else None,
        "initial_scores": None if initial is None else dict.fromkeys(SCORES, initial),
        "seconds": 2.0,
        "wall_seconds": 3.0,
        "peak_memory_mb": 400.0 if is_ok else None,
        "command": ["python", "train.py"],
        "settings": {"data_dir": "data"},
        "versions": {"numpy": "2.4.6"},
        "suite_commit": "abc",
        "machine": {"platform": "Linux"},
        "data_sha256": "00",
        "n_jobs": 1,
        "threads": 2,
    } | changed


def toy():
    """Three data sets, three methods, two seeds; sctag fails once, on C."""
    scores = {
        "pca_kmeans": {"A": (0.5, 0.7), "B": (0.9, 0.9), "C": (0.1, 0.1)},
        "spectral": {"A": (0.6, 0.6), "B": (0.2, 0.4), "C": (0.2, 0.2)},
        "sctag": {"A": (0.8, 0.9), "B": (0.5, 0.5), "C": (0.3, None)},
    }
    return [
        record(dataset, method, seed, ari)
        for method, sets in scores.items()
        for dataset, values in sets.items()
        for seed, ari in enumerate(values, 1)
    ]


def summary_of(records):
    return tables.summarise(tables.jobs_table(records))


def row_of(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def write(out, tmp_path, monkeypatch):
    """Write records into OUT, make the report with coarse figures; returns its folder."""
    monkeypatch.setattr(plots, "DPI", 30)

    def write(records):
        for i, content in enumerate(records):
            path = out / "records" / "some" / f"{i}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        report.write(out, tmp_path / "report")
        return tmp_path / "report"

    return write


def section(markdown, title):
    """What stands below a heading, up to the next one."""
    return re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", markdown, re.M | re.S)[1]


def cells_of(text):
    """The rows of a Markdown table, each a list of cells."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


# --- Arithmetic -----------------------------------------------------------------------------------


def test_mean_and_standard_deviation_over_the_seeds_that_ended_well():
    summary = summary_of(toy())
    row = row_of(summary, dataset="A", method="pca_kmeans")
    assert row["ARI_mean"] == pytest.approx(0.6)
    assert row["ARI_sd"] == pytest.approx(math.sqrt(0.02))  # .1^2 + .1^2, over n - 1 = 1
    row = row_of(summary, dataset="C", method="sctag")
    assert (row["jobs"], row["ok"], row["failed"]) == (2, 1, 1)
    assert row["ARI_mean"] == pytest.approx(0.3)
    assert math.isnan(row["ARI_sd"])


def test_clusters_found_minus_classes_keeps_its_sign_and_its_size_apart():
    records = [record("A", "leiden", s, 0.5, n_clusters=n) for s, n in ((1, 2), (2, 7))]
    row = row_of(summary_of(records), dataset="A")
    assert row["k_error_mean"] == 0.5  # -2 and +3
    assert row["abs_k_error_mean"] == 2.5


def test_ranks_share_ties_and_leave_out_sets_with_a_failure():
    comparison = tables.overall(summary_of(toy()), ["pca_kmeans", "spectral", "sctag"])
    assert comparison.sets == ["A", "B"]
    assert comparison.left_out == {"sctag failed on": ["C"]}
    table = comparison.table.set_index("method")
    # A: sctag 1, the others 2.5 each; B: pca_kmeans 1, sctag 2, spectral 3.
    assert table["rank"].to_dict() == {"pca_kmeans": 1.75, "spectral": 2.75, "sctag": 1.5}
    assert table["best"].to_dict() == {"pca_kmeans": 1, "spectral": 0, "sctag": 1}
    assert table["ARI"].to_dict() == pytest.approx(
        {"pca_kmeans": 0.75, "spectral": 0.45, "sctag": 0.675}
    )
    assert table.loc["pca_kmeans", "seeds_sd"] == pytest.approx(math.sqrt(0.02) / 2)
    # What sctag has: .85, .5 and, of one seed, .3.
    assert table.loc["sctag", "own_ARI"] == pytest.approx(0.55)
    assert table.loc["sctag", ["own_sets", "jobs", "failed"]].tolist() == [3, 6, 1]


def test_a_method_of_few_sets_does_not_take_the_others_from_the_table():
    records = toy() + [record("A", "scvi_kmeans", s, 0.1) for s in (1, 2)]
    summary, methods = summary_of(records), ["pca_kmeans", "scvi_kmeans", "spectral"]
    assert tables.ran_everywhere(summary, methods) == ["pca_kmeans", "spectral"]
    comparison = tables.overall(summary, methods)
    assert comparison.sets == ["A"]
    assert comparison.left_out == {"scvi_kmeans was not run on": ["B", "C"]}


@pytest.mark.parametrize(
    ("differences", "statistic", "p"),
    [
        ([1, 2, 3, 4, 5, 6], 0, 2 / 64),
        # Of the 64 sums of signed ranks 14 are at most 6: 1 1 1 2 2 3 4 subsets sum to 0 .. 6.
        ([1, 2, 3, 4, 5, -6], 6, 28 / 64),
        # |d| ranked 1.5, 1.5, 3, 4, 5, 6: four subsets sum to at most 1.5 but one: {}, {1.5} twice.
        ([-1, 1, 2, 3, 4, 5], 1.5, 6 / 64),
        ([0, 1, 2, 3, 4, 5], 0, 2 / 32),  # a pair without a rank
        ([0, 0, 0, 0, 0, 0], 0, 1),
        ([1e-9, 1, 2, 3, 4, 5, np.nan], 0, 2 / 32),
    ],
)
def test_the_signed_rank_test_gives_the_exact_value(differences, statistic, p):
    test = paired.signed_rank(differences)
    assert test.n == 6
    assert test.statistic == statistic
    assert test.p == pytest.approx(p)
    assert test.wins + test.losses + test.ties == 6


def test_five_pairs_are_counted_but_not_tested():
    test = paired.signed_rank([1, 2, -3, 0, 5])
    assert (test.n, test.wins, test.losses, test.ties) == (5, 3, 1, 1)
    assert test.mean == 1
    assert math.isnan(test.p)
    assert math.isnan(test.statistic)
    assert math.isnan(paired.signed_rank([]).mean)


def test_holm():
    # 4 tests: .01 x 4, .03 x 3, max(.04 x 2, .09), .5 x 1.
    adjusted = paired.holm([0.01, 0.04, 0.03, np.nan, 0.5])
    np.testing.assert_allclose(adjusted, [0.04, 0.09, 0.09, np.nan, 0.5])
    np.testing.assert_allclose(paired.holm([0.9, 0.8]), [1, 1])
    assert len(paired.holm([])) == 0


def test_comparisons_pair_the_sets_that_both_finished():
    pairs = [("sctag", "pca_kmeans"), ("sctag", "spectral")]
    table = paired.compare(tables.jobs_table(toy()), pairs, same_seeds=False)
    row = row_of(table, other="pca_kmeans")
    assert (row["n"], row["wins"], row["losses"], row["ties"]) == (2, 1, 1, 0)  # A .25, B -.4
    assert row["mean"] == pytest.approx(-0.075)
    assert row["one_ARI"] == pytest.approx(0.675)
    assert row["seconds_ratio"] == pytest.approx(1)
    assert table["p_holm"].isna().all()


def test_ablations_are_the_flagged_methods_whose_plain_form_ran():
    methods = ["leiden_k k_neighbors=8", "sctag", "sctag hops=3", "official"]
    assert tables.variations(methods) == ["sctag hops=3"]


def differences(records, *, same_seeds):
    """ARI of sctag with three hops minus that of sctag, by data set."""
    pairs = [("sctag hops=3", "sctag")]
    table = paired.compare(tables.jobs_table(records), pairs, same_seeds=same_seeds)
    return table.loc[0, "differences"].to_dict()


def test_a_difference_is_of_the_data_sets_that_both_finished():
    records = toy() + [record(d, "sctag hops=3", s, 0.6) for d in "ABC" for s in (1, 2)]
    for same_seeds in (False, True):
        by_set = differences(records, same_seeds=same_seeds)
        assert by_set == pytest.approx({"A": -0.25, "B": 0.1})  # sctag failed on C


def test_a_difference_on_the_same_seeds_leaves_out_all_others():
    records = toy() + [record(d, "sctag hops=3", s, 0.6) for d, s in (("A", 1), ("C", 1), ("B", 3))]
    by_set = differences(records, same_seeds=True)
    assert by_set == pytest.approx({"A": -0.2, "C": 0.3})  # of seed 1 alone; on B none is shared
    by_set = differences(records, same_seeds=False)
    assert by_set == pytest.approx({"A": -0.25, "B": 0.1})
    assert differences([*toy(), record("A", "sctag hops=3", 3, 0.6)], same_seeds=True) == {}


def test_the_clustering_phase_is_measured_seed_by_seed():
    records = [
        record("A", "sctag", 1, 0.7, initial=0.4),
        record("A", "sctag", 2, 0.5, initial=0.6),
        record("A", "sctag", 3, 0.9),
        record("A", "pca_kmeans", 1, 0.9),
    ]
    table = paired.phases(tables.jobs_table(records))
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["initial"], row["final"]) == pytest.approx((0.5, 0.6))
    assert row["difference"] == pytest.approx(0.1)


def test_machine_time_counts_failures_and_runs_without_a_wall_clock():
    records = [record("A", "sctag", 1, 0.5), record("A", "sctag", 2, None)]
    records.append(record("A", "sctag", 3, 0.5, wall_seconds=None))
    assert tables.machine_seconds(tables.jobs_table(records)) == (3 + 3 + 2, 3)


def test_seconds_of_another_machine_than_most_are_in_no_mean(write):
    """Three of five jobs ran on one machine; a score counts wherever it was made."""
    slow = {"machine": {"platform": "Other"}, "seconds": 90.0}
    records = [record("A", "sctag", 1, 0.5), record("A", "sctag", 2, 0.7, **slow)]
    records += [record("A", "pca_kmeans", 1, 0.4), record("B", "sctag", 1, 0.6)]
    records += [record("B", "pca_kmeans", 1, 0.6, **slow)]
    summary = summary_of(records)
    sctag = row_of(summary, dataset="A", method="sctag")
    assert (sctag["seconds_mean"], sctag["ARI_mean"]) == (2.0, pytest.approx(0.6))
    assert math.isnan(row_of(summary, dataset="B", method="pca_kmeans")["seconds_mean"])
    pairs = [("sctag", "pca_kmeans")]
    row = paired.compare(tables.jobs_table(records), pairs, same_seeds=True).iloc[0]
    assert (row["n"], row["seconds_ratio"]) == (2, 1.0)  # of A alone
    folder = write(records)
    sentence = "2 jobs ran on another machine than most: their seconds stand in jobs.csv"
    assert sentence in section((folder / "report.md").read_text(), "Environment")
    assert sorted(pd.read_csv(folder / "jobs.csv")["seconds"]) == [2, 2, 2, 90, 90]


# --- Published figures ----------------------------------------------------------------------------


def test_published_figures_are_numbers_with_a_source():
    table = tables.read_published()
    is_failed = table["status"] == "failed"
    assert table.loc[is_failed, ["dataset", "method"]].to_numpy().tolist() == [
        ["Quake_Smart-seq2_Diaphragm", "scTAG"]
    ]
    assert (table.loc[is_failed, ["ARI", "NMI", "ACC"]] == "").all(axis=None)
    assert (table.loc[~is_failed, ["ARI", "NMI"]] != "").any(axis=1).all()
    number = r"0\.\d+(-0\.\d+)?"
    scores = table[["ARI", "NMI", "ACC"]].to_numpy().ravel()
    assert all(re.fullmatch(number, text) for text in scores if text)
    assert (table["source"] != "").all()
    assert set(table["honest"]) == {"yes", "no", "unknown"}
    is_dance = table["source"].str.startswith("DANCE")
    assert is_dance.sum() == 4
    assert (table["honest"] == "no").equals(is_dance)
    row = row_of(table, dataset="Young", method="scTAG")
    assert (row["ARI"], row["NMI"]) == ("0.649", "0.763")
    assert not table.duplicated(["dataset", "method", "n_clusters", "source"]).any()


def test_published_figures_stay_in_their_own_columns(write, tmp_path, monkeypatch):
    published = tables.read_published().head(1)
    published = published.assign(dataset="A", method="rival", ARI="0.12321", NMI="0.45654")
    published.to_csv(tmp_path / "published.csv", index=False)
    before = write(toy())
    tables_before = [(before / name).read_text() for name in ("jobs.csv", "summary.csv")]
    monkeypatch.setattr(tables, "PUBLISHED", tmp_path / "published.csv")
    folder = write([])
    assert [(folder / name).read_text() for name in ("jobs.csv", "summary.csv")] == tables_before
    markdown = (folder / "report.md").read_text()
    header, _, row = cells_of(section(markdown, "Published figures"))
    assert header[:5] == [
        "data set",
        "ours: sctag, ARI",
        "published: method",
        "published: ARI",
        "published: NMI",
    ]
    assert row[:5] == ["A", "0.850 ± 0.071", "rival", "0.12321", "0.45654"]
    assert markdown.count("0.12321") == markdown.count("0.45654") == 1


def test_the_published_mean_stands_beside_ours_only_if_ours_is_whole():
    assert len(tables.ELEVEN_SETS) == 11
    records = [record(d, "sctag", 1, i / 10) for i, d in enumerate(tables.ELEVEN_SETS)]
    assert tables.mean_of_eleven(summary_of(records), "sctag") == pytest.approx(0.5)
    assert math.isnan(tables.mean_of_eleven(summary_of(records[1:]), "sctag"))


# --- What is written ------------------------------------------------------------------------------


def test_every_file_is_written_and_agrees(write, out, tmp_path):
    records = [*toy(), record("A", "leiden", 1, 0.4, regime="default", n_clusters=6)]
    records += [record(d, "sctag hops=3", s, 0.6) for d in "ABC" for s in (1, 2)]
    folder = write(records)
    line = report.write(out, tmp_path / "report")
    assert line.endswith(": 25 jobs, 1 failed; 3 data sets, 5 methods")
    assert {path.name for path in folder.iterdir()} == {*ALL, "figures"}
    figures = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert set(figures) == {
        *(f"{kind}-{r}.png" for kind in ("ari", "time", "memory") for r in ("true", "default")),
        "ablations-true.png",
    }
    assert all(png.startswith(b"\x89PNG") for png in figures.values())
    assert len(pd.read_csv(folder / "jobs.csv")) == 25
    summary = pd.read_csv(folder / "summary.csv")
    assert len(summary) == 3 * 4 + 1
    assert row_of(summary, dataset="A", method="pca_kmeans")["ARI_mean"] == pytest.approx(0.6)
    markdown = (folder / "report.md").read_text()
    assert cells_of(section(markdown, "Ablations"))[2][:3] == ["sctag hops=3", "three hops", "2"]
    assert all(f"](figures/{name})" in markdown for name in figures)
    (out / "records" / "some" / "18.json").unlink()  # Leiden's
    report.write(out, folder)
    assert not (folder / "figures" / "ari-default.png").exists()


def test_the_best_of_a_row_is_bold_unless_it_failed_or_all_are_equal(write):
    records = toy() + [record("D", m, s, 1.0) for m in ("pca_kmeans", "sctag") for s in (1, 2)]
    rows = cells_of(section((write(records) / "report.md").read_text(), "ARI"))
    assert rows[0] == ["data set", "cells", "K", "pca_kmeans", "spectral", "sctag"]
    assert [row[3:] for row in rows[2:]] == [
        ["0.600 ± 0.141", "0.600 ± 0.000", "**0.850 ± 0.071**"],
        ["**0.900 ± 0.000**", "0.300 ± 0.141", "0.500 ± 0.000"],
        ["0.100 ± 0.000", "**0.200 ± 0.000**", "0.300 (1/2)"],
        ["1.000 ± 0.000", "-", "1.000 ± 0.000"],
    ]


def test_one_seed_has_no_standard_deviation(write):
    folder = write([record(d, m, 1, 0.5) for d in "AB" for m in ("pca_kmeans", "sctag")])
    assert pd.read_csv(folder / "summary.csv")["ARI_sd"].isna().all()
    markdown = (folder / "report.md").read_text()
    assert cells_of(section(markdown, "ARI"))[2][3:] == ["0.500", "0.500"]
    assert cells_of(section(markdown, "Over the data sets"))[2][7] == "-"


def test_only_the_regimes_that_ran_have_a_section(write):
    records = [record("A", "sctag", s, 0.5, regime="estimated", n_clusters=3) for s in (1, 2)]
    markdown = (write(records) / "report.md").read_text()
    assert "## Estimated number of clusters" in markdown
    assert "## True number of clusters" not in markdown
    assert "## Default resolution" not in markdown
    assert cells_of(section(markdown, "K̂ - K"))[2][3] == "-1.0 ± 0.0"


def test_the_estimated_number_of_clusters_is_held_against_the_true_one(write):
    numbers_of_clusters = {"A": (3, 4), "B": (5, 5), "C": (12, 14)}  # of 4 classes
    records = [
        record(d, "sctag", s, 0.5, regime="estimated", n_clusters=n)
        for d, numbers in numbers_of_clusters.items()
        for s, n in enumerate(numbers, 1)
    ]
    markdown = (write(records) / "report.md").read_text()
    cells = [row[3] for row in cells_of(section(markdown, "K̂ - K"))[2:]]
    assert cells == ["-0.5 ± 0.7", "+1.0 ± 0.0", "+9.0 ± 1.4"]
    header, _, row = cells_of(section(markdown, "Over the data sets"))
    overall = dict(zip(header, row, strict=True))
    assert overall[r"mean \|K̂ - K\|"] == "3.50"  # of .5, 1 and 9
    assert overall[r"median \|K̂ - K\|"] == "1.00"


def test_failures_are_listed_and_all_may_have_failed(write):
    records = [record("A", "sctag", s, None) for s in (1, 2)]
    records.append(record("A", "sctag", 3, None, message="exit status 1: a | b\nand <i>more</i>"))
    markdown = (write(records) / "report.md").read_text()
    rows = cells_of(section(markdown, "Failures"))
    assert ["A", "sctag", "true", "1, 2", "stopped at the time limit of 9 s"] in rows
    message = r"exit status 1: a \| b and \<i>more\</i>"
    assert ["A", "sctag", "true", "3", message] in rows
    assert cells_of(section(markdown, "ARI"))[2][3] == "failed (0/3)"


def test_data_without_labels_have_costs_and_no_scores(write):
    changed = {"scores": None, "n_classes": None, "regime": "default"}
    folder = write([record("A", "leiden", s, 0.5, **changed) for s in (1, 2)])
    markdown = (folder / "report.md").read_text()
    assert cells_of(section(markdown, "ARI"))[2] == ["A", "100", "-", "-"]
    assert cells_of(section(markdown, "Seconds"))[2][3] == "2.0 ± 0.0"


def test_the_environment_tells_what_differs(write):
    records = [record("A", "sctag", s, 0.5) for s in (1, 2, 3)]
    records[2] |= {"suite_commit": "def", "data_sha256": "11"}
    markdown = (write(records) / "report.md").read_text()
    text = section(markdown, "Environment")
    assert "The jobs differ in: suite commit." in text
    assert "Jobs read files of different content of: A." in text
    assert ["suite commit", "abc", "2"] in cells_of(text)
    assert ["suite commit", "def", "1"] in cells_of(text)
    assert "--datasets A --methods sctag --seeds 1 2 3 --regimes true\n" in text


def test_commands_name_each_job_and_no_other(out):
    records = [*toy(), record("B", "sctag hops=3 kl=qp", 1, 0.5)]
    records += [record("A", "leiden", s, 0.5, regime="default") for s in (1, 2)]
    plans = [line.split(" --datasets ")[1] for line in report.commands(out, records)]
    assert sorted(plans) == [
        "A --methods leiden --seeds 1 2 --regimes default",
        "A B C --methods pca_kmeans spectral sctag --seeds 1 2 --regimes true",
        "B --methods 'sctag hops=3 kl=qp' --seeds 1 --regimes true",
    ]


class _Page(html.parser.HTMLParser):
    """The tags of a page, what they refer to, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], io.StringIO()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.write(data)


def test_the_page_is_escaped_and_needs_nothing_else(write):
    name = "<script>alert('A & B')</script>"
    records = [record(name, m, s, 0.5) for m in ("sctag", "leiden_k") for s in (1, 2)]
    records.append(record(name, "official", 1, None, message='"><img src=http://x.org/a.png>'))
    text = (write(records) / "report.html").read_text()
    page = _Page(text)
    assert "script" not in page.tags
    assert name in page.text.getvalue()
    assert '"><img src=http://x.org/a.png>' in page.text.getvalue()
    assert page.tags.count("img") == 3
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not re.search(r"@import|url\(|<link|<iframe", text)


def test_markdown_has_no_meaning_in_names_and_messages():
    paragraph = document.Paragraph("word " * 20 + "- a *b* _c_ d_e `f` [g](h) <b> a < b &amp; 1. x")
    text = document.to_markdown([paragraph])
    assert r"\*b\* \_c\_ d_e \`f\` \[g\](h) \<b> a < b \&amp; 1. x" in text
    assert text.splitlines()[1].startswith(r"\- a")


# --- Bad input ------------------------------------------------------------------------------------


def refused(write, records):
    with pytest.raises(InputError) as caught:
        write(records)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_records(out, tmp_path):
    with pytest.raises(InputError, match="holds no records of a benchmark"):
        report.write(out, tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("text", ["", '{"dataset": "A", "met', "[1]", "\udcff"])
def test_a_torn_record(write, out, tmp_path, text):
    (out / "records" / "A").mkdir(parents=True)
    path = out / "records" / "A" / "torn.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert f"the record {path} is damaged" in refused(write, toy())
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"status": "done"}, "its status is 'done'"),
        ({"regime": "guessed"}, "its regime is 'guessed'"),
        ({"seed": "1"}, "its seed is not a whole number"),
        ({"scores": {"ARI": 0.5}}, "scores must hold finite ARI, NMI, ACC, macro_F1"),
        ({"scores": dict.fromkeys(SCORES, math.nan)}, "scores must hold finite"),
        ({"seconds": None}, "but seconds is missing"),
        ({"cells": "many"}, "cells must be finite numbers"),
        ({"method": ""}, "must be words"),
    ],
)
def test_a_record_of_other_content(write, changed, reason):
    assert reason in refused(write, [*toy(), record("Z", "sctag", 1, 0.5) | changed])


def test_a_record_that_lacks_something(write):
    content = record("Z", "sctag", 1, 0.5)
    del content["status"], content["seed"]
    assert "it lacks seed, status" in refused(write, [content])


def test_two_records_of_one_job(write):
    assert "records of the same job" in refused(write, [*toy(), toy()[0]])


def test_a_record_being_written_is_not_read(write, out):
    (out / "records" / "some").mkdir(parents=True)
    (out / "records" / "some" / ".0.json.partial").write_text("{")
    assert (write(toy()) / "report.md").exists()


def test_a_folder_that_cannot_be_written(write, tmp_path):
    (tmp_path / "report").write_text("a file")
    assert "choose another folder with --to" in refused(write, toy())
