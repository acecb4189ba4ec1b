"""scVI as a rival in `perf.scale`, its training timed on its own and cut short where it is long.

    python -m perf.scvi_part --epochs 2 -- --data FILE.h5ad --n_clusters labels --out FOLDER

It is `baselines.py --method scvi_kmeans`, whose flags follow after `--`, for an environment that
has scvi-tools. metrics.json says in addition how many epochs there were (`epochs`), and how many
scVI trains by default (`default_epochs`); the phase `train` of its seconds is the training alone.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING

import baselines
import command
from results import Fitted
from settings import Settings
from utils import Stopwatch

if TYPE_CHECKING:
    import anndata as ad

    from estimation import Number

METHOD = "scvi_kmeans"
MOST_EPOCHS, CELLS_OF_MOST = 400, 20_000


def default_epochs(n_cells: int) -> int:
    """Return how many epochs scVI trains by default: 400, or fewer beyond 20,000 cells.

    Source: `get_max_epochs_heuristic` of scvi-tools 1.4, which is not public.
    """
    return max(1, min(round(CELLS_OF_MOST / n_cells * MOST_EPOCHS), MOST_EPOCHS))


def fit(
    adata: ad.AnnData,
    number: Number,
    settings: Settings,
    stopwatch: Stopwatch,
    *,
    epochs: int | None,
) -> Fitted:
    """Return K-means of the embedding of scVI after so many epochs, at most its default number."""
    import clustering

    default = default_epochs(adata.n_obs)
    trained = min(epochs or default, default)
    with stopwatch("set_up"):
        model = baselines.scvi_model(adata, seed=settings.seed)
    with stopwatch("train"):
        model.train(max_epochs=trained, enable_progress_bar=False)
    with stopwatch("cluster"):
        z = model.get_latent_representation()
        number = baselines.decided(number, METHOD, adata, seed=settings.seed)
        assert number.n_clusters is not None  # decided
        labels = clustering.kmeans(z, n_clusters=number.n_clusters, seed=settings.seed)
    return Fitted(labels, number, {"epochs": trained, "default_epochs": default})


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status, as that of `baselines.py`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    epochs = command.number(int, low=1)
    parser.add_argument("--epochs", type=epochs, help="epochs of training, at most")
    parser.add_argument("flags", nargs="+", metavar="-- FLAGS", help="flags of baselines.py")
    given = parser.parse_args(argv)
    _, settings = baselines.parse(["--method", METHOD, *given.flags])
    job = partial(baselines.run, METHOD, settings, partial(fit, epochs=given.epochs))
    return command.run_command("perf.scvi_part", job, quiet=settings.quiet)


if __name__ == "__main__":
    sys.exit(main())
