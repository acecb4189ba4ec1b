"""How much memory a run takes, how much there is, and that what cannot fit is refused at once."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import prepared

import clustering
import components
import free_memory
import gene_choice
import memory
import neighbours
import scratch
import views
from annotation import markers
from devices import Device
from new_cells import novelty
from perf.speed import simulated as simulated_counts
from settings import Settings
from utils import InputError

GIB = 2**30
MIB = 2**20


@pytest.fixture
def root(tmp_path):
    """A machine with 8 GiB to give and a process in no group."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    meminfo = f"MemTotal: {16 * 2**20} kB\nMemAvailable:   {8 * 2**20} kB\nHugePages_Total: 0\n"
    (tmp_path / "proc/meminfo").write_text(meminfo)
    return tmp_path


def write_group(folder, limit, use, copies, *, version):
    folder.mkdir(parents=True, exist_ok=True)
    limit_file, use_file, field = free_memory.OF_VERSION[version]
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / use_file).write_text(f"{use}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{field} {copies}\n")


def test_a_machine_gives_what_is_available(root):
    assert free_memory.available(root) == 8 * GIB


def test_nothing_is_known_where_nothing_tells(tmp_path):
    assert free_memory.available(tmp_path) is None


@pytest.mark.parametrize("path", ["/job", "/job/step/0", "/"])
def test_a_group_of_version_2_limits_all_below_it(path, root):
    (root / "proc/self/cgroup").write_text(f"0::{path}\n")
    at = "job" if path != "/" else ""
    write_group(root / "sys/fs/cgroup" / at, 4 * GIB, 3 * GIB, GIB // 2, version=2)
    assert free_memory.available(root) == 1.5 * GIB


def test_a_group_of_version_1_limits_its_processes(root):
    (root / "proc/self/cgroup").write_text("9:cpu:/other\n4:hugetlb,memory:/job\n0::/\n")
    write_group(root / "sys/fs/cgroup/memory/job", 2 * GIB, GIB, 0, version=1)
    assert free_memory.available(root) == GIB


def test_a_group_whose_path_is_the_host_s_is_at_the_top(root):
    (root / "proc/self/cgroup").write_text("4:memory:/docker/abc\n")
    write_group(root / "sys/fs/cgroup/memory", 2 * GIB, GIB, 0, version=1)
    assert free_memory.available(root) == GIB


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
@pytest.mark.parametrize("version", [1, 2])
def test_a_group_may_have_no_limit(limit, version, root):
    line, top = ("0::/job", "") if version == 2 else ("4:memory:/job", "memory")
    (root / "proc/self/cgroup").write_text(line + "\n")
    write_group(root / "sys/fs/cgroup" / top / "job", limit, GIB, 0, version=version)
    assert free_memory.available(root) == 8 * GIB


def test_a_group_beyond_its_limit_leaves_nothing(root):
    (root / "proc/self/cgroup").write_text("0::/\n")
    write_group(root / "sys/fs/cgroup", GIB, 2 * GIB, 0, version=2)
    assert free_memory.available(root) == 0


def test_an_address_space_is_a_limit(root, monkeypatch):
    (root / "proc/self/status").write_text(f"Name:\tpython\nVmSize:\t {2**20} kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4 * GIB, resource.RLIM_INFINITY))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert free_memory.available(root) == 3 * GIB
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert free_memory.available(root) == 3 * GIB - free_memory.RESERVED


def test_this_machine_tells():
    assert 0 < free_memory.available() < 2**50


# --- The estimate ---------------------------------------------------------------------------------

# Peaks in MiB of whole runs on one thread of a CPU (`peak_memory_mb` of metrics.json, 2 and 2
# epochs) on simulated sparse counts with a third of the values above zero, as those of the embedded
# data set, or with .085 of 20,000 genes: cells, genes, flags, peak.
MEASURED = [
    (1_000, 2_000, "no_report", 1_341),
    (3_000, 2_000, "", 1_555),
    (3_000, 2_000, "no_report", 1_576),
    (3_000, 2_000, "no_report highly_genes=2000", 1_778),
    (3_000, 20_000, "no_report", 1_846),
    (6_000, 2_000, "no_report", 1_892),
    (10_000, 2_000, "batch_cells=30000", 2_163),
    (10_000, 2_000, "no_report batch_cells=30000", 2_114),
    (10_000, 2_000, "no_report graph_loss=mse batch_cells=30000", 2_002),
    (10_000, 2_000, "no_report highly_genes=2000 batch_cells=30000", 2_657),
    (10_000, 2_000, "no_report hops=3 batch_cells=30000", 2_213),
    (30_000, 2_000, "no_report batch_cells=30000", 3_670),
]


def settings_of(flags):
    words = flags.split()
    if "official" in words:
        return Settings.of("official")
    given = dict(re.findall(r"(\w+)=(\w+)", flags))
    numbers = {name: int(value) if value.isdecimal() else value for name, value in given.items()}
    return Settings.of(**numbers, **{word: True for word in words if "=" not in word})


def empty(n_genes):
    return ad.AnnData(sp.csr_matrix((1, n_genes), dtype=np.float32))


def size(settings, *, cells, genes=2_000):
    """Of the simulated counts of `MEASURED`, as far as it is known before they are prepared."""
    one = memory.size_of_counts(empty(genes), settings)
    stored = int(cells * genes * (0.333 if genes == 2_000 else 0.085))
    return one._replace(
        cells=cells,
        stored=stored,
        kept_stored=int(stored * min(1, 1.5 * one.kept / genes)),
        edges=cells * one.edges,
    )


@pytest.mark.parametrize(("cells", "genes", "flags", "peak"), MEASURED)
def test_the_estimate_is_near_what_was_measured(cells, genes, flags, peak):
    settings = settings_of(flags)
    estimate = memory.estimated_peak(size(settings, cells=cells, genes=genes), settings) / MIB
    assert estimate == pytest.approx(peak, rel=0.2)


@pytest.mark.parametrize(("in_files", "peak"), [(False, 2_905), (True, 1_360)])
def test_the_estimate_of_preparing_a_wide_atlas_is_near_what_was_measured(in_files, peak):
    """Of 100,000 cells and 20,000 genes of `perf.atlas`, 908 counts a cell, on one thread.

    It took 4,936 MiB where all steps copied the counts. Pages of files are not in the peak.
    """
    settings, stored = Settings.of(), 90_848_000
    one = memory.size_of_counts(empty(20_000), settings)._replace(
        cells=100_000, stored=stored, mapped=in_files * stored, edges=2_400_000
    )
    one = one._replace(kept_stored=int(stored * 1.5 * one.kept / 20_000))
    preparing = memory.estimated_peaks(one, settings).preparing / MIB
    assert preparing == pytest.approx(peak, rel=0.2)


def test_counts_in_files_do_not_count(tmp_path, monkeypatch):
    settings, adata = Settings.of(), prepared()
    monkeypatch.setattr(scratch, "LARGE", 64)
    with scratch.within(tmp_path):
        mapped = prepared()
    for name, of in (("X", memory.size_of_counts), ("raw", memory.size_of_prepared)):
        sizes = []
        for data in (adata, mapped):
            counts = ad.AnnData(data.raw.X) if name == "X" else data
            sizes.append(of(counts, settings))
        assert sizes[0].mapped == 0
        assert sizes[1] == sizes[0]._replace(mapped=adata.raw.X.nnz)
    large = size(settings, cells=100_000, genes=20_000)
    in_memory = memory.estimated_peaks(large, settings)
    in_files = memory.estimated_peaks(large._replace(mapped=large.stored), settings)
    assert all(one < other for one, other in zip(in_files, in_memory, strict=True))


def test_other_choices_of_genes_hold_copies_of_all_counts():
    large = size(Settings.of(), cells=100_000, genes=20_000)
    least = memory.estimated_peaks(large, Settings.of()).preparing
    for method in ("seurat", "seurat_v3"):
        settings = Settings.of(gene_selection=method)
        assert memory.estimated_peaks(large, settings).preparing > least + 10 * large.stored


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1_000, 3_000, 10_000])
@pytest.mark.parametrize("flags", [["--no_report"], ["--highly_genes", "1000", "--hops", "3"]])
def test_a_run_takes_what_was_estimated(cells, flags, tmp_path, request):
    simulated_counts(cells).write_h5ad(tmp_path / "cells.h5ad")
    command = [sys.executable, "train.py", "--data", tmp_path / "cells.h5ad", "--quiet"]
    command += ["--out", tmp_path / "out", "--pretrain_epochs", "2", "--maxiter", "2", *flags]
    threads = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    subprocess.run(
        [*map(str, command), "--n_clusters", "8", "--gpu_option=-1"],
        cwd=request.config.rootpath,
        env=os.environ | dict.fromkeys(threads, "1"),
        check=True,
    )
    settings = Settings.of(**json.loads((tmp_path / "out/settings.json").read_text())["settings"])
    adata = ad.read_h5ad(tmp_path / "cells.h5ad")
    estimate = memory.estimated_peak(memory.size_of_counts(adata, settings), settings) / MIB
    measured = json.loads((tmp_path / "out/metrics.json").read_text())["peak_memory_mb"]
    assert estimate == pytest.approx(measured, rel=0.2)


