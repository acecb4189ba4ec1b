"""A simulated atlas of any size, with known cell types, written in chunks into an .h5ad file.

    python -m perf.atlas OUT.h5ad --cells 100000 --seed 1

The counts are zero-inflated negative binomial. Cell types of unequal size make up lineages; cells
differ in their library size, and lie in two batches that differ gene by gene. Every chunk of cells
is drawn by a generator of its own, of the seed and the chunk's number, so that memory does not grow
with the atlas, and an atlas is the beginning of every larger one of its seed.
Letters: N cells, G genes, T cell types, B batches.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from command import number
from data_settings import LABEL_KEY

if TYPE_CHECKING:
    import anndata as ad
    import scipy.sparse as sp

SEED = 1  # by default
CHUNK = 2_000  # cells that are drawn at once: some 150 MB of arrays
MOST_COUNTS = 2**31 - 1  # that positions of 32 bits can number
GENES, TYPES, TYPES_A_LINEAGE = 2_000, 40, 5
SMALLEST = 0.05  # size of the smallest cell type, as a share of the largest one's
GENE_SD = 2.2  # of the logarithms of the genes' mean expression
LINEAGE_GENES, LINEAGE_SD = 0.15, 1.0  # share of genes that a lineage changes, and by how much
TYPE_GENES, TYPE_SD = 0.12, 1.2  # the same of a cell type within its lineage
BATCH_SD = 0.2  # of the logarithms of the second batch's factors, one a gene
SECOND_BATCH = 0.4  # share of the cells in it
LIBRARY, LIBRARY_SD = 2_300.0, 0.35  # median counts of a cell before dropout, and their spread
DISPERSION = (2.0, 1.5)  # shape and mean of the gamma distribution of the genes' theta
LEAST_DISPERSION = 0.2  # a gene of smaller theta would be noise alone
HALF_DROPPED = 0.3  # expected count of a gene at which half of its counts drop out
DROPOUT_SLOPE = 0.7  # how fast dropout falls with the logarithm of the expected count


class Model(NamedTuple):
    """What all cells of an atlas are drawn from.

    Parameters
    ----------
    lineages
        The lineage of each cell type, shape (T,).
    sizes
        Share of the cells of each cell type, shape (T,), the largest first.
    expression
        Share of each gene in a cell's counts before dropout, shape (B, T, G).
    dropout
        Probability that a gene's counts are lost, shape (B, T, G).
    theta
        Inverse dispersion of the negative binomial of each gene, shape (G,).
    """

    lineages: np.ndarray
    sizes: np.ndarray
    expression: np.ndarray
    dropout: np.ndarray
    theta: np.ndarray


def sparse_effects(
    rng: np.random.Generator, rows: int, genes: int, share: float, sd: float
) -> np.ndarray:
    """Return normal effects on a random share of the genes, 0 on the others, shape (rows, G)."""
    return rng.normal(0.0, sd, (rows, genes)) * (rng.random((rows, genes)) < share)


def make_model(seed: int, *, types: int = TYPES, genes: int = GENES) -> Model:
    """Return what the cells of an atlas are drawn from; it depends on the seed alone.

    The sizes of the cell types fall geometrically, from the largest to `SMALLEST` of it. Dropout
    falls with a gene's expected count in a cell of median library size, along a logistic curve, as
    in Splatter (Zappia et al. 2017).
    """
    rng = np.random.default_rng([seed, 0])
    lineages = rng.permutation(np.arange(types) // TYPES_A_LINEAGE)
    sizes = np.geomspace(1.0, SMALLEST, types)
    level = rng.normal(0.0, GENE_SD, genes)
    of_lineages = sparse_effects(rng, int(lineages.max()) + 1, genes, LINEAGE_GENES, LINEAGE_SD)
    of_types = sparse_effects(rng, types, genes, TYPE_GENES, TYPE_SD)
    shift = np.stack([np.zeros(genes), rng.normal(0.0, BATCH_SD, genes)])
    log_expression = level + of_lineages[lineages] + of_types + shift[:, None]  # (B, T, G)
    expression = np.exp(log_expression)
    expression /= expression.sum(axis=-1, keepdims=True)
    dropout = 1.0 / (1.0 + (LIBRARY * expression / HALF_DROPPED) ** DROPOUT_SLOPE)
    shape, mean = DISPERSION
    theta = np.maximum(rng.gamma(shape, mean / shape, genes), LEAST_DISPERSION)
    return Model(lineages, sizes / sizes.sum(), expression, dropout, theta)


class Cells(NamedTuple):
    """A chunk of an atlas: its counts, CSR (rows, G), and its cell types and batches, (rows,)."""

    counts: sp.csr_matrix
    types: np.ndarray
    batches: np.ndarray


def draw_chunk(model: Model, seed: int, chunk: int, rows: int = CHUNK) -> Cells:
    """Return the first cells of a chunk, which a generator of its own draws.

    A count is Poisson about a mean that is gamma distributed, which makes it negative binomial, and
    0 where the gene has dropped out.
    """
    import scipy.sparse as sp

    rng = np.random.default_rng([seed, 1, chunk])
    genes = len(model.theta)
    types = rng.choice(len(model.sizes), CHUNK, p=model.sizes)
    batches = (rng.random(CHUNK) < SECOND_BATCH).astype(np.int64)
    library = rng.lognormal(np.log(LIBRARY), LIBRARY_SD, (CHUNK, 1))
    mean = library * model.expression[batches, types]  # (CHUNK, G)
    mean *= rng.standard_gamma(model.theta, (CHUNK, genes)) / model.theta
    mean[rng.random((CHUNK, genes)) < model.dropout[batches, types]] = 0.0
    counts = sp.csr_matrix(rng.poisson(mean).astype(np.float32)[:rows])
    return Cells(counts, types[:rows], batches[:rows])


def annotated(model: Model, chunks: list[Cells], n_cells: int) -> ad.AnnData:
    """Return an AnnData of these cells and genes without counts: types, lineages and batches."""
    import anndata
    import pandas as pd

    types = np.concatenate([cells.types for cells in chunks])
    batches = np.concatenate([cells.batches for cells in chunks])
    obs = pd.DataFrame(
        {
            LABEL_KEY: pd.Categorical.from_codes(types, _names("type", len(model.sizes))),
            "lineage": pd.Categorical.from_codes(
                model.lineages[types], _names("lineage", int(model.lineages.max()) + 1)
            ),
            "batch": pd.Categorical.from_codes(batches, _names("batch", 2)),
        },
        index=_names("cell", n_cells),
    )
    return anndata.AnnData(obs=obs, var=pd.DataFrame(index=_names("gene", len(model.theta))))


def _names(word: str, n: int) -> list[str]:
    """Return the names of so many things, numbered from 0 with equal digits."""
    digits = len(str(n - 1))
    return [f"{word}{i:0{digits}d}" for i in range(n)]


def write(path: Path, n_cells: int, *, seed: int, types: int = TYPES, genes: int = GENES) -> None:
    """Write an atlas of so many cells as .h5ad, which appears whole or not at all.

    X has the counts (CSR, float32, packed by gzip). obs has the cell types in the column that the
    commands take for true labels, their lineages, and the batches. The positions in X are 64 bit
    where there may be too many counts for 32.
    """
    import h5py
    from anndata.io import sparse_dataset, write_elem

    model = make_model(seed, types=types, genes=genes)
    packed = {"compression": "gzip", "compression_opts": 1}
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = []
    try:
        with h5py.File(partial, "w") as file:
            for chunk, start in enumerate(range(0, n_cells, CHUNK)):
                cells = draw_chunk(model, seed, chunk, min(CHUNK, n_cells - start))
                if chunk:
                    sparse_dataset(file["X"]).append(cells.counts)
                else:
                    if n_cells * genes > MOST_COUNTS:
                        cells.counts.indptr = cells.counts.indptr.astype(np.int64)
                    write_elem(file, "X", cells.counts, dataset_kwargs=packed)
                labels.append(cells._replace(counts=None))
            empty = annotated(model, labels, n_cells)
            for name in ("obs", "var"):
                write_elem(file, name, getattr(empty, name))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> int:
    """Write the atlas that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, metavar="OUT.h5ad", help="file to write")
    parser.add_argument("--cells", type=number(int, low=1), required=True, help="number of cells")
    parser.add_argument(
        "--seed", type=number(int, low=0), default=SEED, help="of all that is drawn"
    )
    parser.add_argument("--types", type=number(int, low=2), default=TYPES, help="cell types")
    parser.add_argument("--genes", type=number(int, low=10), default=GENES, help="number of genes")
    given = parser.parse_args()
    write(given.file, given.cells, seed=given.seed, types=given.types, genes=given.genes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
