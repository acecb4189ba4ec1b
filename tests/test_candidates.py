"""Several networks from different seeds: which goes on, and what happens where one diverges."""

import json
import re

import numpy as np
import pytest
from conftest import TINY, opened

import candidates
import clustering
from model import SCTAG

FLAGS = [*TINY, "--n_clusters", "3", "--networks", "3"]


@pytest.fixture
def diverging(monkeypatch):
    """Make the networks of these seeds begin with a weight that is not a number."""

    def diverging(*seeds):
        begin = SCTAG.restart

        def restart(network, seed):
            begin(network, seed)
            if seed in seeds:
                weights = network.trainable_variables[0]
                weights.assign(np.nan * weights.numpy())

        monkeypatch.setattr(SCTAG, "restart", restart)

    return diverging


def test_the_seeds_are_the_runs_own_and_others_that_it_decides():
    seeds = candidates.network_seeds(7, 4)
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert seeds == candidates.network_seeds(7, 4)
    assert seeds[:2] == candidates.network_seeds(7, 2)
    assert set(seeds).isdisjoint(candidates.network_seeds(8, 4))
    assert candidates.network_seeds(7, 1) == [7]


@pytest.mark.parametrize("which", [0, 2])
def test_a_network_that_diverges_is_left_out(which, diverging, run, simulated, tmp_path):
    seeds = candidates.network_seeds(1, 3)
    diverging(seeds[which])
    out = tmp_path / "out"
    done = opened(run("--data", simulated.path, *FLAGS, "--out", out, compiled=False), out)
    summary = done.metrics["networks"]
    assert summary["seeds"] == seeds
    assert [value is None for value in summary["silhouettes"]] == [i == which for i in range(3)]
    best = max(value for value in summary["silhouettes"] if value is not None)
    assert summary["kept"] == seeds[summary["silhouettes"].index(best)]
    assert re.fullmatch(
        rf"warning: network {which + 1} of 3 is left out: .* learning rate\n", done.ran.err
    )
    shown = ["-" if value is None else f"{value:.3f}" for value in summary["silhouettes"]]
    assert f"\nnetworks  silhouettes {', '.join(shown)}\n" in done.ran.out
    number = seeds.index(summary["kept"]) + 1
    assert f"\nnetworks  go on with {number} of 3; their clusters agree" in done.ran.out
    assert np.isfinite(done.adata.obsm["X_sctag"]).all()


@pytest.mark.parametrize("lost", [[], [0], [0, 2]])
def test_the_number_of_clusters_is_estimated_on_all_networks_that_are_left(
    lost, diverging, run, simulated, tmp_path
):
    seeds = candidates.network_seeds(1, 3)
    diverging(*(seeds[i] for i in lost))
    out = tmp_path / "out"
    flags = [*TINY, "--n_clusters", "auto", "--networks", "3", "--out", out]
    done = opened(run("--data", simulated.path, *flags, compiled=False), out)
    estimate = json.loads((out / "n_clusters.json").read_text())
    left = 3 - len(lost)
    assert len(estimate["curves"]) == left
    assert {len(numbers) for numbers in estimate["criteria"].values()} == {left}
    said = [number for numbers in estimate["criteria"].values() for number in numbers]
    assert estimate["n_clusters"] == int(np.median(said))
    assert done.metrics["n_clusters"] == estimate["n_clusters"]
    if left > 1:  # the networks differ, and so do their curves
        assert estimate["curves"][0] != estimate["curves"][1]


def test_with_one_network_left_there_is_no_agreement(diverging, run, simulated, tmp_path):
    seeds = candidates.network_seeds(1, 3)
    diverging(*seeds[:2])
    out = tmp_path / "out"
    done = opened(run("--data", simulated.path, *FLAGS, "--out", out, compiled=False), out)
    assert done.metrics["networks"]["kept"] == seeds[2]
    assert done.metrics["networks"]["agreement"] is None
    silhouette = done.metrics["networks"]["silhouettes"][2]
    assert f"\nnetworks  silhouettes -, -, {silhouette:.3f}\n" in done.ran.out


def test_a_run_of_which_all_networks_diverge_fails(diverging, run, simulated, tmp_path):
    diverging(*candidates.network_seeds(1, 3))
    out = tmp_path / "out"
    ran = run("--data", simulated.path, *FLAGS, "--out", out, "--quiet", compiled=False)
    assert ran.status == 1
    assert ran.err.splitlines()[-1].startswith("train.py: error: the loss is nan")
    assert not out.exists()


@pytest.mark.parametrize("init", ["kmeans", "leiden"])
def test_clusters_of_the_graph_are_made_once_for_all_networks(
    init, run, simulated, tmp_path, monkeypatch
):
    made, original = [], getattr(clustering, init)

    def counted(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(clustering, init, counted)
    out = tmp_path / "out"
    flags = [*FLAGS, "--init", init, "--maxiter", "0", "--out", out]
    done = opened(run("--data", simulated.path, *flags, compiled=False), out)
    assert len(made) == {"kmeans": 3, "leiden": 1}[init]
    if init == "leiden":
        assert done.metrics["networks"]["agreement"] == 1
        assert done.labels["cluster"].tolist() == made[0].tolist()