def test_more_of_anything_takes_more():
    whole = "batch_cells=20000"
    settings = settings_of(whole)
    one = size(settings, cells=10_000)
    lowest = memory.estimated_peaks(one, settings)
    for name in {*one._fields} - {"mapped"}:
        more = memory.estimated_peaks(one._replace(**{name: 2 * getattr(one, name)}), settings)
        assert all(new >= old for new, old in zip(more, lowest, strict=True))
        assert sum(more) > sum(lowest), name
    for flags in ("hops=3", "denoised", "graph_loss=jaccard"):
        assert max(memory.estimated_peaks(one, settings_of(f"{whole} {flags}"))) >= max(lowest)
    for flags in ("no_report no_h5ad", "graph_loss=mse", "dropout=0", "batch_cells=4096"):
        assert max(memory.estimated_peaks(one, settings_of(f"{whole} {flags}"))) < max(lowest)


def test_prepared_data_have_the_size_that_was_estimated_of_the_counts():
    settings = Settings.of(highly_genes=30, log_genes=0)
    counts = simulated_counts(300)
    before = memory.size_of_counts(counts, settings)
    adata = prepared(counts, highly_genes=30, k_neighbors=15, symmetric_graph=True, log_genes=0)
    after = memory.size_of_prepared(adata, settings)
    assert (after.cells, after.stored, after.kept) == (300, counts.X.nnz, 30)
    assert after.log_genes == before.log_genes == 0
    assert before.edges == pytest.approx(after.edges, rel=0.5)
    assert after.kept_stored == adata.layers["counts"].nnz


