"""The compiled steps of training as StableHLO with their inputs, for a machine that has only JAX.

`python -m perf.speed --export DIR` writes the steps that `perf.speed` times. Of each method and
each phase it is the whole step, Adam's update included, as NAME.mlir; what the step is given, as
NAME.inputs.npz; and what a CPU made of that, losses, gradients and updated variables, as
NAME.expected.npz. Of data so large that the steps of a run are of sub-graphs it is such a step, of
`sctag` alone. The text names its parameters and results in their order. DIR/run_step.py runs,
checks and times the steps with JAX and NumPy alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import utils
from perf import run_step, steps
from settings import WHOLE_CELLS

EMBEDDED = Path(__file__).parents[1] / "data" / "pbmc68k_reduced" / "data.h5"
METHODS = ("official", "sctag")  # the first has all cells in each step
# Steps before the one that is written. Adam's first update is the sign of the gradient, so that
# entries whose gradient is all rounding would differ wholly from one compiler to the next.
WARM_STEPS = 5
# What follows an operation to say where it comes from: names and paths of the machine.
LOCATION = re.compile(r' ?\bloc\((?:"[^"]*"|\((?:"[^"]*"|[^()"])*\)|[^()"])*\)')
COPY = re.compile(r"mhlo\.copy (%\S+) : (tensor<\w+>)")
MOMENTS = ("_momentum", "_velocity")  # how Keras' names of them end
ELEMENT_TYPES = {"float32": "f32", "int32": "i32", "int64": "i64"}


def write(folder: Path, source: str, gpu_gb: float) -> list[str]:
    """Write the steps of one data set and the program that runs them; return the steps' names.

    Parameters
    ----------
    folder
        Where to write. It is made if it is not there.
    source
        A data file, or the number of simulated cells.
    gpu_gb
        GiB of memory of the GPU for which the steps choose their blocks.

    Raises
    ------
    InputError
        If the file cannot be read or the folder cannot be made.
    """
    adata = steps.prepared(source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise utils.InputError(f"--export {folder}: {error.strerror}: name a folder") from None
    names = []
    whole = adata.n_obs <= WHOLE_CELLS
    for method in METHODS if whole else METHODS[1:]:
        block_bytes = utils.block_bytes(int(gpu_gb * 2**30))
        for phase in steps.own_phases(method, adata, block_bytes=block_bytes):
            names.append(f"{method}_{phase.name}")
            write_step(folder, names[-1], phase)
    shutil.copyfile(run_step.__file__, folder / "run_step.py")
    return names


def write_step(folder: Path, name: str, phase: steps.OwnPhase) -> None:
    """Write one step, and take it: the network's weights move on by `WARM_STEPS` + 1 updates."""
    import tensorflow as tf

    step = tf.function(phase.plain_step(), jit_compile=True, autograph=False)
    given = phase.given()
    for _ in range(WARM_STEPS):
        step(*given.arguments())
    arguments = arguments_of(step, phase, given)
    inputs = _values(arguments)
    compiled = step.experimental_get_compiler_ir(*given.arguments())
    text = in_stablehlo(without_locations(compiled(stage="stablehlo")))
    taken = step(*given.arguments())
    weights = phase.network.trainable_variables
    outputs = {f"loss/{field}": value for field, value in taken.losses._asdict().items()}
    outputs |= {f"message/{i}": value for i, value in enumerate(taken.messages)}
    outputs |= {f"gradient/{v.path}": d for v, d in zip(weights, taken.gradients, strict=True)}
    changed = {variable.path for variable in _changed(phase)}
    outputs |= {path: value for path, value in arguments.items() if path in changed}
    outputs = _values(outputs)
    _check_signature(text, inputs, outputs)
    parameters, results = (
        "".join(f"// {kind} {path}\n" for path in values)
        for kind, values in (("parameter", inputs), ("result", outputs))
    )
    (folder / f"{name}.mlir").write_text(parameters + results + text)
    # Adam's moments are large, and the weights that are updated by them tell if they are wrong.
    expected = {path: value for path, value in outputs.items() if not path.endswith(MOMENTS)}
    np.savez_compressed(folder / f"{name}.inputs.npz", allow_pickle=False, **inputs)
    np.savez_compressed(folder / f"{name}.expected.npz", allow_pickle=False, **expected)


