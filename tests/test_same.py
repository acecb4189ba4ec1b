"""The same result again: what changes nothing, and by how much what adds in another order does."""

import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, assert_same_clustering, opened, write_published
from sklearn.metrics import adjusted_rand_score

import devices

# Without what is drawn for a cell by its place in the file: dropout, and the pairs of a graph loss.
BY_NO_PLACE = ["--dropout", "0", "--graph_loss", "mse"]


def results(out):
    """The bytes of the labels and of the losses."""
    return [(out / name).read_bytes() for name in ("labels.csv", "history.csv")]


def in_order_of(first, second):
    """Labels and embedding of a second run, its cells in the order of the first."""
    labels = second.labels.set_index("cell").loc[first.labels["cell"], "cluster"]
    return labels.to_numpy(), second.adata[first.adata.obs_names].obsm["X_sctag"]


def assert_near(first, second, *, atol):
    """The same clusters, whatever their numbers, and the embedding but for rounding."""
    labels, z = in_order_of(first, second)
    assert adjusted_rand_score(first.labels["cluster"], labels) == 1
    np.testing.assert_allclose(z, first.adata.obsm["X_sctag"], atol=atol)
    np.testing.assert_allclose(second.history["total"], first.history["total"], rtol=1e-4)


@pytest.fixture(scope="module")
def by_no_place(tiny, simulated):
    return tiny("--data", simulated.path, *BY_NO_PLACE)


def test_a_second_run_is_the_first_to_the_byte(base, tiny, simulated):
    again = tiny("--data", simulated.path)
    assert_same_clustering(again, base)
    assert results(again.out) == results(base.out)


def test_what_is_printed_and_written_changes_nothing(base, run, simulated, tmp_path):
    flags = ["--quiet", "--no_h5ad", "--denoised", "--log_file", tmp_path / "log"]
    out = tmp_path / "out"
    done = run("--data", simulated.path, *TINY, *flags, "--out", out, compiled=False)
    assert done.status == 0
    assert results(out) == results(base.out)


@pytest.mark.slow
def test_the_report_changes_nothing(base, run, simulated, tmp_path):
    flags = [flag for flag in TINY if flag != "--no_report"]
    out = tmp_path / "out"
    done = run("--data", simulated.path, *flags, "--out", out, compiled=False)
    assert_same_clustering(opened(done, out), base)
    assert results(out) == results(base.out)


def test_the_size_of_blocks_changes_the_result_by_rounding(base, tiny, simulated, monkeypatch):
    monkeypatch.setattr(devices, "CACHE_BYTES", 4 * 3 * 50 * 7)  # 7 of the 120 cells
    assert_near(base, tiny("--data", simulated.path), atol=1e-4)


def test_cells_in_another_order_change_the_result_by_rounding(
    by_no_place, tiny, simulated, tmp_path
):
    """But for what is drawn for each cell, which the order decides as a seed does."""
    order = np.random.default_rng(3).permutation(len(simulated.cells))
    path = write_published(
        tmp_path / "data.h5",
        simulated.counts[order],
        labels=simulated.labels[order],
        cells=simulated.cells[order],
        genes=simulated.genes,
    )
    assert_near(by_no_place, tiny("--data", path, *BY_NO_PLACE), atol=1e-3)


def test_genes_in_another_order_change_the_result_as_a_seed_does(base, tiny, simulated, tmp_path):
    """The data are prepared alike; the first weights of the network are drawn by place."""
    order = np.random.default_rng(3).permutation(len(simulated.genes))
    path = write_published(
        tmp_path / "data.h5",
        simulated.counts[:, order],
        labels=simulated.labels,
        cells=simulated.cells,
        genes=simulated.genes[order],
    )
    other = tiny("--data", path)
    assert {*other.prepared.var_names} == {*base.prepared.var_names}
    pca = base.adata.obsm["X_pca"]
    np.testing.assert_allclose(other.adata.obsm["X_pca"], pca, atol=1e-3)
    graphs = (each.adata.obsp["connectivities"] for each in (base, other))
    assert abs(next(graphs) - next(graphs)).sum() == 0
    assert adjusted_rand_score(base.labels["cluster"], in_order_of(base, other)[0]) > 0.9


@pytest.mark.slow
def test_one_thread_or_two_change_the_result_by_rounding(simulated, request, tmp_path):
    """Compiled, in processes of their own, as a user runs it; two runs of one thread are equal."""
    variables = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    outs = [tmp_path / name for name in ("one", "again", "two")]
    for out, threads in zip(outs, ("1", "1", "2"), strict=True):
        subprocess.run(
            [sys.executable, "train.py", "--data", simulated.path, *TINY, "--out", out],
            cwd=request.config.rootpath,
            env=os.environ | dict.fromkeys(variables, threads),
            capture_output=True,
            check=True,
        )
    assert results(outs[0]) == results(outs[1])
    one, two = (pd.read_csv(out / "labels.csv") for out in outs[1:])
    assert adjusted_rand_score(one["cluster"], two["cluster"]) == 1
    z = [ad.read_h5ad(out / "sctag.h5ad").obsm["X_sctag"] for out in outs[1:]]
    np.testing.assert_allclose(*z, atol=1e-4)
