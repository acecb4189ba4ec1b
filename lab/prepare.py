"""Fill the laboratory's cache: prepared data, pretrained networks and whole runs of labelled sets.

    python -m lab.prepare --cache DIR                                    # data of all sets
    python -m lab.prepare --cache DIR --tag metric --graph metric --seeds 1 2   # networks
    python -m lab.prepare --cache DIR --tag hops2 --set "hops=2" Pollen Deng
    python -m lab.prepare --cache DIR --bags --seeds 1 2                 # halves of the genes
    python -m lab.prepare --cache DIR --runs                             # today's whole command

What is in the cache already stays as it is. Letters: N cells, P components, D latent size.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

import neighbours
from bench import methods
from neighbours import neighbour_metric
from settings import Settings

if TYPE_CHECKING:
    import anndata as ad

DATA_DIR = Path("../shared/data")
LOG_GENES, LOG_COMPONENTS = 2000, 50
BAGS, BAG_SHARE, BAG_COMPONENTS = 8, 0.5, 30  # components of random halves of the genes
GRAPHS = ("plain", "metric", "metric2")


def data_file(cache: Path, name: str) -> Path:
    """Return the file with the arrays of a set."""
    return cache / f"{name}.npz"


def graph_file(cache: Path, name: str) -> Path:
    """Return the file with the kNN graph of a set."""
    return cache / f"{name}.graph.npz"


def network_file(cache: Path, name: str, tag: str, seed: int) -> Path:
    """Return the file with the embedding by one pretrained network."""
    return cache / "networks" / tag / f"{name}-seed{seed}.npz"


def bags_file(cache: Path, name: str, seed: int) -> Path:
    """Return the file with the components of random halves of the genes of a set."""
    return cache / "bags" / f"{name}-seed{seed}.npz"


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


def metric_graph(
    points: np.ndarray, graph: sp.csr_matrix, settings: Settings, *, rounds: int
) -> sp.csr_matrix:
    """Return the kNN graph sought again in the metric of neighbours' differences.

    Parameters
    ----------
    points
        Components (N, P).
    graph
        The graph that the first metric is of, shape (N, N).
    settings
        Of the graph; see `neighbours.graph_of`.
    rounds
        How often the graph is replaced by that of its own metric.
    """
    for _ in range(rounds):
        metric_points = neighbour_metric(points, graph)
        graph = neighbours.graph_of(metric_points, settings, seed=settings.seed)
    return graph


def logarithms(raw: ad.AnnData, *, method: str) -> np.ndarray:
    """Return the logarithms of many genes, which are not scaled, shape (N, genes)."""
    import preprocess

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normalised = preprocess.normalise(preprocess.drop_empty(raw))
        chosen = preprocess.select_genes(normalised, n_genes=LOG_GENES, method=method)
    return chosen.X.toarray()


def components_of(values: np.ndarray, n_components: int, *, seed: int) -> np.ndarray:
    """Return principal components (N, P) of values of genes, P at most n_components."""
    from sklearn.decomposition import PCA

    return PCA(min(n_components, *values.shape), random_state=seed).fit_transform(values)


def bags_of(values: np.ndarray, n_components: int, *, seed: int) -> np.ndarray:
    """Return the components of random halves of the genes, shape (bags, N, P).

    What the halves agree on rests on many genes; what a few genes say differs between them.
    Source: bagging by features, the random subspaces of Ho 1998.
    """
    rng = np.random.default_rng(seed)
    n_genes = values.shape[1]
    half = max(int(n_genes * BAG_SHARE), 1)
    picks = [rng.choice(n_genes, half, replace=False) for _ in range(BAGS)]
    return np.stack([components_of(values[:, pick], n_components, seed=seed) for pick in picks])


def prepared(path: Path, settings: Settings) -> tuple[ad.AnnData, ad.AnnData, np.ndarray]:
    """Return the counts, the prepared data, and the labels as codes (N,), -1 for none."""
    import pipeline
    import preprocess
    from formats import raw_counts

    raw, cell_types, _ = pipeline.read(settings)
    if cell_types is None:
        raise SystemExit(f"{path} has no labels to score by")
    raw.X, _ = raw_counts.check(
        raw_counts.canonical(raw.X, str(path)), round_counts=True, where=str(path)
    )
    adata = preprocess.prepare(raw, settings, seed=settings.seed, where=str(path))
    codes = cell_types.loc[adata.obs_names].astype("category").cat.codes.to_numpy()
    return raw, adata, codes


def cache_data(path: Path, name: str, cache: Path) -> None:
    """Write the components, the log components of two choices of genes, the graph and the codes."""
    settings = settings_of(path)
    raw, adata, codes = prepared(path, settings)
    logs, seurat = (
        components_of(logarithms(raw, method=method), LOG_COMPONENTS, seed=settings.seed)
        for method in ("pearson", "seurat")
    )
    np.savez(
        data_file(cache, name),
        components=adata.obsm["X_pca"],
        logs=logs,
        seurat=seurat,
        codes=codes,
    )
    sp.save_npz(graph_file(cache, name), adata.obsp["connectivities"])


def cache_bags(path: Path, name: str, cache: Path, *, seeds: list[int]) -> None:
    """Write the components of random halves of the network's genes and of the log genes."""
    files = {seed: bags_file(cache, name, seed) for seed in seeds}
    missing = [seed for seed in seeds if not files[seed].exists()]
    if not missing:
        return
    settings = settings_of(path)
    raw, adata, _ = prepared(path, settings)
    logs = logarithms(raw, method="pearson")
    for seed in missing:
        files[seed].parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            files[seed],
            components=bags_of(np.asarray(adata.X), settings.n_pcs, seed=seed),
            logs=bags_of(logs, BAG_COMPONENTS, seed=seed),
        )


