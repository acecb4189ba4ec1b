"""The map of the cells, as the data from which the page's script draws it.

Up to `POINTS` cells each cell is a point, and its values are quantised: coordinates to 16 bits,
other values to 8. Beyond, each colouring is a picture of pixels, as datashader makes them, so that
the page stays small. Arrays travel as Plotly has them: {"dtype": "u1", "bdata": base64}.
Letters: N cells, S side of the picture in pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from report import colours, numbers
from report.content import Content

POINTS = 50_000  # cells that are drawn as points
CLUSTER = "Cluster"  # the first entry of the menu
SIDE = 480  # pixels of a picture's side
MARGIN = 0.03  # of the coordinates' range, around them
# Bytes of the page that marker genes may take, as points and as pictures, so that it stays under
# 10 MB: as many of the top markers are in the menu as fit.
GENE_BYTES, GENE_PICTURE_BYTES = 1_800_000, 3_600_000
PICTURE_BYTES = 60_000  # of a gene's picture in the page, at most about
STEPS = 24  # colours of a picture of numbers: few, so that it packs well


class Colouring(NamedTuple):
    """An entry of the menu: groups, or numbers from `low` to `high`, of the cells.

    Parameters
    ----------
    name, section
        The entry, and the heading under which the menu has it.
    values
        Of groups their codes (N,), -1 for a missing one; of numbers the numbers (N,), NaN for a
        missing one.
    groups
        The names of the groups; None for numbers.
    title
        What the numbers are, for the scale.
    ticks
        Marks of the scale, as numbers and as text; none for Plotly's own.
    low
        The number at the low end of the scale, the lowest of all if None.
    """

    name: str
    section: str
    values: np.ndarray
    groups: list[str] | None = None
    title: str = ""
    ticks: list[tuple[float, str]] | None = None
    low: float | None = None


def colourings(content: Content) -> list[Colouring]:
    """Return the entries of the menu: those of `of_cells`, and each top marker."""
    return of_cells(content) + _of_markers(content)


def of_cells(content: Content) -> list[Colouring]:
    """Return the colourings by cluster, label, batch, certainty, depth, mitochondrial share."""
    entries = [Colouring(CLUSTER, "Cells", content.codes, content.cluster_names)]
    for name, values in (("Known label", content.labels), ("Batch", content.batches)):
        if values is not None:
            groups, codes = numbers.grouped(values)
            if groups:
                entries.append(Colouring(name, "Cells", codes, groups))
    certainty = numbers.probabilities(content)
    if certainty is not None:
        entries.append(
            Colouring("Certainty", "Cells", certainty, title="probability of the cell's cluster")
        )
    if content.uncertain is not None:
        codes = np.asarray(content.uncertain).astype(np.int64)
        entries.append(Colouring("Uncertain cells", "Cells", codes, ["certain", "uncertain"]))
    if content.depth is not None:
        entries.append(_of_depth(np.asarray(content.depth, np.float64), content.depth_name))
    if content.mito is not None:
        mito = np.asarray(content.mito, np.float64)
        title = "share of mitochondrial counts"
        entries.append(Colouring("Mitochondrial share", "Cells", mito, title=title, low=0.0))
    return entries


def _of_depth(depth: np.ndarray, name: str) -> Colouring:
    """Return the colouring by depth, on a logarithmic scale with the depths themselves as marks."""
    logarithm = np.log10(depth)
    marks = np.linspace(logarithm.min(), logarithm.max(), 4)
    ticks = [(float(mark), f"{10**mark:,.3g}") for mark in marks]
    return Colouring("Depth", "Cells", logarithm, title=f"{name}, logarithmic", ticks=ticks)


def _of_markers(content: Content) -> list[Colouring]:
    """Return a colouring for each marker gene that the page has room for.

    Where there is none for all, every cluster has fewer; where there is none for one each, the last
    clusters have none.
    """
    room = int(GENE_BYTES / (content.n_cells * 4 / 3))
    if content.n_cells > POINTS:
        room = GENE_PICTURE_BYTES // PICTURE_BYTES
    each = min(numbers.SHOWN, max(1, room // len(content.cluster_names)))
    markers = numbers.top_markers(content, each)[:room]
    if not markers:
        return []
    assert content.logs is not None
    values = numbers.gene_values(content.logs, [marker.gene for marker in markers])
    return [
        Colouring(
            marker.shown,
            f"Markers of cluster {marker.cluster}",
            values[:, i],
            title=f"{marker.shown}, logarithm of the normalised count",
            low=0.0,
        )
        for i, marker in enumerate(markers)
    ]


def packed(values: np.ndarray) -> dict[str, str]:
    """Return an array of unsigned integers as Plotly's typed array: its type, and base64."""
    data = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
    return {"dtype": f"u{values.itemsize}", "bdata": data}