def test_bounds_are_those_of_their_modules():
    assert memory.EDGES_AT_ONCE == views.EDGES == neighbours.EDGES
    assert memory.SAMPLE == views.SAMPLE
    assert memory.LABELINGS == views.HALVES * 4
    assert memory.RANKED_CELLS == markers.RANKED_CELLS
    assert (memory.RANKED_STORED, memory.RANKED_BLOCK) == (markers.STORED, markers.BLOCK)
    assert memory.DENSE_CELLS == components.DENSE_CELLS
    assert memory.COVARIANCE_GENES == components.COVARIANCE_GENES
    assert memory.LINKED_ROWS == clustering.LINKED_ROWS
    assert memory.NOVELTY_ROWS == novelty.ROWS
    assert (memory.CHOICE_STORED, memory.CHOICE_BLOCKS) == (
        gene_choice.STORED,
        gene_choice.MOST_BLOCKS,
    )


def test_dense_counts_are_counted():
    counts = ad.AnnData(np.eye(5, 7, dtype=np.float32))
    assert memory.size_of_counts(counts, Settings.of()).stored == 5


# --- What cannot fit ------------------------------------------------------------------------------


@pytest.fixture
def little(monkeypatch):
    """Let the process have so many bytes beside those that it holds, which are said to be none."""

    def little(n_bytes):
        monkeypatch.setattr(free_memory, "available", lambda: n_bytes)
        monkeypatch.setattr(free_memory, "resident", lambda: 0)

    return little


