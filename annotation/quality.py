"""Doubts about clusters: those that follow depth, damage or a batch rather than biology.

Letters: N cells, G genes, C clusters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import csr_blocks
from annotation import genes

if TYPE_CHECKING:  # slow to import
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

# By symbol: of man (MT-CO1), mouse (mt-Co1), fly (mt:CoI) and of tables of R (MT.CO1), perhaps
# behind the name of a genome (GRCh38_MT-CO1, mm10___mt-Co1). By identifier, the protein-coding
# genes of human and mouse (Ensembl), from ND1 along the genome to CYTB.
MITOCHONDRIAL = re.compile(r"(.*_)?mt[-:.].+", re.I)
_HUMAN = (
    *(198888, 198763, 198804, 198712, 228253, 198899, 198938),
    *(198840, 212907, 198886, 198786, 198695, 198727),
)
_MOUSE = (64341, 64345, 64351, 64354, 64356, 64357, 64358, 64360, 65947, 64363, 64367, 64368, 64370)
MITOCHONDRIAL_IDS = frozenset(
    [f"ENSG{number:011}" for number in _HUMAN] + [f"ENSMUSG{number:011}" for number in _MOUSE]
)

# A cell is uncertain if its second cluster is at least half as probable as its first. The largest
# probability itself says little: with Student's t over the distances to many centres it is low
# for every cell. In runs on 20 public data sets with known types it was below a half in 32 % of the
# cells, from 0 % (3 clusters) to 80 % (10 clusters). The rule here marks 16 % of the cells on
# average, from 0 to 38 %: 5 % of Pollen, 23 % of pbmc68k_reduced, 38 % where types overlap
# (PBMC_sorted7, Joost_skin). The most frequent type of their cluster is that of 69 % of the cells
# that it marks, and of 93 % of the others. At two thirds instead it would mark 8 %, of which 61 %.
RIVAL = 0.5

MOSTLY_MITOCHONDRIAL, TIMES_THE_REST = 0.2, 2.0  # median share; over that of the other cells
SHALLOW = 0.2  # median depth, as a share of that of the other cells
# Of the variance of log depth, what clusters explain: the known types of the 20 data sets explain
# from 4 to 56 %, and the clusters of scTAG from 2 to 55 %. In pbmc68k_reduced the clusters explain
# 62 %, the types 47 %: scTAG splits the dendritic cells there, and the deepest are a cluster.
FOLLOWS_DEPTH = 0.6
OF_ONE_BATCH, BATCH_SHARE = 0.9, 0.5  # more of the cluster than that, less of all cells than that
FEWEST = 10  # cells of a cluster that may be of one batch by more than chance
LEAST_AGREEMENT = 0.7  # mean ARI of the clusterings and their consensus
MANY_UNCERTAIN, UNCERTAIN_CLUSTER = 1 / 3, 0.5  # shares of all cells, and of a cluster's


class Cells(NamedTuple):
    """What technique leaves in each cell, arrays of shape (N,).

    Parameters
    ----------
    depth
        Counts, above zero.
    n_genes
        Genes with counts.
    mitochondrial
        Share of the counts in mitochondrial genes; None if no gene is known to be one.
    """

    depth: np.ndarray
    n_genes: np.ndarray
    mitochondrial: np.ndarray | None


def measure(logs: ad.AnnData, depth: np.ndarray) -> Cells:
    """Return the depth, the number of genes and the mitochondrial share of cells.

    Parameters
    ----------
    logs
        In X, CSR without stored zeros, the natural logarithm of 1 + count / size factor of all
        genes, shape (N, G).
    depth
        Counts of each cell, shape (N,), above zero, or anything in proportion to them, such as
        size factors.
    """
    marks = mitochondrial_genes(logs.var)
    share = None
    if marks is not None:
        rows = csr_blocks.row_slices(logs.X)
        blocks = (csr_blocks.rows_of(logs.X, some).expm1() for some in rows)
        share = np.concatenate([_share(block, marks) for block in blocks])
    return Cells(np.asarray(depth, np.float64), np.diff(logs.X.indptr), share)


def mitochondrial_share(counts: sp.csr_matrix, var: pd.DataFrame) -> np.ndarray | None:
    """Return the share of each cell's counts that is mitochondrial, (N,), 0 for a cell without any.

    Parameters
    ----------
    counts
        Shape (N, G); each cell may be divided by a number of its own, such as its size factor.
    var
        Annotation of the genes. Their names, or the symbols of `genes.symbols`, have MT- or mt- in
        front of the mitochondrial ones, or are identifiers of Ensembl for human or mouse.

    Returns
    -------
    The shares, or None if none of the genes is known to be mitochondrial.
    """
    marks = mitochondrial_genes(var)
    if marks is None:
        return None
    blocks = (csr_blocks.rows_of(counts, rows) for rows in csr_blocks.row_slices(counts))
    return np.concatenate([_share(block, marks) for block in blocks])


def mitochondrial_genes(var: pd.DataFrame) -> np.ndarray | None:
    """Return 1 for each mitochondrial gene, else 0, (G,); None if no gene is known to be one."""
    names = genes.symbols(var)
    marks = np.array(
        [
            MITOCHONDRIAL.fullmatch(str(name)) is not None
            or str(name).split(".")[0] in MITOCHONDRIAL_IDS
            for name in (var.index if names is None else names)
        ],
        np.float64,
    )
    return marks if marks.any() else None


def _share(counts: sp.csr_matrix, marks: np.ndarray) -> np.ndarray:
    """Return the share of each cell's counts (N, G) that is of the marked genes, (N,)."""
    depth = np.asarray(counts.sum(axis=1), np.float64).ravel()
    return counts @ marks / np.where(depth > 0, depth, 1)


