"""Time and memory of a run, beside the published computation, in one process.

    python -m perf.speed                              # simulated data, 1000 to 4000 cells
    python -m perf.speed --data FILE.h5 --whole       # one real data set, and the whole run
    python -m perf.speed --cells 1000 2000 4000 8000 16000 32000 --figure growth.png
    python -m perf.speed --export DIR                 # steps for a machine that has only JAX

Every number printed is measured in that run but for those marked as extrapolated. Steps of the
methods and a matrix product are timed in turn and the medians quoted, so that a drift of the
machine's speed hits all. The floor is the time of an epoch's matrix products alone (`floor_flops`).
Peak memory is that of a process for each method. The recall is that of the approximate graph.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import utils
from command import number
from perf import export
from perf.steps import (
    CLUSTERS,
    DECODER,
    HIDDEN,
    HOPS,
    LATENT,
    NEIGHBORS,
    make_steps,
    prepared,
    simulated,
)

CELLS = (1000, 2000, 4000)
METHODS = ("published", "official", "sctag")
# The published computation holds several N x N arrays while it differentiates the graph loss.
PUBLISHED_LIMIT = 8000


# A product of the size of a block's in the count decoder's heads.
PRODUCT = (4096, 512, 1536)


def make_product() -> Callable:
    """Return a function that makes a float32 product of `PRODUCT`'s shape and waits for it."""
    import tensorflow as tf

    rows, inner, columns = PRODUCT
    a = tf.random.stateless_normal([rows, inner], [0, 1])
    b = tf.random.stateless_normal([inner, columns], [0, 2])
    product = tf.function(lambda: tf.matmul(a, b), jit_compile=True)
    return lambda: product()[0, 0].numpy()


def floor_flops(n_cells: int, n_genes: int) -> float:
    """Return the FLOPs of an epoch's dense products with H true hops, gradient included.

    A product costs 2 FLOPs a multiply-add forward and 4 backward; the first layer needs no gradient
    of its input. The adjacency loss costs 96 N^2 (three products of rank LATENT + 1).
    """
    widths = (LATENT, *DECODER)
    first = (HOPS + 1) * n_genes * HIDDEN
    rest = (HOPS + 1) * HIDDEN * LATENT + 3 * DECODER[-1] * n_genes
    rest += sum(a * b for a, b in itertools.pairwise(widths))
    return n_cells * (4 * first + 6 * rest) + 6 * (LATENT + 1) * n_cells**2


