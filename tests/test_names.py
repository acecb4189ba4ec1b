"""Hostile names, of cells, genes, labels, columns, types, files and methods, do no harm."""

import csv
import io
import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, grouped_counts, ran
from test_report import record
from test_run_report import Parsed

import bench.records
import console
import predict
import spreadsheet
import utils
from bench import planning, plots, report
from settings import Settings
from utils import InputError

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A1",
    "+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "a\nb",
    "a\r\nb",
    "\x1b[31mred\x1b[0m",
    "\u202eevil",
    "a/b",
    "/etc/passwd",
    "../../evil",
    "..",
    ".",
    "a\\b",
    'double " quote',
    "single ' quote",
    "a,b;c\td",
    "%s %d {} {0}",
    "$x^2$",
    "x" * 300,
    "gène 遺伝子",
    " ",
    "| a | b |",
    "`code` [link](http://x)",
    "&lt;b&gt;",
]
KEY = '<b>=label/of\n"cells"'


@pytest.fixture(scope="module")
def hostile(run, tmp_path_factory):
    """A run on data whose every name is hostile, in the folder where it finds itself."""
    folder = tmp_path_factory.mktemp("names")
    adata = grouped_counts(60, 60)
    names = [HOSTILE[i % len(HOSTILE)] + " " * (i // len(HOSTILE)) for i in range(60)]
    adata.obs_names, adata.var_names = names, names[::-1]
    for column in ("../x", "/x", "..", "=1", "<i>"):
        adata.obs[column] = HOSTILE * 2
    adata.obs[KEY] = [HOSTILE[i % 3] for i in range(60)]
    adata.obs["batch"] = [HOSTILE[3 + i // 30] for i in range(60)]
    path = folder / "=<b>a\nb.h5"
    write_h5ad(path, adata)
    in_a_line = [name for name in names if not {*" \t\r\n,;"} & {*name}]
    sets = [[f"{name} type", *in_a_line[i : i + 5]] for i, name in enumerate(HOSTILE[:6])]
    with (folder / "types.csv").open("w", newline="") as file:
        csv.writer(file).writerows(sets)
    flags = [flag for flag in TINY if flag != "--no_report"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags += ["--data", path.name, "--label_key", KEY, "--batch_key", "batch"]
        flags += ["--markers", "types.csv", "--log_file", "log", "--n_clusters", "3"]
        flags += ["--init", "kmeans", "--log_genes", "0"]
        done = run(*flags, compiled=False)
    return folder, adata, done


def write_h5ad(path, adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_h5ad(path)


def test_the_run_goes_well_and_stays_in_its_folder(hostile):
    folder, _, done = hostile
    assert done.status == 0, done.err
    assert {path.name for path in folder.iterdir()} == {
        "=<b>a\nb.h5",
        "types.csv",
        "log",
        "results",
    }
    (results,) = (folder / "results" / "=<b>a\nb").iterdir()
    assert results.name == "sctag-seed1"


@pytest.fixture(scope="module")
def out(hostile):
    return hostile[0] / "results" / "=<b>a\nb" / "sctag-seed1"


def test_labels_csv_has_the_names_as_they_are(hostile, out):
    """Programs join on them; a spreadsheet is for markers.csv and cell_types.csv."""
    labels = pd.read_csv(out / "labels.csv", keep_default_na=False, dtype=str)
    with (out / "labels.csv").open(newline="") as file:
        assert {len(row) for row in csv.reader(file)} == {3}
    assert labels["cell"].tolist() == hostile[1].obs_names.tolist()


@pytest.mark.parametrize("name", ["markers.csv", "cell_types.csv"])
def test_no_spreadsheet_takes_a_name_for_a_formula(name, hostile, out):
    with (out / name).open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert rows
    assert {len(row) for row in rows} == {len(header)}
    texts = [text for row in (header, *rows) for text in row if not is_number(text)]
    assert [text for text in texts if text.startswith(spreadsheet.FORMULA)] == []
    assert any(text.startswith("'") for text in texts)
    if name == "markers.csv":
        genes = {row[header.index("gene")] for row in rows}
        plain = {gene[1:] if gene.startswith("'") else gene for gene in genes}
        assert plain <= {*hostile[1].var_names}


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_the_anndata_has_the_names_as_they_are(hostile, out):
    adata = ad.read_h5ad(out / "sctag.h5ad")
    assert adata.obs_names.tolist() == hostile[1].obs_names.tolist()
    assert adata.var_names.tolist() == hostile[1].var_names.tolist()
    assert {"=1", "<i>", KEY} <= {*adata.obs}
    assert not {"../x", "/x", ".."} & {*adata.obs}  # paths out of obs, which the log names
    assert adata.obs["batch"].tolist() == hostile[1].obs["batch"].tolist()


def test_the_report_has_no_other_script_and_no_other_tag(out):
    text = (out / "report.html").read_text()
    read = Parsed(text)
    assert len(read.scripts) == 3
    assert "alert(1)" not in "".join(read.scripts[1:])
    assert "<" not in read.scripts[0]
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert not any(attributes.get("src") == "x" for _, attributes in read.tags)


def test_each_line_of_the_log_is_one_and_commands_no_terminal(hostile):
    folder, _, done = hostile
    for text in (done.out, done.err, (folder / "log").read_text()):
        assert not {"\x1b", "\r", "\u202e"} & {*text}
    stamped = (folder / "log").read_text().splitlines()
    assert all(console.STAMPED.match(line) for line in stamped)
    assert any("=<b>a\\nb.h5" in line for line in stamped)


def test_a_refusal_that_names_the_file_is_one_line(hostile, out):
    """A run with batches takes no new cells."""
    path = hostile[0] / "=<b>a\nb.h5"
    done = ran(predict.main, ["--model", out, "--data", path], io.StringIO())
    assert done.status == 2
    starts = ("warning: ", "predict.py: error: ")
    assert all(line.startswith(starts) for line in done.err.splitlines())


@pytest.mark.parametrize("name", ["../up", "/abs", "a/../../b", ".."])
def test_the_name_of_a_data_set_leads_nowhere_else(name):
    with pytest.raises(InputError, match="is a path, not the name of a data set"):
        _ = Settings(dataname=name).out_dir


@pytest.mark.parametrize("name", ["..h5", "...h5", "....gz", "a.h5", ".h5"])
def test_the_name_of_a_file_is_one_of_a_folder(name, tmp_path):
    given = utils.data_name(tmp_path / name)
    assert given.strip(".")
    assert (tmp_path / given).resolve().parent == tmp_path.resolve()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_log_line_is_one_line(text):
    shown = console.one_line(text)
    assert shown.isprintable() or "\t" in shown
    assert len(shown.splitlines()) == 1


def test_the_last_line_of_a_command_may_be_several(capsys):
    with console.opened(quiet=True):
        log = logging.getLogger("sctag")
        log.log(console.LAST_LINE, "%s", "one\ntwo\x1b")
        log.warning("warning: %s", "one\ntwo")
    assert capsys.readouterr() == ("one\ntwo\\x1b\n", "warning: one\\ntwo\n")


def test_numbers_and_missing_values_of_a_table_stay():
    table = pd.DataFrame(
        {"a": [-1.5, np.nan], "b": ["-1", None], "=c": pd.Categorical(["+x", "y"]), "d": [-1, 2]}
    )
    text = spreadsheet.as_csv(table, digits=3)
    assert text == "a,b,'=c,d\n-1.5,'-1,'+x,-1\n,,y,2\n"


# --- The benchmark --------------------------------------------------------------------------------


def test_a_benchmark_report_of_hostile_names_is_inert(tmp_path, monkeypatch):
    """Names that can be those of a data set's folder, and what a failed job said."""
    names = [name for name in HOSTILE if "/" not in name and name not in (".", "..")]
    records = [record(name, "pca_kmeans", 1, 0.5) for name in names]
    records += [record(name, "spectral", 1, None, message=name) for name in names]
    monkeypatch.setattr(plots, "DPI", 30)
    out = tmp_path / "out"
    for position, content in enumerate(records):
        bench.records.write(out / "records" / "some" / f"{position}.json", content)
    report.write(out, tmp_path / "report")
    read = Parsed((tmp_path / "report" / "report.html").read_text())
    assert read.scripts == []
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    with (tmp_path / "report" / "jobs.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert {len(row) for row in rows} == {len(header)}
    texts = [text for row in rows for text in row if not is_number(text)]
    assert [text for text in texts if text.startswith(spreadsheet.FORMULA)] == []
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "<script" not in markdown.replace("\\<script", "")
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert rows


def test_a_data_set_of_a_benchmark_is_a_folder_in_its_folder(tmp_path):
    for name in ("..", ".", "a/b", "../a", "/a"):
        with pytest.raises(InputError, match="is not the name of a data set"):
            planning._checked_datasets([name], tmp_path)