def cache_network(
    path: Path, name: str, cache: Path, *, tag: str, words: str, graph: str, seeds: list[int]
) -> None:
    """Pretrain networks on one graph and write the embedding, graph and seconds of each."""
    files = {seed: network_file(cache, name, tag, seed) for seed in seeds}
    missing = [seed for seed in seeds if not files[seed].exists()]
    if not missing:
        return
    settings = settings_of(path, words)
    _, adata, _ = prepared(path, settings)
    adata.obsp["connectivities"] = metric_graph(
        adata.obsm["X_pca"],
        adata.obsp["connectivities"],
        settings,
        rounds=GRAPHS.index(graph),
    )
    import pipeline

    network, device = pipeline.start_network(settings, adata.n_vars)
    import tensors
    import training
    import utils

    with utils.tensorflow_session():
        data = tensors.training_data(
            adata,
            settings,
            settings,
            dtype=network.product_dtype,
            block_bytes=device.block_bytes,
        )
        phase = training.phases(settings)[0]
        pretraining = training.Pretraining(network, data, settings, phase, quiet=True)
        for seed in missing:
            start = time.perf_counter()
            history = pretraining.run(seed)
            z = training.embed(network, data)
            files[seed].parent.mkdir(parents=True, exist_ok=True)
            np.savez(
                files[seed],
                z=z,
                adj=history[-1]["adj"],
                seconds=time.perf_counter() - start,
                epochs=len(history),
            )


def cache_run(path: Path, name: str, cache: Path, *, words: str, seeds: list[int]) -> None:
    """Run the whole command, of which the labels are the default that a new way must beat."""
    import pipeline

    for seed in seeds:
        out = run_dir(cache, name, seed)
        if not out.exists():
            settings = settings_of(path, words, seed=seed, out=out)
            pipeline.run(settings, pipeline.fit, out_dir=out, notes=settings.to_json())


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
    parser.add_argument("--graph", choices=GRAPHS, default="plain", help="graph of the networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--bags", action="store_true", help="halve the genes, for each seed")
    parser.add_argument("--runs", action="store_true", help="run the whole command, for each seed")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parse(argv)
    options.cache.mkdir(parents=True, exist_ok=True)
    for name in options.names or set_names(options.data_dir):
        path = options.data_dir / name / "data.h5"
        start = time.perf_counter()
        if (
            not graph_file(options.cache, name).exists()
            or not data_file(options.cache, name).exists()
        ):
            cache_data(path, name, options.cache)
        if options.bags:
            cache_bags(path, name, options.cache, seeds=options.seeds)
        if options.tag:
            cache_network(
                path,
                name,
                options.cache,
                tag=options.tag,
                words=options.set,
                graph=options.graph,
                seeds=options.seeds,
            )
        if options.runs:
            cache_run(path, name, options.cache, words=options.set, seeds=options.seeds)
        print(f"{name:24} {time.perf_counter() - start:6.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
