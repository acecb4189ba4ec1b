"""Batches of cells: what differs between them, such as the donor or the chip, is no cell type.

With `--batch_key` the genes are chosen within batches (`preprocess.py`), the components of every
view are corrected (`corrected`), and the count decoder reads the batch of a cell beside its
embedding (`tensors.py`), which then need not carry it. `measures` says how well the batches are
mixed before and after. Letters: N cells, F features, B batches. Nothing here knows TensorFlow or a
true label. Slow imports stand where they are needed, because the commands import this module.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils import InputError

if TYPE_CHECKING:
    import anndata as ad

log = logging.getLogger("sctag")

COLUMN = "sctag_batch"  # of obs, categorical: the batches of prepared data, where there are any
UNCORRECTED = "_uncorrected"  # at the end of a key of obsm: components before the correction
CELLS_EACH = 10  # there must be so many cells a batch on average
FEW_CELLS = 10  # genes are not chosen within a batch of fewer cells
CELLS_A_CLUSTER = 30  # of Harmony's own, as many as harmonypy takes by default, at most 100
PERPLEXITY = 30  # of the neighbourhoods of LISI, as in Korsunsky et al. 2019
LISI_NEIGHBOURS = 3 * PERPLEXITY  # that harmonypy weighs, the cell itself one of them
SILHOUETTE_CELLS = 2_000  # of a cluster at most, drawn at random: distances are cells x cells


# --- Which batches there are ----------------------------------------------------------------------


def add_batches(adata: ad.AnnData, batch_key: str, where: str) -> None:
    """Set obs["sctag_batch"] (categorical, text) to the batches that a column of obs names.

    The log says how many cells each batch has.

    Parameters
    ----------
    adata
        The cells of the run, which is changed.
    batch_key
        The column of obs.
    where
        What the data are called in an error message.

    Raises
    ------
    InputError
        If there is no such column, a cell has no value in it, all cells have the same, or there
        are more batches than a tenth of the cells.
    """
    import pandas as pd

    import readers

    labels = readers.read_labels(adata, batch_key)
    if labels is None:
        missing = readers.missing_column(adata, batch_key, where)
        raise InputError(f"{missing}: name the column of the batches with --batch_key")
    if labels.isna().any():
        raise InputError(
            f"{where}: {labels.isna().sum()} of {len(labels)} cells have no value in the column "
            f"{batch_key!r} of obs: give each a batch, leave these cells out, or run without "
            "--batch_key"
        )
    sizes = labels.value_counts().sort_index()
    if len(sizes) == 1:
        raise InputError(
            f"{where}: all cells have the value {sizes.index[0]!r} in the column {batch_key!r} of "
            "obs: with one batch there is nothing to correct, run without --batch_key"
        )
    if len(sizes) * CELLS_EACH > len(labels):
        raise InputError(
            f"{where}: the column {batch_key!r} of obs names {len(sizes)} batches of "
            f"{len(labels)} cells, and a batch needs {CELLS_EACH} cells on average: name a coarser "
            "column with --batch_key"
        )
    text = ", ".join(f"{name}: {size}" for name, size in sizes.items())
    log.info("batches   %d in %r, of cells %s", len(sizes), batch_key, text)
    if (sizes < FEW_CELLS).any():
        few = ", ".join(sizes.index[sizes < FEW_CELLS])
        log.warning(
            "warning: batches of fewer than %d cells (%s) have no say in the choice of genes, and "
            "cannot be corrected well",
            FEW_CELLS,
            few,
        )
    adata.obs[COLUMN] = pd.Categorical(labels)


def codes_of(prepared: ad.AnnData) -> np.ndarray | None:
    """Return the batch of each cell as a number from 0, shape (N,), or None without batches."""
    if COLUMN not in prepared.obs:
        return None
    return prepared.obs[COLUMN].cat.codes.to_numpy(np.int64)


def key_of(prepared: ad.AnnData) -> str | None:
    """Return the column of obs that has the batches, as scanpy's functions take it, or None."""
    return COLUMN if COLUMN in prepared.obs else None


def one_hot(prepared: ad.AnnData) -> np.ndarray:
    """Return a column for each batch with ones for its cells, float32 (N, B); B may be 0."""
    codes = codes_of(prepared)
    if codes is None:
        return np.zeros((prepared.n_obs, 0), np.float32)
    return np.eye(len(prepared.obs[COLUMN].cat.categories), dtype=np.float32)[codes]


def large_enough(prepared: ad.AnnData) -> np.ndarray:
    """Return, as a mask (N,), the cells of batches of at least `FEW_CELLS`; all without batches."""
    codes = codes_of(prepared)
    if codes is None:
        return np.ones(prepared.n_obs, bool)
    return (np.bincount(codes) >= FEW_CELLS)[codes]


def refuse(reference: ad.AnnData) -> None:
    """Raise InputError if data have batches, so that other cells cannot be prepared alike.

    What Harmony takes from the cells is no map into which others could be put.
    """
    if codes_of(reference) is not None:
        raise InputError(
            "the run has corrected the batches of its cells (--batch_key), and other cells cannot "
            "be prepared alike: cluster them together with the run's cells"
        )


# --- The correction -------------------------------------------------------------------------------


