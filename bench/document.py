"""A document as a list of elements, and its writers: Markdown, and HTML that is one file."""

from __future__ import annotations

import base64
import html
import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple


class Strong(str):
    """Text of a table's cell that is shown in bold."""


class Heading(NamedTuple):
    """A heading; level 1 is the document's title."""

    level: int
    text: str


class Paragraph(NamedTuple):
    """Plain text; what has a meaning in Markdown or HTML is escaped when it is written."""

    text: str


class Code(NamedTuple):
    """Lines that are shown as they are."""

    text: str


class Table(NamedTuple):
    """A table of text cells below a header."""

    header: list[str]
    rows: list[list[str]]
    words: frozenset[int] = frozenset([0])  # the numbers of the columns that are aligned left


class Image(NamedTuple):
    """A figure."""

    name: str  # of its file under figures/
    png: bytes
    caption: str


Element = Heading | Paragraph | Code | Table | Image


# --- Markdown -------------------------------------------------------------------------------------


def to_markdown(elements: Sequence[Element]) -> str:
    """Return the document as GitHub's Markdown, in which figures are files under figures/."""
    parts = []
    for element in elements:
        match element:
            case Heading(level, text):
                parts.append(f"{'#' * level} {_md(text)}")
            case Paragraph(text):
                parts.append(_md_lines(text))
            case Code(text):
                parts.append("\n".join(f"    {line}" for line in text.splitlines()))
            case Image(name, _, caption):
                parts.append(f"![{_md(caption)}](figures/{name})")
            case Table(header, rows, words):
                rule = ["---" if i in words else "---:" for i in range(len(header))]
                lines = [map(_md, header), rule, *(map(_md_cell, row) for row in rows)]
                parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    """Escape what has a meaning in Markdown or HTML; an underscore within a word has none."""
    text = re.sub(r"([\\`*|\[\]~$]|<(?=[\w/!?])|&(?=[#\w]))", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _md_lines(text: str) -> str:
    """Wrap a paragraph at 100 characters so that no line starts a list or a heading."""
    lines = textwrap.wrap(_md(text), 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join(re.sub(r"^([-+#>=]|\d+(?=[.)]))", _escaped_start, line) for line in lines)


def _escaped_start(match: re.Match[str]) -> str:
    """Escape the start of a line: a sign itself, after a number the sign that follows."""
    start = match[0]
    return f"{start}\\" if start.isdigit() else f"\\{start}"


def _md_cell(text: str) -> str:
    return f"**{_md(text)}**" if isinstance(text, Strong) else _md(text)


# --- HTML -----------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
p, figcaption { max-width: 48rem; }
h2 { margin-top: 3rem; border-bottom: 2px solid #1a1a1a; }
h3 { margin-top: 2rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #666; vertical-align: bottom; }
td.word, th.word { text-align: left; }
td:first-child, th:first-child { position: sticky; left: 0; background: #fff; }
td.long { white-space: normal; min-width: 18rem; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: 0.8rem; white-space: pre-wrap; }
"""
LONG = 40  # characters from which a cell of words is wrapped


def to_html(elements: Sequence[Element]) -> str:
    """Return the document as one HTML page that needs no other file: the figures are in it."""
    title = next(element.text for element in elements if isinstance(element, Heading))
    parts = [_html_element(i, element) for i, element in enumerate(elements)]
    links = [
        f'<a href="#s{i}">{html.escape(element.text)}</a>'
        for i, element in enumerate(elements)
        if isinstance(element, Heading) and element.level == 2
    ]
    parts.insert(1, f"<nav>{' · '.join(links)}</nav>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html_element(i: int, element: Element) -> str:
    """Return the HTML of the i-th element."""
    match element:
        case Heading(level, text):
            return f'<h{level} id="s{i}">{html.escape(text)}</h{level}>'
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Image(_, png, caption):
            source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            text = html.escape(caption)
            image = f'<img src="{source}" alt="{text}">'
            return f"<figure>{image}<figcaption>{text}</figcaption></figure>"
        case Table():
            return _html_table(element)


def _html_table(table: Table) -> str:
    head = _html_row("th", table.header, table.words)
    body = "\n".join(_html_row("td", row, table.words) for row in table.rows)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></div>'


def _html_row(tag: str, cells: Sequence[str], words: frozenset[int]) -> str:
    """Return a row whose cells have this tag, "th" or "td"; `words` are as those of a Table."""
    row = "".join(_html_cell(tag, text, column in words) for column, text in enumerate(cells))
    return f"<tr>{row}</tr>"


def _html_cell(tag: str, text: str, is_word: bool) -> str:
    classes = ["word"] if is_word else []
    if tag == "td" and len(text) > LONG:
        classes.append("long")
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    inner = html.escape(text)
    if isinstance(text, Strong):
        inner = f"<strong>{inner}</strong>"
    return f"<{tag}{attribute}>{inner}</{tag}>"
