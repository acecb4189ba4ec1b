"""The AnnData that a run leaves: everything of the input, with the run's keys beside it.

`annotate` puts the outcome into the prepared data, which have some of the cells and genes only;
`complete` takes it from there to the cells and genes of the input. Letters: N cells, D latent size,
F features that are clustered, C clusters.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import batches
import csr_blocks
import views
from new_cells import novelty
from readers import keep_aside

if TYPE_CHECKING:
    import anndata as ad

    from results import Fitted, Prediction

log = logging.getLogger("sctag")

# Columns that a run's AnnData has of its own, whatever the input has under these names.
COLUMNS = {
    "obs": ("sctag", "size_factor", "sctag_uncertain"),
    "var": ("sctag_gene", "sctag_log_gene"),
}
# Keys of a run's own in the other parts; those that only some settings give as well.
KEYS = {
    "obsm": (
        *("X_sctag", "X_sctag_joint", "sctag_proba", "X_umap", views.COMPONENTS, views.LOGS),
        *("sctag_denoised", "sctag_dropout"),
        *(views.COMPONENTS + batches.UNCORRECTED, views.LOGS + batches.UNCORRECTED),
    ),
    "obsp": ("connectivities", "distances"),  # the only names by which scanpy takes a graph unasked
    "varm": ("PCs",),  # what scanpy says of the input's X_pca, as uns["pca"] does
    # log1p says how raw of the input was made, umap its X_umap; the others are of `overview.add`
    "uns": (
        *("sctag", "neighbors", "log1p", "rank_genes_groups", "sctag_markers", "sctag_types"),
        *("sctag_colors", "pca", "umap"),
    ),
}
# Those of the labels that a run gives to new cells, and what says that they are there.
NEW_COLUMNS = {"obs": ("sctag", "sctag_probability", "sctag_novelty", "sctag_unlike")}
NEW_KEYS = {"obsm": ("X_sctag", "X_sctag_joint", "sctag_proba")}
PREDICTED_BY = "sctag_prediction"


def annotate(
    prepared: ad.AnnData, fitted: Fitted, *, settings: dict[str, Any], **notes: Any
) -> None:
    """Put the outcome of a network into its prepared AnnData under keys that scanpy users expect.

    Sets obs["sctag"] (labels, categorical), obsm["X_sctag"] (N, D), obsm["X_sctag_joint"] (N, F) if
    components were clustered beside it, obsm["sctag_proba"] (N, C), in uns["sctag"], as JSON text,
    the settings, the history, how the number was estimated, and the notes that are given, and in
    uns["neighbors"] what scanpy's next steps, such as `sc.tl.leiden`, need to know of the network's
    graph, which `complete` puts where they look for it.
    """
    import pandas as pd

    trained = fitted.trained
    assert trained is not None
    groups = [str(group) for group in range(trained.q.shape[1])]
    names = [str(label) for label in fitted.labels]
    prepared.obs["sctag"] = pd.Categorical(names, categories=groups)
    prepared.obsm["X_sctag"] = trained.z
    if trained.points.shape != trained.z.shape:
        prepared.obsm["X_sctag_joint"] = trained.points
    prepared.obsm["sctag_proba"] = trained.q
    prepared.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {
            "n_neighbors": settings["k_neighbors"],
            "method": "umap",  # what scanpy's umap asks of a graph without a warning
            "metric": "euclidean",
            "random_state": settings["seed"],
            "use_rep": "X_sctag",
        },
    }
    notes |= {"settings": settings, "history": trained.history}
    if fitted.number.estimate is not None:
        notes["estimate"] = fitted.number.estimate._asdict()
    prepared.uns["sctag"] = prepared.uns["sctag"] | {
        name: json.dumps(note) for name, note in notes.items()
    }


def complete(
    prepared: ad.AnnData, target: ad.AnnData, cells: np.ndarray, genes: np.ndarray
) -> None:
    """Put the outcome, in place, into the AnnData that the prepared data were made of.

    What the target has under the run's keys is kept as KEY_before, unless an earlier run has left
    it. Its X stays; its raw becomes the logarithms of all genes with counts, from which scanpy
    takes markers and the colours of plots. Cells that the prepared data lack have no cluster, NaN
    in arrays, no neighbours, and no logarithms.

    Parameters
    ----------
    prepared
        Data with the keys of `preprocess.prepare` and of `annotate`.
    target
        The cells and genes of the input, N' x G'.
    cells, genes
        Positions of the prepared cells (N,) and of the genes of `prepared.raw` in the target.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that repeat, as those of a notebook may
        _complete(prepared, target, cells, genes)


