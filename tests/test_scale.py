"""The simulated atlases, and how the growth of time and memory with them is measured."""

import json
import math
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import readers
from data_settings import LABEL_KEY
from perf import atlas, growth, scale

GENES, TYPES = 60, 12


@pytest.fixture(scope="module")
def model():
    return atlas.make_model(3, types=TYPES, genes=GENES)


def write(path, n_cells, **changes) -> ad.AnnData:
    atlas.write(path, n_cells, **{"seed": 3, "types": TYPES, "genes": GENES, **changes})
    return ad.read_h5ad(path)


# --- The atlas ------------------------------------------------------------------------------------


def test_an_atlas_is_the_beginning_of_every_larger_one(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "CHUNK", 250)
    large, small = (write(tmp_path / f"{n}.h5ad", n) for n in (600, 333))
    assert large.shape == (600, GENES)
    assert (large.X[:333] != small.X).nnz == 0
    for key in (LABEL_KEY, "lineage", "batch"):
        assert large.obs[key][:333].tolist() == small.obs[key].tolist()
    assert (large.X[250:500] != large.X[:250]).nnz > 0  # the chunks differ
    other = write(tmp_path / "other.h5ad", 333, seed=4)
    assert (other.X != small.X).nnz > 0


def test_the_readers_of_the_suite_read_an_atlas(tmp_path):
    atlas.write(tmp_path / "600.h5ad", 600, seed=1)
    adata = readers.read(tmp_path / "600.h5ad")
    assert adata.shape == (600, atlas.GENES)
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert 0.10 < adata.X.nnz / np.prod(adata.shape) < 0.15
    assert 1500 < adata.X.sum() / 600 < 2500
    labels = readers.read_labels(adata, LABEL_KEY)
    assert 30 < labels.nunique() <= atlas.TYPES
    assert (labels.groupby(adata.obs["lineage"].to_numpy()).nunique() <= 5).all()


def test_cell_types_are_of_unequal_size_within_lineages(model):
    chunks = [atlas.draw_chunk(model, 3, chunk) for chunk in range(5)]
    types = np.concatenate([cells.types for cells in chunks])
    shares = np.bincount(types, minlength=TYPES) / len(types)
    assert model.sizes.sum() == pytest.approx(1)
    assert model.sizes[-1] / model.sizes[0] == pytest.approx(atlas.SMALLEST)
    ratios = model.sizes[1:] / model.sizes[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    np.testing.assert_allclose(shares, model.sizes, atol=4 * math.sqrt(0.25 / len(types)))
    assert sorted(np.bincount(model.lineages)) == [2, 5, 5]
    batches = np.concatenate([cells.batches for cells in chunks])
    assert batches.mean() == pytest.approx(atlas.SECOND_BATCH, abs=0.02)


def test_counts_have_the_moments_of_their_distribution(monkeypatch):
    """By hand: zero-inflated NB about a log-normal library, of one type and one batch."""
    monkeypatch.setattr(atlas, "CHUNK", 20_000)
    monkeypatch.setattr(atlas, "SECOND_BATCH", 0.0)
    monkeypatch.setattr(atlas, "LIBRARY", 60.0)
    model = atlas.make_model(0, types=2, genes=20)
    cells = atlas.draw_chunk(model, 0, 0)
    counts = cells.counts.toarray()[cells.types == 0]
    share, kept = model.expression[0, 0], 1 - model.dropout[0, 0]
    variance = atlas.LIBRARY_SD**2
    library = atlas.LIBRARY * np.exp(variance / 2)
    library_square = atlas.LIBRARY**2 * np.exp(2 * variance)
    mean = kept * library * share
    # E[x^2] of a Poisson about a gamma of mean m and shape theta: m + m^2 (1 + 1 / theta)
    square = kept * (library * share + library_square * share**2 * (1 + 1 / model.theta))
    errors = np.sqrt((square - mean**2) / len(counts))
    assert (np.abs(counts.mean(axis=0) - mean) < 4.5 * errors).all()
    common = mean > 1
    assert common.any()
    observed = (counts.astype(float) ** 2).mean(axis=0)
    np.testing.assert_allclose(observed[common], square[common], rtol=0.25)


def test_the_second_batch_is_shifted_gene_by_gene(model):
    ratios = np.log(model.expression[1] / model.expression[0])
    spread = ratios.std(axis=1)
    between = ratios - ratios[:1]  # of cell types: the norms of the profiles differ, no genes do
    np.testing.assert_allclose(between, np.repeat(between[:, :1], GENES, axis=1), atol=1e-12)
    assert (spread > atlas.BATCH_SD / 2).all()
    assert (spread < atlas.BATCH_SD * 2).all()


def test_positions_are_64_bit_where_there_may_be_too_many_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "CHUNK", 100)
    narrow = write(tmp_path / "narrow.h5ad", 250)
    monkeypatch.setattr(atlas, "MOST_COUNTS", 250 * GENES - 1)
    wide = write(tmp_path / "wide.h5ad", 250)
    import h5py

    for name, kind in (("narrow", np.int32), ("wide", np.int64)):
        with h5py.File(tmp_path / f"{name}.h5ad") as file:
            assert file["X/indptr"].dtype == kind
    assert (narrow.X != wide.X).nnz == 0


