"""The benchmark: data sets x methods x regimes x seeds, each job a run of the public commands.

    python benchmark.py run --out results/benchmark --jobs 2
    python benchmark.py report --out results/benchmark
    python benchmark.py pack records.jsonl.gz --out results/benchmark

A benchmark that is stopped, in whatever way, goes on where it was when the same command is given
again; several at once in one folder share the work. The package `bench` does the work.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import records, scheduler
from bench.jobs import Job, Place
from bench.planning import SEEDS, State, find_state, plan
from command import Parser, number, run_command
from command import seed as seed_type
from utils import CommandError, InputError

log = logging.getLogger("sctag")

LOGS_SHOWN = 5


class JobsFailed(CommandError):
    """Some jobs failed; the message says how many, and where their logs are."""


# --- Running --------------------------------------------------------------------------------------


def log_plan(planned: Sequence[Job], state: State, place: Place) -> None:
    """Log the numbers of planned and of finished jobs, and the share of the machine of each."""
    by_regime = Counter(job.regime for job in planned)
    counts = ", ".join(f"{number} {regime}" for regime, number in by_regime.items())
    failed = sum(record["status"] == "failed" for record in state.records.values())
    log.info("plan      %d jobs: %s", len(planned), counts)
    log.info("finished  %d, %d of them failed", len(state.records), failed)
    if state.complete:
        log.info("complete  %d runs without a record, which is made of them", len(state.complete))
    log.info("machine   %d at once, threads of each: %d", place.n_jobs, place.threads)


def list_jobs(planned: Sequence[Job], state: State, again: Sequence[Job]) -> str:
    """Print for each job whether it would run.

    Parameters
    ----------
    planned
        All jobs.
    state
        The finished part of them.
    again
        Finished jobs that would run again.

    Returns
    -------
    The line that the command ends with.
    """
    to_run = 0
    for job in planned:
        if job in again:
            word = "again"
        elif job in state.records:
            word = state.records[job]["status"]
        else:
            word = "complete" if job in state.complete else "to run"
        to_run += word in ("again", "to run")
        print(f"{word:<8}  {job.dataset}  {job.method}  {job.regime}  seed {job.seed}")
    return f"{to_run} of {len(planned)} jobs would run"


def make_folders(planned: Sequence[Job], out: Path) -> None:
    """Make the folders of all jobs. Raises InputError if one cannot be made."""
    try:
        for job in planned:
            (out / job.run_dir.parent).mkdir(parents=True, exist_ok=True)
            (out / job.record.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {out} ({error.strerror}): choose another --out"
        ) from None


def carry_out(planned: Sequence[Job], args: argparse.Namespace, *, dry_run: bool) -> str:
    """Run the planned jobs that are not finished.

    Parameters
    ----------
    planned
        All jobs.
    args
        The flags that `add_running_flags` adds.
    dry_run
        Whether to print what would run, and to run and write nothing.

    Returns
    -------
    The line that the command ends with.

    Raises
    ------
    JobsFailed
        If some of the planned jobs have failed, now or before.
    scheduler.Stopped
        If a signal ends the benchmark.
    InputError
        If a record or a run is in the way, or the folders cannot be made.
    """
    place = Place(args.out, args.data_dir, args.time_limit, args.memory_limit, args.jobs)
    state = find_state(planned, place)
    log_plan(planned, state, place)
    again: list[Job] = []
    if args.retry_failed:
        again = [job for job, record in state.records.items() if record["status"] == "failed"]
    if dry_run:
        return list_jobs(planned, state, again)
    make_folders(planned, args.out)
    for job in again:
        (place.out / job.record).unlink(missing_ok=True)
        del state.records[job]
    scheduler.run_jobs(planned, place, state.records, quiet=args.quiet)
    failed = [job for job in planned if state.records[job]["status"] == "failed"]
    if failed:
        logs = ", ".join(str(place.out / job.log) for job in failed[:LOGS_SHOWN])
        more = f" and {len(failed) - LOGS_SHOWN} more" if len(failed) > LOGS_SHOWN else ""
        raise JobsFailed(
            f"{len(failed)} of {len(planned)} jobs failed (--retry_failed runs them again), their "
            f"logs: {logs}{more}"
        )
    return f"{len(planned)} of {len(planned)} jobs are ok, records in {args.out / 'records'}"


# --- The commands; each returns the line that it ends with ----------------------------------------


def run(args: argparse.Namespace) -> str:
    """Run the plan that the flags describe; see `carry_out`."""
    planned = plan(
        data_dir=args.data_dir,
        datasets=args.datasets,
        methods=args.methods,
        ablations=args.ablations,
        seeds=args.seeds,
        regimes=args.regimes,
    )
    return carry_out(planned, args, dry_run=args.dry_run)


def run_job(args: argparse.Namespace) -> str:
    """Run the one job that the flags name; see `carry_out`."""
    planned = plan(
        data_dir=args.data_dir,
        datasets=[args.dataset],
        methods=[args.method],
        seeds=[args.seed],
        regimes=[args.regime],
    )
    return carry_out(planned, args, dry_run=False)


def write_report(args: argparse.Namespace) -> str:
    """Write tables and figures of the records."""
    from bench import report

    return report.write(args.out, args.to or args.out / "report")


def pack(args: argparse.Namespace) -> str:
    """Write all records into one file."""
    from bench import archive

    return archive.pack(args.out, args.file)


def unpack(args: argparse.Namespace) -> str:
    """Put the records of such a file into the benchmark's folder."""
    from bench import archive

    return archive.unpack(args.file, args.out)


