"""scTAG for notebooks: cluster the cells of an AnnData, or give new cells to a run's clusters.

    import sctag
    adata = sctag.cluster(adata)              # finds the number of clusters
    adata.obs["sctag"]                        # a cluster for each cell
    sctag.report(adata)                       # shows itself
    new = sctag.predict("results/NAME/sctag-seed1", new)  # by a finished run of train.py

The results are those of the command `train.py` with the same data and settings. What cannot be used
raises a ValueError with one sentence (`utils.InputError`).
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import console
import devices
import fitting
import keeper
import pipeline
import results
import threads
import utils
from new_cells import prediction
from outcome import annotated, overview, workspace
from settings import Settings
from utils import InputError

if TYPE_CHECKING:
    import anndata as ad

    from report import Report

__all__ = ["cluster", "embed", "predict", "read", "report"]

# Settings that say where a command reads and writes; an AnnData is neither read nor written.
OF_FILES = (
    *("dataname", "data", "data_dir", "genome", "transpose", "gene_key", "label_key", "labels"),
    *("cells", "out", "overwrite", "no_h5ad", "log_file"),
)


def read(path: str | Path, **choices: Any) -> ad.AnnData:
    """Read a file or folder of any format that the command reads, with everything that it holds.

    Parameters
    ----------
    path
        What `train.py --data` takes: its contents decide the format.
    **choices
        `layer`, `genome`, `transpose` and `gene_key`, as the settings of the command.

    Returns
    -------
    The AnnData, with raw counts in X.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    import readers

    return readers.read(path, **choices, whole=True, raw=True)


def cluster(
    adata: ad.AnnData,
    n_clusters: int | str | None = None,
    *,
    variant: str = "sctag",
    seed: int = 1,
    copy: bool = True,
    quiet: bool = True,
    checkpoint_dir: str | Path | None = None,
    **flags: Any,
) -> ad.AnnData:
    """Cluster the cells of an AnnData with scTAG.

    Parameters
    ----------
    adata
        Raw counts in X, or in a layer (`layer="counts"`): cells x genes, sparse or dense.
    n_clusters
        The number of clusters; None or "auto" to have it estimated.
    variant
        "sctag", the method done right, or "official", the published code to the letter.
    seed
        Seed of everything random.
    copy
        Whether a copy gets the results, and the AnnData that is given stays as it is. Without a
        copy it also stays as it is where an error or an interruption ends the call.
    quiet
        Whether only warnings are printed, instead of all that the command prints.
    checkpoint_dir
        Folder for checkpoints of the training, of which none stays when it ends well. A call that
        is interrupted writes one; the same call with `resume=True` goes on from there.
    **flags
        Any other setting of the command, such as `highly_genes=1000` (`train.py --help`).

    Returns
    -------
    The AnnData with all of its cells, genes and matrices, and the keys of sctag.h5ad:
    obs["sctag"] (cluster) and obs["size_factor"]; obsm["X_sctag"] (embedding), ["X_sctag_joint"]
    (what was clustered), ["sctag_proba"] (probabilities), ["X_pca"] and ["X_pca_logs"], and,
    of data with batches (`batch_key="donor"`), both before the correction, with "_uncorrected" at
    the end of the key; obsp["connectivities"] and ["distances"] (the network's graph);
    var["sctag_gene"] and ["sctag_log_gene"]; raw (logarithms of all genes with counts);
    uns["sctag"] (JSON), and uns["neighbors"], by which scanpy's next steps take that
    graph. Unless with `no_report`, also obsm["X_umap"], obs["sctag_uncertain"], markers in
    uns["rank_genes_groups"] and ["sctag_markers"], and with `markers="types.csv"` suggested types
    in uns["sctag_types"]. With `denoised` also obsm["sctag_denoised"] and ["sctag_dropout"], what
    the count decoder expects of the genes of var["sctag_gene"], in their order. What was there
    under these names is kept with _before at the end, or replaced if an earlier call has left it.
    Cells without counts, and those that `subset`, a filter or `subsample` leaves out, have no
    cluster, and NaN.

    Raises
    ------
    InputError
        A ValueError: if the data or a setting cannot be used.
    TrainingError
        If a loss is not finite.
    """
    given = flags | {"n_clusters": n_clusters, "seed": seed, "quiet": quiet}
    settings = _settings_of(variant, given)
    limits = contextlib.ExitStack()
    with _in_words_of_python(), console.in_notebook(quiet=quiet), limits:
        import preprocess
        from inputs import selection

        fitting.check(settings)
        if settings.resume and checkpoint_dir is None:
            raise InputError("resume goes on from a checkpoint: name its folder, checkpoint_dir")
        counts, where = _numbered(adata, settings.layer)
        if settings.batch_key is not None:
            counts.obs = adata.obs.set_axis(counts.obs_names)
        named = _named(counts, adata, where)
        cells = selection.kept(named, settings, selection.request(settings), seed=seed)
        chosen = counts if cells.all() else counts[cells].copy()
        limits.enter_context(threads.suited_to(chosen.n_obs))
        with console.status("preparing the data", quiet=quiet):
            prepared = preprocess.prepare(chosen, settings, seed=seed, where=where)
        selection.warn_of_poor_cells(named[cells])
        if settings.markers is not None:
            from annotation import cell_types

            with_counts = prepared.raw.var_names.to_numpy().astype(int)
            cell_types.check(adata.var.iloc[with_counts], settings.markers)
        number = pipeline.request_number(prepared, None, settings)
        folder = None if checkpoint_dir is None else Path(checkpoint_dir)
        with keeper.keeping(folder, settings, anew="another folder") as kept:
            fitted = fitting.fit(prepared, number, settings, utils.Stopwatch(), keeper=kept)
        metrics = pipeline.metrics_of(fitted, prepared, None)
        notes = {name: value for name, value in settings.to_json().items() if name not in OF_FILES}
        annotated.annotate(
            prepared, fitted, settings=notes, metrics=metrics, environment=results.environment()
        )
        work = workspace.workspace_of(adata)
        cells = prepared.obs_names.to_numpy().astype(int)
        genes = prepared.raw.var_names.to_numpy().astype(int)
        annotated.complete(prepared, work, cells, genes)
        if fitted.trained and fitted.trained.expected:
            annotated.add_expected(work, fitted.trained.expected, cells)
        if not settings.no_report:
            overview.add(work, settings)
        target = adata.copy() if copy else adata
        workspace.take_over(target, work)
    return target


