"""The benchmark: data sets x methods x regimes x seeds, each job a run of the public commands.

    python benchmark.py run --out results/benchmark --jobs 2
    python benchmark.py report --out results/benchmark
    python benchmark.py pack records.jsonl.gz --out results/benchmark

What there is to run is `plan`; what a method is stands in `methods.py`, what a job is and leaves in
`jobs.py`, how jobs run in `scheduler.py`; tables and figures are `report.py`'s, the one file of all
records `archive.py`'s. A benchmark that is stopped, in whatever way, goes on where it was when the
same command is given again; several at once in one folder share the work.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import readers
from bench import jobs, records, scheduler
from bench.jobs import Job, Place
from bench.methods import ABLATIONS, default_methods, needs_k, parse_method
from command import Parser, number, run_command
from command import seed as seed_type
from utils import CommandError, InputError

log = logging.getLogger("sctag")

SEEDS = (1, 2, 3, 4, 5)
NAME_BYTES = 255 - len("..json.partial")  # what file systems take, less what is put around a name
LOGS_SHOWN = 5


class JobsFailed(CommandError):
    """Some jobs failed: how many, and where their logs are."""


# --- The plan -------------------------------------------------------------------------------------


def plan(
    *,
    data_dir: Path = Path("data"),
    datasets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    ablations: bool = False,
    seeds: Sequence[int] = SEEDS,
    regimes: Sequence[str] = ("true",),
) -> list[Job]:
    """All jobs that make sense, checked, in the order in which they run.

    The first seed of everything comes first, so that a benchmark in progress shows all data sets
    and methods. datasets: None for all in data_dir; methods: None for `default_methods`; ablations:
    adds ABLATIONS. In the regimes "true" and "estimated" run the methods that are told a number
    of clusters, in "default" the others.

    Raises InputError for what is unknown or unusable, and if no job is left.
    """
    if datasets is None:
        datasets = sorted(path.parent.name for path in data_dir.glob("*/data.h5"))
        if not datasets:
            raise InputError(f"there is no NAME/data.h5 in {data_dir}: name another --data_dir")
    for name in datasets:
        if Path(name).name != name:
            raise InputError(f"{name!r} is not the name of a data set in {data_dir}")
        readers.locate(name, data_dir)
    for regime in regimes:
        if regime not in records.REGIMES:
            raise InputError(
                f"there is no regime {regime!r}, choose from: {', '.join(records.REGIMES)}"
            )
    named = list(default_methods() if methods is None else methods)
    if ablations:
        named += [method for group in ABLATIONS.values() for method in group]
    named = list(dict.fromkeys(parse_method(text)[0] for text in named))

    told = [method for method in named if needs_k(method)]
    free = [method for method in named if not needs_k(method)]
    by_regime = {regime: free if regime == "default" else told for regime in regimes}
    for some, why in ((told, "are told a number (true, estimated)"), (free, "find one (default)")):
        if some and some not in by_regime.values():
            log.info("left out  %s: such methods %s", ", ".join(some), why)
    planned = [
        Job(dataset, method, regime, seed)
        for seed in dict.fromkeys(seeds)
        for dataset in dict.fromkeys(datasets)
        for regime, chosen in by_regime.items()
        for method in chosen
    ]
    if not planned:
        raise InputError(
            "no job is left: methods that find their own number of clusters run with --regimes "
            "default, all others with true or estimated"
        )
    for job in planned:
        if len(job.name.encode()) > NAME_BYTES:
            raise InputError(f"method {job.method!r} has too many flags to name a file after it")
    return planned


# --- Running --------------------------------------------------------------------------------------


class State(NamedTuple):
    """What is there of a plan; the jobs in neither are to be run."""

    records: dict[Job, dict[str, Any]]  # of the jobs that are finished
    complete: set[Job]  # whose runs are, and only lack the record that is made from them


def find_state(planned: Sequence[Job], place: Place) -> State:
    """Look for records and complete runs; raises InputError for what is in the way."""
    state = State({}, set())
    for job in planned:
        if (place.out / job.record).exists():
            state.records[job] = records.read(place.out / job.record)
        elif jobs.is_complete(place.out / job.run_dir):
            jobs.check_folder(job, place)
            state.complete.add(job)
    return state


def say_plan(planned: Sequence[Job], state: State, place: Place) -> None:
    """How many jobs there are, by regime, and on what they run."""
    by_regime = Counter(job.regime for job in planned)
    counts = ", ".join(f"{number} {regime}" for regime, number in by_regime.items())
    failed = sum(record["status"] == "failed" for record in state.records.values())
    log.info("plan      %d jobs: %s", len(planned), counts)
    log.info("finished  %d, %d of them failed", len(state.records), failed)
    if state.complete:
        log.info("complete  %d runs without a record, which is made of them", len(state.complete))
    log.info("machine   %d at once, threads of each: %d", place.n_jobs, place.threads)


def list_jobs(planned: Sequence[Job], state: State, again: Sequence[Job]) -> str:
    """Print what would become of each job; returns the last line."""
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
    """Make those of all jobs; raises InputError if one cannot be made."""
    try:
        for job in planned:
            (out / job.run_dir.parent).mkdir(parents=True, exist_ok=True)
            (out / job.record.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {out} ({error.strerror}): choose another --out"
        ) from None


def carry_out(planned: Sequence[Job], args: argparse.Namespace, *, dry_run: bool) -> str:
    """Run what is not finished; returns the last line. Raises JobsFailed, Stopped, InputError.

    dry_run: only print what would be done.
    """
    place = Place(args.out, args.data_dir, args.time_limit, args.memory_limit, args.jobs)
    state = find_state(planned, place)
    say_plan(planned, state, place)
    again = []
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


# --- The commands ---------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> str:
    """Run the plan; as `carry_out`."""
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
    """Run the one job that is named; as `carry_out`."""
    planned = plan(
        data_dir=args.data_dir,
        datasets=[args.dataset],
        methods=[args.method],
        seeds=[args.seed],
        regimes=[args.regime],
    )
    return carry_out(planned, args, dry_run=False)


def write_report(args: argparse.Namespace) -> str:
    """Tables and figures of the records; returns the line that says where they are."""
    from bench import report

    return report.write(args.out, args.to or args.out / "report")


def pack(args: argparse.Namespace) -> str:
    """All records as one file; returns the line that says how many."""
    from bench import archive

    return archive.pack(args.out, args.file)


def unpack(args: argparse.Namespace) -> str:
    """The records of such a file back into a folder; returns the line that says how many."""
    from bench import archive

    return archive.unpack(args.file, args.out)


# --- The command line -----------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = Parser(
        prog="benchmark.py",
        description="Data sets x methods x seeds, each run recorded, and the report of it all.",
    )
    place = argparse.ArgumentParser(add_help=False)
    flag = place.add_argument
    flag("--out", type=Path, default=Path("results/benchmark"), help="folder of the benchmark")
    quiet = argparse.ArgumentParser(add_help=False)
    quiet.add_argument("--quiet", action="store_true", help="say the last line and failures only")

    running = argparse.ArgumentParser(add_help=False)
    flag = running.add_argument
    flag("--data_dir", type=Path, default=Path("data"), help="folder that holds NAME/data.h5")
    flag(
        "--jobs",
        type=number(int, low=1),
        default=1,
        metavar="N",
        help="jobs that share the cores",
    )
    above_zero = number(float, above=0)
    flag("--time_limit", type=above_zero, metavar="SECONDS", help="of each job")
    flag("--memory_limit", type=above_zero, metavar="MB", help="of each job, in MiB")
    flag("--retry_failed", action="store_true", help="run again what failed before")

    commands = parser.add_subparsers(
        dest="command", required=True, metavar="run|job|report|pack|unpack"
    )

    def command(name: str, function: Callable, sentence: str, *parents):
        made = commands.add_parser(
            name,
            parents=[place, quiet, *parents],
            help=sentence,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        made.set_defaults(function=function)
        return made.add_argument

    flag = command("run", run, "run what is not finished", running)
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

    flag = command("job", run_job, "run one job, for a workflow engine", running)
    flag("--dataset", required=True, metavar="NAME", help="data set")
    flag("--method", required=True, metavar="M", help="method, as in run --methods")
    flag("--regime", default="true", choices=records.REGIMES, help="number of clusters")
    flag("--seed", type=seed_type, default=SEEDS[0], metavar="S", help="seed")

    flag = command("report", write_report, "write tables and figures")
    flag("--to", type=Path, metavar="FOLDER", help="where to; OUT/report if not given")

    what = {"type": Path, "metavar": "FILE", "help": "one record a line; NAME.gz for a small one"}
    command("pack", pack, "write all records into one file")("file", **what)
    command("unpack", unpack, "put the records of such a file into OUT")("file", **what)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 0, 1 (jobs failed, or the disk), 2 (unusable input), 130 (stopped)."""
    args = build_parser().parse_args(argv)
    return run_command(
        "benchmark.py",
        lambda: args.function(args),
        quiet=args.quiet,
        left="the same command goes on from here",
    )


if __name__ == "__main__":
    sys.exit(main())
