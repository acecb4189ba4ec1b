"""The figures of the page as Plotly has them: dictionaries of traces and a layout.

The page's script gives them fonts and theme. A colour "@ink", "@soft" or "@accent", and the scale
"@scale", stand for those of the theme, light or dark. Plotly reads its texts as HTML of a kind, so
names that come from the data are escaped here. The map of the cells is drawn by the script itself,
from `maps.data`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from report import numbers
from report.content import Content

# What history.csv has, and its names for readers.
LOSSES = {
    "total": "total, weighted",
    "zinb": "counts",
    "adj": "graph",
    "kl": "clusters (KL divergence)",
}
PHASES = {"pretrain": "pretraining", "cluster": "clustering"}
# The criteria of the number of clusters, the column of their curve, and what it is.
CURVES = {
    "elbow": ("dispersion", "Elbow", "mean squared distance to the centre"),
    "calinski_harabasz": ("calinski_harabasz", "Calinski-Harabasz", "ratio of variances"),
    "stability": ("stability", "Stability", "ARI between two halves"),
    "prediction_strength": (
        *("prediction_strength", "Prediction strength", "pairs kept, weakest cluster"),
    ),
}
SPECTRUM = "Eigenvalues of the graph"
ROW = 19  # pixels of a gene's row in the dot plot
DOT = 15  # pixels of the largest dot
SMALL = 210  # pixels of the height of a small figure

Figure = dict[str, Any]


def plain(text: str) -> str:
    """Return text so that Plotly shows it as it is."""
    return html.escape(text, quote=False)


def dot_plot(content: Content) -> Figure | None:
    """Return the dot plot of the top markers: genes in rows, clusters in columns, or None."""
    dots = numbers.dots(content)
    if dots is None:
        return None
    clusters = [plain(name) for name in content.cluster_names]
    rows, columns = np.indices(dots.share.shape)
    names = [plain(marker.shown) for marker in dots.markers]
    hover = [
        f"{names[row]} in cluster {clusters[column]}<br>{share:.0%} of the cells"
        f"<br>mean {mean:.0%} of the highest"
        for row, column, share, mean in zip(
            *(rows.ravel(), columns.ravel(), dots.share.ravel(), dots.mean.ravel()), strict=True
        )
    ]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": columns.ravel().tolist(),
        "y": rows.ravel().tolist(),
        "text": hover,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": (DOT * np.sqrt(dots.share.ravel())).round(2).tolist(),
            "color": dots.mean.ravel().round(4).tolist(),
            "colorscale": "@scale",
            "cmin": 0,
            "cmax": 1,
            "line": {"width": 0},
            "opacity": 1,
            "colorbar": _scale_below("mean, as a share of the gene's highest"),
        },
    }
    height = ROW * len(names) + 130
    n_clusters = len(clusters)
    layout = {
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 34, "b": 86},
        "xaxis": _named_ticks(clusters) | {"side": "top", "range": [-0.6, n_clusters - 0.4]},
        "yaxis": _named_ticks(names) | {"range": [len(names) - 0.4, -0.6], "automargin": True},
        "shapes": _bands(dots.markers, n_clusters),
    }
    return {"data": [trace], "layout": layout}


def _named_ticks(names: Sequence[str]) -> dict[str, Any]:
    """Return an axis whose integers have names."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": list(names),
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
    }


def _scale_below(title: str) -> dict[str, Any]:
    """Return a colour bar that lies below the figure."""
    return {
        "orientation": "h",
        "title": {"text": title, "side": "top"},
        "thickness": 9,
        "len": 0.9,
        "y": 0,
        "yanchor": "top",
        "ypad": 22,
        "outlinewidth": 0,
        "tickformat": ".0%",
    }


