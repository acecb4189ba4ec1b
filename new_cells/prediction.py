"""Labels for new cells by a finished run: nothing is trained, and no cell changes another's label.

A new cell is given the genes, the scale and the components of the run, joined to its nearest cells
of the run in the space of the run's graph, encoded by the frozen network, and assigned to the run's
clusters. The run's own cells do not see the new ones, so their embedding stays as it was.

Measured on PBMC_facs and Young with a fifth of the cells held out, see docs/outputs.md. Letters: N
cells of the run, N' new cells, P components, D latent size, F features that are clustered, C
clusters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import devices
import folders
import pipeline
import results
import supervise
import utils
from formats import bounds, hdf5
from results import Prediction
from settings import Settings, specs
from utils import InputError, Stopwatch

if TYPE_CHECKING:
    import anndata as ad

log = logging.getLogger("sctag")

MOST = 0.5  # share of the new cells that may be unlike the run's before there is a warning


# --- A finished run -------------------------------------------------------------------------------


def settings_of(folder: Path) -> Settings:
    """Return the settings of a finished run of `train.py`.

    Raises
    ------
    InputError
        If the folder holds no such run, or one that cannot take new cells.
    """
    if not (folder / results.SETTINGS).is_file():
        raise InputError(f"{folder} holds no finished run of train.py: name its results folder")
    with _readable(folder):
        record = json.loads((folder / results.SETTINGS).read_text())
        if "model" in record:
            run = record["model"]["folder"]
            raise InputError(f"{folder} holds labels that a run gave: name the run itself, {run}")
        names = record["settings"].keys()
    if not (folder / results.PREPARED).is_file():
        raise InputError(
            f"{folder} lacks {results.PREPARED}, it is a run of an earlier version, with "
            "--no_h5ad, or of another method: run train.py again"
        )
    if not names <= specs().keys():
        raise InputError(f"{folder} is a run of an earlier version: run it again to embed cells")
    return Settings.of(**record["settings"])


def model_record(folder: Path) -> dict[str, str]:
    """Return what a record says of the run that gave labels: its folder, and what its settings are.

    The checksum is of its settings.json, which has the one of its data.
    """
    settings = utils.sha256(folder / results.SETTINGS)
    return {"folder": str(folder), "settings_sha256": settings}


class Model(NamedTuple):
    """What a finished run knows of its cells: their prepared data, and the trained network."""

    reference: ad.AnnData
    network: Any


def load(folder: Path, settings: Settings) -> Model:
    """Start TensorFlow and return the model of a finished run; InputError if it is damaged."""
    devices.start_tensorflow(settings.gpu_option)
    import model

    reference = read_prepared(folder)
    with devices.tensorflow_session(), _readable(folder):
        return Model(reference, model.load(folder))


def read_prepared(folder: Path) -> ad.AnnData:
    """Return the prepared data of a finished run; InputError if they are damaged."""
    import anndata

    import views

    path = folder / results.PREPARED
    with _readable(folder), supervise.reading(path):
        bounds.check_hdf5(path)
        reference = anndata.read_h5ad(path)
        if views.MEAN_COUNT not in reference.raw.var:
            raise InputError(f"{folder} is a run of an earlier version: run it again")
        return reference


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Have what goes wrong in reading the files of a run be said in one sentence."""
    from anndata._io.specs.registry import IORegistryError

    try:
        yield
    except InputError:
        raise
    except (*hdf5.REFUSALS, IORegistryError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{folder} cannot be read as a run of train.py, it is damaged or of another version "
            f"({reason}): run it again"
        ) from None


# --- New cells ------------------------------------------------------------------------------------


def predict(adata: ad.AnnData, folder: Path, settings: Settings, *, where: str) -> Prediction:
    """Return what a finished run makes of new cells.

    Parameters
    ----------
    adata
        Raw counts of new cells in X, with unique names of cells, and genes named as in the run.
    folder, settings
        The run's results folder and its settings.
    where
        What X is called in an error message.

    Raises
    ------
    InputError
        If the run cannot be read, or the data lack its genes or are no raw counts.
    """
    from new_cells import preparing

    if settings.direction == "atx" and not settings.symmetric_graph:
        raise InputError(
            f"{folder} is a run with --direction atx over a directed graph, in which no cell "
            "lists a new one: it cannot take new cells"
        )
    reference, network = load(folder, settings)
    new = preparing.values_like(adata, reference, settings, where=where)
    if not new.n_obs:
        raise InputError(f"no cell of {where} has counts of the genes that the run used")
    from new_cells import novelty

    with devices.tensorflow_session():
        z = encode(network, reference, new, settings)[reference.n_obs :]
        points = clustered_points(reference, new, z)
        q = network.assign(points.astype(np.float32)).numpy()
    values, unlike = novelty.novelty(new, reference, q.argmax(axis=1))
    log.info("unlike    %d of %d cells are unlike all cells of the run", unlike.sum(), len(z))
    if unlike.mean() > MOST:
        log.warning(
            "warning: most of the new cells are unlike all cells of the run, as those of another "
            "chemistry are: whether a cell is marked says nothing here"
        )
    cells = adata.obs_names.get_indexer(new.obs_names)
    return Prediction(cells, z, points, q, values, unlike)


