"""Draw docs/umap.png, the figure of README: the clusters of a run beside the known cell types.

    python train.py --dataname pbmc68k_reduced --out results/readme
    python scripts/readme_figure.py results/readme docs/umap.png

A cluster has its number in labels.csv; a cell type has a letter, A for the one with the most cells.
"""

from __future__ import annotations

import argparse
import string
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import scores  # noqa: E402, after the path to it is known

# Paul Tol's scheme "muted", which readers who are colour-blind can tell apart; at most ten groups.
COLOURS = (
    *("#332288", "#DDCC77", "#117733", "#CC6677", "#88CCEE"),
    *("#882255", "#44AA99", "#999933", "#AA4499", "#BBBBBB"),
)
MARKS_APART = 0.06  # the least distance of two marks, as a share of the figure


def coordinates(adata: ad.AnnData) -> np.ndarray:
    """Return the UMAP of what was clustered, shape (N, 2), by scanpy; loose, so that cells show."""
    key = "X_sctag_joint" if "X_sctag_joint" in adata.obsm else "X_sctag"
    cells = ad.AnnData(obsm={key: adata.obsm[key]}, shape=(adata.n_obs, 0))
    sc.pp.neighbors(cells, n_neighbors=30, use_rep=key)
    sc.tl.umap(cells, min_dist=1.0, spread=1.5, random_state=0)
    return cells.obsm["X_umap"]


def draw_groups(ax: Axes, umap: np.ndarray, codes: np.ndarray, marks: dict[int, str]) -> None:
    """Draw the cells (N, 2), coloured by group, with the mark of each group at its middle.

    `codes`, shape (N,), has the place of each cell's group in `COLOURS`, and is a key of `marks`.
    """
    order = np.random.default_rng(0).permutation(len(umap))  # so that no group covers another
    x, y = umap[order].T
    ax.scatter(x, y, c=[COLOURS[code] for code in codes[order]], s=11, linewidths=0)
    apart = np.ptp(umap, axis=0).max() * MARKS_APART
    places = np.full((0, 2), np.inf)
    for code in np.unique(codes):
        cells = umap[codes == code]
        nearest = np.argsort(((cells - np.median(cells, axis=0)) ** 2).sum(axis=1))
        distances = np.linalg.norm(cells[nearest, None] - places, axis=2)
        is_free = (distances > apart).all(axis=1)
        middle = cells[nearest[is_free.argmax()]]
        places = np.vstack([places, middle])
        box = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": COLOURS[code], "lw": 1.2}
        ax.annotate(marks[code], middle, ha="center", va="center", fontsize=9, bbox=box)
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_color("0.8")


def draw(adata: ad.AnnData, label_key: str, path: Path) -> None:
    """Draw clusters beside cell types as a PNG; a cluster has the colour of its best match."""
    umap = coordinates(adata)
    types, names = pd.factorize(adata.obs[label_key], sort=True)
    by_size = np.argsort(-np.bincount(types), kind="stable")
    types, names = np.argsort(by_size)[types], names[by_size]
    clusters = adata.obs["sctag"].to_numpy().astype(int)
    n_clusters = clusters.max() + 1
    if max(len(names), n_clusters) > len(COLOURS):
        raise SystemExit(f"the figure has colours for {len(COLOURS)} groups only")
    matched = scores.match_clusters(types, clusters)
    place = np.full(n_clusters, -1)
    place[clusters] = matched
    spare = [code for code in range(len(COLOURS)) if code not in place]
    place[place < 0] = spare[: (place < 0).sum()]

    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    letters = dict(enumerate(string.ascii_uppercase[: len(names)]))
    draw_groups(left, umap, place[clusters], {code: str(i) for i, code in enumerate(place)})
    draw_groups(right, umap, types, letters)
    left.set_title("clusters found by scTAG")
    right.set_title("known cell types")
    handles = [
        right.plot(
            [], [], "o", color=COLOURS[code], markersize=6, label=f"{letters[code]}  {name}"
        )[0]
        for code, name in enumerate(names)
    ]
    right.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Parse the command line and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run_dir", type=Path, help="results folder of train.py, with labels")
    parser.add_argument("path", type=Path, help="PNG file to write")
    parser.add_argument("--label_key", default="cell_type1", help="column of the cell types")
    args = parser.parse_args()
    draw(ad.read_h5ad(args.run_dir / "sctag.h5ad"), args.label_key, args.path)


if __name__ == "__main__":
    main()
