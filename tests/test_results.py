"""What a run leaves behind: its tables, and what is recorded of it."""

import importlib.metadata
import json
import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from conftest import contents

import results
from estimation import Number
from outcome.annotated import annotate
from results import Fitted, Trained


def test_the_names_of_a_run_are_all_known():
    import model

    assert {model.WEIGHTS_FILE, model.ARCHITECTURE_FILE} == set(results.NETWORK)


def test_json_is_indented_and_ends_with_a_newline(tmp_path):
    path = tmp_path / "a.json"
    results.write_json(path, {"a": [1, None], "b": 0.5})
    text = path.read_text()
    assert json.loads(text) == {"a": [1, None], "b": 0.5}
    assert text.startswith('{\n  "a"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_json_lacks(value, tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write_json(path, {"deep": [{"loss": value}]})
    assert not path.exists()


def test_environment_says_what_can_change_a_result():
    described = results.environment()
    assert set(described["versions"]) == {"python", *results.PACKAGES}
    assert {"tensorflow", "keras", "spektral", "scanpy", "scikit-learn"} <= set(results.PACKAGES)
    assert all(isinstance(version, str) for version in described["versions"].values())
    json.dumps(described, allow_nan=False)


def test_a_distribution_of_another_name_is_no_error(monkeypatch):
    """As tensorflow-cpu, which importlib does not know by the name of tensorflow."""
    version = importlib.metadata.version

    def other_name(package):
        if package in ("tensorflow", "scikit-misc"):
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", other_name)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(__version__="2.99"))
    monkeypatch.delitem(sys.modules, "skmisc", raising=False)
    versions = results.environment()["versions"]
    assert versions["tensorflow"] == "2.99"
    assert versions["scikit-misc"] is None
    assert versions["numpy"] == version("numpy")


def test_a_repository_around_an_installed_suite_is_not_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
    assert results.environment()["suite_commit"] is None


def test_environment_does_not_need_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert results.environment()["suite_commit"] is None


SETTINGS = {"seed": 1, "k_neighbors": 2, "out": None}
HISTORY = [
    {"phase": "pretrain", "epoch": 1, "total": 1.25, "kl": 0.0},
    {"phase": "cluster", "epoch": 1, "total": 1.125, "kl": 0.5},
]


@pytest.fixture
def annotated():
    """Three cells in two of three clusters, as the command hands them over."""
    adata = ad.AnnData(
        np.arange(6, dtype=np.float32).reshape(3, 2),
        obs=pd.DataFrame(index=["x", "y, z", 'say "w"']),
        var=pd.DataFrame(index=["g0", "g1"]),
    )
    q = np.array([[0.7, 0.2, 0.1], [0.05, 0.15, 0.8], [0.25, 0.25, 0.5]], np.float32)
    z = np.array([[1.5], [2.5], [3.5]], np.float32)
    adata.uns["sctag"] = {"median_depth": "7.0"}  # of the preparation
    labels = np.array([0, 2, 2])
    trained = Trained(
        network=SimpleNamespace(save=lambda folder: (folder / "model.json").write_text("{}")),
        initial=labels,
        z=z,
        points=np.hstack([z, -z, 2 * z]),
        q=q,
        history=HISTORY,
    )
    fitted = Fitted(labels, Number(3, "given"), {}, trained)
    annotate(adata, fitted, settings=SETTINGS, scores=None)
    return adata, fitted


def test_annotation_is_under_the_keys_that_scanpy_users_expect(annotated):
    annotated, _ = annotated
    clusters = annotated.obs["sctag"]
    assert clusters.tolist() == ["0", "2", "2"]
    assert clusters.cat.categories.tolist() == ["0", "1", "2"]  # an empty cluster has its number
    assert annotated.obsm["X_sctag"].shape == (3, 1)
    assert annotated.obsm["X_sctag_joint"].shape == (3, 3)
    assert annotated.obsm["sctag_proba"].shape == (3, 3)
    assert json.loads(annotated.uns["sctag"]["settings"]) == SETTINGS
    assert json.loads(annotated.uns["sctag"]["scores"]) is None
    assert json.loads(annotated.uns["sctag"]["median_depth"]) == 7.0


def test_tables_hold_a_row_for_each_cell_and_epoch(annotated, tmp_path):
    annotated, fitted = annotated
    results.write_run(tmp_path, annotated, fitted, {results.DATA: annotated})
    written = {results.LABELS, results.HISTORY, results.DATA, "model.json"}
    assert set(contents(tmp_path)) == written
    assert (tmp_path / results.LABELS).read_text() == (
        'cell,cluster,probability\nx,0,0.7\n"y, z",2,0.8\n"say ""w""",2,0.5\n'
    )
    assert pd.read_csv(tmp_path / results.HISTORY).to_dict("records") == HISTORY
    read = ad.read_h5ad(tmp_path / results.DATA)
    assert read.obs["sctag"].cat.categories.tolist() == ["0", "1", "2"]
    np.testing.assert_array_equal(read.obsm["sctag_proba"], annotated.obsm["sctag_proba"])
