"""The steps that are written for JAX: what is in the files, and that they are the suite's own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import network, prepared

import training
import views
from arrays import parted_data
from parts import parts_of
from perf import export, run_step, speed, steps
from settings import WHOLE_CELLS, Settings
from subgraphs import SubGraphs
from tensors import training_data

JAX_PYTHON = "SCTAG_JAX_PYTHON"  # an interpreter that has JAX, which the suite does not need
DROPOUT = {"official": 0.0, "sctag": 0.2, "sub-graphs": 0.2}  # the last is of `sctag` too
N_CELLS, N_GENES, N_CLUSTERS = 75, 20, 3


def phase_of(kind, *, seed=1):
    """A small step: of `official` in pretraining, of `sctag` in the clustering phase."""
    keras.utils.clear_session()  # Keras counts the layers of a process in their names
    variant = "official" if kind == "official" else "sctag"
    settings = Settings.of(variant)
    adata = prepared(symmetric_graph=settings.symmetric_graph)
    net = network(n_genes=adata.n_vars, seed=seed, dropout=DROPOUT[kind])
    block_bytes = 4 * N_CELLS * 25  # blocks of 25 cells in the loops of both losses
    p, road = None, None
    if kind == "sub-graphs":
        circle = parts_of(views.graph(adata), 40, seed=1)
        data = parted_data(adata, net.architecture, settings, circle, block_bytes=block_bytes)
        road = SubGraphs(net, data)
        road.begin()
    else:
        data = training_data(adata, net.architecture, settings, block_bytes=block_bytes)
    if variant == "sctag":
        rng = np.random.default_rng(0)
        centers = rng.normal(size=(N_CLUSTERS, net.architecture.latent_dim))
        net.place_centers(centers, trainable=settings.train_centers)
        p = tf.constant(rng.dirichlet(np.ones(N_CLUSTERS), adata.n_obs), tf.float32)
    optimizer = training.adam(net, training.Phase(1, 1e-3))
    name = "pretrain" if p is None else "cluster"
    return steps.OwnPhase(name, net, data, settings, optimizer, p, road)


@pytest.fixture(scope="module", params=DROPOUT)
def written(request, tmp_path_factory):
    """The kind of step, and its file NAME.mlir."""
    folder = tmp_path_factory.mktemp("steps")
    export.write_step(folder, "step", phase_of(request.param))
    return request.param, folder / "step.mlir"


def of_inputs(values, path, inputs):
    """Nested named tuples with the inputs of their names in place of their tensors."""
    if not isinstance(values, tuple):
        return tf.constant(inputs[path]) if path in inputs else values
    fields = values._asdict().items()
    return type(values)(*(of_inputs(value, f"{path}/{name}", inputs) for name, value in fields))


def arrays_of(path):
    return (run_step.load(path.with_suffix(f".{kind}.npz")) for kind in ("inputs", "expected"))


@pytest.mark.slow
def test_the_text_takes_the_inputs_and_gives_what_is_expected(written):
    kind, path = written
    text = path.read_text()
    inputs, expected = arrays_of(path)  # which cannot be read if they hold pickles
    parameters, results = (run_step.names_of(text, kind) for kind in ("parameter", "result"))
    assert parameters == list(inputs)
    assert list(expected) == [name for name in results if not name.endswith(export.MOMENTS)]
    weights = [name.removeprefix("gradient/") for name in results if name.startswith("gradient/")]
    assert len(set(results) - set(expected)) == 2 * len(weights)
    for weight in weights:
        assert expected[f"gradient/{weight}"].shape == inputs[weight].shape
        assert not np.array_equal(expected[weight], inputs[weight]), weight
    if kind == "sub-graphs":
        assert inputs["batch/rows/propagated"].shape[0] < N_CELLS == len(inputs["p"])
        assert inputs["stale/0"].shape[0] == len(inputs["batch/entries/cells"])
        assert expected["message/0"].shape[0] == len(inputs["batch/cells"])
    else:
        assert inputs["data/graph/propagated"].shape[0] == N_CELLS
    assert expected["adam/iteration"] == inputs["adam/iteration"] + 1 == export.WARM_STEPS + 1
    assert ("p" in inputs) == ("assignment/centers" in weights) == (kind != "official")
    assert (expected["loss/kl"] > 0) == (kind != "official")


@pytest.mark.slow
def test_the_text_is_what_any_xla_takes(written):
    """No call of a library of the CPU, nothing of this machine, and no data among the constants."""
    kind, path = written
    text = path.read_text().split("\nmodule ")[1]
    assert "custom_call" not in text
    # Operations of a dialect that XLA's compiler for GPUs refuses; attributes are no operations.
    assert not re.search(r'= "?mhlo\.', text)
    assert not re.search(r"\bloc\b|#loc|/", text)
    shapes = re.findall(r"stablehlo\.constant dense<.*> : tensor<([\dx]*)[a-z]", text)
    assert len(shapes) > 100
    sizes = [np.prod([int(n) for n in shape.split("x") if n]) for shape in shapes]
    if kind == "sub-graphs":  # numbers of cells, of which each has some pairs
        inputs, _ = arrays_of(path)
        assert max(sizes) <= len(inputs["batch/entries/cells"])
    else:
        assert max(sizes) <= N_CELLS  # the numbers of the rows
    assert run_step.DEFAULT in text


@pytest.mark.slow
def test_the_suites_own_step_gives_what_is_expected(written):
    """Of another network that was given the written inputs, by the step of training itself."""
    kind, path = written
    inputs, expected = arrays_of(path)
    phase = phase_of(kind, seed=2)
    variables = [*phase.network.variables, *phase.optimizer.variables]
    variables = [variable for variable in variables if variable.path in inputs]
    assert len(variables) > 2 * len(phase.network.trainable_variables)
    for variable in variables:
        variable.assign(inputs[variable.path])
    given = phase.given()
    if kind == "sub-graphs":  # whose cells and old messages are of the seed
        stale = [tf.constant(inputs[f"stale/{i}"]) for i in range(len(given.stale))]
        given = given._replace(batch=of_inputs(given.batch, "batch", inputs), stale=stale)
    else:
        for name, tensor in export.named_tensors("data", phase.data):
            assert 0 in tensor.shape or np.array_equal(inputs.pop(name), tensor), name
    losses = phase.plain_step()(*given.arguments()).losses  # eager, without XLA
    for name, value in losses._asdict().items():
        assert expected[f"loss/{name}"] == pytest.approx(value.numpy(), rel=1e-6)
    for variable in variables:
        before, after = inputs[variable.path], expected.get(variable.path)
        if after is not None:
            error = run_step.relative_error(variable.numpy(), after, before)
            assert error < 1e-4, variable.path


@pytest.mark.slow
def test_jax_gives_what_is_expected(written, tmp_path):
    python = os.environ.get(JAX_PYTHON)
    if python is None:
        pytest.skip(f"{JAX_PYTHON} names no interpreter with JAX")
    _, path = written
    shutil.copy(run_step.__file__, tmp_path)
    command = [python, tmp_path / "run_step.py", path, "--repeats", "2", "--float32"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["agrees"]
    assert 0 < row["least_ms"] <= row["step_ms"]


def test_the_runner_needs_no_module_of_the_suite(tmp_path):
    """Compiled where it lies and asked for help, it imports neither JAX nor what is beside it."""
    shutil.copy(run_step.__file__, tmp_path)
    command = [sys.executable, "-I", tmp_path / "run_step.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "--float32" in done.stdout


def test_errors_are_relative_to_what_is_expected():
    inputs = {"w": np.array([10.0, 10.0])}
    expected = {"loss/a": np.float32(4), "gradient/w": np.array([3.0, 4.0]), "w": np.array([10, 9])}
    outputs = {"loss/a": 4.0, "gradient/w": np.array([3.0, 4.5]), "w": np.array([10, 8.8])}
    errors = run_step.errors_of(outputs, inputs, expected)
    assert errors == pytest.approx({"loss": 0, "message": 0, "gradient": 0.1, "update": 0.2})
    assert run_step.relative_error(np.nan, np.float32(1), 0.0) == np.inf
    assert run_step.relative_error(np.ones(2), np.zeros(2), 0.0) == np.inf


def test_locations_go_and_nothing_else():
    lines = [
        '#loc1 = loc("p0.1")',
        'func.func @main(%arg0: tensor<2xf32> loc("a(b")) -> (tensor<2xf32>) {',
        '  %0 = stablehlo.add %arg0, %arg0 : tensor<2xf32> loc(fused[#loc5, "x"(#loc6)])',
        '  return %0 : tensor<2xf32> loc("x"(#loc3))',
        "} loc(#loc)",
    ]
    text = export.without_locations("\n".join(lines))
    assert text.splitlines() == [
        "func.func @main(%arg0: tensor<2xf32>) -> (tensor<2xf32>) {",
        "  %0 = stablehlo.add %arg0, %arg0 : tensor<2xf32>",
        "  return %0 : tensor<2xf32>",
        "}",
    ]
    assert export.signature(text) == (["tensor<2xf32>"], ["tensor<2xf32>"])


def test_copies_of_another_dialect_are_written_in_stablehlo():
    text = "  %8 = mhlo.copy %7#1 : tensor<2x3xf32>\n  %9 = stablehlo.sine %8 : tensor<2x3xf32>\n"
    assert export.in_stablehlo(text).splitlines() == [
        "  %8 = stablehlo.reshape %7#1 : (tensor<2x3xf32>) -> tensor<2x3xf32>",
        "  %9 = stablehlo.sine %8 : tensor<2x3xf32>",
    ]


class Sized(NamedTuple):
    """Stands for the prepared data of a source."""

    source: str
    n_obs: int


def ask(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["speed.py", *map(str, words)])
    speed.main()


@pytest.mark.parametrize(
    ("words", "source"),
    [
        ([], str(export.EMBEDDED)),
        (["--cells", 90, "--gpu_gb", 80], "90"),
        (["--data", "x.h5"], "x.h5"),
    ],
)
def test_the_command_writes_the_steps_of_one_data_set(words, source, tmp_path, monkeypatch, capsys):
    """Of both methods in both phases, in blocks for the GPU, beside the program that runs them."""
    written = []
    phases = [("pretrain", None), ("cluster", None)]
    sizes = {"network": None, "data": None, "settings": None, "optimizer": None}

    def own_phases(method, adata, *, block_bytes):
        written.append((method, adata.source, block_bytes))
        return [steps.OwnPhase(name, **sizes, p=p) for name, p in phases]

    monkeypatch.setattr(steps, "prepared", lambda source: Sized(source, n_obs=90))
    monkeypatch.setattr(steps, "own_phases", own_phases)
    monkeypatch.setattr(export, "write_step", lambda folder, name, _: written.append(name))
    ask(monkeypatch, "--export", tmp_path / "new", *words)
    block_bytes = (80 if "--gpu_gb" in words else 16) * 2**24  # a 64th
    assert written == [
        *(("official", source, block_bytes), "official_pretrain", "official_cluster"),
        *(("sctag", source, block_bytes), "sctag_pretrain", "sctag_cluster"),
    ]
    runner = tmp_path / "new" / "run_step.py"
    assert runner.read_bytes() == Path(run_step.__file__).read_bytes()
    assert "run_step.py" in capsys.readouterr().out


def test_of_large_data_only_the_step_of_sub_graphs_is_written(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(steps, "prepared", lambda source: Sized(source, n_obs=WHOLE_CELLS + 1))
    monkeypatch.setattr(steps, "own_phases", lambda method, *_, **__: asked.append(method) or [])
    ask(monkeypatch, "--export", tmp_path, "--cells", WHOLE_CELLS + 1)
    assert asked == ["sctag"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cells", 90, 100], "one data set"),
        (["--gpu_gb", 0], "--gpu_gb"),
        (["--data", "none.h5"], "none.h5"),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_sentence(
    words, message, tmp_path, monkeypatch, capsys
):
    with pytest.raises(SystemExit, match="2"):
        ask(monkeypatch, "--export", tmp_path / "steps", *words)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "steps").exists()
