"""Whether the disk has room for a run's files: an honest bound, and a refusal that helps."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import prepared

import results
import room
from estimation import Number
from outcome import outputs
from perf.speed import simulated
from results import Fitted, Trained
from settings import Settings
from utils import InputError

MIB = 2**20


@pytest.fixture(scope="module")
def data():
    """Counts of 2,000 cells with annotation of their own, the same prepared, and an outcome."""
    rng = np.random.default_rng(0)
    counts = simulated(2_000)
    counts.obs["donor"] = pd.Categorical(rng.choice(["first", "second"], 2_000))
    counts.obs["barcode"] = [f"AAACCTGAGAAACCAT-{cell}" for cell in range(2_000)]
    counts.obsm["spatial"] = rng.normal(size=(2_000, 2))
    counts.layers["spliced"] = counts.X.copy()
    counts.uns["colours"] = np.array(["#ff0000", "#00ff00"])
    adata = prepared(
        counts, highly_genes=200, log_genes=400, k_neighbors=15, symmetric_graph=True, n_pcs=20
    )
    z, q = rng.normal(size=(2_000, 15)), rng.dirichlet(np.ones(8), 2_000)
    features = np.hstack([z, rng.normal(size=(2_000, adata.obsm["X_pca"].shape[1] + 50))])
    trained = Trained(
        network=SimpleNamespace(save=lambda _: None),
        initial=q.argmax(axis=1),
        z=z.astype(np.float32),
        points=features.astype(np.float32),
        q=q.astype(np.float32),
        history=[{"phase": "pretrain", "epoch": 1, "total": 1.0}],
        expected=SimpleNamespace(
            mean=rng.random((2_000, 200), np.float32), pi=rng.random((2_000, 200), np.float32)
        ),
    )
    return counts, adata, Fitted(q.argmax(axis=1), Number(8, "given"), {}, trained)


@pytest.mark.parametrize("packing", [room.packed, room.as_it_is])
def test_files_are_not_larger_than_their_bound(packing, data, tmp_path):
    counts, adata, fitted = data
    settings = Settings.of(denoised=True, no_report=True, highly_genes=200, log_genes=400)
    bounds = room.sizes_of(adata, counts, settings, n_clusters=8, packing=packing)
    record = {"settings": settings.to_json(), "data": {}, "environment": {}}
    outputs.write(
        tmp_path,
        adata.copy(),
        fitted,
        settings,
        whole=counts.copy(),
        cell_types=None,
        record=record,
        metrics={},
    )
    written = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(bounds) - set(written) == {results.NETWORK[1]}
    for name in (results.DATA, results.PREPARED, results.DENOISED, results.LABELS):
        assert written[name] <= bounds[name], name
    large = (results.DATA, results.PREPARED, results.DENOISED)
    if packing is room.packed:
        assert sum(bounds[name] for name in large) < 1.6 * sum(written[name] for name in large)


def test_an_array_packs_as_its_parts_do():
    rng = np.random.default_rng(0)
    random, zeros = rng.random(10**6), np.zeros(10**6)
    assert room.packed(random) == pytest.approx(random.nbytes, rel=0.1)
    assert room.packed(zeros) < 0.02 * zeros.nbytes
    half = np.concatenate([random, zeros])
    assert room.packed(half) == pytest.approx(0.5 * half.nbytes, rel=0.2)
    assert room.packed(zeros[:0]) == 0


def test_every_kind_of_value_has_a_size():
    frame = pd.DataFrame(
        {"number": np.arange(3.0), "text": ["a", "b", "c"], "word": pd.Categorical(["x", "y", "x"])}
    )
    value = {"frame": frame, "sparse": sp.csr_matrix(np.eye(4)), "nested": {"array": np.ones(5)}}
    texts = (3 + 3 + 2) * (room.OF_TEXT + 1)  # index, texts, categories
    expected = texts - 3 + 3 * 8 + 3 + (4 * 8 + 4 * 4 + 5 * 4) + 5 * 8
    index = 3 if frame.index.dtype.kind == "O" else 3 * 8 - 3 * room.OF_TEXT
    assert room._size(value, room.as_it_is) == expected + index


@pytest.fixture
def free(monkeypatch):
    """Let the disk have so many bytes free."""

    def free(n_bytes):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=n_bytes))

    return free


def refusal(tmp_path, adata, whole, settings):
    with pytest.raises(InputError) as refused:
        room.check(tmp_path / ".partial-x", adata, whole, settings, n_clusters=8)
    return str(refused.value)


def test_a_disk_without_room_is_refused_with_what_helps(free, data, tmp_path):
    counts, adata, _ = data
    settings = Settings.of(denoised=True)
    sizes = room.sizes_of(adata, counts, settings, n_clusters=8, packing=room.packed)
    total = sum(sizes.values())
    free(total + 1)
    room.check(tmp_path, adata, counts, settings, n_clusters=8)
    free(total - MIB)
    sentence = refusal(tmp_path, adata, counts, settings)
    assert f"take up to {total / MIB:.0f} MiB, and {total / MIB - 1:.0f} MiB are free" in sentence
    assert f"in {tmp_path}: pass --no_h5ad, pass --no_report, leave --denoised out," in sentence
    free(total - sizes[results.DENOISED] - MIB)
    assert "--no_h5ad" in refusal(tmp_path, adata, counts, settings)
    assert "--denoised" not in refusal(tmp_path, adata, counts, settings)
    free(MIB)
    assert "free in" in refusal(tmp_path, adata, counts, settings)
    assert "--no" not in refusal(tmp_path, adata, counts, settings)


def test_flags_that_are_given_are_not_named(free, data, tmp_path):
    _, adata, _ = data
    free(1)
    sentence = refusal(tmp_path, adata, None, Settings.of(no_h5ad=True, no_report=True))
    assert sentence.endswith(
        "free in " + f"{tmp_path}: make room, or choose another folder with --out"
    )


def test_nothing_is_tried_where_there_is_plenty_of_room(free, data, tmp_path, monkeypatch):
    counts, adata, _ = data
    monkeypatch.setattr(room, "packed", lambda _: pytest.fail("an array was packed"))
    free(2**40)
    room.check(tmp_path, adata, counts, Settings.of(), n_clusters=None)


def test_the_command_refuses_before_tensorflow_starts(refused, simulated, free, tmp_path):
    free(1)
    assert "make room" in refused("--data", simulated.path, "--gpu_option=-1")
