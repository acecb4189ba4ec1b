"""The benchmark's own arithmetic, and one small row of it."""

import numpy as np
import pytest

from perf import speed


def test_floor_counts_every_product_of_an_epoch(monkeypatch):
    """By hand for two cells and three genes: 2 FLOPs a multiply-add, 3 products a weight."""
    for name, value in {"HOPS": 1, "HIDDEN": 5, "LATENT": 2, "DECODER": (4, 7)}.items():
        monkeypatch.setattr(speed, name, value)
    first = 2 * (2 * 3) * 5 * 2  # (hops + 1) genes x hidden, and its weights' gradient
    others = 2 * 5 * 2 + 2 * 4 + 4 * 7 + 7 * 3 * 3
    assert speed.floor_flops(2, 3) == 2 * (first + 2 * 3 * others) + 3 * 2 * 3 * 2 * 2


@pytest.mark.slow
def test_recall_counts_what_both_graphs_list(monkeypatch):
    adata = speed.simulated(60)[:, :5].copy()
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    assert speed.recall(adata) == 1.0  # so few that all are found

    import neighbours

    def nearest_others(points, *, k, exact, seed):
        """Of four others listed, one is the same either way."""
        steps = [1, 2, 3, 4] if exact else [4, 5, 6, 7]
        return (np.arange(len(points))[:, None] + steps) % len(points)

    monkeypatch.setattr(speed, "NEIGHBORS", 5)
    monkeypatch.setattr(neighbours, "nearest_others", nearest_others)
    assert speed.recall(adata) == pytest.approx(0.25)


def test_turns_interleave_and_give_medians(monkeypatch):
    order, clock = [], iter([0, 1, 10, 13, 20, 22, 30, 33, 40, 49, 50, 53])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    functions = {name: lambda name=name: order.append(name) for name in "ab"}
    assert speed.time_in_turn(functions, 3) == {"a": 2, "b": 3}
    assert "".join(order) == "ab" + "ababab"
