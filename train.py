"""The command: cluster the cells of one file with scTAG and leave the results in a folder.

    python train.py --data cells.h5ad

What happens, and in which order, is `pipeline.run`: read it first. The method itself is in the
order of the data: readers, preprocess, tensors, model (layers, likelihoods, losses), training,
views (neighbours, clustering), estimation, scores, results. `settings.py` declares every flag.
"""

from __future__ import annotations

import sys

import command
import fitting
import pipeline
import repetition

PROGRAM = "sctag" if __package__ else "train.py"  # the command's name where it is installed


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (training failed) or 2 (unusable input)."""
    settings, earlier = repetition.parse(argv, prog=PROGRAM)

    def job() -> str:
        fitting.check(settings)
        return pipeline.run(
            settings,
            fitting.fit,
            out_dir=settings.out_dir,
            notes=settings.to_json(),
            earlier=earlier,
        )

    return command.run_command(PROGRAM, job, quiet=settings.quiet, log_file=settings.log_file)


if __name__ == "__main__":
    sys.exit(main())
