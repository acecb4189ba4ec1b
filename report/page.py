"""The page of a run: one HTML file that asks the network for nothing.

Every text of the data is escaped: in HTML by Jinja2, in JSON by its filter `tojson`, which leaves
no "<" and no "&", and in Plotly's texts by `figures.plain`. The policy in the page's head lets only
the two scripts run that are put into it here, by their checksums, and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from report import colours, figures, maps, numbers, words
from report.content import Content
from results import FIGURES, REPORT

FOLDER = Path(__file__).parent
PAGE, SCRIPT = "page.html", "page.js"

MARKER_COLUMNS = {
    "rank": "rank",
    "shown": "gene",
    "score": "score",
    "log2_fold_change": "log2 fold change",
    "share_in": "cells in it",
    "share_out": "cells outside",
    "p_adjusted": "adjusted p",
}
SUGGESTION_COLUMNS = {
    "cluster": "cluster",
    "cell_type": "suggested type",
    "score": "score",
    "runner_up": "runner-up",
    "runner_up_score": "its score",
    "margin": "margin",
    "genes": "genes",
}
OVERVIEW_COLUMNS = {
    "cell_type": "suggested type",
    "probability": "probability",
    "uncertain": "uncertain",
    "depth": "depth",
    "mito": "mitochondrial",
}
SHARES = {"share", "share_in", "share_out", "uncertain", "mito"}  # columns shown as per cent


def html(content: Content) -> str:
    """Return the page as HTML, in UTF-8 when it is written."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    data = drawn(content)
    scripts = [get_plotlyjs(), (FOLDER / SCRIPT).read_text(encoding="utf-8")]
    return environment.get_template(PAGE).render(
        content=content,
        policy=policy(scripts),
        scripts=scripts,
        data=data,
        markers_left_out=left_out(content, data),
        places={
            group: [name for name in data["figures"] if name.startswith(f"{group}-")]
            for group in ("losses", "curves")
        },
        **_texts(content),
        **_tables(content),
    )


def write(folder: Path, content: Content) -> None:
    """Write report.html into a folder, and its figures as PNG and SVG into `figures` there."""
    from report import static

    (folder / REPORT).write_text(html(content), encoding="utf-8")
    static.write(folder / FIGURES, content)


def policy(scripts: list[str]) -> str:
    """Return the Content-Security-Policy by which only these scripts run, and nothing is fetched.

    Plotly's script compiles its WebGL programs with `new Function`, for which it needs
    'unsafe-eval', and puts its styles into the page.
    """
    hashes = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def drawn(content: Content) -> dict[str, Any]:
    """Return what the page's script draws: the map, and the figures by the name of their place."""
    named = {
        f"{group}-{i}": figure
        for group, several in (
            ("losses", figures.losses(content)),
            ("curves", figures.curves(content)),
        )
        for i, figure in enumerate(several)
    }
    if (dot_plot := figures.dot_plot(content)) is not None:
        named["dots"] = dot_plot
    return {
        "map": maps.data(content),
        "figures": named,
        "scales": {"light": colours.SCALE, "dark": colours.DARK_SCALE},
    }


def left_out(content: Content, data: Mapping[str, Any]) -> int:
    """Return how many of the top markers the menu of the map has no room for."""
    if data["map"] is None:
        return 0
    of_cells = len(maps.of_cells(content))
    return len(numbers.top_markers(content)) - (len(data["map"]["entries"]) - of_cells)


def number_text(value: Any, column: str = "") -> str:
    """Return a value of a table as text: shares in per cent, numbers to three digits."""
    if value is None or value != value:
        return ""
    if isinstance(value, str | bool) or not hasattr(value, "__float__"):
        return str(value)
    if column in SHARES:
        return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"
    if float(value).is_integer() and abs(value) < 1e9 and "p_adjusted" not in column:
        return f"{value:,.0f}"
    return f"{value:.2g}" if column == "p_adjusted" else f"{value:.3g}"


def rows_of(records: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[list[str]]:
    """Return the rows of a table as text, in the order of the columns."""
    return [[number_text(record[name], name) for name in columns] for record in records]


def _texts(content: Content) -> dict[str, Any]:
    """Return the sentences of the page."""
    return {
        "summary": words.summary(content),
        "methods": words.methods(content),
        "citation": words.CITATION,
        "doi": words.DOI,
        "medians": words.medians(content),
        "split_sentences": words.split_sentences(content),
        "settings": [[name, setting_text(value)] for name, value in content.settings.items()],
        "surroundings": list(_flat({"data": content.source} | dict(content.environment))),
        "many_cells": content.n_cells > maps.POINTS,
        "count": words.count,
    }


def setting_text(value: Any) -> str:
    """Return a setting as text, as on the command line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[list[str]]:
    """Yield name and text of each value, with the names of nested ones joined by a dot."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield [before + name, setting_text(value)]


def _tables(content: Content) -> dict[str, Any]:
    """Return the tables of the page, each None where the content has nothing for it."""
    overview = numbers.overview(content)
    shown = {name: title for name, title in OVERVIEW_COLUMNS.items() if name in overview[0]}
    suggestions = None
    if content.suggestions is not None:
        columns = {k: v for k, v in SUGGESTION_COLUMNS.items() if k in content.suggestions}
        records = content.suggestions.to_dict("records")
        suggestions = {"head": list(columns.values()), "rows": rows_of(records, columns)}
    return {
        "overview": {
            "head": list(shown.values()),
            "rows": [
                [row["cluster"], row["cells"], row["share"], cells]
                for row, cells in zip(overview, rows_of(overview, shown), strict=True)
            ],
            "largest": max(row["share"] for row in overview) or 1.0,
            "words": "cell_type" in shown,
        },
        "cluster_colours": dict(
            zip(
                content.cluster_names,
                colours.of_groups(len(content.cluster_names)),
                strict=True,
            )
        ),
        "markers": _marker_table(content),
        "suggestions": suggestions,
        "confusion": _confusion_table(content),
        "mixing": _mixing_table(content),
    }


def _marker_table(content: Content) -> dict[str, Any] | None:
    """Return the first markers of each cluster: for each its name and the rows of its genes."""
    if content.markers is None:
        return None
    table = numbers.ranked(content, numbers.LISTED)
    columns = {name: title for name, title in MARKER_COLUMNS.items() if name in table}
    groups = [
        {
            "cluster": cluster,
            "genes": rows["shown"].tolist(),
            "rows": rows_of(rows.to_dict("records"), columns),
        }
        for cluster, rows in table.groupby("cluster", sort=False)
    ]
    return {"head": list(columns.values()), "groups": groups} if groups else None


def _confusion_table(content: Content) -> dict[str, Any] | None:
    """Return the labels against the clusters: counts, and the shares of the label's cells."""
    matrix = numbers.confusion(content)
    if matrix is None:
        return None
    labels, counts = matrix
    rows = []
    for label, row in zip(labels, counts, strict=True):
        total = max(1, int(row.sum()))
        rows.append((label, int(row.sum()), [(int(n), n / total) for n in row]))
    return {"rows": rows, "unknown": content.n_cells - int(counts.sum())}


def _mixing_table(content: Content) -> list[tuple[str, str, str]] | None:
    """Return each measure of batch mixing, before and after the correction."""
    if content.mixing is None:
        return None
    before, after = content.mixing["before"], content.mixing["after"]
    return [
        (words.MIXING.get(name, name), number_text(before.get(name)), number_text(value))
        for name, value in after.items()
    ]