def _complete(
    prepared: ad.AnnData, target: ad.AnnData, cells: np.ndarray, genes: np.ndarray
) -> None:
    _keep_own(target, COLUMNS, KEYS, left_by="sctag")
    size = (target.n_obs, target.n_obs)
    target.obs = target.obs.drop(columns=COLUMNS["obs"], errors="ignore")
    for name in ("sctag", "size_factor"):
        target.obs[name] = _at(prepared.obs[name], cells, target.n_obs)
    for key in KEYS["obsm"]:
        target.obsm.pop(key, None)
        if key in prepared.obsm:
            values = np.asarray(prepared.obsm[key])
            target.obsm[key] = spread(values, cells, target.n_obs)
    for key, of_graph in zip(KEYS["obsp"], (views.graph, views.graph_distances), strict=True):
        target.obsp.pop(key, None)
        target.obsp[key] = _moved(of_graph(prepared), cells, cells, size)
    for key in KEYS["varm"]:
        target.varm.pop(key, None)
    raw = prepared.raw
    marks = {"sctag_gene": raw.var_names.isin(prepared.var_names)}
    if views.LOG_GENES in raw.var:
        marks["sctag_log_gene"] = raw.var[views.LOG_GENES].to_numpy()
    target.var = target.var.drop(columns=COLUMNS["var"], errors="ignore")
    for name, mark in marks.items():
        target.var[name] = np.isin(np.arange(target.n_vars), genes[mark])
    for key in KEYS["uns"]:
        target.uns.pop(key, None)
        if key in prepared.uns:
            target.uns[key] = dict(prepared.uns[key])
    target.raw = _logarithms(prepared, target, cells, genes)


def annotate_new(target: ad.AnnData, prediction: Prediction, notes: dict[str, Any]) -> None:
    """Put the labels that a run gives to new cells, in place, into their AnnData.

    Sets obs["sctag"] (categorical), ["sctag_probability"], ["sctag_novelty"] and ["sctag_unlike"]
    (bool), obsm["X_sctag"], ["X_sctag_joint"] where components were clustered, ["sctag_proba"], and
    the notes as JSON text in uns["sctag_prediction"]. What the target has under these names is kept
    as KEY_before, unless an earlier prediction has left it. Cells without counts have no cluster,
    NaN in arrays, and are not marked.
    """
    _keep_own(target, NEW_COLUMNS, NEW_KEYS, left_by=PREDICTED_BY)
    cells = prediction.cells

    def at_cells(values: np.ndarray) -> np.ndarray:
        return spread(values, cells, target.n_obs)

    groups = [str(group) for group in range(prediction.q.shape[1])]
    target.obs["sctag"] = _clusters_at(prediction.labels, groups, cells, target.n_obs)
    target.obs["sctag_probability"] = at_cells(prediction.q.max(axis=1))
    target.obs["sctag_novelty"] = at_cells(prediction.novelty)
    target.obs["sctag_unlike"] = np.isin(np.arange(target.n_obs), cells[prediction.unlike])
    for key in NEW_KEYS["obsm"]:
        target.obsm.pop(key, None)
    target.obsm["X_sctag"] = at_cells(prediction.z)
    if prediction.points.shape != prediction.z.shape:
        target.obsm["X_sctag_joint"] = at_cells(prediction.points)
    target.obsm["sctag_proba"] = at_cells(prediction.q)
    target.uns[PREDICTED_BY] = json.dumps(notes)


def _keep_own(
    target: ad.AnnData,
    columns: Mapping[str, tuple[str, ...]],
    keys: Mapping[str, tuple[str, ...]],
    *,
    left_by: str,
) -> None:
    """Rename what the target has of its own under a job's keys, and log what it became.

    Nothing is renamed where uns[left_by] says that an earlier job of the kind has left it.

    Parameters
    ----------
    target
        Data that are about to get the keys.
    columns
        The columns of the job, by the axis, "obs" or "var".
    keys
        Its keys in the other parts, by the part's name.
    left_by
        The key of uns by which such a job is known.
    """
    if left_by in target.uns:
        return
    renamed = []
    for axis, names in columns.items():
        renamed += [f"{axis}[{old!r}]" for old in keep_aside(getattr(target, axis), names)]
    for part, names in keys.items():
        values = getattr(target, part)
        for key in names:
            if key not in values:
                continue
            new = f"{key}_before"
            while new in values:
                new += "_before"
            values[new] = values.pop(key)
            renamed.append(f"{part}[{key!r}]")
    if "uns['neighbors']" in renamed:  # scanpy's note on the graph names the keys of the graph
        note = dict(target.uns["neighbors_before"])
        for key in KEYS["obsp"]:
            if note.get(f"{key}_key") == key:
                note[f"{key}_key"] = f"{key}_before"
        target.uns["neighbors_before"] = note
    if renamed:
        log.info("kept      of the input, with _before at the end: %s", ", ".join(renamed))


