"""A document as blocks, and its two writers: Markdown, and an HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple


class Strong(str):
    """A table's cell in bold."""


class Heading(NamedTuple):
    """A heading; level 1 is the report's title."""

    level: int
    text: str


class Paragraph(NamedTuple):
    """Plain text, escaped when rendered."""

    text: str


class Code(NamedTuple):
    """Lines to be shown as they are."""

    text: str


class Table(NamedTuple):
    """Text cells below a header; `words` are the columns that are aligned left, by number."""

    header: list[str]
    rows: list[list[str]]
    words: frozenset[int] = frozenset([0])


class Image(NamedTuple):
    """A figure: its file under figures/, its bytes, what it shows."""

    name: str
    png: bytes
    caption: str


Block = Heading | Paragraph | Code | Table | Image


# Markdown -----------------------------------------------------------------------------------------


def to_markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub's Markdown; figures are files under figures/."""
    parts = []
    for block in blocks:
        match block:
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
    """Text without meaning to Markdown or HTML; an underscore within a word has none."""
    text = re.sub(r"([\\`*|\[\]~$]|<(?=[\w/!?])|&(?=[#\w]))", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _md_lines(text: str) -> str:
    """A paragraph in lines of up to 100 characters, none of which starts a list or a heading."""
    lines = textwrap.wrap(_md(text), 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join(re.sub(r"^([-+#>=]|\d+(?=[.)]))", _escaped_start, line) for line in lines)


def _escaped_start(match: re.Match) -> str:
    start = match[0]
    return f"{start}\\" if start.isdigit() else f"\\{start}"


def _md_cell(text: str) -> str:
    return f"**{_md(text)}**" if isinstance(text, Strong) else _md(text)


# HTML ---------------------------------------------------------------------------------------------

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


def to_html(blocks: Sequence[Block]) -> str:
    """The blocks as one page that needs nothing else: figures inlined, no script, no network."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    parts = [_html_block(i, block) for i, block in enumerate(blocks)]
    links = [
        f'<a href="#s{i}">{html.escape(block.text)}</a>'
        for i, block in enumerate(blocks)
        if isinstance(block, Heading) and block.level == 2
    ]
    parts.insert(1, f"<nav>{' · '.join(links)}</nav>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html_block(i: int, block: Block) -> str:
    match block:
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
        case Table(header, rows, words):
            top = "".join(_html_cell("th", i, text, words) for i, text in enumerate(header))
            lines = [
                "".join(_html_cell("td", i, text, words) for i, text in enumerate(row))
                for row in rows
            ]
            body = "\n".join(f"<tr>{line}</tr>" for line in lines)
            head = f"<thead><tr>{top}</tr></thead>"
            return f'<div class="wide"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _html_cell(tag: str, column: int, text: str, words: frozenset[int]) -> str:
    inner = html.escape(text)
    inner = f"<strong>{inner}</strong>" if isinstance(text, Strong) else inner
    kinds = ["word"] * (column in words) + ["long"] * (tag == "td" and len(text) > LONG)
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<{tag}{kind}>{inner}</{tag}>"
