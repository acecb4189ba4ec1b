"""Kill runs at random moments, go on with each, and check that nothing is lost or left behind.

    python scripts/kill_runs.py --kills 200 --jobs 2

A run is started again with `--resume` until it ends, and killed each time: by SIGKILL, SIGTERM,
SIGINT or SIGUSR1, while it starts, at a random moment after a random line of its log, or while it
writes its files. Its end must be that of a run that nobody killed, to the bit; no file may ever
stand half-written under a final name; and nothing else may be left. Exit status 1 if any of that
fails, with what failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import h5py
import psutil

ROOT = Path(__file__).resolve().parent.parent
# Twelve epochs of each phase, with a checkpoint at every look at the losses.
FLAGS = """
    --subsample 150 --n_clusters 4 --highly_genes 60 --n_pcs 5 --hidden_dim 16 --decoder_dims 16
    --latent_dim 4 --pretrain_epochs 12 --maxiter 12 --cluster_tol 0 --gpu_option -1 --no_report
    --checkpoint_minutes 1e-9
""".split()  # noqa: SIM905, as it is typed
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Beginnings of log lines after which a run is killed; "start" and "write" are before and behind.
LINES = ("data", "genes", "graph", "clusters", "device", "pretrain", "consensus", "cluster ")
MOMENTS = ("start", *LINES, "write")
DELAY = {"start": 4.0, "device": 4.0, "pretrain": 0.4, "write": 0.1}  # seconds at most; others 1
LIMIT = 600.0  # seconds in which any run must end
SAME = ("labels.csv", "history.csv", "model.json")


class Reference(NamedTuple):
    """A run that nobody killed: the names of its files, and digests of what must be the same."""

    names: set[str]
    digests: dict[str, str]


def digests(out: Path) -> dict[str, str]:
    """Return the SHA-256 of labels, history, every weight, and the AnnData's X and obsm of a run.

    The distances in obsp are left out: they are made of the embedding, by sums that may round.
    """
    values = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in SAME}
    for name, parts in (("model.weights.h5", None), ("sctag.h5ad", ("X", "obsm"))):
        with h5py.File(out / name) as file:

            def add(path: str, item: h5py.HLObject, name: str = name) -> None:
                if isinstance(item, h5py.Dataset):
                    content = item[()].tobytes()
                    values[f"{name}/{path}"] = hashlib.sha256(content).hexdigest()

            for part in parts or file:
                file[part].visititems(lambda path, item, part=part: add(f"{part}/{path}", item))
    return values


def half_written(out: Path, reference: Reference) -> list[str]:
    """Return the files under final names that are not whole."""
    faults = []
    for name in reference.names:
        path = out / name
        try:
            if name in SAME and path.exists():
                whole = hashlib.sha256(path.read_bytes()).hexdigest() == reference.digests[name]
                faults += [] if whole else [name]
            elif path.suffix == ".json" and path.exists():
                json.loads(path.read_text())
            elif path.suffix in (".h5", ".h5ad") and path.exists():
                h5py.File(path).close()
        except (OSError, ValueError) as error:
            faults.append(f"{name} ({error})")
    return faults


class Killer:
    """Kills runs until there were enough of them, and counts what happened.

    Parameters
    ----------
    folder
        Where the runs' folders are made.
    kills
        How many kills there are to be.
    seed
        Decides signals and moments.
    """

    def __init__(self, folder: Path, *, kills: int, seed: int) -> None:
        self.folder, self.wanted, self.random = folder, kills, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.lock = threading.Lock()
        self.environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

    def command(self, out: Path) -> list[str]:
        """Return the command of a run that goes on with what is there."""
        data = ROOT / "data/pbmc68k_reduced/data.h5"
        train = [sys.executable, str(ROOT / "train.py"), "--data", str(data), *FLAGS]
        return [*train, "--resume", "--out", str(out)]

    def reference(self) -> Reference:
        """Return a run that nobody kills."""
        out = self.folder / "reference"
        subprocess.run(self.command(out), check=True, capture_output=True, env=self.environment)
        return Reference({path.name for path in out.iterdir()}, digests(out))

    def lives(self, number: int, reference: Reference) -> None:
        """Begin run after run, and go on with each until it ends, while there are kills to make."""
        life = 0
        while self.counts["kills"] < self.wanted:
            life += 1
            out = self.folder / f"run-{number}-{life}"
            while not (out / "settings.json").exists():
                self.one_process(out, reference)
            self.check_end(out, reference)

    def one_process(self, out: Path, reference: Reference) -> None:
        """Start a process, kill it unless there were enough kills, and look at what it leaves."""
        with self.lock:
            kill = self.counts["kills"] < self.wanted
            moment, number = self.random.choice(MOMENTS), self.random.choice(SIGNALS)
            delay = self.random.uniform(0, DELAY.get(moment, 1.0))
            which = self.random.choice(("parent", "child"))
        process = subprocess.Popen(
            self.command(out),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )
        reached = threading.Event()
        lines: list[str] = []

        def watch() -> None:
            for line in process.stdout or ():
                lines.append(line)
                if line.startswith(moment):
                    reached.set()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        if kill:
            self._wait_for(moment, process, reached, out)
            time.sleep(delay)
            self._kill(process, number, which)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.fault(out, f"hangs after {number.name} at {moment}")
        watcher.join()
        with process:  # which closes its streams
            errors = process.stderr.read() if process.stderr else ""
        self._look(out, process.returncode, errors, number if kill else None, reference)
        with self.lock:
            if kill and process.returncode != 0:
                self.counts["kills"] += 1
                self.counts[f"at {moment.strip()}"] += 1
                self.counts[f"by {number.name}"] += 1
            else:
                self.counts["ended before"] += kill

    @staticmethod
    def _wait_for(
        moment: str, process: subprocess.Popen[str], reached: threading.Event, out: Path
    ) -> None:
        """Wait until a run has come to a moment, or has ended."""
        while process.poll() is None and moment != "start" and not reached.is_set():
            staging = next(out.glob(".partial-*"), None) if moment == "write" else None
            try:
                if staging is not None and any(staging.iterdir()):
                    return
            except OSError:  # it has just been moved
                return
            time.sleep(0.002)

    @staticmethod
    def _kill(process: subprocess.Popen[str], number: signal.Signals, which: str) -> None:
        """Send a signal to the process that waits, or to the one that does the job."""
        try:
            children = psutil.Process(process.pid).children()
            target = children[0].pid if which == "child" and children else process.pid
            os.kill(target, number)
        except (psutil.NoSuchProcess, ProcessLookupError):  # it has ended
            return

    def _look(
        self,
        out: Path,
        status: int,
        errors: str,
        number: signal.Signals | None,
        reference: Reference,
    ) -> None:
        """Note what is wrong after a process has ended."""
        statuses = {0} if number is None else {0, 128 + number, -number}
        if (out / "settings.json").exists():
            statuses.add(2)  # it had ended in the process before, which was killed a moment later
        if status not in statuses:
            self.fault(out, f"exit status {status} after {number}: {errors[-500:]}")
        if "Traceback" in errors:
            self.fault(out, f"a traceback after {number}: {errors[-800:]}")
        for name in half_written(out, reference):
            self.fault(out, f"half-written: {name}")

    def check_end(self, out: Path, reference: Reference) -> None:
        """Note where a run that has ended differs from one that nobody killed."""
        if (out / "checkpoints").exists() or list(out.glob(".*")):  # the next run clears them
            subprocess.run(self.command(out), check=False, capture_output=True)
        names = {path.name for path in out.iterdir()}
        if names != reference.names:
            self.fault(out, f"left behind or missing: {sorted(names ^ reference.names)}")
        ended = digests(out)
        different = [name for name, value in reference.digests.items() if ended.get(name) != value]
        if different:
            self.fault(out, f"not the same: {', '.join(different)}")
        with self.lock:
            self.counts["runs that ended"] += 1

    def fault(self, out: Path, text: str) -> None:
        """Note that something is wrong with a run."""
        with self.lock:
            self.faults.append(f"{out.name}: {text}")
            print(self.faults[-1], file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Kill runs; return the exit status: 0, or 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Kill runs at random moments and go on with them.")
    parser.add_argument("--kills", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of signals and moments (default: 1)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder), kills=args.kills, seed=args.seed)
        reference = killer.reference()
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda number: killer.lives(number, reference), range(args.jobs)))
    print(", ".join(f"{name}: {count}" for name, count in sorted(killer.counts.items())))
    print(f"faults: {len(killer.faults)}")
    return 1 if killer.faults else 0


if __name__ == "__main__":
    sys.exit(main())
