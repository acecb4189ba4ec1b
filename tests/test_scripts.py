"""The scripts: what they run, from any folder, and what they pass on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Ran

import datasets
from bench.methods import ABLATIONS
from command import parse_settings
from settings import VARIANTS

ROOT = Path(__file__).parents[1]
PAPER = ["--highly_genes", "500", "--pretrain_epochs", "1000", "--maxiter", "300"]


@pytest.fixture
def script(tmp_path):
    """Run a script in tmp_path, which is not the suite's folder."""

    def script(name, *args, **environment):
        done = subprocess.run(
            [ROOT / "scripts" / name, *map(str, args)],
            cwd=tmp_path,
            env=os.environ | {"PYTHON": sys.executable} | environment,
            capture_output=True,
            text=True,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return script


@pytest.fixture
def data_dir(tmp_path, simulated):
    """Two of the paper's names and one that it does not have."""
    for name in ("Adam", "Young", "mine"):
        (tmp_path / "my data" / name).mkdir(parents=True)
        (tmp_path / "my data" / name / "data.h5").symlink_to(simulated.path)
    return tmp_path / "my data"


def check_refused(ran, program, *words):
    """Status 2 and one sentence of the program with these words."""
    assert (ran.status, ran.err.count("\n")) == (2, 1), ran
    assert ran.err.startswith(f"{program}: error: ")
    for word in words:
        assert str(word) in ran.err


def would_run(ran):
    """Data set, method and seed of each job that a dry run lists."""
    assert (ran.status, ran.err) == (0, ""), ran
    lines = [line.split("  ") for line in ran.out.splitlines() if line.startswith("to run")]
    return [tuple(word.strip() for word in line if word.strip())[1:] for line in lines]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_paper_s_flags_are_the_defaults(variant):
    """So the scripts that run through benchmark.py need not name them."""
    assert parse_settings(["--variant", variant, *PAPER]) == parse_settings(["--variant", variant])


@pytest.mark.parametrize("name", ["run_one.sh", "run_all.sh", "ablations.sh"])
def test_without_a_python_they_say_what_to_do(script, name):
    ran = script(name, "Young", PYTHON="/nowhere/python")
    check_refused(ran, name, "/nowhere/python", "make venv", "PYTHON=python3")


# ---- run_one.sh


@pytest.mark.parametrize("args", [[], ["--seed", "2"]])
def test_run_one_asks_for_a_name(script, args):
    check_refused(script("run_one.sh", *args), "run_one.sh", "name a data set")


def test_run_one_reads_the_suite_s_data_unless_told_otherwise(script, tmp_path):
    check_refused(script("run_one.sh", "Yung"), "train.py", "Yung", ROOT / "data")
    (tmp_path / "here").mkdir()
    check_refused(script("run_one.sh", "Yung", "--data_dir", "here"), "train.py", "here")


@pytest.mark.slow
def test_run_one_runs_with_the_paper_s_flags_and_the_user_s(script, data_dir, tmp_path):
    short = ["--pretrain_epochs", 2, "--maxiter", 1, "--gpu_option", "-1"]
    flags = ["--data_dir", data_dir, "--variant", "official", "--quiet", *short]
    ran = script("run_one.sh", "Young", *flags)
    assert ran.status == 0, ran
    assert ran.out.startswith("ACC= ")
    folder = tmp_path / "results" / "Young" / "official-seed1"  # below where the user is
    rows = (folder / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["phase", "pretrain", "pretrain", "cluster"]
    assert '"highly_genes": 500,' in (folder / "settings.json").read_text()


# ---- run_all.sh


def test_run_all_takes_the_paper_s_sets_that_are_there(script, data_dir):
    ran = script("run_all.sh", "--data_dir", "my data", "--seeds", 1, 2, "--dry_run")
    skipped = [line for line in ran.out.splitlines() if line.startswith("run_all.sh: skipping ")]
    absent = [name for name in datasets.REGISTRY if name not in ("Adam", "Young")]
    assert [line.split()[2].rstrip(":") for line in skipped] == absent
    assert skipped[0].endswith("skipping Bach: there is no my data/Bach/data.h5")
    jobs = would_run(ran)
    assert {job[:2] for job in jobs} == {
        (name, method) for name in ("Adam", "Young") for method in ("official", "sctag")
    }
    assert len(jobs) == 8


def test_run_all_passes_flags_on_and_the_user_s_win(script, data_dir):
    ran = script("run_all.sh", f"--data_dir={data_dir}", "--methods", "sctag hops=2", "--dry_run")
    assert {job[:2] for job in would_run(ran)} == {
        ("Adam", "sctag hops=2"),
        ("Young", "sctag hops=2"),
    }


def test_run_all_without_data_says_where_they_come_from(script, tmp_path):
    ran = script("run_all.sh", "--data_dir", tmp_path)
    check_refused(ran, "run_all.sh", tmp_path, "datasets.py fetch all")
    assert not (tmp_path / "results").exists()


# ---- ablations.sh


def test_ablations_are_those_of_benchmark_and_sctag_itself(script, data_dir):
    flags = ["--data_dir", data_dir, "--datasets", "mine", "--seeds", 1, "--dry_run"]
    methods = [job[1] for job in would_run(script("ablations.sh", *flags))]
    assert methods == ["sctag", *(m for group in ABLATIONS.values() for m in group)]


def test_ablations_end_with_the_report_though_a_job_failed(script, data_dir, tmp_path):
    limits = ["--methods", "pca_kmeans", "--seeds", 1, "--time_limit", "0.01", "--out", "mine"]
    flags = ["--data_dir", data_dir, "--datasets", "Adam", *limits]
    # Every job is stopped at once, which is a quick way to have them all.
    ran = script("ablations.sh", *flags)
    assert ran.status == 1
    assert "jobs failed" in ran.err
    report = (tmp_path / "mine" / "report" / "report.md").read_text()
    assert "time limit of 0.01 s" in report


def test_ablations_stop_at_what_cannot_be_used(script, data_dir):
    ran = script("ablations.sh", "--data_dir", data_dir, "--seeds", "one")
    check_refused(ran, "benchmark.py run", "--seeds")