def _bands(markers: Sequence[numbers.Marker], n_clusters: int) -> list[dict[str, Any]]:
    """Return a shaded band behind the genes of every second cluster."""
    owners = [marker.cluster for marker in markers]
    bands = []
    for i, owner in enumerate(dict.fromkeys(owners)):
        rows = [row for row, other in enumerate(owners) if other == owner]
        if i % 2 == 0:
            corners = {
                "x0": -0.6,
                "x1": n_clusters - 0.4,
                "y0": rows[0] - 0.5,
                "y1": rows[-1] + 0.5,
            }
            look = {"fillcolor": "@soft", "opacity": 0.1, "line": {"width": 0}, "layer": "below"}
            bands.append({"type": "rect"} | corners | look)
    return bands


def losses(content: Content) -> list[Figure]:
    """Return a small figure for each loss over the epochs of both phases, as far as it has any."""
    figures = []
    phases = list(dict.fromkeys(row["phase"] for row in content.history))
    for column, title in LOSSES.items():
        if not any(row.get(column) for row in content.history):  # without a clustering phase
            continue
        traces, start = [], 0
        for phase in phases:
            values = [row[column] for row in content.history if row["phase"] == phase]
            if column == "kl" and not any(values):
                start += len(values)
                continue
            steps = list(range(start + 1, start + len(values) + 1))
            traces.append(
                _line(steps, values, "@accent" if phase == "cluster" else "@ink")
                | {"name": PHASES.get(phase, phase)}
            )
            start += len(values)
        figure = _small(title, traces, "epoch")
        figure["layout"]["xaxis"]["range"] = [0, start + 1]
        figures.append(figure)
    return figures


def curves(content: Content) -> list[Figure]:
    """Return a small figure for each criterion of the number of clusters, or none."""
    estimate = content.estimate
    if estimate is None:
        return []
    tried = [int(row["k"]) for row in estimate.curves]
    figures = []
    for criterion, (column, title, meaning) in CURVES.items():
        values = [row[column] for row in estimate.curves]
        figure = _small(
            f"{title}: {estimate.criteria[criterion]}",
            [_line(tried, values, "@ink", points=True)],
            "number of clusters",
            meaning,
        )
        figure["layout"]["shapes"] = [_upright(estimate.criteria[criterion])]
        figures.append(figure)
    ranks = list(range(1, len(estimate.eigenvalues) + 1))
    number = estimate.criteria["spectrum"]
    figure = _small(
        f"{SPECTRUM}: {number}",
        [_line(ranks, estimate.eigenvalues, "@ink", points=True)],
        "rank",
        "eigenvalue",
    )
    figure["layout"]["shapes"] = [_upright(number)]
    return [*figures, figure]


def _upright(x: float) -> dict[str, Any]:
    """Return a dashed upright line through a figure."""
    line = {"color": "@accent", "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _line(x: Sequence[float], y: Sequence[float], colour: str, *, points: bool = False) -> Figure:
    """Return the trace of a line; numbers that are not finite leave a gap."""
    finite = [float(value) if np.isfinite(value) else None for value in y]
    trace = {"type": "scatter", "x": list(x), "y": finite, "line": {"color": colour, "width": 1.6}}
    mode = "lines+markers" if points or len(x) == 1 else "lines"
    return trace | {"mode": mode, "marker": {"size": 4, "color": colour}}


def _small(title: str, traces: list[Figure], x_title: str, y_title: str = "") -> Figure:
    """Return a small figure, for a row of several; what is drawn upwards is its subtitle."""
    layout = {
        "height": SMALL if y_title else SMALL - 18,
        "margin": {"l": 40, "r": 8, "t": 50 if y_title else 32, "b": 40},
        "title": {
            "text": title,
            "subtitle": {"text": y_title, "font": {"size": 11, "color": "@soft"}},
            "x": 0,
            "xref": "container",
            "y": 0.96,
            "yanchor": "top",
        },
        "xaxis": {"title": {"text": x_title, "standoff": 6}, "nticks": 5},
        "yaxis": {"nticks": 5},
        "showlegend": False,
    }
    return {"data": traces, "layout": layout}
