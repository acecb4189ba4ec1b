"""The figures of the page as files, PNG and SVG, by matplotlib: for papers and slides.

They show the same numbers as the page, on white, in the same colours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from report import colours, figures, maps, numbers
from report.content import Content

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
LETTER, LONGEST = 0.075, 60  # inches that a letter is wide; letters of a name
DOT = 110  # area of a dot of all cells, in points squared
CELLS_AS_SHAPES = 2_000  # beyond, the cells of an SVG are a picture inside it
# So that a file is the same whenever it is written: SVG names its parts by a random salt otherwise.
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sctag",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # a dollar sign in a name is no formula
    "text.parse_math": False,
}


def write(folder: Path, content: Content) -> list[Path]:
    """Draw every figure that the content has numbers for; return the files, two of each."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of names in no font
        for name, draw in drawings(content).items():
            figure = draw()
            for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
                path = folder / f"{name}{suffix}"
                figure.savefig(path, dpi=DPI, metadata=metadata)
                figure.set_layout_engine("none")  # both files have one layout: it takes time
                written.append(path)
    return written


def drawings(content: Content) -> dict[str, Callable[[], Figure]]:
    """Return functions that draw the content's figures, by the names of the files."""
    possible = {
        "sizes": (sizes, True),
        "markers": (markers, numbers.top_markers(content)),
        "labels": (confusion, numbers.confusion(content)),
        "losses": (losses, content.history),
        "n_clusters": (curves, content.estimate),
    }
    drawn: dict[str, Callable[[], Figure]] = {
        name: partial(draw, content)
        for name, (draw, has_numbers) in possible.items()
        if has_numbers
    }
    if content.umap is not None:
        for entry in maps.of_cells(content):
            name = entry.name.lower().replace(" ", "_")
            drawn[f"umap_{name}"] = partial(umap, np.asarray(content.umap), entry)
    return drawn


def _new(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """Return a figure of a size in inches, and its axes; no window and no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**grid)


def _shown(names: Iterable[str]) -> tuple[list[str], float]:
    """Return names as a figure shows them, endless ones cut, and the inches that they take."""
    cut = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in names]
    return cut, LETTER * max(map(len, cut), default=0)


def umap(coordinates: np.ndarray, entry: maps.Colouring) -> Figure:
    """Draw the map of the cells from their coordinates (N, 2) and their colouring."""
    from matplotlib.colors import LinearSegmentedColormap

    n_cells = len(coordinates)
    groups, width = _shown(entry.groups or [])
    figure, ax = _new(max(6.4, 4 + _columns(groups) * (0.5 + width)), 5)
    look: dict[str, Any] = {
        "s": float(np.clip(30_000 / n_cells, 0.5, 14)),
        "linewidths": 0,
        "rasterized": n_cells > CELLS_AS_SHAPES,
    }
    if entry.groups is None:
        scale = LinearSegmentedColormap.from_list("scale", list(colours.SCALE))
        low, high = maps.bounds(entry)
        order = np.argsort(entry.values)
        x, y = coordinates[order].T
        drawn = ax.scatter(x, y, c=entry.values[order], cmap=scale, vmin=low, vmax=high, **look)
        bar = figure.colorbar(drawn, ax=ax, shrink=0.6, label=entry.title)
        bar.outline.set_visible(False)
        if entry.ticks:
            bar.set_ticks([at for at, _ in entry.ticks], labels=[text for _, text in entry.ticks])
    else:
        order = np.random.default_rng(0).permutation(n_cells)  # no group covers another
        palette = np.array([*colours.of_groups(len(entry.groups)), colours.MISSING])
        x, y = coordinates[order].T
        ax.scatter(x, y, c=palette[entry.values[order]], **look)
        _name_groups(ax, groups)
        if entry.name == maps.CLUSTER:
            for code in np.unique(entry.values[entry.values >= 0]):
                at = maps.middle(coordinates[entry.values == code])
                ax.annotate(entry.groups[code], at, ha="center", va="center", weight="bold")
    ax.set(xlabel="UMAP 1", ylabel="UMAP 2", title=entry.name, xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    return figure


def _name_groups(ax: Axes, groups: list[str]) -> None:
    """Put the names of groups, with their colours, beside the axes."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="none", color=colour, label=f" {name}")
        for name, colour in zip(groups, colours.of_groups(len(groups)), strict=True)
    ]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), ncols=_columns(groups))


def _columns(groups: list[str]) -> int:
    """Return in how many columns the names of groups stand beside the map."""
    return 1 + (len(groups) - 1) // 20


