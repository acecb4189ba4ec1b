"""Run steps of training that `perf/export.py` wrote, on this machine's GPU, or else its CPU.

    python run_step.py                         # all steps beside this file
    python run_step.py --float32 --repeats 50  # matrix products in full float32

Needs JAX and NumPy alone. Each step prints one line of JSON: seconds to compile, milliseconds of a
step, and how far losses, gradients and updates are from those of the CPU that wrote them. An error
is the norm of a difference over the norm of what is expected, the largest over the arrays; of an
updated variable what is expected is its change. The exit status is 1 if one is above its tolerance,
1e-4 in float32, or 3e-2 on a GPU that may make its products in TensorFloat-32 (not `--float32`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]  # by name

WARM_UP = 5
# Two CPU compilers agree to 6e-6. TensorFloat-32, a GPU's default, keeps 11 bits of a factor.
TOLERANCE, TOLERANCE_TF32 = 1e-4, 3e-2
DEFAULT, HIGHEST = "precision = [DEFAULT, DEFAULT]", "precision = [HIGHEST, HIGHEST]"


def relative_error(value: np.ndarray, expected: np.ndarray, before: np.ndarray | float) -> float:
    """Return |value - expected| / |expected - before| in Euclidean norms, 0 if all are equal.

    It is infinite if a value is not finite, or nothing but `before` is expected and comes out
    otherwise.
    """
    wide = np.asarray(value, np.float64)
    distance = float(np.linalg.norm(wide - expected))
    size = float(np.linalg.norm(np.asarray(expected, np.float64) - before))
    if distance == 0:
        return 0.0
    return distance / size if np.isfinite(distance) and size > 0 else float("inf")


def errors_of(outputs: Arrays, inputs: Arrays, expected: Arrays) -> dict[str, float]:
    """Return the largest error of losses, messages, gradients, and updated variables."""
    largest = {"loss": 0.0, "message": 0.0, "gradient": 0.0, "update": 0.0}
    for name, value in expected.items():
        kind = name.split("/")[0]
        kind = "update" if name in inputs else kind
        error = relative_error(outputs[name], value, inputs.get(name, 0.0))
        largest[kind] = max(largest[kind], error)
    return largest


def load(path: Path) -> Arrays:
    """Return the arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def names_of(text: str, kind: str) -> list[str]:
    """Return the names of each "parameter" or "result" of @main, which the text begins with."""
    start = f"// {kind} "
    return [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]


def callable_of(text: str, arguments: list[Any], results: list[Any]) -> Callable[..., Any]:
    """Return a function for `jax.jit` that calls the @main of a StableHLO text.

    JAX has no public function that compiles a text. But objects of the public class
    `jax.export.Exported` hold a lowered function and call it: one of the same types is made, and
    gets the text.

    Parameters
    ----------
    text
        An MLIR module.
    arguments, results
        Arrays of the shapes and types of its parameters and results, in their order.
    """
    import jax
    from jax import export

    def stand_in(*_: Any) -> list[Any]:
        return [jax.numpy.zeros(array.shape, array.dtype) for array in results]

    exported = export.export(jax.jit(stand_in, keep_unused=True))(*arguments)
    return dataclasses.replace(exported, mlir_module_serialized=text.encode()).call


def run(path: Path, *, float32: bool, repeats: int) -> dict[str, Any]:
    """Return what one line of JSON says of the step NAME.mlir."""
    import jax

    inputs, expected = (load(path.with_suffix(f".{kind}.npz")) for kind in ("inputs", "expected"))
    text = path.read_text()
    text = text.replace(DEFAULT, HIGHEST) if float32 else text
    device = jax.devices()[0]
    arguments = jax.device_put([inputs[name] for name in names_of(text, "parameter")], device)
    results = names_of(text, "result")
    types = [(inputs | expected)[name] for name in results]  # what is not expected keeps its type
    start = time.perf_counter()
    step = jax.jit(callable_of(text, arguments, types)).lower(*arguments).compile()
    compiled = time.perf_counter() - start
    outputs = dict(zip(results, map(np.asarray, step(*arguments)), strict=True))
    seconds = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        jax.block_until_ready(step(*arguments))
        seconds.append(time.perf_counter() - start)
    errors = errors_of(outputs, inputs, expected)
    exact = float32 or device.platform == "cpu"
    tolerance = TOLERANCE if exact else TOLERANCE_TF32
    return {
        "step": path.stem,
        "device": device.device_kind,
        "jax": jax.__version__,
        "float32": float32,
        "compile_s": round(compiled, 2),
        "step_ms": round(1e3 * statistics.median(seconds[WARM_UP:]), 4),
        "least_ms": round(1e3 * min(seconds[WARM_UP:]), 4),
        "repeats": repeats,
        **{f"{kind}_error": float(f"{error:.2g}") for kind, error in errors.items()},
        "tolerance": tolerance,
        "agrees": max(errors.values()) <= tolerance,
    }


def main() -> int:
    """Run the steps that the command line names, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("steps", nargs="*", type=Path, help="files NAME.mlir; all by default")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps")
    parser.add_argument(
        "--float32", action="store_true", help="no product in TensorFloat-32: to check a GPU"
    )
    args = parser.parse_args()
    import jax

    jax.config.update("jax_enable_x64", True)  # the seeds are int64
    rows = []
    for path in args.steps or sorted(Path(__file__).parent.glob("*.mlir")):
        rows.append(run(path, float32=args.float32, repeats=args.repeats))
        print(json.dumps(rows[-1]), flush=True)
    return 0 if all(row["agrees"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
