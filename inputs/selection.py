"""Which cells go in: those of a list, of columns, of enough quality, and a random sample of them.

Cells are chosen by name and by column, filters leave out poor ones, and a random sample is drawn
from what is left. Nothing here knows TensorFlow, and no true label decides anything unless the user
names its column in --subset.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

import readers
from annotation import genes, quality
from data_settings import Selection
from formats import mtx, raw_counts, text
from formats.parts import listed
from utils import InputError

if TYPE_CHECKING:  # half a second to import
    import anndata as ad
    import pandas as pd

log = logging.getLogger("sctag")

# A cell looks empty with less than a tenth of the median depth, if that is less than so many counts
# (cells read in full length differ by more than that), or with hardly any counts at all, as most
# barcodes of a matrix of all droplets have. Of 21 labelled data sets none has more than 0.5 % such
# cells; in Pollen, of full length, 13 % have less than a tenth of the median.
EMPTY_SHARE, EMPTY_COUNTS, HARDLY_ANY = 0.1, 500, 20
HIGH_MITO = 0.2  # share of a cell's counts, beyond which it is often dying
MANY = 0.05  # share of the cells, beyond which a warning is due
SUFFIX = re.compile(r"[-_.]\d+$")  # of a barcode: AAAC-1


class Condition(NamedTuple):
    """One condition of --subset: whether obs[key] must be, or must not be, one of some values."""

    word: str  # as the user wrote it
    key: str
    value: str
    wanted: bool


class Request(NamedTuple):
    """What a user's files and words say of the cells, before the data are read."""

    cells: list[str] | None = None
    conditions: tuple[Condition, ...] = ()


# --- What the user gives --------------------------------------------------------------------------


def request(selection: Selection) -> Request:
    """Read the file of --cells and the conditions of --subset.

    Raises
    ------
    InputError
        If the file cannot be read, or a condition is not one.
    """
    return Request(
        cells=None if selection.cells is None else _names_in(selection.cells),
        conditions=tuple(map(condition, selection.subset or ())),
    )


def condition(word: str) -> Condition:
    """Return a condition from KEY=VALUE, KEY=A,B or KEY!=VALUE; InputError for another word."""
    key, equals, value = word.partition("=")
    wanted = not key.endswith("!")
    key = key.removesuffix("!")
    if not (key and equals and value):
        raise InputError(f"--subset {word}: is not KEY=VALUE, KEY=A,B or KEY!=VALUE")
    return Condition(word, key, value, wanted)


def _names_in(path: Path) -> list[str]:
    """Return the names in the first column of a file."""
    return [row[0] for row in text.entries(path)]


# --- Names of cells -------------------------------------------------------------------------------


def check_names(cells: pd.Index, names: list[str], flag: str) -> None:
    """Log how many names of a file are those of cells; InputError if none is."""
    known = {*cells}
    has_title = len(names) > 1 and names[0] not in known and mtx.HEADER.fullmatch(names[0])
    title = names[0] if has_title else None
    given = dict.fromkeys(names if title is None else names[1:])
    unknown = [name for name in given if name not in known]
    if len(unknown) == len(given):
        raise InputError(
            f"{flag} names no cell of the data: it has {unknown[0]!r} and the like, the data have "
            f"{cells[0]!r}{_hint(known, unknown)}"
        )
    header = "" if title is None else f", its first row is a header ({title!r})"
    rest = f", names in it that are no cells: {len(unknown)}, as {unknown[0]!r}" if unknown else ""
    named = len(given) - len(unknown)
    log.info("names     %s: %d of %d cells%s%s", flag, named, len(cells), header, rest)


def _hint(cells: Iterable[str], names: list[str]) -> str:
    """Return what would make names match, for an error; an empty text if that is unknown."""
    bare_cells, bare_names = ({SUFFIX.sub("", name) for name in group} for group in (cells, names))
    cases = {
        "the data's": bare_cells & {*names},
        "the file's": {*cells} & bare_names,
        "both their": bare_cells & bare_names,
    }
    for whose, matching in cases.items():
        if matching:
            return f"; {len(matching)} would match without the suffix of {whose} names, as in -1"
    return ""


# --- Which cells are kept -------------------------------------------------------------------------


def kept(adata: ad.AnnData, selection: Selection, request: Request, *, seed: int) -> np.ndarray:
    """Return which cells go in, as a mask (N,), and log how many each step leaves out.

    Parameters
    ----------
    adata
        Raw counts in X, cells x genes, with the annotation that the settings name. It is not
        changed.
    selection
        The filters, and the size of the sample.
    request
        The cells and conditions, as `request` reads them.
    seed
        Of the random sample.

    Raises
    ------
    InputError
        If no cell is left, or a column, a value or the mitochondrial genes are missing.
    """
    mask = np.ones(adata.n_obs, bool)
    losses = []
    for word, flag, passes in _steps(adata, selection, request):
        before = int(mask.sum())
        mask &= passes
        lost = before - int(mask.sum())
        log.info("%-9s %d of %d cells left out by %s", word, lost, before, flag)
        losses.append(f"{flag} left out {lost}")
    if losses and not mask.any():
        raise InputError(f"no cell of {adata.n_obs} is left: {', '.join(losses)}")
    if selection.subsample is not None:
        mask = _sample(mask, selection.subsample, seed=seed)
    return mask


