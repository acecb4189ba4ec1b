"""What a run leaves behind: every file whole or not at all, nothing replaced unasked.

Letters: N cells, D latent size, F features that are clustered, C clusters.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import spreadsheet
import utils
from utils import InputError

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


@contextlib.contextmanager
def staged(out_dir: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder for a run's files, which move to `out_dir` if the block ends well.

    If it does not, they vanish, and what `out_dir` held before is untouched. With `overwrite` no
    file of the run before stays among them, of whatever kind that was.

    Raises
    ------
    InputError
        At once, if `out_dir` holds a run's results and `overwrite` is off, or cannot be written.
    """
    made: list[Path] = []
    try:
        if not overwrite and any((out_dir / name).exists() for name in FILES):
            raise InputError(
                f"{out_dir} holds the results of another run: pass --overwrite to replace them, "
                "or another folder as --out"
            )
        made = [folder for folder in (out_dir, *out_dir.parents) if not folder.exists()]
        out_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=out_dir))
    except OSError as error:
        raise InputError(
            f"cannot write to the results folder {out_dir} ({error.strerror}): "
            "choose another one with --out"
        ) from None
    try:
        yield staging
        # The settings go first and come last: where they stand, the other files belong to them.
        (out_dir / SETTINGS).unlink(missing_ok=True)
        written = sorted(os.listdir(staging), key=lambda name: (name == SETTINGS, name))
        if overwrite:
            for name in set(FILES) - set(written) | {FIGURES}:
                _remove(out_dir / name)
        for name in written:
            os.replace(staging / name, out_dir / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty: the run went well
                folder.rmdir()


def _remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    import pandas as pd

    trained = fitted.trained
    labels = pd.DataFrame({"cell": prepared.obs_names, "cluster": fitted.labels})
    if trained is not None:
        labels["probability"] = trained.q.max(axis=1)
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


def write_h5ad(path: Path, adata: ad.AnnData) -> None:
    """Write an AnnData, packed by gzip."""
    with warnings.catch_warnings():
        # a user's key may have a slash in it; a later anndata will refuse that, not this one
        warnings.filterwarnings("ignore", ".*forward slashes.*", FutureWarning)
        adata.write_h5ad(path, compression="gzip", compression_opts=1)


def write_new_labels(staging: Path, adata: ad.AnnData) -> None:
    """Write the labels that a run has given to new cells; those without counts have none."""
    import pandas as pd

    columns = ["sctag", "sctag_probability", "sctag_novelty", "sctag_unlike"]
    labels = pd.DataFrame({"cell": adata.obs_names})
    for column in columns:
        labels[column.removeprefix("sctag_")] = adata.obs[column].to_numpy()
    labels = labels.rename(columns={"sctag": "cluster"})
    spreadsheet.write(staging / LABELS, labels, exact=True)
