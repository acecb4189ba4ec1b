"""Tables as CSV: no name breaks a row, and a spreadsheet takes none for a formula."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

FORMULA = tuple("=+-@\t\r\n")  # what a spreadsheet takes for the start of a formula


def as_csv(table: pd.DataFrame, *, digits: int, exact: bool = False) -> str:
    """Return a table as CSV, without its index.

    Parameters
    ----------
    table
        Numbers, text and missing values.
    digits
        Significant digits of a number.
    exact
        Whether text stays as it is, because programs look it up. Else cells and titles that begin
        like a formula get an apostrophe before it (OWASP, "CSV Injection").
    """
    if not exact:
        table = _harmless_table(table)
    text = table.to_csv(index=False, float_format=f"%.{digits}g")
    if "\r" in text:  # Python's csv would leave it unquoted, and readers end the row there
        text = table.to_csv(index=False, float_format=f"%.{digits}g", quoting=csv.QUOTE_ALL)
    return text


def write(path: Path, table: pd.DataFrame, *, exact: bool = False) -> None:
    """Write a table as `as_csv` makes it, with 6 significant digits, as UTF-8."""
    path.write_text(as_csv(table, digits=6, exact=exact), encoding="utf-8")


def _harmless_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which no title and no text begins like a formula."""
    table = table.rename(columns=_harmless)
    for i, kind in enumerate(table.dtypes):
        if kind.kind == "O":  # text, also of a category
            table.isetitem(i, table.iloc[:, i].astype(object).map(_harmless, na_action="ignore"))
    return table


def _harmless(value: Any) -> Any:
    """Return a value, text with an apostrophe before it where it begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
