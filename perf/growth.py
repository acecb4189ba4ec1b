"""How time and memory grow with the number of cells: exponents, table and figure of `perf.scale`.

A record is what `perf.scale` keeps of a run: `method`, `batch_key`, `flags`, `cells`, `status`,
`reason`, `seconds` (by phase), `wall_seconds`, `peak_memory_mb`, `ari`, `n_clusters`, and for scVI
`epochs` and `default_epochs`. Letters: N cells.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench import document, plots
from bench.wording import NO_VALUE, duration, number

Record = dict[str, Any]
FITTED = (10_000, 300_000)  # numbers of cells between which an exponent is fitted
TIMED_OUT = "timed out"  # status of a run that was stopped at its limit of time
OTHER = "other"  # phase: the start of the program, and what is between those that it times


def size_name(n_cells: int) -> str:
    """Return a number of cells as it stands in the names of files: 600, 30k, 1M."""
    for unit, letter in ((10**6, "M"), (10**3, "k")):
        if n_cells % unit == 0:
            return f"{n_cells // unit}{letter}"
    return str(n_cells)


def is_extrapolated(record: Record) -> bool:
    """Return whether the run trained fewer epochs than its method does by default."""
    epochs = record.get("epochs")
    return epochs is not None and epochs < record["default_epochs"]


def phases(record: Record) -> dict[str, float]:
    """Return the seconds of each phase of a run that ended well, and what is left to the whole.

    Training that was cut short is extrapolated: its seconds are those of an epoch, times the
    method's default number of epochs.
    """
    seconds = {name: value for name, value in record["seconds"].items() if name != "total"}
    seconds[OTHER] = max(0.0, record["wall_seconds"] - sum(seconds.values()))
    if is_extrapolated(record):
        seconds["train"] *= record["default_epochs"] / record["epochs"]
    return seconds


def total_seconds(record: Record) -> float:
    """Return the seconds of a run from the start of its program to its end, extrapolated or not."""
    return sum(phases(record).values())


def memory_gib(record: Record) -> float:
    """Return the peak memory of a run in GiB."""
    return record["peak_memory_mb"] / 1024


# --- The exponents --------------------------------------------------------------------------------


class Growth(NamedTuple):
    """A power law, value = factor N^exponent, and the numbers of cells that it is fitted to."""

    exponent: float
    factor: float
    cells: list[int]


def fit(records: Sequence[Record], value: Callable[[Record], float]) -> Growth | None:
    """Return the power law of a value by least squares of the logarithms; None of one size.

    Only runs that ended well, of 10,000 to 300,000 cells, are fitted: below, what does not depend
    on N dominates, and beyond not every method gets.
    """
    low, high = FITTED
    pairs = [(r["cells"], value(r)) for r in records if r["status"] == "ok"]
    pairs = sorted((n, v) for n, v in pairs if low <= n <= high)
    if len({n for n, _ in pairs}) < 2:
        return None
    cells, values = np.log(np.asarray(pairs, float).T)
    exponent, intercept = np.polyfit(cells, values, 1)
    return Growth(float(exponent), math.exp(intercept), sorted({n for n, _ in pairs}))


def name_of(record: Record) -> str:
    """Return the name of a run's method, with the flags that it was given beyond its own."""
    batches = ["--batch_key", record["batch_key"]] if record["batch_key"] else []
    return " ".join([record["method"], *batches, *record["flags"]])


def _by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records of each method by its `name_of`, in order of the number of cells."""
    by_method: dict[str, list[Record]] = {name_of(record): [] for record in records}
    for record in sorted(records, key=lambda record: record["cells"]):
        by_method[name_of(record)].append(record)
    return by_method


# --- The table ------------------------------------------------------------------------------------


def _status(record: Record) -> str:
    """Return how a run ended, and what of it is no measurement."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['reason']}"
    if not is_extrapolated(record):
        return "ok"
    return (
        f"ok; time extrapolated to {record['default_epochs']} epochs from "
        f"{record['epochs']}, after which are the ARI and the clusters"
    )


def _row(record: Record, names: Sequence[str]) -> list[str]:
    """Return the cells of a run's row, times of phases in minutes."""
    head = [f"{record['cells']:,}", name_of(record)]
    if record["status"] != "ok":
        memory = record["peak_memory_mb"]
        peak = NO_VALUE if memory is None else f"{memory / 1024:.2f}"
        return [*head, *[NO_VALUE] * (len(names) + 1), peak, NO_VALUE, NO_VALUE, _status(record)]
    seconds = phases(record)
    mark = "~" if is_extrapolated(record) else ""
    minutes = [f"{mark}{total_seconds(record) / 60:.2f}"]
    for name in names:
        approximately = mark if name == "train" else ""
        text = f"{seconds[name] / 60:.2f}" if name in seconds else NO_VALUE
        minutes.append(approximately + text)
    scores = [number(record["ari"], 3), str(record["n_clusters"])]
    return [*head, *minutes, f"{memory_gib(record):.2f}", *scores, _status(record)]


def runs_table(records: Sequence[Record]) -> document.Table:
    """Return the table of all runs, by the number of cells and then in the order of the methods."""
    done = [record for record in records if record["status"] == "ok"]
    names = list(dict.fromkeys(name for record in done for name in phases(record)))
    names = [name for name in names if name not in ("write", OTHER)]
    names += ["write", OTHER] if done else []
    methods = list(_by_method(records))
    in_order = sorted(records, key=lambda r: (r["cells"], methods.index(name_of(r))))
    titles = [name.replace("_", " ") for name in names]
    header = ["cells", "method", "minutes in all", *titles, "peak GiB", "ARI", "clusters", "status"]
    rows = [_row(record, names) for record in in_order]
    return document.Table(header, rows, frozenset([1, len(header) - 1]))