def test_an_atlas_that_is_not_whole_is_not_there(tmp_path, monkeypatch):
    draw = atlas.draw_chunk

    def full_disk(model, seed, chunk, rows):
        if chunk:
            raise OSError("the disk is full")
        return draw(model, seed, chunk, rows)

    monkeypatch.setattr(atlas, "CHUNK", 100)
    monkeypatch.setattr(atlas, "draw_chunk", full_disk)
    with pytest.raises(OSError, match="the disk is full"):
        write(tmp_path / "atlas.h5ad", 250)
    assert list(tmp_path.iterdir()) == []


# --- Exponents, table, figure ---------------------------------------------------------------------


def record(method="sctag", cells=10_000, *, wall=60.0, memory=1024.0, **changes) -> dict:
    """What `scale.measure` returns of a run that ended well."""
    return {
        **{"method": method, "cells": cells, "seed": 1, "batch_key": None, "flags": []},
        **{"epochs_asked": None, "status": "ok", "reason": None, "wall_seconds": wall},
        **{"seconds": {"read": 6.0, "train": 30.0, "write": 3.0, "total": 39.0}},
        **{"peak_memory_mb": memory, "ari": 0.75, "n_clusters": 40, "epochs": None},
        **{"default_epochs": None, "command": ["python", "train.py"], "suite_commit": "abc"},
        **{"machine": {"processor": "A CPU", "platform": "Linux"}, "threads": 2},
        **changes,
    }


LOST = {"status": "timed out", "reason": "stopped at the time limit of 9 s", "seconds": None}
LOST |= {"ari": None, "n_clusters": None}


def test_the_exponent_of_made_up_runs():
    sizes = (10_000, 30_000, 100_000, 300_000)
    runs = [record(cells=n, wall=2e-3 * n**1.3, memory=512 * n**0.5) for n in sizes]
    runs += [record(cells=1000, wall=1e6), record(cells=10**6, wall=1.0)]  # not fitted
    runs += [record(cells=50_000) | LOST]
    time = growth.fit(runs, growth.total_seconds)
    assert time.exponent == pytest.approx(1.3)
    assert time.factor == pytest.approx(2e-3)
    assert time.cells == list(sizes)
    memory = growth.fit(runs, growth.memory_gib)
    assert memory.exponent == pytest.approx(0.5)
    assert memory.factor == pytest.approx(0.5)
    assert growth.fit(runs[:1], growth.memory_gib) is None


def test_training_that_was_cut_short_is_extrapolated_and_nothing_else():
    whole = record("scvi")
    assert not growth.is_extrapolated(whole)
    assert growth.total_seconds(whole) == 60
    assert growth.phases(whole) == {"read": 6, "train": 30, "write": 3, growth.OTHER: 21}
    short = record("scvi", epochs=2, default_epochs=8)
    assert growth.is_extrapolated(short)
    assert growth.phases(short) == {"read": 6, "train": 120, "write": 3, growth.OTHER: 21}
    assert growth.total_seconds(short) == 150
    assert not growth.is_extrapolated(record("scvi", epochs=8, default_epochs=8))


