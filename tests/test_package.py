"""`pip install .`: one package and one command, which do what the clone does."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from test_sctag import FLAGS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder like site-packages, with the suite installed into it from a copy of the clone."""
    folder = tmp_path_factory.mktemp("package")
    skipped = shutil.ignore_patterns(".*", "build", "*.egg-info", "results", "tests", "docs")
    shutil.copytree(ROOT, folder / "copy", ignore=skipped)
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", "."],
        cwd=folder / "copy",
        check=True,
    )
    return folder / "site"


def in_a_process(installed, cwd, *command):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )


def test_nothing_but_the_package_stands_at_the_top(installed):
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"sctag", "bin"}
    assert not (installed / "sctag" / "benchmark.py").exists()


def test_the_page_of_a_run_comes_with_its_template(installed, tmp_path):
    script = """
from sctag.report import page
assert all((page.FOLDER / name).is_file() for name in (page.PAGE, page.SCRIPT))
"""
    in_a_process(installed, tmp_path, "-c", script)


@pytest.mark.slow
def test_its_command_and_its_door_cluster_as_the_clone_does(installed, base, simulated, tmp_path):
    flags = ["--data", simulated.path, *TINY, "--out", tmp_path / "out", "--quiet"]
    done = in_a_process(installed, tmp_path, installed / "bin" / "sctag", *flags)
    assert done.stdout.startswith("ACC= ")
    labels = pd.read_csv(tmp_path / "out" / "labels.csv")
    assert labels["cluster"].tolist() == base.labels["cluster"].tolist()
    assert '"suite_commit": "version ' in (tmp_path / "out" / "settings.json").read_text()

    np.save(tmp_path / "counts.npy", simulated.counts)
    script = f"""
import anndata, numpy, sctag, sys
adata = anndata.AnnData(numpy.load("counts.npy").astype("float32"))
adata.var_names = [f"gene{{i}}" for i in range(adata.n_vars)]
print(*sctag.cluster(adata, 3, **{FLAGS}).obs["sctag"])
assert sctag.embed("out", adata).shape == (120, 4)
print(*sctag.predict("out", adata).obs["sctag"])
print({{"utils", "model", "settings"}} & set(sys.modules))
"""
    done = in_a_process(installed, tmp_path, "-c", script)
    clusters, predicted, modules = done.stdout.splitlines()
    assert [int(cluster) for cluster in clusters.split()] == base.labels["cluster"].tolist()
    assert len(predicted.split()) == 120
    assert modules == "set()"


def test_its_command_names_itself(installed, tmp_path):
    done = in_a_process(installed, tmp_path, installed / "bin" / "sctag", "--help")
    assert done.stdout.startswith("usage: sctag ")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = in_a_process(installed, tmp_path, installed / "bin" / "sctag-predict", "--help")
    assert done.stdout.startswith("usage: sctag-predict ")
    done = in_a_process(installed, tmp_path, installed / "bin" / "sctag", "--version")
    assert done.stdout == f"sctag {version}\n"
