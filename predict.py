"""The command: give the cells of a new file to the clusters of a finished run of train.py.

    python predict.py --model results/NAME/sctag-seed1 --data new_cells.h5ad

What happens, and in which order, is `prediction.run`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import command
import folders
import settings
import supervise
from new_cells import prediction

PROGRAM = "sctag-predict" if __package__ else "predict.py"  # its name where it is installed
# The settings of train.py that have a meaning here too; all others are those of the run.
SHARED = (
    *("layer", "genome", "transpose", "gene_key", "label_key", "labels"),
    *("cells", "subset", "min_counts", "min_genes", "max_mito"),
    *("overwrite", "quiet", "log_file", "gpu_option"),
)


def build_parser() -> command.Parser:
    """Return the parser of the command; it yields only the flags that were given."""
    parser = command.new_parser(
        PROGRAM, "Give the cells of a new file to the clusters of a finished run of train.py."
    )
    flag = parser.add_argument
    run = "results folder of a run of train.py"
    flag("--model", type=Path, required=True, metavar="FOLDER", help=run)
    new = "file or folder of the new cells, in any format that train.py reads; several are joined"
    flag("--data", type=Path, nargs="+", required=True, metavar="PATH", help=new)
    flag("--out", type=Path, help="folder of the results (default: FOLDER/predicted-NAME)")
    for name in SHARED:
        options, arguments = command.argument_of(settings.specs()[name])
        flag(*options, **arguments)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (the system refused) or 2 (unusable input)."""
    given = vars(build_parser().parse_args(argv))
    folder = given.pop("model")
    own = settings.Settings.of(**given)
    return command.run_command(
        PROGRAM, lambda: prediction.run(folder, own), quiet=own.quiet, log_file=own.log_file
    )


def start() -> int:
    """Run the command as a shell starts it, under `supervise.run`; return its exit status."""
    return supervise.run(main, PROGRAM, folders.tidy)


if __name__ == "__main__":
    sys.exit(start())
