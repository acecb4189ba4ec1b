"""The true labels of the cells, from a column of obs or from a file: for the scores only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import readers
from data_settings import LABEL_KEY, Source
from formats import text
from inputs import selection
from utils import InputError

if TYPE_CHECKING:  # half a second to import
    import anndata as ad
    import pandas as pd

Table = dict[str, str | None]  # the label by the name of a cell, None where it is missing


def table(source: Source) -> Table | None:
    """Read the file of --labels; None if there is none.

    Raises
    ------
    InputError
        If it cannot be read or is not of two columns, or if labels are asked for in two ways.
    """
    if source.labels is None:
        return None
    if source.label_key:
        raise InputError(
            f"--labels {source.labels} and --label_key {source.label_key} both name the true "
            "labels: give one of them"
        )
    return _labels_in(source.labels)


def _labels_in(path: Path) -> dict[str, str | None]:
    """Return the label of each cell that a file of two columns names, None where it is missing."""
    rows = text.entries(path)
    if len(rows) > 1 and len(rows[0]) == 1 < len(rows[1]):  # R leaves out the title of the names
        rows[0] = ["", *rows[0]]
    labels: dict[str, str | None] = {}
    for row in rows:
        if len(row) != 2:
            raise InputError(
                f"{path}: in the row of {row[0]!r} the number of columns is {len(row)}: two are "
                "needed, the cell's name and its label, with a comma, tab or semicolon between them"
            )
        name, value = row
        label = None if value in (*readers.MISSING, "NA") else value
        if labels.setdefault(name, label) != label:
            raise InputError(f"{path}: {name!r} has two labels, {labels[name]!r} and {label!r}")
    return labels


def of(
    adata: ad.AnnData, source: Source, table: Table | None, *, needed: bool, where: str
) -> pd.Series | None:
    """Return the true labels of the cells, None if there are none.

    Parameters
    ----------
    adata
        Data with the column that the settings name, or with the names that the table's labels have.
    source
        The settings that name the column or the file.
    table
        The labels of the file, as `table` reads them, or None for those of a column.
    needed
        Whether labels are asked for, so that it is an error if there are none.
    where
        What the data are called in an error message.

    Returns
    -------
    Object Series, shape (N,), indexed by obs_names, None for a cell without a label. Its name is
    that of the column or the file.

    Raises
    ------
    InputError
        If the column is missing but named or needed, or if the file names none of the cells.
    """
    if table is not None:
        import pandas as pd

        selection.check_names(adata.obs_names, list(table), f"--labels {source.labels}")
        values = [table.get(name) for name in adata.obs_names]
        index = adata.obs_names
        return pd.Series(values, index=index, dtype=object, name=str(source.labels))
    label_key = source.label_key or LABEL_KEY
    cell_types = readers.read_labels(adata, label_key)
    if cell_types is None and (source.label_key or needed):
        advice = "" if source.label_key else ", or the number of clusters with --n_clusters"
        problem = readers.missing_column(adata, label_key, where)
        raise InputError(f"{problem}: name the column of the true labels with --label_key{advice}")
    return cell_types


def described(cell_types: pd.Series | None) -> str:
    """Return how many cell types there are and where, in words."""
    if cell_types is None or not cell_types.notna().any():
        return "no labels"
    missing = cell_types.isna().sum()
    others = f" ({missing} cells have none)" if missing else ""
    return f"{cell_types.nunique()} cell types in {cell_types.name!r}{others}"
