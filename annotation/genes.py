"""Names of genes: which are identifiers, which symbols belong to them, where a gene stands.

Letters: G genes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # half a second to import
    import pandas as pd

ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}(\.\d+)?", re.I)  # of a gene, with or without its version
# Columns in which files keep the symbols: of scanpy, 10x through anndata, CELLxGENE and Seurat.
SYMBOLS = (
    *("gene_symbols", "gene_symbol", "feature_name", "gene_short_name", "symbol", "symbols"),
    *("Symbol", "gene_name", "gene_names", "Gene"),
)


def are_ids(names: Iterable[object]) -> bool:
    """Return whether most names of genes are identifiers of Ensembl."""
    matches = [ENSEMBL.fullmatch(str(name)) is not None for name in names]
    return sum(matches) > len(matches) / 2


def symbols(var: pd.DataFrame) -> np.ndarray | None:
    """Return the symbols of genes whose names are identifiers, shape (G,), text.

    Parameters
    ----------
    var
        The annotation of the genes, by name. The first column of `SYMBOLS` that is there and does
        not hold identifiers itself has the symbols.

    Returns
    -------
    The symbols, with the gene's name where it has none; None if the names are no identifiers, or
    no column has symbols.
    """
    if not are_ids(var.index):
        return None
    names = var.index.to_numpy().astype(str)
    for column in SYMBOLS:
        if column not in var:
            continue
        values = var[column].astype(object)
        has_symbol = (values.notna() & (values != "")).to_numpy()
        if has_symbol.any() and not are_ids(values[has_symbol]):
            return np.where(has_symbol, values.astype(str), names).astype(object)
    return None


class Positions:
    """The positions of genes by name: as it is written, then in any case, then by symbol.

    A list of markers may name the genes of a mouse like those of a human, and give identifiers with
    or without their version.
    """

    def __init__(self, var: pd.DataFrame) -> None:
        names = [str(name) for name in var.index]
        columns = [names, [_folded(name) for name in names]]
        of_ids = symbols(var)
        if of_ids is not None:
            columns += [[str(name) for name in of_ids], [_folded(str(name)) for name in of_ids]]
        # The first of several genes of a name is written last, and stays.
        self._tables = [
            {name: position for position, name in reversed(list(enumerate(column)))}
            for column in columns
        ]

    def of(self, gene: str) -> int | None:
        """Return the position of a gene, the first of several, or None."""
        for table, name in zip(self._tables, (gene, _folded(gene)) * 2, strict=False):
            if name in table:
                return table[name]
        return None


def _folded(name: str) -> str:
    """Return a name in lower case, and an identifier without its version."""
    return (name.split(".")[0] if ENSEMBL.fullmatch(name) else name).lower()