def encode(network: Any, reference: ad.AnnData, new: ad.AnnData, settings: Settings) -> np.ndarray:
    """Return the embedding of the run's cells and, below them, of new ones, shape (N + N', D).

    A new cell is joined to itself and to the k_neighbors - 1 nearest cells of the run. The
    adjacency is [[A, 0], [B, I]], with A that of the run, so that neither the run's cells nor other
    new ones depend on a new cell.
    """
    import anndata
    import scipy.sparse as sp

    import neighbours
    import tensors
    import views

    points = [_in_space_of_neighbours(cells, reference) for cells in (new, reference)]
    nearest = neighbours.nearest_of(*points, k=min(settings.k_neighbors - 1, reference.n_obs))
    blocks = [[views.graph(reference), None], [nearest, sp.identity(new.n_obs)]]
    both = anndata.AnnData(np.concatenate([reference.X, new.X]).astype(np.float32))
    both.obsp["connectivities"] = sp.bmat(blocks, format="csr").astype(np.float32)
    # On a symmetric graph both directions are the same; B has one only.
    architecture = dataclasses.replace(settings, direction="ax")
    graph = tensors.graph_tensors(both, architecture, dtype=network.product_dtype)
    return network.encode(graph, training=False).numpy()


def _in_space_of_neighbours(cells: ad.AnnData, reference: ad.AnnData) -> np.ndarray:
    """Return the cells (N', P) in the space in which the run's graph has its neighbours."""
    import views

    if views.MAPS in reference.uns:
        return views.mapped(cells, reference.uns[views.MAPS])
    return cells.obsm[views.COMPONENTS]


def clustered_points(reference: ad.AnnData, new: ad.AnnData, z: np.ndarray) -> np.ndarray:
    """Return what is compared with the centres (N', F): z (N', D), and components where they were.

    The components beside z are a linear map of the views, with a constant, which the run's cells
    show: least squares, exact but for rounding.
    """
    import views

    if "X_sctag_joint" not in reference.obsm:
        return z
    components = reference.obsm["X_sctag_joint"][:, z.shape[1] :]
    known, own = (
        np.hstack([*views.views_of(cells).values(), np.ones((cells.n_obs, 1))])
        for cells in (reference, new)
    )
    return np.hstack([z, own @ np.linalg.lstsq(known, components)[0]]).astype(z.dtype)


# --- The command ----------------------------------------------------------------------------------


def run(folder: Path, given: Settings) -> str:
    """Label the cells of a file; return the line that the command ends with.

    Parameters
    ----------
    folder
        Results folder of the run.
    given
        Where the new cells are, where the results go, and how much is printed.
    """
    stopwatch = Stopwatch()
    trained = settings_of(folder)
    out_dir = given.out or folder / f"predicted-{given.name}"
    if out_dir.resolve() == folder.resolve():
        raise InputError(f"--out {out_dir} is the folder of the run itself: choose another one")
    with folders.staged(out_dir, overwrite=given.overwrite) as staging:
        with stopwatch("read"):
            adata, cell_types, where, source = pipeline.read(given, raw=True)
        with stopwatch("predict"):
            settings = dataclasses.replace(trained, gpu_option=given.gpu_option)
            prediction = predict(adata, folder, settings, where=where)
        with stopwatch("write"), folders.writing(staging):
            from outcome import annotated

            model = model_record(folder)
            annotated.annotate_new(adata, prediction, model)
            results.write_new_labels(staging, adata)
            results.write_h5ad(staging / results.PREDICTED, adata)
            record = {"model": model, "data": source} | results.environment()
            results.write_json(staging / results.SETTINGS, record)
    if cell_types is not None:
        cell_types = cell_types.loc[adata.obs_names[prediction.cells]]
    metrics = {
        "scores": pipeline.score(cell_types, prediction.labels),
        "cluster_sizes": np.bincount(prediction.labels, minlength=prediction.q.shape[1]).tolist(),
        "seconds": stopwatch.total(),
        "peak_memory_mb": utils.peak_memory_mb(),
    }
    return pipeline.summarise(metrics, out_dir)