def _steps(
    adata: ad.AnnData, selection: Selection, request: Request
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the word for the log, the flag, and the mask (N,) of what passes, of each step."""
    if request.cells is not None:
        flag = f"--cells {selection.cells}"
        check_names(adata.obs_names, request.cells, flag)
        yield "cells", flag, adata.obs_names.isin(request.cells)
    for condition in request.conditions:
        yield "subset", f"--subset {condition.word}", _meets(adata, condition)
    # A depth that is not a number fails no comparison: it is refused where counts are checked.
    if selection.min_counts:
        flag = f"--min_counts {selection.min_counts}"
        yield "filtered", flag, ~(_depth(adata) < selection.min_counts)
    if selection.min_genes:
        flag = f"--min_genes {selection.min_genes}"
        yield "filtered", flag, np.diff(_counts(adata).indptr) >= selection.min_genes
    if selection.max_mito is not None:
        share = quality.mitochondrial_share(_counts(adata), adata.var)
        if share is None:
            raise InputError(
                "--max_mito: no gene is named as a mitochondrial one (MT-... or mt-...), nor is "
                f"there one in a column of var with symbols ({', '.join(genes.SYMBOLS)})"
            )
        yield "filtered", f"--max_mito {selection.max_mito:g}", ~(share > selection.max_mito)


def _meets(adata: ad.AnnData, condition: Condition) -> np.ndarray:
    """Return which cells meet a condition (N,); one without a value is not any value."""
    values = readers.read_labels(adata, condition.key)
    flag = f"--subset {condition.word}"
    if values is None:
        raise InputError(f"{flag}: obs has no column {condition.key!r}, only {listed(adata.obs)}")
    present = {*values.dropna()}
    # A value may have a comma in it: it is taken as a whole if there is such a one.
    wanted = [condition.value] if condition.value in present else condition.value.split(",")
    for value in wanted:
        if value not in present:
            raise InputError(
                f"{flag}: no cell has {value!r} in {condition.key!r}, there are: {listed(present)}"
            )
    return values.isin(wanted).to_numpy() == condition.wanted


def _sample(mask: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Return a random sample of the cells of a mask (N,), all of them if there are not more."""
    cells = np.flatnonzero(mask)
    if size >= len(cells):
        log.info("subsample all %d cells (%d were asked for)", len(cells), size)
        return mask
    log.info("subsample %d of %d cells, drawn by seed %d", size, len(cells), seed)
    drawn = np.zeros(len(mask), bool)
    drawn[np.random.default_rng(seed).choice(cells, size, replace=False)] = True
    return drawn


# --- Quality of the cells -------------------------------------------------------------------------


def _counts(adata: ad.AnnData) -> csr_matrix:
    """Return X (N, G) in the one form of counts; the same object if it has it already."""
    return raw_counts.canonical(adata.X, "X")


def _depth(adata: ad.AnnData) -> np.ndarray:
    """Return the counts of each cell in all genes, shape (N,), float64."""
    return np.asarray(_counts(adata).sum(axis=1), dtype=np.float64).ravel()


def warn_of_poor_cells(adata: ad.AnnData) -> None:
    """Log a warning if many cells look empty or dying, with the filter that leaves them out.

    X is raw counts, cells x genes. Cells without counts do not count: they are left out anyway. The
    constants above say when a cell looks so.
    """
    depth = _depth(adata)
    has_counts = depth > 0
    median = np.median(depth[has_counts])
    bound = max(HARDLY_ANY, min(EMPTY_SHARE * median, EMPTY_COUNTS))
    empty = (depth[has_counts] < bound).mean()
    if empty > MANY:
        log.warning(
            "warning: %.0f %% of the cells have fewer than %.0f counts (the median is %.0f): they "
            "may be empty droplets, which --min_counts leaves out",
            *(100 * empty, bound, median),
        )
    share = quality.mitochondrial_share(_counts(adata), adata.var)
    if share is not None and (dying := (share > HIGH_MITO)[has_counts].mean()) > MANY:
        log.warning(
            "warning: %.0f %% of the cells have more than %.0f %% mitochondrial counts: they may "
            "be dying, --max_mito leaves them out",
            *(100 * dying, 100 * HIGH_MITO),
        )
