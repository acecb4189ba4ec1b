"""Which genes are the most variable, by scanpy's methods.

The default, the variance of Pearson residuals, is computed for some genes at a time, and once for
all choices; the others hold copies of all counts. Letters: N cells, G genes, B batches.
"""

from __future__ import annotations

import logging
from functools import cached_property

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp

import batches
import csr_blocks

log = logging.getLogger("sctag")

# What takes the place of a way to choose genes that fails on the data: pearson never does.
INSTEAD = {"seurat_v3": "seurat", "seurat": "pearson", "cell_ranger": "pearson"}
LOESS_GENES = 4  # 0.3 of fewer, scanpy's span of the loess of seurat_v3, is less than one gene
# Counts of the genes that are looked at together: scanpy holds them five times. Each such block is
# a pass over all counts, so that there are not more blocks than MOST_BLOCKS, about.
STORED, MOST_BLOCKS = 2**23, 24


class VariableGenes:
    """The most variable genes of data, as many as are asked for.

    Of data with batches these are the genes that are among the most variable in most batches, as
    scanpy's `batch_key` has it; batches of very few cells have no say (`batches.large_enough`).

    Parameters
    ----------
    adata
        Data that `preprocess.normalise` has made.
    method
        "seurat" and "cell_ranger" rank the dispersion of X, "seurat_v3" and "pearson" the
        standardised variance and the variance of Pearson residuals of the counts: scanpy's
        `highly_variable_genes` and its experimental namesake. `seurat_v3` fits a loess that can
        fail on shallow data, the first two need bins of genes that differ; where one fails that of
        `INSTEAD` takes its place, with a warning.
    """

    def __init__(self, adata: ad.AnnData, method: str) -> None:
        large = batches.large_enough(adata)
        self.adata = adata if large.all() else csr_blocks.some_of(adata, large)
        self.method = method

    def chosen(self, n_genes: int) -> np.ndarray:
        """Return which genes are the n_genes most variable, a mask (G,); all if there are less."""
        if n_genes >= self.adata.n_vars:
            return np.ones(self.adata.n_vars, bool)
        method = self.method
        while True:
            try:
                chosen = self.chosen_by(method, n_genes)
                if chosen.any():
                    return chosen
                raise ValueError("it chooses no gene")
            except (IndexError, ValueError) as error:
                if method not in INSTEAD:
                    raise
                sentence = "warning: %s failed on these data (%s); using %s"
                log.warning(sentence, method, str(error).partition(":")[0], INSTEAD[method])
                method = INSTEAD[method]

    def chosen_by(self, method: str, n_genes: int) -> np.ndarray:
        """Return the genes that a method chooses, as `chosen` does; it may fail."""
        if method == "pearson":
            return most_variable(self.residual_variances, n_genes)
        adata, key = self.adata, batches.key_of(self.adata)
        layer = None
        if method == "seurat_v3":
            check_loess(adata)
            layer = "counts"
        sc.pp.highly_variable_genes(
            adata, flavor=method, layer=layer, n_top_genes=n_genes, batch_key=key
        )
        return adata.var["highly_variable"].to_numpy()

    @cached_property
    def residual_variances(self) -> np.ndarray:
        """The variance of the Pearson residuals of each gene in each batch, (B, G)."""
        adata, counts = self.adata, self.adata.layers["counts"]
        adata.uns["hvg"] = {"flavor": "pearson_residuals", "computed_on": "counts"}  # as scanpy
        codes = batches.codes_of(adata)
        if codes is None:
            return residual_variances(counts)[None]
        names = np.unique(codes)
        # Scanpy would clip the residuals of all batches at the root of the size of the first.
        clip = np.sqrt(adata.n_obs / len(names))
        of_batches = (csr_blocks.subset(counts, codes == name) for name in names)
        return np.stack([residual_variances(of_batch, clip=clip) for of_batch in of_batches])


def residual_variances(counts: sp.csr_matrix, *, clip: float | None = None) -> np.ndarray:
    """Return the variance of the Pearson residuals of each gene, shape (G,).

    Scanpy's `experimental.pp.highly_variable_genes` computes it of some genes at a time. All others
    are one more gene there, so that the depth of each cell is that of all genes.

    Parameters
    ----------
    counts
        Shape (N, G), without stored zeros.
    clip
        Largest absolute residual, the root of N by default.
    """
    variances = np.zeros(counts.shape[1])
    depths = counts.sum(axis=1)
    stored = max(STORED, counts.nnz // MOST_BLOCKS)
    for genes, block in csr_blocks.gene_blocks(counts, stored):
        number = block.shape[1]
        if number < counts.shape[1]:
            others = sp.csr_matrix(depths - block.sum(axis=1))
            block = sp.hstack([block, others], format="csr")
        table = sc.experimental.pp.highly_variable_genes(
            ad.AnnData(block), flavor="pearson_residuals", clip=clip, n_top_genes=1, inplace=False
        )
        variances[genes] = table["residual_variances"].to_numpy()[:number]
    return variances


def most_variable(variances: np.ndarray, n_genes: int) -> np.ndarray:
    """Return the genes of the largest variances (B, G) in most batches, as a mask (G,).

    Genes that are among the n_genes first in equally many batches come by their median rank there.
    Source: scanpy's `experimental.pp.highly_variable_genes`.
    """
    ranks = np.argsort(np.argsort(-variances, axis=1), axis=1).astype(np.float32)
    is_first = ranks < n_genes
    median = np.ma.median(np.ma.masked_array(ranks, ~is_first), axis=0).filled(np.nan)
    order = np.lexsort((median, -is_first.sum(axis=0)))
    chosen = np.zeros(variances.shape[1], bool)
    chosen[order[:n_genes]] = True
    return chosen


def check_loess(adata: ad.AnnData) -> None:
    """Raise ValueError where too few genes vary for the loess of seurat_v3, which would crash.

    Its window is 0.3 of the genes whose counts vary within a batch: without a gene in it,
    scikit-misc 0.5 ends the process by a segmentation fault.
    """
    counts = adata.layers["counts"]
    names = adata.obs[batches.COLUMN] if batches.key_of(adata) else np.zeros(adata.n_obs)
    for name in np.unique(names):
        batch = counts[np.flatnonzero(names == name)]
        varying = (batch.max(axis=0) != batch.min(axis=0)).sum()
        if varying < LOESS_GENES:
            raise ValueError(f"{varying} genes vary, it needs {LOESS_GENES} or more")
