"""The benchmark: data sets x methods x regimes x seeds, each job a run of the public commands.

    python benchmark.py run --out results/benchmark --jobs 2
    python benchmark.py report --out results/benchmark

What there is to run is `plan`; what a method is stands in `methods.py`, what a job is and leaves in
`jobs.py`, how jobs run in `scheduler.py`; tables and figures are `report.py`'s. A benchmark that is
stopped, in whatever way, goes on where it was when the same command is given again; several at once
in one folder share the work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jobs
import readers
import results
import scheduler
import settings
import utils
from jobs import Job, Place
from methods import ABLATIONS, OWN, default_methods, flag_names, needs_k, parse_method
from utils import InputError

log = logging.getLogger("sctag")

SEEDS = (1, 2, 3, 4, 5)
REGIMES = tuple(jobs.N_CLUSTERS)
NAME_BYTES = 255 - len("..json.partial")  # what file systems take, less what is put around a name
LOGS_SHOWN = 5


class JobsFailed(Exception):
    """Some jobs failed: one sentence that says how many and where their logs are; status 1."""


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
        if regime not in REGIMES:
            raise InputError(f"there is no regime {regime!r}, choose from: {', '.join(REGIMES)}")
    named = list(default_methods() if methods is None else methods)
    if ablations:
        named += [method for group in ABLATIONS.values() for method in group]
    named = list(dict.fromkeys(parse_method(text)[0] for text in named))

    fits = {r: [m for m in named if needs_k(m) == (r != "default")] for r in regimes}
    unfit = [method for method in named if not any(method in chosen for chosen in fits.values())]
    for told, why in ((True, "are told a number (true, estimated)"), (False, "find one (default)")):
        if left_out := [method for method in unfit if needs_k(method) == told]:
            log.info("left out  %s: such methods %s", ", ".join(left_out), why)
    planned = [
        Job(dataset, method, regime, seed)
        for seed in dict.fromkeys(seeds)
        for dataset in dict.fromkeys(datasets)
        for regime, chosen in fits.items()
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


def check_folder(job: Job, place: Place) -> None:
    """Raises InputError if the job's folder holds a complete run of something else.

    Its record is going to be made from it, and a run made by hand can be any run.
    """
    path = place.out / job.run_dir / results.SETTINGS
    try:
        found = json.loads(path.read_text())["settings"]
        method, expected = parse_method(job.method)
        word = "variant" if method.split()[0] in OWN else "method"
        expected |= {"seed": job.seed}
        differing = [
            name
            for name in (word, "seed", *flag_names(method))
            if found.get(name) != expected[name]
        ]
        if (found["n_clusters"] == "labels") != (job.regime == "true"):
            differing.append("n_clusters")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a run's settings ({type(error).__name__}: {error}): delete its folder"
        ) from None
    if differing:
        raise InputError(
            f"{path.parent} holds another run ({', '.join(differing)} differ): move it elsewhere"
        )


def find_records(planned: Sequence[Job], place: Place) -> dict[Job, dict[str, Any]]:
    """The records of the jobs that are finished; raises InputError for what is in the way."""
    records = {}
    for job in planned:
        if (place.out / job.record).exists():
            records[job] = jobs.read_record(job, place)
        elif jobs.is_complete(place.out / job.run_dir):
            check_folder(job, place)
    return records


def say_plan(planned: Sequence[Job], records: dict, place: Place) -> None:
    """How many jobs there are, by regime, and on what they run."""
    by_regime = Counter(job.regime for job in planned)
    counts = ", ".join(f"{number} {regime}" for regime, number in by_regime.items())
    failed = sum(record["status"] == "failed" for record in records.values())
    log.info("plan      %d jobs: %s", len(planned), counts)
    log.info("finished  %d, %d of them failed", len(records), failed)
    log.info("machine   %d at once, threads of each: %d", place.n_jobs, place.threads)


def run(args: argparse.Namespace) -> str:
    """Make and run the plan; returns the last line. Raises JobsFailed, Stopped, InputError."""
    planned = plan(
        data_dir=args.data_dir,
        datasets=args.datasets,
        methods=args.methods,
        ablations=args.ablations,
        seeds=args.seeds,
        regimes=args.regimes,
    )
    place = Place(args.out, args.data_dir, args.time_limit, args.memory_limit, args.jobs)
    records = find_records(planned, place)
    say_plan(planned, records, place)
    again = [job for job, record in records.items() if record["status"] == "failed"]
    again = again if args.retry_failed else []
    if args.dry_run:
        for job in planned:
            state = records[job]["status"] if job in records else "to run"
            state = "again" if job in again else state
            print(f"{state:<8}  {job.dataset}  {job.method}  {job.regime}  seed {job.seed}")
        return f"{len(planned) - len(records) + len(again)} of {len(planned)} jobs would run"
    try:
        for job in planned:
            (place.out / job.run_dir.parent).mkdir(parents=True, exist_ok=True)
            (place.out / job.record.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {args.out} ({error.strerror}): choose another --out"
        ) from None
    for job in again:
        (place.out / job.record).unlink(missing_ok=True)
        del records[job]
    scheduler.run_jobs(planned, place, records, quiet=args.quiet)
    failed = [job for job in planned if records[job]["status"] == "failed"]
    if failed:
        logs = ", ".join(str(place.out / job.log) for job in failed[:LOGS_SHOWN])
        more = f" and {len(failed) - LOGS_SHOWN} more" if len(failed) > LOGS_SHOWN else ""
        raise JobsFailed(
            f"{len(failed)} of {len(planned)} jobs failed (--retry_failed runs them again), their "
            f"logs: {logs}{more}"
        )
    return f"{len(planned)} of {len(planned)} jobs are ok, records in {args.out / 'records'}"


def run_job(args: argparse.Namespace) -> str:
    """Run the one job that is named; as `run`."""
    args.datasets, args.methods = [args.dataset], [args.method]
    args.regimes, args.seeds = [args.regime], [args.seed]
    args.ablations = args.dry_run = False
    return run(args)


def write_report(args: argparse.Namespace) -> str:
    """Tables and figures of the records; returns the line that says where they are."""
    import report

    to = args.to or args.out / "report"
    report.write(args.out, to)
    return f"report in {to}"


# --- The command line -----------------------------------------------------------------------------


def _positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: a finite number of `kind` above 0."""

    def parse(text: str):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if 0 < value < float("inf"):
                return value
        noun = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {noun} above 0, not {text!r}")

    return parse


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^32 - 1, not {text!r}")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """The three commands and their flags."""
    parser = settings.Parser(
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
    flag("--jobs", type=_positive(int), default=1, metavar="N", help="jobs that share the cores")
    flag("--time_limit", type=_positive(float), metavar="SECONDS", help="of each job")
    flag("--memory_limit", type=_positive(float), metavar="MB", help="of each job, in MiB")
    flag("--retry_failed", action="store_true", help="run again what failed before")

    commands = parser.add_subparsers(dest="command", required=True, metavar="run|job|report")

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
    flag("--seeds", nargs="+", type=_seed, default=list(SEEDS), metavar="S", help="seeds")
    flag(
        "--regimes",
        nargs="+",
        choices=REGIMES,
        default=["true"],
        help="the number of clusters: of the labels, estimated, or the method's own",
    )
    flag("--dry_run", action="store_true", help="print the plan, run and write nothing")

    flag = command("job", run_job, "run one job, for a workflow engine", running)
    flag("--dataset", required=True, metavar="NAME", help="data set")
    flag("--method", required=True, metavar="M", help="method, as in run --methods")
    flag("--regime", default="true", choices=REGIMES, help="number of clusters")
    flag("--seed", type=_seed, default=SEEDS[0], metavar="S", help="seed")

    flag = command("report", write_report, "write tables and figures")
    flag("--to", type=Path, metavar="FOLDER", help="where to; OUT/report if not given")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 0, 1 (jobs failed, or the disk), 2 (unusable input), 130 (stopped)."""
    args = build_parser().parse_args(argv)
    utils.start_console(quiet=args.quiet)
    try:
        print(args.function(args))
    except InputError as error:
        return _failed(error, 2)
    except JobsFailed as error:
        return _failed(error, 1)
    except scheduler.Stopped as error:
        return _failed(error, 130)
    except OSError as error:
        return _failed(f"stopped, the same command goes on from here: {error}", 1)
    except KeyboardInterrupt:  # before the first job, or after the last
        return _failed("interrupted, the same command goes on from here", 130)
    return 0


def _failed(sentence: object, status: int) -> int:
    print(f"benchmark.py: error: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
