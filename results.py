"""What a run leaves behind: every file whole or not at all, nothing replaced unasked."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import utils
from utils import InputError

LABELS, DATA, HISTORY = "labels.csv", "sctag.h5ad", "history.csv"
METRICS, SETTINGS = "metrics.json", "settings.json"
ESTIMATE, CURVES = "n_clusters.json", "n_clusters.png"  # where the number was estimated
NETWORK = ("model.json", "model.weights.h5")  # of `model.SCTAG.save`; that module is slow to import
# Of a run of any kind.
FILES = (LABELS, DATA, HISTORY, METRICS, SETTINGS, ESTIMATE, CURVES, *NETWORK)
# What can change a result; `settings.json` records their versions.
PACKAGES = [
    *("tensorflow", "keras", "spektral", "scanpy", "anndata", "scikit-learn", "scikit-misc"),
    *("pynndescent", "numpy", "scipy", "pandas", "h5py"),
]


@contextlib.contextmanager
def staged(out_dir: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder for a run's files, which move to `out_dir` if the block ends well.

    If it does not, they vanish, and what `out_dir` held before is untouched. With `overwrite` no
    file of the run before stays among them, of whatever kind that was. Raises InputError at once if
    `out_dir` holds a run's results and `overwrite` is off, or if it cannot be written.
    """
    made = []
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
            for name in set(FILES) - set(written):
                (out_dir / name).unlink(missing_ok=True)
        for name in written:
            os.replace(staging / name, out_dir / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty: the run went well
                folder.rmdir()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A dictionary as indented JSON; NaN, which JSON lacks, is an error."""
    path.write_text(as_json(content))


def as_json(content: dict[str, Any]) -> str:
    """A dictionary as the text of a JSON file; ValueError for NaN."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_whole(path: Path, content: bytes) -> None:
    """The file with this content, its folder made: whole, or as it was before. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Versions of what can change a result, this suite's commit among them, and the machine."""
    commit = None
    with contextlib.suppress(OSError):  # no git on this machine
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
    return {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "suite_commit": commit or None,
        "machine": {
            "platform": platform.platform(),
            "processor": utils.processor(),
            "cores": os.cpu_count(),
        },
        "command": sys.argv,
    }


def annotate(
    adata,
    *,
    labels: np.ndarray,
    z: np.ndarray,
    points: np.ndarray,
    q: np.ndarray,
    notes: dict[str, Any],
) -> None:
    """Put a run's outcome into the prepared AnnData under keys that scanpy users expect.

    labels: (N,) int; z: (N, D); points: (N, F), what was clustered; q: (N, C). Sets obs["sctag"]
    (categorical), obsm["X_sctag"], obsm["X_sctag_joint"] if points are more than z,
    obsm["sctag_proba"] and uns["sctag"], where `notes` are stored as JSON text by their names.
    """
    import pandas as pd

    groups = [str(group) for group in range(q.shape[1])]
    adata.obs["sctag"] = pd.Categorical([str(label) for label in labels], categories=groups)
    adata.obsm["X_sctag"] = z
    if points.shape != z.shape:
        adata.obsm["X_sctag_joint"] = points
    adata.obsm["sctag_proba"] = q
    adata.uns["sctag"] = {name: json.dumps(note) for name, note in notes.items()}


def write_tables(staging: Path, adata, history: list[dict]) -> None:
    """Write labels.csv, history.csv and sctag.h5ad from an annotated AnnData."""
    import pandas as pd

    pd.DataFrame(
        {
            "cell": adata.obs_names,
            "cluster": adata.obs["sctag"].to_numpy(),
            "probability": adata.obsm["sctag_proba"].max(axis=1),
        }
    ).to_csv(staging / LABELS, index=False, float_format="%.6g")
    pd.DataFrame(history).to_csv(staging / HISTORY, index=False, float_format="%.8g")
    adata.write_h5ad(staging / DATA, compression="gzip")