# --- The command line -----------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the commands and their flags; `function` runs the command given."""
    parser = Parser(
        prog="benchmark.py",
        description="Data sets x methods x seeds, each run recorded, and the report of it all.",
    )
    common = Parser(add_help=False)
    common.add_argument(
        "--out", type=Path, default=Path("results/benchmark"), help="folder of the benchmark"
    )
    common.add_argument("--quiet", action="store_true", help="say the last line and failures only")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="run|job|report|pack|unpack"
    )

    def command(
        name: str, function: Callable[[argparse.Namespace], str], sentence: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            parents=[common],
            help=sentence,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        added.set_defaults(function=function)
        return added

    added = command("run", run, "run what is not finished")
    add_running_flags(added)
    add_plan_flags(added)
    added = command("job", run_job, "run one job, for a workflow engine")
    add_running_flags(added)
    add_job_flags(added)
    added = command("report", write_report, "write tables and figures")
    to_help = "where to; OUT/report if not given"
    added.add_argument("--to", type=Path, metavar="FOLDER", help=to_help)
    file_help = "one record a line; NAME.gz for a small one"
    added = command("pack", pack, "write all records into one file")
    added.add_argument("file", type=Path, metavar="FILE", help=file_help)
    added = command("unpack", unpack, "put the records of such a file into OUT")
    added.add_argument("file", type=Path, metavar="FILE", help=file_help)
    return parser


def add_running_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the commands that run jobs: the data, and what a job may use."""
    flag = parser.add_argument
    flag("--data_dir", type=Path, default=Path("data"), help="folder that holds NAME/data.h5")
    n_jobs = number(int, low=1)
    flag("--jobs", type=n_jobs, default=1, metavar="N", help="jobs that share the cores")
    above_zero = number(float, above=0)
    flag("--time_limit", type=above_zero, metavar="SECONDS", help="of each job")
    flag("--memory_limit", type=above_zero, metavar="MB", help="of each job, in MiB")
    flag("--retry_failed", action="store_true", help="run again what failed before")


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which jobs there are."""
    flag = parser.add_argument
    flag("--datasets", nargs="+", metavar="NAME", help="data sets; all of data_dir if not given")
    flag(
        "--methods",
        nargs="+",
        metavar="M",
        help="words, or words with flags such as 'sctag hops=3 train_centers=no'; all rivals, "
        "official and sctag if not given",
    )
    flag("--ablations", action="store_true", help="add the ready-made ablations of sctag")
    flag("--seeds", nargs="+", type=seed_type, default=list(SEEDS), metavar="S", help="seeds")
    flag(
        "--regimes",
        nargs="+",
        choices=records.REGIMES,
        default=["true"],
        help="the number of clusters: of the labels, estimated, or the method's own",
    )
    flag("--dry_run", action="store_true", help="print the plan, run and write nothing")


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name one job."""
    flag = parser.add_argument
    flag("--dataset", required=True, metavar="NAME", help="data set")
    flag("--method", required=True, metavar="M", help="method, as in run --methods")
    flag("--regime", default="true", choices=records.REGIMES, help="number of clusters")
    flag("--seed", type=seed_type, default=SEEDS[0], metavar="S", help="seed")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; `argv` is sys.argv without the program by default.

    Returns the exit status: 0, 1 (jobs failed, or the disk), 2 (unusable input), 130 (stopped).
    """
    args = build_parser().parse_args(argv)
    return run_command(
        "benchmark.py",
        lambda: args.function(args),
        quiet=args.quiet,
        left="the same command goes on from here",
    )


if __name__ == "__main__":
    sys.exit(main())