def time_in_turn(functions: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Return the median seconds of each function, taking turns."""
    for function in functions.values():
        function()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(method: str, source: str) -> float:
    """Return the peak MiB of a process that prepares data and runs two epochs of each phase."""
    command = [sys.executable, "-m", "perf.speed", "--child", method, source]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def child(method: str, source: str) -> None:
    """Print, for `peak_memory`, the peak resident set in MiB."""
    utils.start_tensorflow("-1")
    steps = make_steps(method, prepared(source))
    for phase in ("pretrain", "cluster"):
        for _ in range(2):
            steps[phase]()
    print(utils.peak_memory_mb())


def recall(adata: Any) -> float:
    """Return the share of each cell's nearest cells that the approximate graph has too."""
    import neighbours

    points = adata.obsm["X_pca"]
    exact, approximate = (
        neighbours.knn_graph(points, k=NEIGHBORS, symmetric=False, exact=is_exact, seed=0)
        for is_exact in (True, False)
    )
    loops = adata.n_obs  # a cell is its own first neighbour in both
    return (exact.multiply(approximate).nnz - loops) / (exact.nnz - loops)


def measure(source: str, repeats: int) -> dict:
    """Return a row of the table: seconds of both phases and memory, for each method that fits."""
    start = time.perf_counter()
    adata = prepared(source)
    row = {"source": source, "cells": adata.n_obs, "genes": adata.n_vars}
    row["prepare"] = time.perf_counter() - start
    names = [m for m in METHODS if m != "published" or adata.n_obs <= PUBLISHED_LIMIT]
    steps = {name: make_steps(name, adata) for name in names}
    row["methods"] = {name: {} for name in names}
    row["product"] = []
    for phase in ("pretrain", "cluster"):
        turns = {name: steps[name][phase] for name in names} | {"product": make_product()}
        medians = time_in_turn(turns, repeats)
        row["product"].append(medians.pop("product"))
        for name, seconds in medians.items():
            row["methods"][name][phase] = seconds
    row["rate"] = 2 * math.prod(PRODUCT) / statistics.mean(row.pop("product"))  # FLOP/s
    row["floor"] = floor_flops(adata.n_obs, adata.n_vars) / row["rate"]
    row["recall"] = recall(adata)
    del steps
    for name in names:
        row["methods"][name]["memory"] = peak_memory(name, source)
    return row


def whole_run(source: str, row: dict) -> dict[str, float]:
    """Return the seconds of a default run of `train.py` as a program, from file to labels.

    `outside` is the same with one epoch in each phase: start, reading, graph, compiling, writing.
    `published` is extrapolated: what preparing took, and 1000 + 300 of the epochs measured.
    """
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        path, known = Path(source), []
        if source.isdigit():
            path, known = Path(folder, "cells.h5ad"), ["--n_clusters", str(CLUSTERS)]
            simulated(int(source)).write_h5ad(path)
        for name, short in (("whole", []), ("outside", ["--pretrain_epochs=1", "--maxiter=1"])):
            command = [sys.executable, "train.py", f"--data={path}", "--gpu_option=-1"]
            command += ["--quiet", "--no_report"]
            out = Path(folder, name)
            start = time.perf_counter()
            subprocess.run([*command, "--out", str(out), *known, *short], check=True, text=True)
            seconds[name] = time.perf_counter() - start
        seconds |= json.loads(Path(folder, "whole", "metrics.json").read_text())["epochs"]
    published = row["methods"].get("published")
    if published:
        epochs = 1000 * published["pretrain"] + 300 * published["cluster"]
        seconds["published"] = row["prepare"] + epochs
    return seconds


def print_row(row: dict) -> None:
    """Print for each method seconds an epoch, times faster than published, floor and MiB."""
    published = row["methods"].get("published")
    print(
        f"\n{row['cells']} cells, {row['genes']} genes; recall of the approximate graph "
        f"{row['recall']:.3f}; prepared in {row['prepare']:.1f} s\n"
        f"products at {row['rate'] / 1e9:.0f} GFLOP/s: floor {row['floor']:.3f} s an epoch"
    )
    print(f"{'method':<10} {'pretrain':>9} {'cluster':>9} {'faster':>15} {'/floor':>13} {'MiB':>7}")
    for name, values in row["methods"].items():
        epochs = [values[phase] for phase in ("pretrain", "cluster")]
        faster = "-"
        if published:
            ratios = [published[phase] / values[phase] for phase in ("pretrain", "cluster")]
            faster = " / ".join(f"{ratio:.2f}x" for ratio in ratios)
        over = " / ".join(f"{seconds / row['floor']:.2f}" for seconds in epochs)
        print(
            f"{name:<10} {epochs[0]:>8.3f}s {epochs[1]:>8.3f}s {faster:>15} {over:>13} "
            f"{values['memory']:>7.0f}",
            flush=True,
        )


def print_whole(seconds: dict[str, float]) -> None:
    """Print the whole run's times, and the published one's beside them."""
    print(
        f"train.py, file to labels: {seconds['whole']:.1f} s "
        f"({seconds['pretrain']} + {seconds['cluster']} epochs), "
        f"with one epoch a phase {seconds['outside']:.1f} s"
    )
    if published := seconds.get("published"):
        print(
            f"published, 1000 + 300 epochs, extrapolated: {published:.0f} s; "
            f"train.py is {published / seconds['whole']:.1f}x faster",
            flush=True,
        )


def print_growth(rows: list[dict]) -> None:
    """Print exponents of time and memory between two sizes: 1 is linear, 2 quadratic."""
    print("\ngrowth: exponent of an epoch's time and of the peak memory in the number of cells")
    for before, after in itertools.pairwise(rows):
        ratio = math.log(after["cells"] / before["cells"])
        growth = []
        for name in METHODS:
            if name in before["methods"] and name in after["methods"]:
                a, b = before["methods"][name], after["methods"][name]
                time_, memory = (math.log(b[x] / a[x]) / ratio for x in ("pretrain", "memory"))
                growth.append(f"{name} {time_:.2f} / {memory:.2f}")
        print(f"{before['cells']:>6} to {after['cells']:>6} cells: {', '.join(growth)}")


def draw(rows: list[dict], path: Path) -> None:
    """Draw time and memory against cells on logarithmic axes, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for name in METHODS:
        measured = [(r["cells"], r["methods"][name]) for r in rows if name in r["methods"]]
        cells = [n for n, _ in measured]
        axes[0].loglog(cells, [m["pretrain"] for _, m in measured], "o-", label=name)
        axes[1].loglog(cells, [m["memory"] / 1024 for _, m in measured], "o-", label=name)
    axes[0].loglog([r["cells"] for r in rows], [r["floor"] for r in rows], "k--", label="floor")
    for axis, label in zip(axes, ("seconds a pretraining epoch", "peak memory, GiB"), strict=True):
        axis.set(xlabel="cells", ylabel=label)
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", help="1000 2000 4000 by default")
    parser.add_argument("--data", help="a data file instead of simulated cells")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each method")
    parser.add_argument("--figure", type=Path, help="write a log-log figure (PNG)")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--whole", action="store_true", help="run train.py from file to labels")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="only write the steps, of one data set (the embedded one by default), for JAX to run",
    )
    parser.add_argument(
        "--gpu_gb",
        type=number(float, above=0),
        default=16,
        help="GiB of the GPU for which --export chooses the blocks of its steps",
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    if args.export:
        if len(args.cells or []) > 1:
            parser.error("--export writes the steps of one data set: give --cells one number")
        source = args.data or str((args.cells or [export.EMBEDDED])[0])
        utils.start_tensorflow("-1")
        try:
            names = export.write(args.export, source, args.gpu_gb)
        except utils.InputError as error:
            parser.error(str(error))
        print(f"{', '.join(names)}: python {args.export / 'run_step.py'} runs them with JAX")
        return
    device = utils.start_tensorflow("-1")
    print(f"{device.name}, {len(os.sched_getaffinity(0))} threads, medians of {args.repeats} turns")
    rows = []
    for source in [args.data] if args.data else map(str, args.cells or CELLS):
        row = measure(source, args.repeats)
        print_row(row)
        if args.whole:
            row["whole"] = whole_run(source, row)
            print_whole(row["whole"])
        rows.append(row)
    if len(rows) > 1:
        print_growth(rows)
    if args.figure:
        draw(rows, args.figure)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