def arguments_of(step: Any, phase: steps.OwnPhase, given: steps.Given) -> dict[str, Any]:
    """Return what a compiled step reads, by name, in the order of its parameters.

    It is what the step is given, then what the function has captured: variables of the network and
    of Adam, and tensors of the data. XLA leaves out arrays without elements.
    """
    variables = [*phase.network.variables, *phase.optimizer.variables]
    captured = {id(variable.value.handle): (variable.path, variable) for variable in variables}
    if given.batch is None:
        named = named_tensors("data", phase.data)
        captured |= {id(tensor): (path, tensor) for path, tensor in named}
    function = step.get_concrete_function(*given.arguments())
    arguments = {} if given.batch is None else dict(named_tensors("batch", given.batch))
    arguments |= {f"stale/{i}": value for i, value in enumerate(given.stale or [])}
    arguments |= {} if given.p is None else {"p": given.p}
    arguments |= dict(captured[id(capture)] for capture in function.captured_inputs)
    return {path: value for path, value in arguments.items() if 0 not in value.shape}


def named_tensors(path: str, values: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of nested named tuples with their paths, such as "data/graph/edges/rows".

    Of a sparse tensor it is the indices and the values.
    """
    import tensorflow as tf

    for field, value in values._asdict().items():
        if isinstance(value, tf.SparseTensor):
            yield f"{path}/{field}/indices", value.indices
            yield f"{path}/{field}/values", value.values
        elif isinstance(value, tuple):
            yield from named_tensors(f"{path}/{field}", value)
        elif tf.is_tensor(value):
            yield f"{path}/{field}", value


def _changed(phase: steps.OwnPhase) -> list[Any]:
    """Return the variables that a step assigns to: all but the learning rate and frozen centres."""
    seeds = phase.network.input_dropout.seed_generator.state
    of_adam = [v for v in phase.optimizer.variables if v.name != "learning_rate"]
    return [seeds, *phase.network.trainable_variables, *of_adam]


def _values(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {path: np.array(tensor) for path, tensor in tensors.items()}


def without_locations(text: str) -> str:
    """Return the text of an MLIR module without the locations, which name files of this machine."""
    lines = (line for line in text.splitlines() if not line.startswith("#loc"))
    return "\n".join(LOCATION.sub("", line) for line in lines) + "\n"


def in_stablehlo(text: str) -> str:
    """Return the text of an MLIR module with reshapes in place of the copies of XLA's own dialect.

    TensorFlow writes these between operations of StableHLO. Of XLA's compilers that for a CPU takes
    them, and that for a GPU, as JAX calls it, refuses the text.
    """
    return COPY.sub(r"stablehlo.reshape \1 : (\2) -> \2", text)


def signature(text: str) -> tuple[list[str], list[str]]:
    """Return the types of the parameters and of the results of @main, such as "tensor<2x3xf32>"."""
    main = next(line for line in text.splitlines() if "func.func" in line and "@main(" in line)
    parameters, results = main.split("->")
    return re.findall(r"tensor<\w+>", parameters), re.findall(r"tensor<\w+>", results)


def _check_signature(text: str, *arrays: dict[str, np.ndarray]) -> None:
    """Raise RuntimeError unless inputs and outputs have the types of @main, in their order."""
    for types, values in zip(signature(text), arrays, strict=True):
        ours = [
            f"tensor<{'x'.join([*map(str, a.shape), ELEMENT_TYPES[a.dtype.name]])}>"
            for a in values.values()
        ]
        if types != ours:
            raise RuntimeError(f"the compiled step has {types}, but {list(values)} are {ours}")
