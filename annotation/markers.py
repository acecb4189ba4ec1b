"""Marker genes: those whose counts are higher in a cluster than in all other cells.

Letters: N cells, G genes.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import csr_blocks
from annotation import genes

if TYPE_CHECKING:  # slow to import
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

log = logging.getLogger("sctag")

GROUPS = "sctag"  # the column of obs that scanpy's plots look the clusters up in
N_GENES = 100  # a cluster, as scanpy's older default
RANKED_CELLS = 200_000  # of more cells so many are ranked
# Scanpy holds three more copies of what it ranks: of more stored values than STORED the genes are
# ranked in blocks with about BLOCK each.
STORED, BLOCK = 2**27, 2**25
# A column of scanpy's table, and what it is called in markers.csv.
COLUMNS = {
    "group": "cluster",
    "rank": "rank",
    "names": "gene",
    "symbol": "symbol",
    "scores": "score",
    "logfoldchanges": "log2_fold_change",
    "pct_nz_group": "share_in",
    "pct_nz_reference": "share_out",
    "pvals_adj": "p_adjusted",
}


COLUMNS_OF_ENTRY = ("names", "scores", "pvals", "pvals_adj", "logfoldchanges")  # of scanpy


class Markers(NamedTuple):
    """The marker genes of clusters.

    Parameters
    ----------
    table
        A row a marker, for markers.csv: cluster, rank (from 1), gene, symbol (only where the genes
        are named by identifiers and have symbols), score, log2_fold_change, share_in and share_out
        (the shares of cells with counts, in the cluster and in all others), and p_adjusted.
    entry
        What scanpy keeps of it, for uns["rank_genes_groups"] of data whose raw has the logarithms
        and whose obs["sctag"] the clusters; None if no cluster has markers.
    """

    table: pd.DataFrame
    entry: dict[str, Any] | None


def rank(logs: ad.AnnData, clusters: pd.Categorical, *, n_genes: int = N_GENES) -> Markers:
    """Return the marker genes of each cluster, the highest score first.

    The score is the z-score of the Wilcoxon rank-sum test of the cluster's cells against all other
    cells, and p_adjusted is corrected for all G genes by Benjamini and Hochberg. The fold change is
    of e^m - 1, where m is the mean logarithm; it is huge where a gene has no counts outside.
    The p-values say how a gene differs, not that a cluster is real: the clusters were made from the
    same counts, so that any clusters at all have small ones. Of more than `RANKED_CELLS` cells so
    many are compared, drawn at random.

    Source: scanpy's `rank_genes_groups`, method "wilcoxon", without tie correction as is its
    default. It takes 2.5 s for 3,774 cells, 16,791 genes and 11 clusters on 2 cores, and some 20 s
    more at the first call ever, when it is compiled.

    Parameters
    ----------
    logs
        In X, CSR without stored zeros, the natural logarithm of 1 + count / size factor of all
        genes, shape (N, G); var names the genes, each once. It is not changed.
    clusters
        Cluster of each cell, shape (N,); a category may be empty.
    n_genes
        How many genes a cluster has at most. A gene with a score of 0 or below is no marker, and is
        left out of the table; scanpy's entry has it.

    Returns
    -------
    The table and scanpy's entry. A cluster of one cell has no markers, nor has one that is of all
    cells: the log says which these are.
    """
    import pandas as pd

    if len(clusters) > RANKED_CELLS:
        drawn = np.zeros(len(clusters), bool)
        drawn[np.random.default_rng(0).permutation(len(clusters))[:RANKED_CELLS]] = True
        logs, clusters = csr_blocks.some_of(logs, drawn), clusters[drawn]
    sizes = pd.Series(clusters).value_counts(sort=False)
    ranked = [name for name, size in sizes.items() if 2 <= size < len(clusters)]
    if left_out := [str(name) for name, size in sizes.items() if size and name not in ranked]:
        reason = "too few cells to compare"
        log.info("markers   none of cluster %s: %s", ", ".join(left_out), reason)
    symbols = genes.symbols(logs.var)
    columns = [name for name in COLUMNS if name != "symbol" or symbols is not None]
    if not ranked:
        return Markers(pd.DataFrame(columns=[COLUMNS[name] for name in columns]), None)
    groups = pd.Categorical([str(name) for name in clusters], [str(name) for name in sizes.index])
    table, entry = _of_scanpy(logs, groups, [str(name) for name in ranked], n_genes)
    if "group" not in table:  # scanpy leaves it out where there is one
        table["group"] = str(ranked[0])
    if symbols is not None:
        table["symbol"] = symbols[logs.var_names.get_indexer(table["names"])]
    table = table[table["scores"] > 0].reset_index(drop=True)
    table["rank"] = table.groupby("group", observed=True).cumcount() + 1
    return Markers(table[columns].rename(columns=COLUMNS), entry)


def _of_scanpy(
    logs: ad.AnnData, groups: pd.Categorical, ranked: list[str], n_genes: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return scanpy's table of n_genes genes for each of the groups to be ranked, and its entry.

    The groups are text, shape (N,), and those that are not ranked count as other cells.
    """
    import anndata
    import pandas as pd
    import scanpy as sc

    groups = groups.remove_unused_categories()
    if logs.X.nnz <= STORED:
        entry = _entry(logs.X, logs.var_names, groups, ranked, min(n_genes, logs.n_vars))
    else:
        blocks = csr_blocks.gene_blocks(logs.X, BLOCK)
        entries = [
            _entry(block, logs.var_names[genes], groups, ranked, block.shape[1])
            for genes, block in blocks
        ]
        entry = _joined(entries, n_genes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own, on fragmented tables
        holder = anndata.AnnData(var=pd.DataFrame(index=logs.var_names))
        holder.uns["rank_genes_groups"] = entry
        table = sc.get.rank_genes_groups_df(holder, group=None)
    params = entry["params"] | {"use_raw": True}
    # None, as which scanpy notes that no layer was read, is what anndata before 0.12 cannot read.
    entry["params"] = {name: value for name, value in params.items() if value is not None}
    return table, entry


def _entry(
    logs: sp.csr_matrix, names: pd.Index, groups: pd.Categorical, ranked: list[str], n_genes: int
) -> dict[str, Any]:
    """Return what scanpy keeps of the n_genes first of some genes (N, G), by their names (G,)."""
    import anndata
    import pandas as pd
    import scanpy as sc

    cells = anndata.AnnData(logs, var=pd.DataFrame(index=names))
    cells.obs[GROUPS] = groups
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own, on clusters of a cell and fragmented tables
        sc.tl.rank_genes_groups(
            cells, GROUPS, groups=ranked, method="wilcoxon", n_genes=n_genes, pts=True
        )
    return dict(cells.uns["rank_genes_groups"])


def _joined(entries: list[dict[str, Any]], n_genes: int) -> dict[str, Any]:
    """Return scanpy's entry for all genes from its entries for some genes each, of all of these.

    The p-values are adjusted anew, for all genes, by Benjamini and Hochberg as scanpy does.
    """
    import pandas as pd
    from scipy import stats

    kinds = {name: array.dtype for name, array in entries[0].items() if name in COLUMNS_OF_ENTRY}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    for group in kinds["scores"].names:
        of_group = {
            name: np.concatenate([entry[name][group] for entry in entries]) for name in kinds
        }
        of_group["pvals_adj"] = stats.false_discovery_control(of_group["pvals"])
        first = np.argsort(-of_group["scores"], kind="stable")[:n_genes]
        for name, values in of_group.items():
            columns[name].append(values[first])
    joined = {
        name: np.rec.fromarrays(arrays, dtype=kinds[name]) for name, arrays in columns.items()
    }
    shares = {name: pd.concat([entry[name] for entry in entries]) for name in ("pts", "pts_rest")}
    return {"params": entries[0]["params"]} | shares | joined