def growth_table(records: Sequence[Record]) -> document.Table:
    """Return the table of the exponents of time and memory of each method."""
    rows = []
    for name, runs in _by_method(records).items():
        time, memory = fit(runs, total_seconds), fit(runs, memory_gib)
        texts = [NO_VALUE] * 3
        if time is not None and memory is not None:
            sizes = ", ".join(f"{n:,}" for n in time.cells)
            texts = [f"{time.exponent:.2f}", f"{memory.exponent:.2f}", sizes]
        rows.append([name, *texts])
    header = ["method", "exponent of time", "exponent of memory", "fitted to cells"]
    return document.Table(header, rows, frozenset([0, 3]))


def to_markdown(records: Sequence[Record], figure: str) -> str:
    """Return scale.md: what was run, the tables, and the figure by the name of its file."""
    machines = dict.fromkeys(_machine(record) for record in records)
    commits = dict.fromkeys(str(record["suite_commit"]) for record in records)
    elements: list[document.Element] = [
        document.Heading(1, "Growth with the number of cells"),
        document.Paragraph(
            "Simulated atlases (python -m perf.atlas) of one seed, of which each is the beginning "
            "of the next. Every run is a process of its own, one at a time. Its minutes are from "
            "the start of the program to its end, those of its phases are by its own clock. The "
            "rivals read and prepare the data by the same steps as train.py: of what they take "
            "under prepare, the graph of neighbours is of no use to them. What train.py writes is "
            "everything, its report and AnnData among them; the rivals write labels alone."
        ),
        document.Paragraph(f"Machine: {'; '.join(machines)}. Suite: {', '.join(commits)}."),
        document.Heading(2, "Runs"),
        runs_table(records),
        document.Heading(2, "Exponents"),
        document.Paragraph(
            "Time and memory as a power of the number of cells, by least squares of logarithms "
            f"over {FITTED[0]:,} to {FITTED[1]:,} cells: 1 is linear, 2 quadratic."
        ),
        growth_table(records),
        document.Heading(2, "Commands"),
        document.Code("\n".join(_command(record) for record in records)),
    ]
    return document.to_markdown(elements) + f"\n![time and memory against cells]({figure})\n"


def _machine(record: Record) -> str:
    """Return the machine of a run in words."""
    machine = record["machine"]
    return f"{machine['processor']}, {record['threads']} threads, {machine['platform']}"


def _command(record: Record) -> str:
    """Return the command of a run, and how long it took."""
    seconds = record["wall_seconds"]
    took = NO_VALUE if seconds is None else duration(seconds)
    return f"{' '.join(record['command'])}  # {took}"


# --- The figure -----------------------------------------------------------------------------------


def draw(records: Sequence[Record], kind: str) -> bytes:
    """Return the figure as a file of a kind, "png" or "svg".

    It shows minutes and peak memory against cells on logarithmic axes, with the fitted power laws
    as lines and their exponents in the legend. A cross is an extrapolated time, and a triangle the
    limit of time at which a run was stopped.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    sizes = sorted({record["cells"] for record in records})
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    by_method = _by_method(records)
    styles = plots.styles(list(by_method))
    values = {"minutes": lambda record: total_seconds(record) / 60, "peak memory, GiB": memory_gib}
    for axis, (label, value) in zip(panels, values.items(), strict=True):
        for (name, runs), style in zip(by_method.items(), styles.values(), strict=True):
            _draw_method(axis, runs, name, value, style)
        axis.set(xscale="log", yscale="log", xlabel="cells", ylabel=label)
        axis.set_xticks(sizes, [size_name(n) for n in sizes])
        axis.xaxis.set_minor_formatter(NullFormatter())
        plots.plain_ticks(axis.yaxis)
        axis.grid(alpha=0.3, which="both")
    _mark_times(panels[0], records)
    for axis in panels:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=plots.DPI)
    return buffer.getvalue()


def _draw_method(
    axis: Any,
    runs: Sequence[Record],
    name: str,
    value: Callable[[Record], float],
    style: dict[str, Any],
) -> None:
    """Draw the runs of a method that ended well, and the power law fitted to them."""
    points = [(record["cells"], value(record)) for record in runs if record["status"] == "ok"]
    if not points:
        return
    growth, label = fit(runs, value), plots.plain(name)
    if growth is not None:
        label += f": $N^{{{growth.exponent:.2f}}}$"
        cells = np.array([growth.cells[0], growth.cells[-1]], float)
        axis.plot(cells, growth.factor * cells**growth.exponent, color=style["color"], lw=1)
    axis.plot(*zip(*points, strict=True), linestyle="none", label=label, **style)


def _mark_times(axis: Any, records: Sequence[Record]) -> None:
    """Mark the times that are extrapolated, and the limits at which runs were stopped."""
    extrapolated = [r for r in records if r["status"] == "ok" and is_extrapolated(r)]
    stopped = [r for r in records if r["status"] == TIMED_OUT]
    crosses = [(record["cells"], total_seconds(record) / 60) for record in extrapolated]
    limits = [(record["cells"], record["wall_seconds"] / 60) for record in stopped]
    for points, marker, label in ((crosses, "x", "extrapolated"), (limits, "^", "stopped")):
        if points:
            look = {"color": "0.3", "mfc": "none", "markersize": 9, "linestyle": "none"}
            axis.plot(*zip(*points, strict=True), marker, label=label, **look)
