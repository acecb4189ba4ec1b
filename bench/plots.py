"""The benchmark's figures, each drawn into the bytes of a PNG file.

Methods differ in marker and lightness, so that the figures can be read in greyscale. They are drawn
without pyplot: no window opens, and no state outlives a figure.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axis import Axis
from matplotlib.figure import Figure

import console
from bench.tables import EQUAL

DPI = 120
MARKERS = "osD^vP<X>phd8"
LIGHTEST = 0.8  # end of the part of the colour map that is used; lighter points are lost on white
LONGEST_NAME = 80  # in characters: a figure has no room for more
OURS = "sctag"  # the method that is drawn as black stars


def styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return keywords of `Axes.plot` for each method: marker, lightness, filled or open face."""
    shades = colormaps["viridis"](np.linspace(0.05, LIGHTEST, max(len(methods), 2)))
    styles = {}
    for i, method in enumerate(methods):
        colour = "black" if method == OURS else tuple(shades[i])
        styles[method] = {
            "marker": "*" if method == OURS else MARKERS[i % len(MARKERS)],
            "markersize": 9 if method == OURS else 5,
            "color": colour,
            "mfc": colour if method == OURS or i % 2 else "white",
        }
    return styles


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of names in no font
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def plain(name: str) -> str:
    """Return the name of a data set or method as one line, not too long, without a formula."""
    line = " ".join(console.one_line(name).split())
    short = line if len(line) <= LONGEST_NAME else f"{line[:LONGEST_NAME]}..."
    return short.replace("$", r"\$")


def ari(summary: pd.DataFrame, methods: Sequence[str], sets: Sequence[str], title: str) -> bytes:
    """Draw the ARI of each method on each data set, a band of rows for each data set.

    Parameters
    ----------
    summary
        Table of `tables.summarise`, one regime of it.
    methods, sets
        Methods and data sets in the order in which they are drawn from the top.
    title
        Title of the figure.

    Returns
    -------
    The PNG file: means over seeds, with whiskers of a standard deviation.
    """
    step = 0.9 / len(methods)
    figure = Figure(
        figsize=(8.5, 1.4 + len(sets) * max(0.35, 0.11 * len(methods))), layout="constrained"
    )
    axis = figure.subplots()
    for method, style in styles(methods).items():
        rows = summary[summary["method"] == method].set_index("dataset").reindex(sets)
        y = np.arange(len(sets)) + (methods.index(method) - (len(methods) - 1) / 2) * step
        axis.errorbar(
            rows["ARI_mean"].to_numpy(float),
            y,
            xerr=rows["ARI_sd"].fillna(0).to_numpy(float),
            linestyle="none",
            elinewidth=1,
            capsize=1.5,
            label=plain(method),
            **style,
        )
        for y_failed in y[(rows["ok"] == 0).to_numpy(bool)]:
            transform = axis.get_yaxis_transform()
            text = f"{plain(method)} failed"
            axis.text(0.01, y_failed, text, va="center", fontsize=7, transform=transform)
    for row in range(0, len(sets), 2):
        axis.axhspan(row - 0.5, row + 0.5, color="0.94", zorder=0)
    axis.set_yticks(range(len(sets)), [plain(name) for name in sets])
    axis.set_ylim(len(sets) - 0.5, -0.5)
    axis.set(xlabel="ARI, mean and standard deviation over seeds", title=title)
    axis.grid(axis="x", alpha=0.4)
    figure.legend(loc="outside right upper", frameon=False)
    return _png(figure)


def against_cells(
    summary: pd.DataFrame, methods: Sequence[str], column: str, *, label: str, title: str
) -> bytes:
    """Draw a column of the summary against the number of cells on logarithmic axes.

    Parameters
    ----------
    summary
        Table of `tables.summarise`, one regime of it.
    methods
        Methods to draw, each as a line.
    column
        Name of the column.
    label, title
        Label of the vertical axis, and title of the figure.

    Returns
    -------
    The PNG file.
    """
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axis = figure.subplots()
    for method, style in styles(methods).items():
        rows = summary[(summary["method"] == method) & summary[column].notna()]
        rows = rows.sort_values("cells")
        axis.loglog(
            rows["cells"].to_numpy(float),
            rows[column].to_numpy(float),
            linewidth=1.6 if method == OURS else 0.8,
            label=plain(method),
            **style,
        )
    plain_ticks(axis.xaxis)
    plain_ticks(axis.yaxis)
    axis.set(xlabel="cells", ylabel=label, title=title)
    axis.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", frameon=False)
    return _png(figure)


def plain_ticks(axis: Axis) -> None:
    """Put ticks at 1, 2 and 5 times each power of ten, with numbers that are written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def ablations(differences: Mapping[str, pd.Series], title: str) -> bytes:
    """Draw the difference in ARI that each ablation makes.

    Parameters
    ----------
    differences
        For each ablation its ARI minus the plain method's, by data set.
    title
        Title of the figure.

    Returns
    -------
    The PNG file: for each ablation a bar for the mean, a dot for each data set, and at the right
    the numbers of data sets on which it is better and worse.
    """
    figure = Figure(figsize=(8.5, 1.3 + 0.38 * len(differences)), layout="constrained")
    axis = figure.subplots()
    for y, values in enumerate(differences.values()):
        axis.barh(y, values.mean(), height=0.66, color="0.75", edgecolor="0.3")
        axis.plot(values, np.full(len(values), y), "o", mfc="white", mec="black", markersize=4)
        moved = values.round(EQUAL)
        text = f"{(moved > 0).sum()} up, {(moved < 0).sum()} down of {len(values)}"
        axis.text(1.01, y, text, va="center", fontsize=8, transform=axis.get_yaxis_transform())
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(differences)), [plain(name) for name in differences])
    axis.set_ylim(len(differences) - 0.5, -0.5)
    axis.set(xlabel="difference in ARI: bar, the mean over data sets; dot, a data set", title=title)
    axis.grid(axis="x", alpha=0.4)
    return _png(figure)
