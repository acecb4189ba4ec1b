"""The benchmark under Snakemake: the same jobs, and none that fails stops the others."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Ran

from bench import planning
from bench.jobs import Place
from bench.methods import ABLATIONS

WORKFLOW = Path(__file__).parents[1] / "workflow"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("snakemake") is None,
    reason="needs Snakemake: pip install -r workflow/requirements.txt",
)
needs_slurm_plugin = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="needs Snakemake's SLURM plugin: pip install -r workflow/requirements.txt",
)
SMALL = {"methods": "[pca_kmeans,leiden]", "regimes": "[true,default]", "seeds": "1"}


@pytest.fixture
def snakemake(tmp_path, simulated):
    """Run the workflow in tmp_path on two data sets, with these values of config.yaml."""
    for name in ("A", "B"):
        (tmp_path / "my data" / name).mkdir(parents=True)
        (tmp_path / "my data" / name / "data.h5").symlink_to(simulated.path)

    def snakemake(*flags, **config):
        config = {"data_dir": "my data", "out": "my out", "threads": 1} | config
        words = [sys.executable, "-m", "snakemake", "--snakefile", WORKFLOW / "Snakefile", *flags]
        words += ["--config", *(f"{name}={value}" for name, value in config.items())]
        done = subprocess.run(
            [str(word) for word in words],
            cwd=tmp_path,
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return snakemake


@pytest.fixture
def records(tmp_path):
    """The records that are there, by path."""
    folder = tmp_path / "my out" / "records"
    return lambda: {
        str(path.relative_to(folder)): json.loads(path.read_text())
        for path in folder.rglob("*.json")
    }


def counted(ran):
    """The number of jobs of each rule that a dry run tells."""
    assert ran.status == 0, ran
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", ran.out + ran.err, re.M)}


@pytest.mark.parametrize(
    "flags",
    [
        ["--cores", "2"],
        pytest.param(
            ["--workflow-profile", WORKFLOW / "profiles" / "slurm"], marks=needs_slurm_plugin
        ),
    ],
)
def test_the_whole_matrix_is_that_of_benchmark(flags, snakemake, tmp_path):
    jobs = planning.plan(data_dir=tmp_path / "my data")
    assert len(jobs) >= 2 * 6 * 5
    counts = counted(snakemake(*flags, "--dry-run"))
    assert counts["job"] == len(jobs)
    ablations = sum(map(len, ABLATIONS.values()))
    counts = counted(snakemake(*flags, "--dry-run", ablations=True, seeds="[1,2]", methods="sctag"))
    assert counts["job"] == 2 * (1 + ablations) * 2
    assert not (tmp_path / "my out").exists()


def test_a_job_asks_for_more_than_its_limits(snakemake):
    ran = snakemake("--cores", 2, "--dry-run", time_limit=61, memory_limit=500, threads=2, **SMALL)
    asked = re.findall(r"resources: .*mem_mb=(\d+).* runtime=(\d+), cpus_per_task=(\d+)", ran.out)
    assert asked == [("1500", "7", "2")] * 4


def test_the_jobs_run_once_and_are_reported(snakemake, records, tmp_path):
    ran = snakemake("--cores", 2, **SMALL)
    assert ran.status == 0, ran
    made = records()
    assert set(made) == {
        "A/pca_kmeans-true-seed1.json",
        "B/pca_kmeans-true-seed1.json",
        "A/leiden-default-seed1.json",
        "B/leiden-default-seed1.json",
    }
    assert all(record["status"] == "ok" for record in made.values())
    assert all(record["threads"] == 1 for record in made.values())
    report = tmp_path / "my out" / "report" / "report.md"
    assert "pca_kmeans" in report.read_text()

    # neither Snakemake nor benchmark.py sees anything left to do
    ran = snakemake("--cores", 2, time_limit=5, **SMALL)
    assert "Nothing to be done" in ran.out + ran.err
    what = {"methods": ["pca_kmeans", "leiden"], "regimes": ["true", "default"], "seeds": [1]}
    jobs = planning.plan(data_dir=tmp_path / "my data", **what)
    place = Place(tmp_path / "my out", tmp_path / "my data")
    assert set(planning.find_state(jobs, place).records) == set(jobs)

    # a record that is missing is made again, though the report is younger than the others
    (tmp_path / "my out" / "records" / "A" / "leiden-default-seed1.json").unlink()
    assert snakemake("--cores", 2, **SMALL).status == 0
    assert set(records()) == set(made)


def test_a_failed_job_is_a_row_of_the_report(snakemake, records, tmp_path):
    ran = snakemake("--cores", 2, time_limit=0.01, **SMALL | {"methods": "pca_kmeans"})
    assert ran.status == 0, ran
    messages = {record["message"] for record in records().values()}
    assert messages == {"stopped at the time limit of 0.01 s"}
    assert "0.01 s" in (tmp_path / "my out" / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"methods": '["sctag hop=1"]'}, "sctag has no flag hop"),
        ({"datasets": "[A,C]"}, "no data set 'C' in my data"),
        ({"regimes": "other"}, "there is no regime 'other'"),
    ],
)
def test_what_cannot_be_run_is_said_before_any_job(config, words, snakemake, tmp_path):
    ran = snakemake("--cores", 2, **config)
    assert ran.status == 1
    assert words in ran.err
    assert not (tmp_path / "my out").exists()
