"""The report of a run: one page that shows and explains it, and its figures as files.

    page = report.Report(content)     # in a notebook, the last line of a cell shows it
    page.save("report.html")

`content.Content` says what is in it. Nothing slow is imported before a page is made.
"""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path

from report.content import Content

__all__ = ["Content", "Report"]

HEIGHT = 800  # pixels of the page in a notebook


class Report:
    """The page of a run.

    Parameters
    ----------
    content
        What the page shows.
    """

    def __init__(self, content: Content) -> None:
        self.content = content

    @cached_property
    def html(self) -> str:
        """The page as HTML."""
        from report import page

        return page.html(self.content)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file and return its path."""
        Path(path).write_text(self.html, encoding="utf-8")
        return Path(path)

    def _repr_html_(self) -> str:
        """Return a frame with the page in it, so that its styles stay apart from a notebook's."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="Report of a run" '
            'sandbox="allow-scripts allow-downloads allow-popups" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
        )
