"""Score ways of clustering on every cached set, show the table, and what the protocol says of it.

    python -m lab.judge --cache DIR                                  # ways without a network
    python -m lab.judge --cache DIR --tag metric --seeds 1 2         # and with one, mean of seeds
    python -m lab.judge --cache DIR --tag metric --ways joint_m z --csv table.csv

Labels of every way are kept in the cache; `--again` computes them anew. A score is the ARI.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lab import protocol
from lab.prepare import bags_file, data_file, graph_file, network_file, run_dir
from lab.ways import LINEAR, RIVALS, WAYS, Views

TWELVE = (
    "Mix_10x_3cl",
    "Pollen",
    "Segerstolpe",
    "Joost_skin",
    "Zilionis_lung_800",
    "Mix_CELseq2_5cl",
    "Baron_mouse",
    "Mouse_bladder_MCA_2100",
    "PBMC_facs",
    "Worm_neuron",
    "PBMC_10x_4k",
    "Young",
)
CHEAP = ("pca_kmeans", "leiden_k", "spectral")  # rivals that no set may lose much against
DEFAULT = "today"


def labels_file(cache: Path, name: str, tag: str | None, seed: int) -> Path:
    """Return the file with the labels of every way on one set, with one network."""
    return cache / "labels" / (tag or "none") / f"{name}-seed{seed}.npz"


def load(cache: Path, name: str, tag: str | None, seed: int) -> tuple[Views, np.ndarray]:
    """Return the views of a cached set and its true labels as codes (N,), -1 where unknown."""
    arrays = np.load(data_file(cache, name))
    codes = arrays["codes"]
    z = None if tag is None else np.load(network_file(cache, name, tag, seed))["z"]
    bags, halves = None, bags_file(cache, name, seed)
    if halves.exists():
        stored = np.load(halves)
        bags = stored["components"], stored["logs"]
    default, run = None, run_dir(cache, name, seed) / "labels.csv"
    if run.exists():
        default = pd.read_csv(run)["cluster"].to_numpy()
    views = Views(
        components=arrays["components"],
        logs=arrays["logs"],
        seurat=arrays["seurat"],
        graph=sp.load_npz(graph_file(cache, name)).tocsr(),
        bags=bags,
        z=z,
        default=default,
        n_clusters=len(np.unique(codes[codes >= 0])),
        seed=seed,
    )
    return views, codes


def score(
    cache: Path, name: str, ways: list[str], *, tag: str | None, seed: int, again: list[str]
) -> dict[str, float]:
    """Return the ARI of every way on one set with one network, over the cells with a label."""
    from sklearn.metrics import adjusted_rand_score

    views, codes = load(cache, name, tag, seed)
    file = labels_file(cache, name, tag, seed)
    if file.exists():
        stored = np.load(file)
        views.memory = {way: stored[way] for way in stored.files if way not in again}
    before = len(views.memory)
    known = codes >= 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = {
            way: float(adjusted_rand_score(codes[known], views.labels(way)[known])) for way in ways
        }
    if len(views.memory) > before:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **views.memory)  # type: ignore[arg-type]
    return scores


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return for every way its means over the twelve sets, the others and all, and its gains.

    The columns: means; median and mean gain over the default; the same mean without its two best
    sets; and the worst set, by its distance to the best of the cheap rivals.
    """
    twelve = table.index.isin(TWELVE)
    rows = {}
    for way in table:
        row: dict[str, object] = {
            "twelve": table.loc[twelve, way].mean(),
            "others": table.loc[~twelve, way].mean(),
            "all": table[way].mean(),
        }
        if DEFAULT in table:
            gains = (table[way] - table[DEFAULT]).sort_values(ascending=False)
            row["median gain"] = gains.median()
            row["less two"] = gains.iloc[protocol.BEST_SETS :].mean()
        if set(CHEAP) <= set(table):
            distance = table[way] - table[list(CHEAP)].max(axis=1)
            row["worst"], row["on"] = distance.min(), distance.idxmin()
        rows[way] = row
    return pd.DataFrame(rows).T


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.judge", description="Score ways of clustering on every cached set."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets (default: all)")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--tag", help="the networks to take, as lab.prepare named them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY", help="default: all")
    parser.add_argument("--again", nargs="+", default=[], choices=WAYS, metavar="WAY")
    parser.add_argument("--csv", type=Path, help="write the table of the means over seeds here")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parse(argv)
    names = options.names or sorted(
        path.name.removesuffix(".graph.npz") for path in options.cache.glob("*.graph.npz")
    )
    ways = options.ways or list(WAYS if options.tag else RIVALS | LINEAR)
    rows = [
        {"set": name, "seed": seed}
        | score(options.cache, name, ways, tag=options.tag, seed=seed, again=options.again)
        for name in names
        for seed in options.seeds
    ]
    scores = pd.DataFrame(rows).set_index(["set", "seed"])
    table = scores.groupby("set").mean()
    with pd.option_context("display.width", 250, "display.max_columns", 50):
        print(table.round(3).to_string())
        summarised = summary(table)
        if len(options.seeds) > 1:
            summarised["sd"] = scores.groupby("set").std().mean()
        print(summarised.map(lambda x: round(x, 3) if isinstance(x, float) else x).to_string())
    if DEFAULT in table and len(table) >= 4:
        for name, value in protocol.judge(table, DEFAULT).summary().items():
            print(f"{name:32} {value}")
    if options.csv:
        table.to_csv(options.csv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
