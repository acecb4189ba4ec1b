"""How fast and how large a run is, beside the published computation, in one process.

    python -m perf.speed                              # simulated data, 1000 to 4000 cells
    python -m perf.speed --data FILE.h5               # one real data set
    python -m perf.speed --cells 1000 2000 4000 8000 16000 32000 --figure growth.png

Every number printed is measured in that run but for the one marked as extrapolated. Steps of the
methods are timed in turn (published, ours, published, ...) and the medians quoted, so that a drift
of the machine's speed hits both. Peak memory is that of a process of its own for each method.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import utils

HOPS, GENES, NEIGHBORS, COMPONENTS = 3, 500, 15, 50
HIDDEN, LATENT, DECODER = 128, 15, (128, 256, 512)
CLUSTERS = 8
METHODS = ("published", "official", "sctag")
# The published computation holds several N x N arrays while it differentiates the graph loss.
PUBLISHED_LIMIT = 8000


def simulated(n_cells: int, seed: int = 0):
    """AnnData of negative binomial counts (sparse) of `CLUSTERS` cell types, 2 * GENES genes."""
    import anndata as ad
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    n_genes = 2 * GENES
    profiles = rng.gamma(0.5, 1.0, n_genes) * np.exp(rng.normal(0, 0.8, (CLUSTERS, n_genes)))
    blocks = []
    for start in range(0, n_cells, 2000):
        rows = min(2000, n_cells - start)
        depth = rng.lognormal(0, 0.4, (rows, 1))
        mean = profiles[rng.integers(0, CLUSTERS, rows)] * depth
        counts = rng.negative_binomial(2, 2 / (2 + mean)).astype(np.float32)
        blocks.append(sp.csr_matrix(counts))
    return ad.AnnData(sp.vstack(blocks, format="csr"))


def prepared(source: str):
    """The prepared data of a file, or of `source` simulated cells, as every method reads them."""
    import preprocess
    import readers

    adata = simulated(int(source)) if source.isdigit() else readers.read(Path(source))
    return preprocess.prepare(
        adata,
        n_genes=GENES,
        gene_selection="seurat",
        clip=None,
        n_pcs=COMPONENTS,
        k=NEIGHBORS,
        symmetric=False,
        exact_knn_cells=30_000,
        seed=0,
    )


def make_steps(method: str, adata):
    """The method's epoch in each phase, as functions without arguments that wait for the result."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 0.1, (CLUSTERS, LATENT)).astype(np.float32)
    p = rng.dirichlet(np.ones(CLUSTERS), adata.n_obs).astype(np.float32)
    if method == "published":
        import tensorflow as tf

        from perf.published import Published

        network = Published(adata.X, adata.obsp["connectivities"])
        network.centers = tf.constant(centers)
        target = tf.constant(p)
        return {
            "pretrain": lambda: network.step()[1].numpy(),
            "cluster": lambda: network.step(target)[2].numpy(),
        }
    return _make_own_steps(method, adata, centers, p)


def _make_own_steps(method: str, adata, centers: np.ndarray, p: np.ndarray):
    """The suite's compiled steps: `official` blocks on z-scores, `sctag` 3 true hops on counts."""
    import tensorflow as tf

    import training
    from model import SCTAG

    official = method == "official"
    network = SCTAG(
        n_genes=adata.n_vars,
        hidden_dim=HIDDEN,
        latent_dim=LATENT,
        decoder_dims=list(DECODER),
        hops=HOPS,
        repeated=official,
        dropout=0.0 if official else 0.2,
        seed=0,
    )
    data = training.training_data(
        adata,
        n_propagations=network.n_propagations,
        direction="ax",
        zinb_target="scaled" if official else "counts",
    )
    weights = training.Weights(adj=0.3, zinb=1.0, kl=1.5)
    pretrain = training.make_step(network, data, learning_rate=1e-4, weights=weights, kl="qp")
    pretrain(None)  # traced before the centres exist
    network.place_centers(centers, trainable=not official)
    cluster = training.make_step(network, data, learning_rate=5e-4, weights=weights, kl="qp")
    target = tf.constant(p)
    return {
        "pretrain": lambda: pretrain(None).total.numpy(),
        "cluster": lambda: cluster(target).total.numpy(),
    }


def matmul_rate() -> float:
    """Float32 matrix products of this machine in FLOP/s: the best of several, as a floor needs."""
    import tensorflow as tf

    a, b = tf.random.stateless_normal([4096, 512], [0, 1]), tf.zeros([512, 1536])
    product = tf.function(lambda: tf.matmul(a, b), jit_compile=True)
    product().numpy()
    seconds = []
    for _ in range(15):
        start = time.perf_counter()
        product().numpy()
        seconds.append(time.perf_counter() - start)
    return 2 * 4096 * 512 * 1536 / min(seconds)