def quantised(values: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    """Return numbers as integers from 0 (low) to 2^bits - 2 (high); 2^bits - 1 is for NaN."""
    top = 2**bits - 2
    span = high - low if high > low else 1.0
    scaled = np.clip((values - low) / span, 0.0, 1.0) * top
    return np.where(np.isnan(scaled), top + 1, np.rint(scaled)).astype(f"u{bits // 8}")


def bounds(entry: Colouring) -> tuple[float, float]:
    """Return the ends of the scale of an entry with numbers."""
    finite = entry.values[~np.isnan(entry.values)]
    lowest, highest = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    return float(lowest if entry.low is None else entry.low), float(highest)


def data(content: Content) -> dict[str, Any] | None:
    """Return what the page's script draws the map from, or None if there are no coordinates."""
    if content.umap is None:
        return None
    umap = np.asarray(content.umap, np.float64)
    ranges = [_range(umap[:, axis]) for axis in (0, 1)]
    entries = colourings(content)
    drawn: dict[str, Any] = {
        "cells": content.n_cells,
        "ranges": ranges,
        "missing": colours.MISSING,
        "entries": [_entry(entry) for entry in entries],
        "marks": _marks(umap, content),
    }
    if content.n_cells > POINTS:
        pixels = pixels_of(umap, ranges)
        for entry, described in zip(entries, drawn["entries"], strict=True):
            described["picture"] = picture(entry, pixels)
        return drawn
    for axis, (name, (low, high)) in enumerate(zip("xy", ranges, strict=True)):
        drawn[name] = packed(quantised(umap[:, axis], low, high, bits=16))
    drawn["names"] = [str(name) for name in content.cells]
    certainty = numbers.probabilities(content)
    if certainty is not None:
        drawn["probability"] = packed(quantised(certainty, 0.0, 1.0, bits=8))
    for entry, described in zip(entries, drawn["entries"], strict=True):
        if entry.groups is None:
            described["values"] = packed(quantised(entry.values, *bounds(entry), bits=8))
        else:
            bits = 8 if len(entry.groups) < 255 else 16
            codes = np.where(entry.values < 0, 2**bits - 1, entry.values)
            described["values"] = packed(codes.astype(f"u{bits // 8}"))
    return drawn


def _range(coordinates: np.ndarray) -> tuple[float, float]:
    """Return the range of an axis, a little wider than that of the coordinates."""
    low, high = float(coordinates.min()), float(coordinates.max())
    margin = MARGIN * (high - low) or 1.0
    return low - margin, high + margin


def _entry(entry: Colouring) -> dict[str, Any]:
    """Return an entry of the menu without the values of the cells."""
    described: dict[str, Any] = {"name": entry.name, "section": entry.section}
    if entry.groups is None:
        low, high = bounds(entry)
        ticks = None if entry.ticks is None else [list(tick) for tick in entry.ticks]
        return described | {"title": entry.title, "low": low, "high": high, "ticks": ticks}
    sizes = np.bincount(entry.values + 1, minlength=len(entry.groups) + 1)
    return described | {
        "groups": entry.groups,
        "sizes": sizes[1:].tolist(),
        "without": int(sizes[0]),
        "colours": colours.of_groups(len(entry.groups)),
    }


def _marks(umap: np.ndarray, content: Content) -> list[list[Any]]:
    """Return x, y and the place of the name of each cluster that has cells."""
    codes = content.codes
    return [[*middle(umap[codes == c]), int(c)] for c in np.unique(codes[codes >= 0])]


def middle(cells: np.ndarray) -> list[float]:
    """Return the cell, of coordinates (n, 2), that is nearest to the median of all."""
    distances = ((cells - np.median(cells, axis=0)) ** 2).sum(axis=1)
    return [float(value) for value in cells[distances.argmin()]]


# --- Pictures of many cells -----------------------------------------------------------------------


def pixels_of(umap: np.ndarray, ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the pixel of each cell (N,), counted along the rows from the top left."""
    place = []
    for axis in (0, 1):
        low, high = ranges[axis]
        place.append(np.clip((umap[:, axis] - low) / (high - low) * SIDE, 0, SIDE - 1).astype(int))
    return (SIDE - 1 - place[1]) * SIDE + place[0]


def picture(entry: Colouring, pixels: np.ndarray) -> str:
    """Return the cells' colours as a PNG of S x S pixels, in the form of a data URL.

    A pixel has the colour of the group that most of its cells are of, or of the mean of their
    numbers; one without cells is transparent.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgba_array
    from matplotlib.image import imsave

    rgba = np.zeros((SIDE * SIDE, 4), np.uint8)
    if entry.groups is None:
        known = ~np.isnan(entry.values)
        sums = np.bincount(pixels[known], entry.values[known], SIDE * SIDE)
        counts = np.bincount(pixels[known], minlength=SIDE * SIDE)
        mean = np.divide(sums, counts, where=counts > 0, out=np.full(SIDE * SIDE, np.nan))
        low, high = bounds(entry)
        steps = (quantised(mean, low, high, bits=8) / 254 * (STEPS - 1)).round().astype(int)
        table = LinearSegmentedColormap.from_list("scale", list(colours.SCALE))
        shades = table(np.linspace(0, 1, STEPS), bytes=True)
        rgba[counts > 0] = shades[steps[counts > 0]]
    else:
        palette = [colours.MISSING, *colours.of_groups(len(entry.groups))]
        shades = (to_rgba_array(palette) * 255).round().astype(np.uint8)
        occupied, code = majority(pixels, entry.values + 1)
        rgba[occupied] = shades[code]
    buffer = io.BytesIO()
    imsave(buffer, rgba.reshape(SIDE, SIDE, 4), format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def majority(pixels: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels that have cells, and the commonest code of each, the lowest of equals."""
    width = int(codes.max()) + 1
    pairs, counts = np.unique(pixels * width + codes, return_counts=True)
    order = np.lexsort((pairs, -counts, pairs // width))
    occupied, first = np.unique(pairs[order] // width, return_index=True)
    return occupied, pairs[order][first] % width
