"""What the page of a run shows, in one value.

Letters: N cells, C clusters, F features that were clustered. The command fills it from a run, a
notebook from an AnnData. What is None is left out of the page, with its heading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np
    import pandas as pd

    from estimation import Estimate

OF_CELLS = (
    *("proba", "uncertain", "umap", "depth", "mito", "labels", "batches", "logs"),
)  # fields with an entry, or a row, for each cell


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything that the page of a run needs; all but the first eight fields are optional.

    Parameters
    ----------
    name
        What the data are called.
    version
        Version of the suite, as `results.suite_version` has it.
    settings, source, environment
        The "settings" and the "data" of settings.json, and its other keys: "versions", "machine"
        and, if they are there, "suite_commit" and "command".
    metrics
        The content of metrics.json; docs/outputs.md lists its keys.
    cells
        Names of the cells, shape (N,).
    clusters
        Cluster of each cell, categorical, shape (N,); a missing one is shown as "none".
    proba
        Probability of each cluster, shape (N, C), columns in the order of the categories.
    uncertain
        Which cells are marked as uncertain, shape (N,).
    umap
        Map of the cells, shape (N, 2).
    depth
        Counts of each cell, or its size factor, shape (N,), all above 0; `depth_name` says which.
    mito
        Share of mitochondrial counts of each cell, from 0 to 1, shape (N,).
    labels, batches
        Known cell type and batch of each cell as text, shape (N,); missing values are allowed.
    logs
        Logarithms of the normalised counts, cells x all genes, sparse or dense, in X.
    markers
        Table with columns cluster, rank (from 1), gene (as in `logs.var_names`), score,
        log2_fold_change, share_in, share_out and p_adjusted, and perhaps symbol.
    suggestions
        Table of cell types, with columns cluster, cell_type, score, runner_up, runner_up_score,
        margin and genes.
    estimate
        How the number of clusters was estimated.
    splits
        Table of `report.alternatives.alternatives`.
    history
        Losses of each epoch: rows with phase, epoch, total, adj, zinb and kl.
    mixing
        Measures of how batches are mixed: {"before": {name: value}, "after": {name: value}}; what
        else is in it, such as the number of batches, is not shown.
    warnings
        Sentences for the top of the page.
    """

    name: str
    version: str
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Mapping[str, Any]
    cells: np.ndarray
    clusters: pd.Categorical
    proba: np.ndarray | None = None
    uncertain: np.ndarray | None = None
    umap: np.ndarray | None = None
    depth: np.ndarray | None = None
    depth_name: str = "size factor"
    mito: np.ndarray | None = None
    labels: Sequence[Any] | np.ndarray | pd.Series | None = None
    batches: Sequence[Any] | np.ndarray | pd.Series | None = None
    logs: ad.AnnData | None = None
    markers: pd.DataFrame | None = None
    suggestions: pd.DataFrame | None = None
    estimate: Estimate | None = None
    splits: pd.DataFrame | None = None
    history: Sequence[Mapping[str, Any]] = ()
    mixing: Mapping[str, Any] | None = None
    warnings: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Raise ValueError where a field for each cell has another number of cells."""
        for name in ("clusters", *OF_CELLS):
            values = getattr(self, name)
            n_cells = getattr(values, "n_obs", None) if name == "logs" else None
            if values is not None and (n_cells or len(values)) != self.n_cells:
                raise ValueError(f"{name} has {n_cells or len(values)} cells, not {self.n_cells}")

    @property
    def n_cells(self) -> int:
        """The number of cells N."""
        return len(self.cells)

    @property
    def cluster_names(self) -> list[str]:
        """The names of the clusters, in the order of the categories."""
        return [str(name) for name in self.clusters.categories]

    @property
    def codes(self) -> np.ndarray:
        """The place of each cell's cluster in `cluster_names`, -1 for none, shape (N,)."""
        return self.clusters.codes