def corrected(prepared: ad.AnnData, points: np.ndarray, *, seed: int) -> np.ndarray:
    """Return components (N, F) of the cells of which Harmony has taken what its batches differ in.

    Harmony groups the cells softly, so that each group has cells of all batches, and shifts each
    batch within a group onto the others. It cannot tell a batch from a type that only one batch
    has, and it leaves a part of shifts that are larger than the differences of the types. Without
    batches the components are returned as they are.
    Source: Korsunsky et al. 2019, by harmonypy's `run_harmony` with its defaults.

    Parameters
    ----------
    prepared
        Data of the cells; see `add_batches`.
    points
        Principal components, shape (N, F).
    seed
        Of Harmony's groups.
    """
    codes = codes_of(prepared)
    if codes is None:
        return points
    import harmonypy

    # Of harmonypy's own number of groups, data of fewer than 15 cells would have none.
    groups = min(max(round(len(points) / CELLS_A_CLUSTER), 1), 100)
    harmony = harmonypy.run_harmony(
        points.T,  # features x cells: the only shape that is never ambiguous
        {COLUMN: codes},
        COLUMN,
        nclust=groups,
        random_state=seed % 2**31,
        verbose=False,
    )
    return harmony.Z_corr.astype(points.dtype)


def correct(prepared: ad.AnnData, key: str, *, seed: int) -> None:
    """Correct obsm[key] in place; obsm[key + "_uncorrected"] keeps what was there.

    Without batches nothing changes.
    """
    if codes_of(prepared) is None:
        return
    points = prepared.obsm[key]
    prepared.obsm[key + UNCORRECTED] = points
    prepared.obsm[key] = corrected(prepared, points, seed=seed)


# --- How well the batches are mixed ---------------------------------------------------------------


def ilisi(points: np.ndarray, codes: np.ndarray) -> float:
    """Return the median over cells of how many batches a cell's neighbourhood has, from 1 to B.

    It is the inverse Simpson index 1 / sum over batches of p_b^2, where p_b is the share of batch b
    among the 89 nearest other cells, each weighted by a Gaussian kernel whose width gives the
    weights the perplexity 30. Source: Korsunsky et al. 2019, by harmonypy's `compute_lisi`. Smaller
    data have a smaller perplexity, a third of the neighbours that there are.

    Parameters
    ----------
    points
        Shape (N, F).
    codes
        Batches from 0, shape (N,).
    """
    import harmonypy

    perplexity = min(PERPLEXITY, len(points) // 3)
    values = harmonypy.compute_lisi(points, {COLUMN: codes}, [COLUMN], perplexity)
    return float(np.median(values))


def batch_silhouette(points: np.ndarray, codes: np.ndarray, labels: np.ndarray) -> float | None:
    """Return how little the batches lie apart within clusters: 1 not at all, 0 fully.

    It is 1 - |s|, where s is the silhouette of a cell by its batch among the cells of its cluster,
    averaged over the cells of each cluster, then over clusters. A cluster of one batch, or of which
    each cell has a batch of its own, is left out; None if no other is there. Source: the batch ASW
    of Luecken et al. 2022, scib's `silhouette_batch`, with clusters where it has cell types. Of
    a cluster at most 2,000 cells are looked at.

    Parameters
    ----------
    points
        Shape (N, F).
    codes, labels
        Batch and cluster of each cell from 0, shape (N,).
    """
    from sklearn.metrics import silhouette_samples

    rng = np.random.default_rng(0)
    means = []
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        if len(cells) > SILHOUETTE_CELLS:
            cells = rng.choice(cells, SILHOUETTE_CELLS, replace=False)
        if 1 < len(np.unique(codes[cells])) < len(cells):
            widths = silhouette_samples(points[cells], codes[cells])
            means.append(float(np.mean(1 - np.abs(widths))))
    return float(np.mean(means)) if means else None


class Mixing(NamedTuple):
    """How well batches are mixed in one space: `ilisi` and `batch_silhouette`."""

    ilisi: float
    silhouette: float | None


def measures(prepared: ad.AnnData, points: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return what metrics.json says of the batches, and log it.

    Parameters
    ----------
    prepared
        Prepared data with batches; `before` is of the components before the correction, the views
        beside each other.
    points
        What was clustered, shape (N, F), of which `after` is.
    labels
        Clusters, shape (N,), within which the silhouettes of both are taken.

    Returns
    -------
    The number of `batches`, and `before` and `after`, each with `ilisi` and `silhouette`.
    """
    from neighbours import beside

    codes = codes_of(prepared)
    assert codes is not None
    keys = sorted(key for key in prepared.obsm if key.endswith(UNCORRECTED))
    spaces = {"before": beside(*(prepared.obsm[key] for key in keys)), "after": points}
    mixing = {
        name: Mixing(ilisi(space, codes), batch_silhouette(space, codes, labels))
        for name, space in spaces.items()
    }
    n_batches = int(codes.max()) + 1
    before, after = mixing["before"], mixing["after"]
    log.info(
        "batches   %.2f of %d in a cell's neighbourhood, %.2f before the correction",
        after.ilisi,
        n_batches,
        before.ilisi,
    )
    return {"batches": n_batches} | {name: values._asdict() for name, values in mixing.items()}
