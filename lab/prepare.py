"""Fill the laboratory's cache: prepared data, pretrained networks and whole runs of labelled sets.

    python -m lab.prepare --cache DIR                                    # data of all sets
    python -m lab.prepare --cache DIR --halves --seeds 1 2               # halves of their genes
    python -m lab.prepare --cache DIR --tag views --seeds 1 2            # networks
    python -m lab.prepare --cache DIR --tag hops2 --set "hops=2" Pollen Deng
    python -m lab.prepare --cache DIR --runs                             # today's whole command

What is in the cache already stays as it is. Letters: N cells, P components, D latent size.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import scanpy_steps
import views
from bench import methods
from lab.ways import SCANPY_GRAPH
from settings import Settings

if TYPE_CHECKING:
    import anndata as ad

DATA_DIR = Path("../shared/data")
GRAPHS = ("views", "plain")  # `views.graph`, and that of the components alone


def data_file(cache: Path, name: str) -> Path:
    """Return the file with what is kept of a set's prepared data; see `slim`."""
    return cache / f"{name}.h5ad"


def halves_file(cache: Path, name: str, seed: int) -> Path:
    """Return the file with the components of random halves of the genes of a set."""
    return cache / "halves" / f"{name}-seed{seed}.npz"


def network_file(cache: Path, name: str, tag: str, seed: int) -> Path:
    """Return the file with the embedding by one pretrained network."""
    return cache / "networks" / tag / f"{name}-seed{seed}.npz"


def run_dir(cache: Path, name: str, seed: int) -> Path:
    """Return the folder of a whole run of today's command."""
    return cache / "runs" / f"{name}-seed{seed}"


def set_names(data_dir: Path) -> list[str]:
    """Return the names of the data sets of a folder, NAME/data.h5, in alphabetical order."""
    return sorted(path.parent.name for path in data_dir.glob("*/data.h5"))


def settings_of(path: Path, words: str = "", **given: Any) -> Settings:
    """Return the settings of a run on a file, with words such as "hops=2 w_adj=0"."""
    values = methods.parse_method(f"sctag {words}")[1]
    values |= {"data": path, "n_clusters": "labels", "round_counts": True, "quiet": True} | given
    return Settings.of(**values)


def prepared(settings: Settings) -> tuple[ad.AnnData, np.ndarray]:
    """Return the prepared data of a file, and the labels as codes (N,), -1 for none."""
    import pipeline
    import preprocess

    raw, cell_types, where, _ = pipeline.read(settings)
    if cell_types is None:
        raise SystemExit(f"{where} has no labels to score by")
    adata = preprocess.prepare(raw, settings, seed=settings.seed, where=where)
    codes = cell_types.loc[adata.obs_names].astype("category").cat.codes.to_numpy()
    return adata, codes


def slim(adata: ad.AnnData, codes: np.ndarray, *, seed: int) -> ad.AnnData:
    """Return what the ways need of prepared data, without a gene.

    obsm and obsp of the data come along, and beside them are obsm["X_pca_scanpy"] (N, P) and
    obsp["scanpy_connectivities"] (N, N) of `scanpy_steps.cells`; obs["codes"] has the labels.
    """
    import anndata

    usual = scanpy_steps.cells(adata, seed=seed)
    return anndata.AnnData(
        obs=pd.DataFrame({"codes": codes}, index=adata.obs_names),
        obsm={**adata.obsm, "X_pca_scanpy": usual.obsm["X_pca"]},
        obsp={**adata.obsp, SCANPY_GRAPH: usual.obsp["connectivities"]},
    )


def cache_data(path: Path, name: str, cache: Path, *, seeds_of_halves: list[int]) -> None:
    """Write a set's data, prepared by the default settings, and for each seed their halves."""
    data = data_file(cache, name)
    halves = {seed: halves_file(cache, name, seed) for seed in seeds_of_halves}
    missing = {seed: file for seed, file in halves.items() if not file.exists()}
    if data.exists() and not missing:
        return
    settings = settings_of(path)
    adata, codes = prepared(settings)
    if not data.exists():
        slim(adata, codes, seed=settings.seed).write_h5ad(data)
    for seed, file in missing.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        components, logs = zip(*views.halves(adata, seed=seed), strict=True)
        np.savez(file, components=np.stack(components), logs=np.stack(logs))


def cache_networks(
    path: Path, name: str, cache: Path, *, tag: str, words: str, graph: str, seeds: list[int]
) -> None:
    """Pretrain a network for each seed on one graph; write its embedding (N, D) and seconds."""
    files = {seed: network_file(cache, name, tag, seed) for seed in seeds}
    missing = {seed: file for seed, file in files.items() if not file.exists()}
    if not missing:
        return
    settings = settings_of(path, words)
    adata, _ = prepared(settings)
    if graph == "plain":
        adata.obsp.pop(views.GRAPH, None)
    import fitting

    network, device, strategy = fitting.start_network(settings, adata)
    import devices
    import training

    with devices.tensorflow_session():
        data = fitting.training_data(adata, network, device, strategy, settings)
        phase = training.phases(settings)[0]
        pretraining = training.Pretraining(network, data, settings, phase, quiet=True)
        for seed, file in missing.items():
            start = time.perf_counter()
            pretraining.run(seed)
            z = training.embed(network, data)
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, z=z, seconds=time.perf_counter() - start)


def cache_runs(path: Path, name: str, cache: Path, *, words: str, seeds: list[int]) -> None:
    """Run the whole command, of which the labels are the default that a new way must beat."""
    import fitting
    import pipeline

    for seed in seeds:
        out = run_dir(cache, name, seed)
        if not out.exists():
            settings = settings_of(path, words, seed=seed, out=out)
            notes = settings.to_json()
            pipeline.run(settings, fitting.fit, out_dir=out, notes=notes, with_network=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.prepare", description="Fill the laboratory's cache."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets (default: all)")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, default=DATA_DIR, help="holds NAME/data.h5")
    parser.add_argument("--tag", help="pretrain networks, and keep them under this name")
    parser.add_argument("--set", default="", metavar="WORDS", help='settings, as "hops=2 w_adj=0"')
    parser.add_argument("--graph", choices=GRAPHS, default="views", help="graph of the networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--halves", action="store_true", help="halve the genes, for each seed")
    parser.add_argument("--runs", action="store_true", help="run the whole command, for each seed")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parse(argv)
    cache, seeds, words = options.cache, options.seeds, options.set
    cache.mkdir(parents=True, exist_ok=True)
    for name in options.names or set_names(options.data_dir):
        path = options.data_dir / name / "data.h5"
        start = time.perf_counter()
        cache_data(path, name, cache, seeds_of_halves=seeds if options.halves else [])
        if options.tag:
            network = {"tag": options.tag, "words": words, "graph": options.graph}
            cache_networks(path, name, cache, **network, seeds=seeds)
        if options.runs:
            cache_runs(path, name, cache, words=words, seeds=seeds)
        print(f"{name:24} {time.perf_counter() - start:6.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