def floor_flops(n_cells: int, n_genes: int) -> float:
    """FLOPs of an epoch's dense products with K true hops, gradient included (architecture.md).

    A product costs 2 FLOPs a multiply-add forward and 4 backward; the first layer needs no gradient
    of its input. The adjacency loss costs 96 N^2 (three products of rank LATENT + 1).
    """
    widths = (LATENT, *DECODER)
    first = (HOPS + 1) * n_genes * HIDDEN
    rest = (HOPS + 1) * HIDDEN * LATENT + 3 * DECODER[-1] * n_genes
    rest += sum(a * b for a, b in itertools.pairwise(widths))
    return n_cells * (4 * first + 6 * rest) + 6 * (LATENT + 1) * n_cells**2


def time_in_turn(steps: dict[str, dict], phase: str, repeats: int) -> dict[str, float]:
    """Median seconds of each method's step of a phase, the methods taking turns."""
    for phases in steps.values():
        phases[phase]()  # compiles
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, phases in steps.items():
            start = time.perf_counter()
            phases[phase]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(method: str, source: str) -> float:
    """Peak MiB of a process that prepares the data and runs two epochs of each phase."""
    command = [sys.executable, "-m", "perf.speed", "--child", method, source]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def child(method: str, source: str) -> None:
    """What `peak_memory` runs: prints the peak resident set in MiB."""
    utils.start_tensorflow("-1")
    steps = make_steps(method, prepared(source))
    for phase in ("pretrain", "cluster"):
        for _ in range(2):
            steps[phase]()
    print(utils.peak_memory_mb())


def measure(source: str, repeats: int, rate: float) -> dict:
    """One row of the table: seconds of both phases and memory, for each method that fits."""
    adata = prepared(source)
    names = [m for m in METHODS if m != "published" or adata.n_obs <= PUBLISHED_LIMIT]
    steps = {name: make_steps(name, adata) for name in names}
    row = {"cells": adata.n_obs, "genes": adata.n_vars, "methods": {name: {} for name in names}}
    row["floor"] = floor_flops(adata.n_obs, adata.n_vars) / rate
    for phase in ("pretrain", "cluster"):
        for name, seconds in time_in_turn(steps, phase, repeats).items():
            row["methods"][name][phase] = seconds
    del steps
    for name in names:
        row["methods"][name]["memory"] = peak_memory(name, source)
    return row


def print_row(row: dict) -> None:
    """One method a line: seconds an epoch, times faster than published, over the floor, MiB."""
    published = row["methods"].get("published")
    print(f"\n{row['cells']} cells, {row['genes']} genes; floor {row['floor']:.3f} s an epoch")
    print(f"{'method':<10} {'pretrain':>9} {'cluster':>9} {'faster':>15} {'/floor':>7} {'MiB':>7}")
    for name, values in row["methods"].items():
        faster = "-"
        if published:
            ratios = [published[phase] / values[phase] for phase in ("pretrain", "cluster")]
            faster = " / ".join(f"{ratio:.1f}x" for ratio in ratios)
        print(
            f"{name:<10} {values['pretrain']:>8.3f}s {values['cluster']:>8.3f}s {faster:>15} "
            f"{values['pretrain'] / row['floor']:>7.2f} {values['memory']:>7.0f}",
            flush=True,
        )
    if published:
        total = 1000 * published["pretrain"] + 300 * published["cluster"]
        print(f"published, 1000 + 300 epochs (extrapolated): {total:.0f} s")


def draw(rows: list[dict], path: Path) -> None:
    """Time and memory against cells on logarithmic axes, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in METHODS:
        found = [(r["cells"], r["methods"][name]) for r in rows if name in r["methods"]]
        cells = [n for n, _ in found]
        axes[0].loglog(cells, [m["pretrain"] for _, m in found], "o-", label=name)
        axes[1].loglog(cells, [m["memory"] / 1024 for _, m in found], "o-", label=name)
    axes[0].loglog([r["cells"] for r in rows], [r["floor"] for r in rows], "k--", label="floor")
    for axis, label in zip(axes, ("seconds a pretraining epoch", "peak memory, GiB"), strict=True):
        axis.set(xlabel="cells", ylabel=label)
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Parse the flags, measure each size, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--data", help="a data file instead of simulated cells")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each method")
    parser.add_argument("--figure", type=Path, help="write a log-log figure (PNG)")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    device = utils.start_tensorflow("-1")
    rate = matmul_rate()
    cores = len(os.sched_getaffinity(0))
    print(f"{device}, {cores} cores, float32 matrix products at {rate / 1e9:.0f} GFLOP/s")
    rows = []
    for source in [args.data] if args.data else map(str, args.cells):
        rows.append(measure(source, args.repeats, rate))
        print_row(rows[-1])
    if args.figure:
        draw(rows, args.figure)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
