"""What several test files need: a simulated data set, files of the published layout, commands.

They run in this process, where it is quick; `test_train.py` also starts one as a user does, in a
process of its own.
"""

import contextlib
import io
import json
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import datasets
import devices
import train
from data_settings import Preparation
from settings import Architecture

# Before any test module imports TensorFlow: the CPU gives every machine the same tests.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A shell's background job ignores Ctrl-C, and so would the commands that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

N_CLUSTERS, N_CELLS, N_GENES = 3, 120, 200

# What a run leaves in its folder.
FILES = {
    *("labels.csv", "sctag.h5ad", "prepared.h5ad", "history.csv", "metrics.json"),
    *("settings.json", "model.weights.h5", "model.json"),
}
# A network of no use but of every part, where only the plumbing is looked at.
TINY = """
    --hidden_dim 16 --decoder_dims 16 --latent_dim 4 --highly_genes 50 --pretrain_epochs 3
    --maxiter 2 --gpu_option -1 --no_report
""".split()  # noqa: SIM905, as it is typed

# Of steps of sub-graphs that are not compiled.
EAGER_DATA = "ignore:Even though the `tf.config.experimental_run_functions_eagerly` option"

# The same for a notebook.
NETWORK_FLAGS = {
    "hidden_dim": 16,
    "decoder_dims": [16],
    "latent_dim": 4,
    "highly_genes": 50,
    "pretrain_epochs": 3,
    "maxiter": 2,
}


def grouped_counts(n_cells=75, n_genes=20, level=8.0):
    """Poisson counts of three groups of cells, each with genes of its own; sparse AnnData."""
    rng = np.random.default_rng(0)
    rate = np.full((n_cells, n_genes), 1.0)
    width = n_genes * 3 // 10
    for group in range(3):
        rate[group::3, group * width : (group + 1) * width] = level
    return ad.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))


def prepared(adata=None, *, seed=0, **changes):
    """Prepared data: `grouped_counts` unless others are given, on a small directed graph."""
    import preprocess

    adata = grouped_counts() if adata is None else adata
    settings = {"highly_genes": 10**6, "gene_selection": "seurat", "n_pcs": 5, "k_neighbors": 6}
    settings |= {"symmetric_graph": False} | changes
    return preprocess.prepare(adata, Preparation(**settings), seed=seed)


def network(*, n_genes=20, n_batches=0, seed=1, **changes):
    """A small network without dropout."""
    import model

    sizes = {"hidden_dim": 16, "latent_dim": 4, "decoder_dims": [8, 16], "hops": 2, "dropout": 0.0}
    architecture = Architecture(**(sizes | changes))
    return model.SCTAG(architecture, n_genes=n_genes, n_batches=n_batches, seed=seed)


class Ran(NamedTuple):
    """How a run of the command ended and what it said."""

    status: int
    out: str
    err: str


class _Terminal(io.StringIO):
    def isatty(self):
        return True


class Simulated(NamedTuple):
    """A data set of known clusters, and the file it was written to."""

    path: Path
    counts: np.ndarray
    labels: np.ndarray
    cells: np.ndarray
    genes: np.ndarray