def test_the_table_has_a_row_for_each_run_in_order():
    runs = [
        record(cells=30_000),
        record("scvi", epochs=2, default_epochs=8, ari=0.5),
        record(memory=1536.0),
        record("scvi", 30_000, **LOST),
    ]
    table = growth.runs_table(runs)
    assert table.header == [
        *("cells", "method", "minutes in all", "read", "train", "write", growth.OTHER),
        *("peak GiB", "ARI", "clusters", "status"),
    ]
    reason = "timed out: stopped at the time limit of 9 s"
    cut = "ok; time extrapolated to 8 epochs from 2, after which are the ARI and the clusters"
    assert table.rows == [
        ["10,000", "sctag", "1.00", "0.10", "0.50", "0.05", "0.35", "1.50", "0.750", "40", "ok"],
        ["10,000", "scvi", "~2.50", "0.10", "~2.00", "0.05", "0.35", "1.00", "0.500", "40", cut],
        ["30,000", "sctag", "1.00", "0.10", "0.50", "0.05", "0.35", "1.00", "0.750", "40", "ok"],
        ["30,000", "scvi", *["-"] * 5, "1.00", "-", "-", reason],
    ]
    assert growth.growth_table(runs).rows == [
        ["sctag", "0.00", "-0.37", "10,000, 30,000"],
        ["scvi", "-", "-", "-"],
    ]


def test_a_method_with_other_flags_is_a_line_of_its_own():
    runs = [record(), record(flags=["--hops", "2"]), record(batch_key="batch")]
    names = [row[0] for row in growth.growth_table(runs).rows]
    assert names == ["sctag", "sctag --hops 2", "sctag --batch_key batch"]
    assert [row[1] for row in growth.runs_table(runs).rows] == names


def test_the_figure_is_drawn_where_nothing_ended_well():
    assert growth.draw([record() | LOST], "png").startswith(b"\x89PNG")
    assert b"</svg>" in growth.draw([record(), record("scvi", epochs=2, default_epochs=8)], "svg")