def sizes(content: Content) -> Figure:
    """Draw how many cells each cluster has."""
    rows = numbers.overview(content)
    figure, ax = _new(6.4, 0.8 + 0.22 * len(rows))
    bars = ax.barh(
        range(len(rows)),
        [row["cells"] for row in rows],
        color=colours.of_groups(len(rows)),
    )
    ax.bar_label(bars, labels=[f"{row['cells']:,}" for row in rows], padding=3)
    ax.set_yticks(range(len(rows)), [row["cluster"] for row in rows])
    ax.invert_yaxis()
    ax.set(xlabel="cells", ylabel="cluster")
    return figure


def markers(content: Content) -> Figure:
    """Draw the dot plot of the top markers: genes in rows, clusters in columns."""
    from matplotlib.colors import LinearSegmentedColormap

    dots = numbers.dots(content)
    assert dots is not None
    n_genes, n_clusters = dots.share.shape
    names, width = _shown(marker.shown for marker in dots.markers)
    figure, ax = _new(2.6 + 0.3 * n_clusters + width, max(2.4, 1.2 + 0.2 * n_genes))
    rows, columns = np.indices(dots.share.shape)
    drawn = ax.scatter(
        columns.ravel(),
        rows.ravel(),
        s=DOT * dots.share.ravel(),
        c=dots.mean.ravel(),
        cmap=LinearSegmentedColormap.from_list("scale", list(colours.SCALE)),
        vmin=0,
        vmax=1,
        linewidths=0,
    )
    ax.set_xticks(range(n_clusters), content.cluster_names)
    ax.set_yticks(range(n_genes), names, style="italic")
    ax.set(xlim=(-0.6, n_clusters - 0.4), ylim=(n_genes - 0.4, -0.6), xlabel="cluster")
    for part, text in ((0.25, "25 % of cells"), (0.5, "50 %"), (1.0, "100 %")):
        ax.scatter([], [], s=DOT * part, color=colours.MISSING, linewidths=0, label=text)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.colorbar(
        drawn, ax=ax, shrink=0.5, anchor=(0, 0), label="mean, over the gene's highest", aspect=30
    ).outline.set_visible(False)
    return figure


def confusion(content: Content) -> Figure:
    """Draw the known labels against the clusters: counts, coloured by the share of the label."""
    matrix = numbers.confusion(content)
    assert matrix is not None
    labels, counts = matrix
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    names, width = _shown(map(str, labels))
    figure, ax = _new(2 + 0.5 * counts.shape[1] + width, max(2.4, 1.2 + 0.3 * len(labels)))
    drawn = ax.imshow(shares, cmap="Reds", vmin=0, vmax=1, aspect="auto")
    for (row, column), n in np.ndenumerate(counts):
        if n:
            colour = "white" if shares[row, column] > 0.6 else "black"
            ax.text(column, row, f"{n:,}", ha="center", va="center", color=colour, fontsize=8)
    ax.set_xticks(range(counts.shape[1]), content.cluster_names)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="cluster", ylabel="known label")
    figure.colorbar(drawn, ax=ax, label="share of the label's cells").outline.set_visible(False)
    return figure


def losses(content: Content) -> Figure:
    """Draw each loss over the epochs of both phases."""
    return _row_of(figures.losses(content), columns=2)


def curves(content: Content) -> Figure:
    """Draw the criteria of the number of clusters over the numbers that were tried."""
    return _row_of(figures.curves(content), columns=3)


def _row_of(small: list[figures.Figure], *, columns: int) -> Figure:
    """Draw small figures of the page: their lines, their upright lines, titles and names."""
    rows = -(-len(small) // columns)
    figure, axes = _new(3.2 * columns, 2.6 * rows, nrows=rows, ncols=columns, squeeze=False)
    themed = {"@ink": "#1f2227", "@accent": "#a3325a"}
    for ax, drawn in zip(axes.flat, small, strict=False):
        for trace in drawn["data"]:
            y = [np.nan if value is None else value for value in trace["y"]]
            marker = "." if "markers" in trace["mode"] else None
            colour = themed[trace["line"]["color"]]
            ax.plot(trace["x"], y, color=colour, marker=marker, linewidth=1.2)
        for shape in drawn["layout"].get("shapes", []):
            ax.axvline(shape["x0"], color=themed[shape["line"]["color"]], linestyle="--")
        layout = drawn["layout"]
        title = layout["title"]
        ax.set_title(title["text"], loc="left", fontsize=9, weight="bold")
        ax.set_xlabel(layout["xaxis"]["title"]["text"])
        ax.set_ylabel(title["subtitle"]["text"], fontsize=8)
    for ax in axes.flat[len(small) :]:
        ax.remove()
    return figure