def uncertain(proba: np.ndarray) -> np.ndarray:
    """Return which cells might as well be in another cluster, shape (N,), bool.

    These are the cells of which the second largest probability is at least half the largest: see
    `RIVAL`. The probabilities, shape (N, C), are those of obsm["sctag_proba"].
    """
    if proba.shape[1] < 2:
        return np.zeros(len(proba), bool)
    second, first = np.partition(proba, -2, axis=1)[:, -2:].T
    return second >= RIVAL * first


def explained(values: np.ndarray, clusters: pd.Categorical) -> float:
    """Return which share of the variance of values (N,) clusters explain, from 0 to 1.

    It is eta squared, the variance between clusters over all, less what as many random clusters
    would explain: 1 - (1 - eta^2) (N - 1) / (N - C), but not below 0 (Kelley 1935).
    """
    codes = np.unique(clusters.codes, return_inverse=True)[1]
    sizes = np.bincount(codes)
    n_cells, n_clusters = len(codes), len(sizes)
    total = ((values - values.mean()) ** 2).sum()
    if total == 0 or n_cells == n_clusters:
        return 0.0
    within = ((values - (np.bincount(codes, values) / sizes)[codes]) ** 2).sum()
    return max(0.0, 1 - within / total * (n_cells - 1) / (n_cells - n_clusters))