def write_published(path, counts, *, labels=None, cells=None, genes=None, **columns) -> Path:
    """A file of the published layout; `exprs` is left out where counts is None."""
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        obs = file.create_group("obs")
        file.create_group("var")
        file.create_group("uns")
        if counts is not None:
            file["exprs"] = counts
        if cells is not None:
            file["obs_names"] = np.asarray(cells, dtype=text)
        if genes is not None:
            file["var_names"] = np.asarray(genes, dtype=text)
        if labels is not None:
            obs["cell_type1"] = np.asarray(labels, dtype=text)
        for name, column in columns.items():
            obs[name] = column
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder, hidden ones too, by path."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Simulated:
    """Negative binomial counts of three clusters that are easy to tell apart, cells shuffled."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(N_CLUSTERS), N_CELLS // N_CLUSTERS))
    profiles = rng.gamma(2, 1, N_GENES) * np.exp(rng.normal(0, 1, (N_CLUSTERS, N_GENES)))
    mean = profiles[group] * rng.uniform(0.7, 1.4, (N_CELLS, 1))
    counts = rng.negative_binomial(2, 2 / (2 + mean))
    labels = np.array(["B", "NK", "T"])[group]
    cells = np.array([f"cell{i}" for i in range(N_CELLS)])
    genes = np.array([f"gene{i}" for i in range(N_GENES)])
    path = tmp_path_factory.mktemp("simulated") / "data.h5"
    write_published(path, counts, labels=labels, cells=cells, genes=genes)
    return Simulated(path, counts, labels, cells, genes)


def opened(ran: Ran, out):
    """What a successful run left in `out`, read."""
    assert ran.status == 0, ran.err
    return SimpleNamespace(
        ran=ran,
        out=out,
        last_line=ran.out.splitlines()[-1],
        labels=pd.read_csv(out / "labels.csv"),
        adata=ad.read_h5ad(out / "sctag.h5ad"),
        prepared=ad.read_h5ad(out / "prepared.h5ad"),
        history=pd.read_csv(out / "history.csv"),
        metrics=json.loads((out / "metrics.json").read_text()),
        settings=json.loads((out / "settings.json").read_text()),
    )


def assert_same_clustering(first, second):
    """The same labels.csv, byte for byte, and the same embedding."""
    assert (first.out / "labels.csv").read_bytes() == (second.out / "labels.csv").read_bytes()
    np.testing.assert_array_equal(first.adata.obsm["X_sctag"], second.adata.obsm["X_sctag"])
    np.testing.assert_array_equal(first.adata.obsm["sctag_proba"], second.adata.obsm["sctag_proba"])


def ran(main, flags, err: io.StringIO) -> Ran:
    """Call a command's `main` with flags; err takes stderr. The logger is as before afterwards."""
    logger = logging.getLogger("sctag")
    before = logger.handlers, logger.propagate, logger.level
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(flag) for flag in flags])
        except SystemExit as exit_:
            status = exit_.code
        finally:
            logger.handlers, logger.propagate, logger.level = before
    return Ran(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run():
    """Run the command in this process: `run(*flags)` returns a `Ran`; a traceback fails the test.

    compiled=False runs the training steps eagerly: a second instead of the eight that XLA takes to
    compile them. terminal: whether stderr says that it is one. Environment and logger are as before
    when it returns.
    """

    def run(*flags, compiled: bool = True, terminal: bool = False) -> Ran:
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
            patch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # the command sets it; undone at the end
            if not compiled:
                stack.enter_context(eagerly())
            return ran(train.main, flags, _Terminal() if terminal else io.StringIO())

    return run


@pytest.fixture(scope="session")
def tiny(run, tmp_path_factory):
    """Run a tiny network for a few epochs, uncompiled; `opened` results."""

    def tiny(*flags):
        out = tmp_path_factory.mktemp("tiny") / "out"
        return opened(run(*TINY, "--out", out, *flags, compiled=False), out)

    return tiny


@pytest.fixture(scope="session")
def base(tiny, simulated):
    return tiny("--data", simulated.path)


@contextlib.contextmanager
def eagerly():
    """Run the training steps uncompiled: a second instead of the eight that XLA takes."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@pytest.fixture
def without_xla(monkeypatch):
    """For what happens around many steps: they are graphs of TensorFlow's, ready in a second."""
    import tensorflow as tf

    function = tf.function
    monkeypatch.setattr(tf, "function", lambda f=None, **_: function(f) if f else function)


@pytest.fixture
def run_datasets(tmp_path, capsys):
    """Run datasets.py on tmp_path: exit status, stdout, stderr; a traceback fails the test."""

    def run_datasets(*args):
        try:
            ended = datasets.main([*map(str, args), "--data_dir", str(tmp_path)])
        except SystemExit as exit_:
            ended = exit_.code
        return ended, *capsys.readouterr()

    return run_datasets


@pytest.fixture
def adam(tmp_path):
    """Where the file of the data set Adam is fetched to."""
    return tmp_path / "Adam" / "data.h5"


def begin(path: Path, content: bytes) -> None:
    """Put a file in a folder of its own."""
    path.parent.mkdir()
    path.write_bytes(content)


@pytest.fixture
def refused(run, monkeypatch, tmp_path):
    """Run the command where it must refuse, before TensorFlow starts; returns its one sentence."""

    def refused(*flags, out=None):
        def start_tensorflow(*_, **__):
            pytest.fail("TensorFlow was started before the input was refused")

        monkeypatch.setattr(devices, "start_tensorflow", start_tensorflow)
        ran = run("--quiet", *flags, "--out", out or tmp_path / "out")
        assert ran.status == 2
        assert ran.out == ""
        assert ran.err.startswith("train.py: error: ")
        assert ran.err.count("\n") == 1
        assert ran.err.endswith("\n")
        assert not (tmp_path / "out").exists()
        return ran.err

    return refused