# --- The runs -------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The command with made-up runs: `runs(*flags)` returns those that it has made."""

    def write(path, n_cells, *, seed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def measure(method, cells, plan):
        made.append((method, cells))
        gone = {"status": scale.NO_SCVI, "reason": "no scvi-tools", "wall_seconds": None}
        lost = LOST | gone if method == "scvi" else {}
        return record(method, cells, wall=cells / 100) | scale.identity(method, cells, plan) | lost

    def run(*flags):
        made.clear()
        assert scale.main([str(tmp_path / "out"), *flags]) == 0
        return list(made)

    made = []
    monkeypatch.setattr(atlas, "write", write)
    monkeypatch.setattr(scale, "measure", measure)
    monkeypatch.setattr(growth, "draw", lambda records, kind: kind.encode())
    return run


def test_what_has_a_record_is_not_repeated(runs, tmp_path):
    both = ["--cells", "30000", "10000", "--methods", "sctag", "scanpy"]
    sizes = [(name, n) for n in (10_000, 30_000) for name in ("sctag", "scanpy")]
    assert runs(*both) == sizes
    assert runs(*both) == []
    assert runs("--cells", "10000", "100000", "--methods", "sctag") == [("sctag", 100_000)]
    assert runs("--cells", "10000", "--methods", "sctag", "--again") == [("sctag", 10_000)]
    kept = json.loads((tmp_path / "out" / "scale.json").read_text())["runs"]
    assert len(kept) == 5
    text = (tmp_path / "out" / "scale.md").read_text()
    assert "| sctag | 1.00 | 0.00 | 10,000, 30,000, 100,000 |" in text
    assert "![time and memory against cells](scale.png)" in text
    for name in ("scale.png", "scale.svg"):
        assert (tmp_path / "out" / name).read_text() == name[-3:]


def test_other_flags_are_another_run(runs):
    first = ["--cells", "10000", "--methods", "sctag", "scanpy", "scvi"]
    of_all = [(name, 10_000) for name in ("sctag", "scanpy", "scvi")]
    assert runs(*first) == of_all
    assert runs(*first) == [("scvi", 10_000)]  # it may be installed now
    assert runs(*first[:-1], "--flags", "--hops 2") == [("sctag", 10_000)]
    assert runs(*first[:-1], "--seed", "2") == of_all[:2]
    assert runs(*first[:-1], "--batch_key", "batch") == of_all[:2]
    assert runs(*first[:-1]) == []


def test_a_damaged_file_of_records_is_refused(runs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scale.json").write_text("[]")
    with pytest.raises(SystemExit) as ended:
        runs("--cells", "10000")
    assert ended.value.code == 2
    assert "scale.json holds no records" in capsys.readouterr().err


@pytest.fixture
def plan(tmp_path):
    return scale.Plan(
        out=tmp_path,
        atlases=tmp_path / "atlases",
        seed=4,
        batch_key="batch",
        flags=["--hops", "2"],
        scvi_python="/env/bin/python",
        scvi_epochs=3,
        time_limit=20.0,
    )


def test_the_commands_of_the_methods(plan):
    common = ["--data", str(plan.atlases / "100k.h5ad"), "--seed", "4", "--quiet", "--overwrite"]
    commands = {name: scale.command_of(name, 100_000, plan) for name in scale.METHODS}
    for name, words in commands.items():
        out = ["--out", str(plan.out / "runs" / "100k" / name)]
        rest = [*common, *out, *(["--n_clusters", "labels"] * (name != "scanpy"))]
        rest += ["--batch_key", "batch"]
        assert " ".join(rest) in " ".join(words)
    assert commands["sctag"][-2:] == ["--hops", "2"]
    assert commands["scanpy"][2:4] == ["--method", "scanpy"]
    assert commands["scvi"][:6] == [
        *("/env/bin/python", "-m", "perf.scvi_part", "--epochs", "3", "--"),
    ]
    assert [growth.size_name(n) for n in (600, 10_000, 10**6)] == ["600", "10k", "1M"]


WORKS = """
import json, os, sys
from pathlib import Path
out = Path(sys.argv[1])
out.mkdir()
metrics = {"seconds": {"read": 1.0, "total": 2.0}, "peak_memory_mb": 64.0, "scores": {"ARI": 0.5}}
metrics |= {"cluster_sizes": [3, 0, 4], "epochs": {"pretrain": 5}}
(out / "metrics.json").write_text(json.dumps(metrics))
notes = {"versions": {"numpy": os.environ["OMP_NUM_THREADS"]}, "data": {"sha256": "d"}}
(out / "settings.json").write_text(json.dumps(notes))
"""


def faked(monkeypatch, program: str) -> None:
    def command_of(method, cells, plan):
        return [sys.executable, "-c", program, str(scale.run_dir(method, cells, plan))]

    monkeypatch.setattr(scale, "command_of", command_of)


def test_a_run_is_recorded(plan, monkeypatch):
    faked(monkeypatch, WORKS)
    made = scale.measure("sctag", 600, plan)
    assert made["status"] == "ok"
    assert made["seconds"] == {"read": 1.0, "total": 2.0}
    assert (made["ari"], made["n_clusters"], made["peak_memory_mb"]) == (0.5, 2, 64.0)
    assert made["wall_seconds"] > 0
    assert made["epochs"] is None  # scTAG trains as many as its default has it
    assert made["versions"] == {"numpy": str(scale.threads())}
    assert growth.runs_table([made]).rows[0][:2] == ["600", "sctag --batch_key batch --hops 2"]
    assert scale.read_records(Path("nowhere")) == []


def test_a_run_that_fails_is_recorded(plan, monkeypatch):
    faked(monkeypatch, "import sys; print('a line'); sys.exit('no memory for so many cells')")
    made = scale.measure("sctag", 600, plan)
    assert made["status"] == "failed"
    assert made["reason"] == "exit status 1: no memory for so many cells"
    faked(monkeypatch, "import time; time.sleep(600)")
    late = scale.measure("sctag", 600, plan._replace(time_limit=2.0))
    assert late["status"] == "timed out"
    assert late["reason"] == "stopped at the time limit of 2 s"
    assert late["peak_memory_mb"] > 1
    scale.write_all([made, late], plan.out)
    assert "no memory for so many cells" in (plan.out / "scale.md").read_text()


def test_a_run_without_results_has_failed(plan, monkeypatch):
    faked(monkeypatch, "pass")
    made = scale.measure("sctag", 600, plan)
    assert made["status"] == "failed"
    assert made["reason"].startswith("its results cannot be read (FileNotFoundError: ")


def test_scvi_that_is_not_there_is_recorded(plan):
    missing = scale.measure("scvi", 600, plan._replace(scvi_python="/no/such/python"))
    assert missing["status"] == scale.NO_SCVI
    assert "/no/such/python has no scvi-tools" in missing["reason"]
    assert not scale.has_scvi(sys.executable)
