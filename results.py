"""What a run leaves behind: the names of its files, and what is in them.

`folders.py` says how they get to their folder.
Letters: N cells, D latent size, F features that are clustered, C clusters.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import spreadsheet
import utils

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np

    from estimation import Number

LABELS, DATA, HISTORY = "labels.csv", "sctag.h5ad", "history.csv"
PREPARED = "prepared.h5ad"  # the cells as the network reads them
PREDICTED = "predicted.h5ad"  # of predict.py
METRICS, SETTINGS = "metrics.json", "settings.json"
MARKERS_FILE, TYPES_FILE = "markers.csv", "cell_types.csv"
DENOISED = "denoised.h5ad"
CHECKPOINTS = "checkpoints"  # folder of a run that goes on
REPORT, FIGURES = "report.html", "report_figures"  # a page, and a folder
ESTIMATE, CURVES = "n_clusters.json", "n_clusters.png"  # where the number was estimated
NETWORK = ("model.json", "model.weights.h5")  # of `model.SCTAG.save`; that module is slow to import
# Of a run of any kind.
FILES = (
    *(LABELS, DATA, PREPARED, HISTORY, METRICS, SETTINGS, ESTIMATE, CURVES, *NETWORK),
    *(MARKERS_FILE, TYPES_FILE, REPORT, FIGURES, DENOISED, PREDICTED),
)
# What can change a result; `settings.json` records their versions.
PACKAGES = [
    "tensorflow",
    "keras",
    "spektral",
    "harmonypy",
    "scanpy",
    "anndata",
    "scikit-learn",
    "scikit-misc",
    "igraph",
    "pynndescent",
    "numpy",
    "scipy",
    "pandas",
    "h5py",
]
MODULES = {
    "scikit-learn": "sklearn",
    "scikit-misc": "skmisc",
    "scvi-tools": "scvi",
}  # where they are named otherwise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary as indented JSON; ValueError for NaN, which JSON lacks."""
    path.write_text(as_json(content))


def as_json(content: dict[str, Any]) -> str:
    """Return a dictionary as the text of a JSON file; ValueError for NaN."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole, its folder too, or leave all as it was and raise OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def version_of(package: str) -> str | None:
    """Return the version of a package, also where its distribution has another name, or None.

    TensorFlow, for example, may be installed as tensorflow-cpu; then the module itself is asked.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        module = sys.modules.get(MODULES.get(package, package))
        return getattr(module, "__version__", None)


def environment() -> dict[str, Any]:
    """Return the versions of what can change a result, this suite's commit, and the machine."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions |= {package: version_of(package) for package in PACKAGES}
    if "scvi" in sys.modules:  # it is optional, and slow to look up in vain
        versions["scvi-tools"] = version_of("scvi-tools")
    return {
        "versions": versions,
        "suite_commit": suite_commit(),
        "machine": {
            "platform": platform.platform(),
            "processor": utils.processor(),
            "cores": os.cpu_count(),
        },
        "command": sys.argv,
    }


def suite_version() -> str:
    """Return the suite's version, in a clone that of pyproject.toml with the commit behind it."""
    if __package__:
        return str(version_of("sctag"))
    import tomllib

    project = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["project"]
    commit = suite_commit()
    return project["version"] + (f" (commit {commit})" if commit else "")


def suite_commit() -> str | None:
    """Return the commit of this suite in a clone, its version where it is installed, or None."""
    folder = Path(__file__).resolve().parent
    if __package__:
        return f"version {version_of('sctag')}"
    if not (folder / ".git").exists():  # a copy; a repository around it is not the suite's
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() or None


# --- The outcome ----------------------------------------------------------------------------------


class Trained(NamedTuple):
    """A trained network and what it makes of the cells.

    Parameters
    ----------
    network
        The trained `model.SCTAG`.
    initial
        Labels before the clustering phase, shape (N,).
    z
        Embedding, shape (N, D).
    points
        What was clustered, shape (N, F): z, with the components beside it if they were clustered.
    q
        Soft assignment to the clusters, shape (N, C).
    history
        A row of losses an epoch, of both phases.
    expected
        What the count decoder expects, a `model.ExpectedCounts`, where that was asked for.
    """

    network: Any
    initial: np.ndarray
    z: np.ndarray
    points: np.ndarray
    q: np.ndarray
    history: list[dict[str, Any]]
    expected: Any = None


