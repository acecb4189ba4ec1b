"""Score ways of clustering on every cached set, show the table, and what the protocol says of it.

    python -m lab.judge --cache DIR                                  # ways without a network
    python -m lab.judge --cache DIR --tag views --seeds 1 2          # and with one, mean of seeds
    python -m lab.judge --cache DIR --tag views --against "c l + cm lm"   # does a network pay?
    python -m lab.judge --cache DIR --tag views --ways joint_m z default --csv table.csv

Labels of every way are kept in the cache, and the clusterings of the halves that they are made of;
`--again` computes both anew, as is due when the cached data have changed. A score is the ARI.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from lab import protocol
from lab.prepare import data_file, halves_file, network_file, run_dir
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


def labels_file(cache: Path, name: str, tag: str | None, seed: int) -> Path:
    """Return the file with the labels of every way on one set, with one network."""
    return cache / "labels" / (tag or "none") / f"{name}-seed{seed}.npz"


def load(cache: Path, name: str, tag: str | None, seed: int) -> tuple[Views, np.ndarray]:
    """Return the views of a cached set and its true labels as codes (N,), -1 where unknown."""
    import anndata

    cells = anndata.read_h5ad(data_file(cache, name))
    codes = cells.obs["codes"].to_numpy()
    halves, genes = None, halves_file(cache, name, seed)
    if genes.exists():
        stored = np.load(genes)
        halves = list(zip(stored["components"], stored["logs"], strict=True))
    default, run = None, run_dir(cache, name, seed) / "labels.csv"
    if run.exists():
        default = pd.read_csv(run)["cluster"].to_numpy()
    data = Views(
        cells=cells,
        halves=halves,
        z=None if tag is None else np.load(network_file(cache, name, tag, seed))["z"],
        default=default,
        n_clusters=len(np.unique(codes[codes >= 0])),
        seed=seed,
    )
    return data, codes


def score(
    cache: Path, name: str, ways: list[str], *, tag: str | None, seed: int, again: bool
) -> dict[str, float]:
    """Return the ARI of every way on one set with one network, over the cells with a label."""
    from sklearn.metrics import adjusted_rand_score

    data, codes = load(cache, name, tag, seed)
    file = labels_file(cache, name, tag, seed)
    stored = dict(np.load(file)) if file.exists() else {}
    data.memory = {} if again else dict(stored)
    known = codes >= 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = {
            way: float(adjusted_rand_score(codes[known], data.labels(way)[known])) for way in ways
        }
    if again or len(data.memory) > len(stored):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **(stored | data.memory))
    return scores


def summary(table: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return for every way its means over the twelve sets, the others and all, and its gains.

    The columns: means; the median gain over the way `against`, and the mean gain without its two
    best sets; and the worst set, by its distance to the best of the cheap rivals.
    """
    twelve = table.index.isin(TWELVE)
    columns: dict[str, pd.Series] = {
        "twelve": table[twelve].mean(),
        "others": table[~twelve].mean(),
        "all": table.mean(),
    }
    if against in table:
        gains = table.sub(table[against], axis=0)
        columns["median gain"] = gains.median()
        columns["less two"] = gains.apply(protocol.mean_without_best)
    if set(CHEAP) <= set(table):
        distances = table.sub(table[list(CHEAP)].max(axis=1), axis=0)
        columns["worst"], columns["on"] = distances.min(), distances.idxmin()
    return pd.DataFrame(columns)


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
    parser.add_argument(
        "--against",
        choices=WAYS,
        default="default",
        metavar="WAY",
        help="what another way must beat (default: the whole command)",
    )
    parser.add_argument(
        "--recipe", choices=WAYS, metavar="WAY", help="the way in question (default: best)"
    )
    parser.add_argument("--again", action="store_true", help="do not use labels of an earlier call")
    parser.add_argument("--csv", type=Path, help="write the table of the means over seeds here")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parse(argv)
    cached = (path.stem for path in options.cache.glob("*.h5ad"))
    ways = options.ways or list(WAYS if options.tag else RIVALS | LINEAR)
    rows = [
        {"set": name, "seed": seed}
        | score(options.cache, name, ways, tag=options.tag, seed=seed, again=options.again)
        for name in options.names or sorted(cached)
        for seed in options.seeds
    ]
    by_seed = pd.DataFrame(rows).set_index(["set", "seed"]).groupby("set")
    table = by_seed.mean()
    summarised = summary(table, options.against)
    if len(options.seeds) > 1:
        summarised["sd"] = by_seed.std().mean()
    with pd.option_context("display.width", 250, "display.max_columns", 50):
        print(table.round(3).to_string())
        print(summarised.round(3).to_string())
    if options.against in table and len(table) >= protocol.FEWEST_SETS:
        verdict = protocol.judge(table, options.against, recipe=options.recipe)
        for name, value in verdict.summary().items():
            print(f"{name:32} {value}")
    if options.csv:
        table.to_csv(options.csv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