def points_of(adata: ad.AnnData) -> np.ndarray:
    """Return what was clustered, shape (N, F), of an AnnData with the keys of a run."""
    return adata.obsm["X_sctag_joint" if "X_sctag_joint" in adata.obsm else "X_sctag"]


def spread(values: np.ndarray, positions: np.ndarray, length: int) -> np.ndarray:
    """Return the rows of an array at their cells' positions among all cells, NaN elsewhere."""
    whole = np.full((length, *values.shape[1:]), np.nan, values.dtype)
    whole[positions] = values
    return whole


def _at(column: Any, positions: np.ndarray, length: int) -> Any:
    """Return the values of a column at their cells' positions, missing elsewhere."""
    import pandas as pd

    if not isinstance(column.dtype, pd.CategoricalDtype):
        return spread(column.to_numpy(), positions, length)
    return _clusters_at(column.cat.codes, column.cat.categories, positions, length)


def _clusters_at(codes: Any, groups: Any, positions: np.ndarray, length: int) -> Any:
    """Return a categorical of codes and groups at their cells' positions, missing elsewhere."""
    import pandas as pd

    whole = np.full(length, -1)
    whole[positions] = codes
    return pd.Categorical.from_codes(whole, groups)


def _moved(matrix: Any, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Any:
    """Return a sparse matrix whose entries stand at other rows and columns, as CSR."""
    import scipy.sparse as sp

    entries = matrix.tocoo()
    places = (rows[entries.row], columns[entries.col])
    return sp.csr_matrix((entries.data, places), shape=shape)


def _logarithms(
    prepared: ad.AnnData, target: ad.AnnData, cells: np.ndarray, genes: np.ndarray
) -> ad.AnnData:
    """Return the logarithms of all genes with counts, of the cells of the target."""
    import anndata

    matrix = prepared.raw.X
    if len(cells) < target.n_obs:
        matrix = csr_blocks.spread_rows(matrix, cells, target.n_obs)
    logs = anndata.AnnData(matrix, var=target.var.iloc[genes].copy())
    logs.obs_names = target.obs_names
    return logs


def add_expected(target: ad.AnnData, expected: Any, cells: np.ndarray) -> None:
    """Set, in place, obsm["sctag_denoised"] and ["sctag_dropout"] of a completed AnnData.

    They are what the count decoder expects (`model.ExpectedCounts`) of the prepared cells, whose
    positions in the target are given, and NaN elsewhere.
    """
    for key, values in (("sctag_denoised", expected.mean), ("sctag_dropout", expected.pi)):
        target.obsm[key] = spread(values, cells, target.n_obs)


def denoised(prepared: ad.AnnData, expected: Any, *, with_pi: bool) -> ad.AnnData:
    """Return what the count decoder expects (`model.ExpectedCounts`) as an AnnData of its own.

    X is the mean for a cell of the median depth, layers["dropout"] the probability of a dropout
    where the likelihood knows one; obs and var are those of the prepared data.
    """
    import anndata

    return anndata.AnnData(
        expected.mean,
        obs=prepared.obs.copy(),
        var=prepared.var[[]].copy(),
        layers={"dropout": expected.pi} if with_pi else {},
    )


def compact(prepared: ad.AnnData) -> ad.AnnData:
    """Return the prepared data as `new_cells.preparing` needs them, and no more.

    Without the input's own annotation, and with nothing of raw but which genes counted, what the
    second view is made of, and by what new cells are judged (`novelty.profiles`).
    """
    import anndata
    import scipy.sparse as sp

    raw = prepared.raw
    of_cells = ("sctag", "size_factor", batches.COLUMN)
    of_genes = (views.MEAN_COUNT, views.LOG_GENES, views.LOG_MEAN)
    columns = [name for name in of_genes if name in raw.var]
    kept = anndata.AnnData(
        prepared.X,
        obs=prepared.obs[[name for name in of_cells if name in prepared.obs]],
        var=prepared.var[["mean", "std"]],
        layers={"counts": prepared.layers["counts"]},
        obsm=dict(prepared.obsm),
        obsp=dict(prepared.obsp),
        uns={key: value for key, value in prepared.uns.items() if key != "neighbors"},
    )
    groups = prepared.obs["sctag"].cat
    known = novelty.profiles(prepared, groups.codes.to_numpy(), n_clusters=len(groups.categories))
    kept.obs[novelty.DEVIANCE] = known.cells
    kept.raw = anndata.AnnData(
        sp.csr_matrix(raw.shape, dtype=np.float32),
        obs=kept.obs[[]],
        var=raw.var[columns].assign(**{novelty.DEVIANCE: known.genes}),
        varm=dict(raw.varm) | {novelty.PROFILES: known.totals},
    )
    return kept