def warnings_of(
    cells: Cells,
    clusters: pd.Categorical,
    *,
    batches: pd.Series | None = None,
    proba: np.ndarray | None = None,
    agreement: float | None = None,
) -> list[str]:
    """Return a sentence for each doubt about the clusters, without a full stop; none is a good run.

    Parameters
    ----------
    cells
        What `measure` returns.
    clusters
        Cluster of each cell, shape (N,); a category may be empty.
    batches
        The batch of each cell, shape (N,), if there are several.
    proba
        Probabilities of the clusters, shape (N, C), if the method has them.
    agreement
        Mean ARI of many clusterings and their consensus, metrics["agreement"], if there is one.
    """
    members = {
        str(name): clusters.codes == code
        for code, name in enumerate(clusters.categories)
        if (clusters.codes == code).any()
    }
    sentences = _of_damage(cells, members)
    share = explained(np.log(cells.depth), clusters)
    if share > FOLLOWS_DEPTH:
        sentences.append(
            f"the clusters follow depth: they explain {share:.0%} of the variance of the logarithm "
            "of a cell's counts, more than known cell types do"
        )
    if batches is not None:
        sentences += _of_batches(np.asarray(batches).astype(str), members)
    if agreement is not None and agreement < LEAST_AGREEMENT:
        sentences.append(
            f"the clusterings agree little with their consensus (mean ARI {agreement:.2f}, below "
            f"{LEAST_AGREEMENT:g}): the data may not have this number of clusters"
        )
    if proba is not None:
        sentences += _of_uncertainty(uncertain(proba), members)
    if single := [name for name, cluster in members.items() if cluster.sum() == 1]:
        sentences.append(f"{_named(single)} of a single cell, which may be an outlier")
    return sentences


def _named(names: list[str]) -> str:
    """Return the subject of a sentence and its verb: cluster 3 is, or clusters 3 and 5 are."""
    if len(names) == 1:
        return f"cluster {names[0]} is"
    return f"clusters {', '.join(names[:-1])} and {names[-1]} are"


def _of_damage(cells: Cells, members: dict[str, np.ndarray]) -> list[str]:
    """Return a sentence for each cluster that is rich in mitochondrial counts or shallow."""
    sentences = []
    for name, cluster in members.items():
        if cluster.all():
            continue
        if cells.mitochondrial is not None:
            share = np.median(cells.mitochondrial[cluster])
            rest = np.median(cells.mitochondrial[~cluster])
            if share > MOSTLY_MITOCHONDRIAL and share > TIMES_THE_REST * rest:
                sentences.append(
                    f"cluster {name} is rich in mitochondrial counts, as damaged cells are: a "
                    f"median share of {share:.0%}, and {rest:.0%} in the other cells"
                )
        ratio = np.median(cells.depth[cluster]) / np.median(cells.depth[~cluster])
        if ratio < SHALLOW:
            few = np.median(cells.n_genes[cluster])
            sentences.append(
                f"cluster {name} is shallow, as empty droplets and debris are: its median cell has "
                f"{ratio:.0%} of the counts of that of the others, in {few:.0f} genes"
            )
    return sentences


def _of_batches(batches: np.ndarray, members: dict[str, np.ndarray]) -> list[str]:
    """Return a sentence if clusters are nearly all of a batch that most of the cells are not of.

    Batches are names, shape (N,).
    """
    of_one = {}
    for name, cluster in members.items():
        names, counts = np.unique(batches[cluster], return_counts=True)
        batch, share = str(names[counts.argmax()]), counts.max() / cluster.sum()
        of_all = np.mean(batches == batch)
        if cluster.sum() >= FEWEST and share > OF_ONE_BATCH and of_all < BATCH_SHARE:
            of_one[name] = f"{share:.0%} from {batch!r}, which has {of_all:.0%} of all cells"
    if not of_one:
        return []
    each = " each" if len(of_one) > 1 else ""
    return [f"{_named(list(of_one))}{each} of one batch: {'; '.join(of_one.values())}"]


def _of_uncertainty(doubtful: np.ndarray, members: dict[str, np.ndarray]) -> list[str]:
    """Return a sentence if many cells are uncertain, and one for the clusters in which most are."""
    sentences = []
    if (share := doubtful.mean()) > MANY_UNCERTAIN:
        sentences.append(
            f"{share:.0%} of the cells are uncertain: another cluster is at least half as probable"
        )
    doubted = [
        name for name, cluster in members.items() if doubtful[cluster].mean() > UNCERTAIN_CLUSTER
    ]
    if doubted:
        sentences.append(
            f"{_named(doubted)} uncertain: another cluster is at least half as probable for most "
            "of the cells"
        )
    return sentences