def counts_of(cells, genes=2_000):
    """Counts of which only the number is looked at."""
    adata = empty(genes)
    indices = np.zeros(cells * genes // 3, np.int32)
    matrix = sp.csr_matrix((cells, genes), dtype=np.float32)
    matrix.data, matrix.indices = np.ones(len(indices), np.float32), indices
    matrix.indptr = np.full(cells + 1, len(indices), np.int32)
    matrix.indptr[0] = 0
    adata = ad.AnnData(shape=(cells, genes))
    adata._X = matrix
    return adata


FLAG = r"--(\w+)(?: (\d+))? \(([\d.]+) GiB\)"


def refusal(adata, settings):
    with pytest.raises(InputError) as refused:
        memory.check_counts(adata, settings)
    return str(refused.value)


def test_what_cannot_fit_is_refused_with_what_helps(little):
    adata, flags = counts_of(20_000), {"highly_genes": 2_000, "hops": 3, "gpu_option": "-1"}
    settings = Settings.of(**flags, batch_cells=20_000)
    little(3.5 * GIB)
    sentence = refusal(adata, settings)
    assert re.match(
        r"clustering 20000 cells and 2000 genes takes about [4-6]\.\d GiB of memory at its peak, "
        r"and this process can have 3\.5 GiB: pass --",
        sentence,
    )
    helping = {flag: (value, float(gib)) for flag, value, gib in re.findall(FLAG, sentence)}
    assert set(helping) == {"highly_genes", "subsample"}
    assert all(gib <= 3.5 for _, gib in helping.values())
    assert helping["highly_genes"][0] == "500"
    assert helping["subsample"][1] > 3.2  # it is the largest sample that fits
    cells = int(helping["subsample"][0])
    memory.check_counts(counts_of(cells), settings)
    refusal(counts_of(cells + 2_000), settings)


def test_what_can_never_fit_is_refused_without_flags(little):
    little(GIB // 2)
    assert "GiB: use a machine with more" in refusal(counts_of(1_000), Settings.of())


def test_a_flag_that_is_given_already_is_not_named(little):
    settings = Settings.of(no_report=True, no_h5ad=True, gpu_option="-1", batch_cells=20_000)
    little(2 * GIB)
    sentence = refusal(counts_of(20_000), settings)
    assert [flag for flag, *_ in re.findall(FLAG, sentence)] == ["subsample"]


def test_nothing_is_refused_where_nothing_is_known(little, caplog):
    little(None)
    memory.check_counts(counts_of(20_000), Settings.of())
    little(100 * GIB)
    memory.check_counts(counts_of(20_000), Settings.of())
    assert not caplog.records


def test_memory_that_the_process_holds_is_its_own(little, monkeypatch):
    little(GIB)
    adata, settings = counts_of(5_000), Settings.of(gpu_option="-1")
    refusal(adata, settings)
    monkeypatch.setattr(free_memory, "resident", lambda: GIB)
    memory.check_counts(adata, settings)


def test_a_notebook_is_asked_for_what_training_adds(little, monkeypatch):
    """Its data are small; TensorFlow and the compiled steps are what it takes."""
    adata, settings = prepared(), Settings.of(gpu_option="-1", hops=1)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    little(memory.TENSORFLOW + memory.COMPILED - 10 * MIB)
    with pytest.raises(InputError, match=r"takes about 1\.2 GiB of"):
        memory.check_prepared(adata, settings)
    little(memory.TENSORFLOW + memory.COMPILED + 10 * MIB)
    memory.check_prepared(adata, settings)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    little(memory.COMPILED + 10 * MIB)
    memory.check_prepared(adata, settings)


def test_what_lies_on_a_gpu_is_not_counted_here(monkeypatch):
    settings = Settings.of(batch_cells=100_000)
    one = size(settings, cells=100_000)
    there = memory.estimated_peaks(one, settings, on_gpu=True).training
    assert there < 0.6 * memory.estimated_peaks(one, settings).training
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert memory._may_use_gpu(settings)
    assert not memory._may_use_gpu(Settings.of(gpu_option="-1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not memory._may_use_gpu(settings)


def test_a_gpu_that_cannot_hold_the_tensors_is_refused():
    adata, settings = prepared(), Settings.of(hops=1)
    tensors = 4 * adata.n_obs * adata.n_vars * 4
    memory.check_device(adata, settings, Device("A100", 1, 100 * tensors))
    memory.check_device(adata, settings, Device("CPU", 1))
    with pytest.raises(InputError, match="the GPU A100 can have"):
        memory.check_device(adata, settings, Device("A100", 1, tensors))


def test_the_command_refuses_before_it_prepares(refused, simulated, little, monkeypatch):
    import preprocess

    monkeypatch.setattr(preprocess, "prepare", lambda *_, **__: pytest.fail("it was prepared"))
    little(GIB)
    assert "of memory at its peak" in refused("--data", simulated.path, "--gpu_option=-1")


def test_the_command_refuses_before_tensorflow_starts(refused, simulated, little, monkeypatch):
    """The first look, at the counts, sees more memory than the second."""
    monkeypatch.setattr(memory, "check_counts", lambda *_: None)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    little(MIB)
    assert "of memory at its peak" in refused("--data", simulated.path, "--gpu_option=-1")
