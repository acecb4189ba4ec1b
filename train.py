"""The command: cluster the cells of one file with scTAG and leave the results in a folder.

    python train.py --data cells.h5ad

What happens, and in which order, is `pipeline.run`: read it first. The method itself is in the
order of the data: readers, preprocess, tensors, model (layers, likelihoods, losses), training,
views (neighbours, clustering), estimation, scores, results. `settings.py` declares every flag.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

import command
import fitting
import folders
import keeper
import pipeline
import repetition
import results
import strategies
import supervise
import utils
from settings import Settings

PROGRAM = "sctag" if __package__ else "train.py"  # the command's name where it is installed


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (training failed) or 2 (unusable input)."""
    settings, earlier = repetition.parse(argv, prog=PROGRAM)
    own = strategies.of_follower(settings)
    if own is not None:
        return command.run_command(PROGRAM, partial(follow, settings, own), quiet=True)

    def job() -> str:
        fitting.check(settings)
        out_dir = settings.out_dir
        keeper.forget_ended(out_dir)
        folder = out_dir / results.CHECKPOINTS
        with keeper.keeping(folder, settings, anew="--overwrite") as kept:
            return pipeline.run(
                settings,
                partial(fitting.fit, keeper=kept),
                out_dir=out_dir,
                notes=settings.to_json(),
                with_network=True,
                earlier=earlier,
            )

    return command.run_command(PROGRAM, job, quiet=settings.quiet, log_file=settings.log_file)


def follow(settings: Settings, own: Settings) -> str:
    """Take part in the run of a chief, by its settings and one's own; nothing is left of it.

    A signal that asks for a checkpoint is for the chief, whose end ends the others.
    """
    fitting.check(settings)
    fit = partial(fitting.fit, keeper=keeper.following(settings.out_dir, settings))
    ignored = utils.handled([signal.SIGUSR1], signal.SIG_IGN)
    with ignored, tempfile.TemporaryDirectory(prefix="sctag-worker-") as folder:
        out_dir = Path(folder, "out")
        pipeline.run(own, fit, out_dir=out_dir, notes=own.to_json(), with_network=True)
    return "the chief of the workers writes the results"


def start() -> int:
    """Run the command as a shell starts it, under `supervise.run`; return its exit status."""
    return supervise.run(main, PROGRAM, folders.tidy)


if __name__ == "__main__":
    sys.exit(start())