def report(adata: ad.AnnData, *, label_key: str | None = None, name: str = "adata") -> Report:
    """Return the page of a run, as the command writes it, for an AnnData that `cluster` returned.

    Parameters
    ----------
    adata
        What `cluster` returned, with all of the keys that it set.
    label_key
        Column of obs with known cell types, to be shown beside the clusters.
    name
        What the page calls the data.

    Returns
    -------
    The report: as the last line of a notebook's cell it shows itself, `report.save("report.html")`
    writes it.

    Raises
    ------
    InputError
        If the AnnData has no outcome of `cluster`, or was clustered with `no_report`, or has no
        such column.
    """
    from report import Report

    if "sctag" not in adata.uns or "X_umap" not in adata.obsm or overview.MARKERS not in adata.uns:
        raise InputError("adata has no outcome to report: give what sctag.cluster(adata) returned")
    if label_key is not None and label_key not in adata.obs:
        present = ", ".join(map(str, adata.obs.columns))
        raise InputError(f"adata.obs has no column {label_key!r}, choose from: {present}")
    labels = None if label_key is None else adata.obs[label_key]
    return Report(overview.content(adata, name=name, labels=labels))


def embed(run_dir: str | Path, adata: ad.AnnData, *, layer: str | None = None) -> np.ndarray:
    """Embed cells with the network of a finished run, over the kNN graph of these cells.

    The cells are prepared with the genes, size factors, z-scores and components of the run. For the
    run's own cells the result is its obsm["X_sctag"], but for rounding.

    Parameters
    ----------
    run_dir
        Results folder of `train.py`.
    adata
        Raw counts of all genes, cells x genes, in X or in a layer. It is not changed.
    layer
        The layer that holds the counts, instead of X.

    Returns
    -------
    z, shape (N, D), with NaN for cells without counts.

    Raises
    ------
    InputError
        If the folder holds no run, or one that has corrected batches, or the data lack most of its
        genes or are no raw counts.
    """
    folder = _folder_of(run_dir, "embed")
    settings = prediction.settings_of(folder)
    reference, network = prediction.load(folder, settings)
    import tensors
    from new_cells import preparing

    with _in_words_of_python():
        counts, where = _with_genes(adata, layer)
        prepared = preparing.prepare_like(
            counts, reference, settings, seed=settings.seed, where=where
        )
    with devices.tensorflow_session():
        graph = tensors.graph_tensors(prepared, settings, dtype=network.product_dtype)
        z = network.encode(graph, training=False).numpy()
    return annotated.spread(z, prepared.obs_names.astype(int), adata.n_obs)