class Fitted(NamedTuple):
    """The outcome of clustering prepared data.

    Parameters
    ----------
    labels
        Cluster of each cell from 0, shape (N,).
    number
        The number of clusters: given, counted, found or estimated.
    metrics
        What metrics.json says of the method itself.
    trained
        The trained network, None for a rival.
    """

    labels: np.ndarray
    number: Number
    metrics: dict[str, Any]
    trained: Trained | None = None


class Prediction(NamedTuple):
    """What a run makes of the new cells that have counts; N' is their number.

    Parameters
    ----------
    cells
        Their positions among all new cells, shape (N',).
    z
        Embedding, shape (N', D).
    points
        What is compared with the centres of the clusters, shape (N', F).
    q
        Soft assignment to the clusters, shape (N', C).
    novelty
        How unlike the run's cells each is, see `novelty.novelty`, shape (N',).
    unlike
        Whether it is unlike all of them, shape (N',).
    """

    cells: np.ndarray
    z: np.ndarray
    points: np.ndarray
    q: np.ndarray
    novelty: np.ndarray
    unlike: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """The cluster of each cell, shape (N',)."""
        return self.q.argmax(axis=1)


def write_run(
    staging: Path, prepared: ad.AnnData, fitted: Fitted, files: dict[str, ad.AnnData]
) -> None:
    """Write what the fit of prepared data has left: labels, and of a network all there is.

    `files` are the AnnData to be written, by the names of their files.
    """
    import numpy as np
    import pandas as pd

    trained = fitted.trained
    labels = pd.DataFrame({"cell": prepared.obs_names, "cluster": fitted.labels})
    if trained is not None:
        labels["probability"] = trained.q[np.arange(len(labels)), fitted.labels]
    spreadsheet.write(staging / LABELS, labels, exact=True)
    estimate = fitted.number.estimate
    if estimate is not None:
        import estimation

        write_json(staging / ESTIMATE, estimate._asdict())
        estimation.plot(estimate, staging / CURVES)
    if trained is not None:
        history = pd.DataFrame(trained.history)
        history.to_csv(staging / HISTORY, index=False, float_format="%.8g")
        trained.network.save(staging)
    for name, adata in files.items():
        write_h5ad(staging / name, adata)


class _Output(io.FileIO):
    """A new file for HDF5 to write, which fails once: after that nothing is written, silently.

    When it cannot close a file, on a full disk, HDF5 breaks the whole process off. The first
    failure reaches the caller as an OSError, and to HDF5 the rest of the file looks well.
    """

    failed = False

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")

    def write(self, content: Any) -> int:
        """Write all of the content, unless the file has failed before; return its length."""
        view = memoryview(content).cast("B")
        written = len(view) if self.failed else 0
        try:
            while written < len(view):
                written += super().write(view[written:])
        except OSError:
            self.failed = True
            raise
        return written

    def truncate(self, size: int | None = None) -> int:
        """Give the file another size, unless it has failed before."""
        if self.failed:
            return size or 0
        try:
            return super().truncate(size)
        except OSError:
            self.failed = True
            raise


def write_h5ad(path: Path, adata: ad.AnnData) -> None:
    """Write an AnnData, packed by gzip, its columns of text as categories as anndata has it.

    An interruption waits: in the middle of a call from HDF5 it would end the process by a crash.
    Raises OSError if the disk is full or fails.
    """
    import anndata
    import h5py

    with warnings.catch_warnings():
        # a user's key may have a slash in it; a later anndata will refuse that, not this one
        warnings.filterwarnings("ignore", ".*forward slashes.*", FutureWarning)
        adata.strings_to_categoricals()
        if adata.raw is not None:
            adata.strings_to_categoricals(adata.raw.var)
        packed = {"compression": "gzip", "compression_opts": 1}
        with utils.interruptions_held(), _Output(path) as output, h5py.File(output, "w") as file:
            anndata.io.write_elem(file, "/", adata, dataset_kwargs=packed)


def write_new_labels(staging: Path, adata: ad.AnnData) -> None:
    """Write the labels that a run has given to new cells; those without counts have none."""
    import pandas as pd

    columns = ["sctag", "sctag_probability", "sctag_novelty", "sctag_unlike"]
    labels = pd.DataFrame({"cell": adata.obs_names})
    for column in columns:
        labels[column.removeprefix("sctag_")] = adata.obs[column].to_numpy()
    labels = labels.rename(columns={"sctag": "cluster"})
    spreadsheet.write(staging / LABELS, labels, exact=True)