def predict(
    run_dir: str | Path, adata: ad.AnnData, *, layer: str | None = None, quiet: bool = True
) -> ad.AnnData:
    """Give new cells to the clusters of a finished run, as the command `predict.py` does.

    Nothing is trained. Each cell is joined to its nearest cells of the run, and its label does not
    depend on the other new cells.

    Parameters
    ----------
    run_dir
        Results folder of `train.py`.
    adata
        Raw counts of new cells, cells x genes, in X or in a layer, with the genes named as in the
        run. Up to half of the genes that the network reads may be missing. It is not changed.
    layer
        The layer that holds the counts, instead of X.
    quiet
        Whether only warnings are printed.

    Returns
    -------
    A copy with obs["sctag"] (cluster), ["sctag_probability"], ["sctag_novelty"] (how unlike the
    run's cells of the same depth) and ["sctag_unlike"] (unlike all of them: the label says little);
    obsm["X_sctag"], ["X_sctag_joint"], ["sctag_proba"]; uns["sctag_prediction"]. What was there
    under these names is kept with _before at the end. Cells without counts have no cluster, and
    NaN.

    Raises
    ------
    InputError
        A ValueError: if the folder holds no run, or the data cannot be used.
    """
    folder = _folder_of(run_dir, "predict")
    with _in_words_of_python(), console.in_notebook(quiet=quiet):
        settings = prediction.settings_of(folder)
        counts, where = _with_genes(adata, layer)
        predicted = prediction.predict(counts, folder, settings, where=where)
        target = adata.copy()
        annotated.annotate_new(target, predicted, prediction.model_record(folder))
    return target


def _folder_of(run_dir: str | Path, name: str) -> Path:
    """Return the results folder that a function was given, where it is one."""
    if not isinstance(run_dir, str | Path):
        raise InputError(f"the results folder comes first: sctag.{name}(folder, adata)")
    return Path(run_dir)


@contextlib.contextmanager
def _in_words_of_python() -> Iterator[None]:
    """Have an InputError of the block name settings as Python does, without the leading dashes."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"--(?=[a-z])", "", str(error))) from None


def _settings_of(variant: str, given: dict[str, Any]) -> Settings:
    """Return the settings that a notebook gives; InputError for those of the command alone."""
    for name in given:
        if name in OF_FILES:
            raise InputError(f"the setting {name} is for files, by the command: it has no use here")
    if given.get("strategy") == "multiworker":
        raise InputError('strategy="multiworker" is for the command, one process for each worker')
    if given["n_clusters"] == "labels":
        raise InputError('n_clusters="labels" is for the command: give a number, or None')
    return Settings.of(variant, **given)


def _numbered(adata: ad.AnnData, layer: str | None) -> tuple[ad.AnnData, str]:
    """Return the counts alone, named by positions as names may repeat, and what they are called."""
    import anndata

    if not isinstance(adata, anndata.AnnData):
        kind = type(adata).__name__
        raise InputError(f"an AnnData is needed, not {kind}: read a file with scanpy.read_h5ad")
    if layer is not None and layer not in adata.layers:
        present = ", ".join(adata.layers) or "none is there"
        raise InputError(f"adata has no layer {layer!r}, choose from: {present}")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise InputError('adata.X is empty: name the layer that holds the counts, layer="counts"')
    counts = anndata.AnnData(matrix)
    counts.obs_names = np.arange(adata.n_obs).astype(str)
    counts.var_names = np.arange(adata.n_vars).astype(str)
    return counts, "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def _named(counts: ad.AnnData, adata: ad.AnnData, where: str) -> ad.AnnData:
    """Return the counts with the annotation of an AnnData, by which cells are chosen."""
    import anndata

    from formats import raw_counts

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that names repeat: cells are told by their positions
        matrix = raw_counts.canonical(counts.X, where)
        return anndata.AnnData(matrix, obs=adata.obs, var=adata.var)


def _with_genes(adata: ad.AnnData, layer: str | None) -> tuple[ad.AnnData, str]:
    """Return what `_numbered` does, with the names of the genes, made unique as readers do."""
    import anndata

    counts, where = _numbered(adata, layer)
    counts.var_names = anndata.utils.make_index_unique(adata.var_names.astype(str))
    return counts, where
