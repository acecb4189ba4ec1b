"""The benchmark: its plan by hand; stopped, crashing, hanging and greedy jobs; two real data sets.

Where the jobs are not real, `jobs.SUITE` points to a folder of small programs that take the same
flags and do what the name of their data set says. They run as any job, in a process of their own.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import contents, ran, write_published

import benchmark
from bench import jobs, methods, planning, progress, wording
from bench.jobs import Job, Place
from utils import InputError

ROOT = Path(__file__).parent.parent
FAKE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

def flag(name):
    return sys.argv[sys.argv.index(name) + 1]

name, seed, out = flag("--dataname"), int(flag("--seed")), Path(flag("--out"))
with open(Path(__file__).parent / "starts", "a") as file:
    file.write(f"{name} {seed} {os.getpid()}\\n")
(out / ".partial-1").mkdir(parents=True)
print("a line", flush=True)
if name == "crash":
    sys.exit("no cells like these")
if name == "segv":
    os.kill(os.getpid(), signal.SIGSEGV)
if name == "silent":
    sys.exit()
if name in ("hang", "greedy"):  # in a child, as libraries do
    hog = "x = bytearray(b'x' * 300 * 2**20);" if name == "greedy" else ""
    child = subprocess.Popen([sys.executable, "-c", hog + "import time; time.sleep(600)"])
    with open(Path(__file__).parent / "starts", "a") as file:
        file.write(f"child {seed} {child.pid}\\n")
    time.sleep(600)
if name.startswith("slow"):
    time.sleep(0.6)
(out / ".partial-1").rmdir()
word = "--variant" if "--variant" in sys.argv else "--method"
settings = {"dataname": name, word[2:]: flag(word), "seed": seed}
settings["n_clusters"] = flag("--n_clusters")
metrics = {
    "scores": {"ACC": 0.5, "NMI": 0.5, "ARI": seed / 8, "macro_F1": 0.5},
    "cells": 9,
    "genes": 7,
    "n_clusters": 3,
    "cluster_sizes": [4, 0, 5],
    "seconds": {"total": 1.5},
    "peak_memory_mb": 64.0,
}
if name == "damaged":
    del metrics["cells"]
notes = {
    "settings": settings,
    "data": {"sha256": "d"},
    "versions": {"numpy": "2"},
    "suite_commit": "c",
    "machine": {"cores": 2},
    "command": sys.argv,
    "threads_seen": [os.environ["OMP_NUM_THREADS"], os.environ["TF_NUM_INTRAOP_THREADS"]],
}
(out / "metrics.json").write_text(json.dumps(metrics))
(out / "settings.json").write_text(json.dumps(notes))
"""
KEYS = {
    "dataset",
    "method",
    "regime",
    "seed",
    "status",
    "message",
    "exit_status",
    "cells",
    "genes",
    "n_classes",
    "n_clusters",
    "empty_clusters",
    "scores",
    "initial_scores",
    "seconds",
    "wall_seconds",
    "peak_memory_mb",
    "command",
    "settings",
    "versions",
    "suite_commit",
    "machine",
    "data_sha256",
    "n_jobs",
    "threads",
}


def command(*flags):
    return ran(benchmark.main, flags, io.StringIO())


def data_root(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        write_published(folder / name / "data.h5", [[1, 2], [3, 4]], labels=["a", "b"])
    return folder


def all_records(out):
    """All records by data set, method and seed."""
    contents = [json.loads(path.read_text()) for path in (out / "records").rglob("*.json")]
    return {(r["dataset"], r["method"], r["seed"]): r for r in contents}


def alive(pid):
    with_pid = psutil.pid_exists(pid)
    return with_pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


class Fake:
    """A benchmark on stand-in programs: `run(names...)`, and who was started."""

    def __init__(self, folder):
        self.suite, self.data, self.out = folder / "suite", folder / "data", folder / "out"
        self.processes = []
        self.suite.mkdir()
        for program in ("train.py", "baselines.py"):
            (self.suite / program).write_text(FAKE)

    def flags(self, *names, seeds=(1,), methods=("sctag",)):
        if not self.data.exists():
            data_root(self.data, *names)
        places = ("--out", self.out, "--data_dir", self.data)
        what = ("--datasets", *names, "--methods", *methods, "--seeds", *seeds)
        return ["run", *places, *what]

    def run(self, *names, extra=(), **chosen):
        return command(*self.flags(*names, **chosen), *extra)

    def process(self, flags):
        """The same command in a process of its own, which a signal can end."""
        main = (
            "import sys, pathlib, benchmark\n"
            "from bench import jobs\n"
            "jobs.SUITE = pathlib.Path(sys.argv.pop(1))\n"
            "sys.exit(benchmark.main())"
        )
        arguments = [sys.executable, "-c", main, self.suite, *flags]
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def wait_for(self, condition):
        """Until the benchmark that runs has come so far; not beyond its end."""
        until = time.monotonic() + 30
        while not condition():
            assert self.processes[-1].poll() is None, self.processes[-1].communicate()
            assert time.monotonic() < until, "it did not happen in 30 s"
            time.sleep(0.02)

    def starts(self):
        """(data set, seed, pid) of every start so far."""
        path = self.suite / "starts"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(name, int(seed), int(pid)) for name, seed, pid in map(str.split, lines)]

    def started(self):
        return [(name, seed) for name, seed, _ in self.starts()]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = Fake(tmp_path)
    monkeypatch.setattr(jobs, "SUITE", fake.suite)
    yield fake
    for process in fake.processes:  # of a test that failed: they take their jobs along
        if process.poll() is None:
            process.terminate()
            process.communicate()


# --- The plan -------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    return data_root(tmp_path / "data", "A", "B")


def test_the_plan_by_hand(data):
    planned = planning.plan(
        data_dir=data,
        methods=["leiden", "sctag  hops=2", "pca_kmeans", "sctag hops=2", "sctag resolution=1"],
        seeds=[3, 1],
        regimes=["true", "estimated", "default"],
    )
    one_seed = [
        ("sctag hops=2", "true"),
        ("pca_kmeans", "true"),
        ("sctag hops=2", "estimated"),
        ("pca_kmeans", "estimated"),
        ("leiden", "default"),
        ("sctag resolution=1", "default"),
    ]
    expected = [(d, m, r, s) for s in (3, 1) for d in "AB" for m, r in one_seed]
    assert [tuple(job) for job in planned] == expected


def test_the_plan_by_default(data, monkeypatch):
    monkeypatch.setattr(methods, "has_scvi", lambda: False)
    words = ["pca_kmeans", "pca_mixture", "spectral", "leiden_k", "louvain_k", "scanpy_k"]
    words += ["no_network", "official", "sctag"]
    planned = planning.plan(data_dir=data)
    assert len(planned) == 2 * 9 * 5
    assert [job.method for job in planned[:9]] == words
    assert {job.regime for job in planned} == {"true"}
    with pytest.raises(InputError, match="scvi_leiden needs scvi-tools"):
        planning.plan(data_dir=data, methods=["scvi_leiden"], regimes=["default"])
    monkeypatch.setattr(methods, "has_scvi", lambda: True)
    planned = planning.plan(data_dir=data, regimes=["default"], seeds=[1])
    assert [job.method for job in planned[:4]] == ["leiden", "louvain", "scanpy", "scvi_leiden"]


def test_the_ablations_are_flags_of_sctag(data):
    named = [method for group in methods.ABLATIONS.values() for method in group]
    planned = planning.plan(data_dir=data, methods=["sctag"], ablations=True, seeds=[1])
    assert [job.method for job in planned] == ["sctag", *named] * 2
    defaults = methods.parse_method("sctag")[1]
    for method in named:
        parsed = methods.parse_method(method)[1]
        changed = [name for name in defaults if parsed[name] != defaults[name]]
        assert sorted(changed) == sorted(methods.flag_names(method))


def test_the_names_of_a_job():
    job = Job("Young", "sctag hops=1 kl=qp", "true", 2)
    assert job.slug == "sctag+hops=1+kl=qp"
    assert job.run_dir == Path("runs/Young/sctag+hops=1+kl=qp-true-seed2")
    assert job.log == Path("runs/Young/sctag+hops=1+kl=qp-true-seed2.log")
    assert job.record == Path("records/Young/sctag+hops=1+kl=qp-true-seed2.json")


def test_a_method_becomes_the_flags_of_its_command(tmp_path):
    method = "official symmetric_graph=yes train_centers=no decoder_dims=64,128 clip=none"
    flags = ["--symmetric_graph", "--no-train_centers", "--decoder_dims", "64", "128"]
    assert methods.command_flags(method) == [*flags, "--clip", "none"]
    parsed = methods.parse_method(method)[1]
    assert parsed["symmetric_graph"] is True
    assert parsed["train_centers"] is False
    assert parsed["decoder_dims"] == [64, 128]
    assert parsed["clip"] is None
    assert parsed["hops"] == 3

    def program(method, regime):
        made = jobs.command(Job("A", method, regime, 4), Place(tmp_path, Path("d")))
        assert made[0] == sys.executable
        assert made[made.index("--seed") + 1] == "4"
        clusters = made[made.index("--n_clusters") + 1] if "--n_clusters" in made else None
        return made[1:4], clusters

    train, rivals = str(ROOT / "train.py"), str(ROOT / "baselines.py")
    assert program("official", "true") == ([train, "--variant", "official"], "labels")
    assert program("spectral", "estimated") == ([rivals, "--method", "spectral"], "auto")
    assert program("leiden", "default") == ([rivals, "--method", "leiden"], None)


def test_a_flag_s_former_name_is_the_present_one(data, monkeypatch):
    monkeypatch.setattr(methods, "RENAMED", {"loops": "hops"})
    assert methods.present_name("sctag kl=qp loops=2") == "sctag kl=qp hops=2"
    for other in ("sctag", "loops", "sctag hops=2", "sctag layer=loops", "sctag loops_=2"):
        assert methods.present_name(other) == other
    method, settings = methods.parse_method("sctag  loops=2")
    assert (method, settings["hops"]) == ("sctag hops=2", 2)
    planned = planning.plan(data_dir=data, methods=["sctag loops=2", "sctag hops=2"], seeds=[1])
    assert [job.method for job in planned] == ["sctag hops=2"] * 2  # of two data sets
    with pytest.raises(InputError, match="hops is given twice"):
        methods.parse_method("sctag loops=2 hops=3")


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("sctga", "there is no method 'sctga', choose from: pca_kmeans"),
        ("", "there is no method ''"),
        ("sctag hop=1", "sctag has no flag hop, did you mean hops?"),
        ("sctag hops", "'hops' is not NAME=VALUE"),
        ("sctag subset=donor=A", "subset is for a single data set"),
        ("sctag --hops=1", "'--hops=1' is not NAME=VALUE"),
        ("sctag layer=a/b", "'layer=a/b' is not NAME=VALUE"),
        ("sctag hops=0", "argument --hops: must be at least 1, not 0"),
        ("sctag kl=pp", "argument --kl: invalid choice: 'pp'"),
        ("sctag hops=1 hops=2", "hops is given twice"),
        ("sctag seed=2", "the benchmark itself sets seed"),
        ("sctag n_clusters=5", "the benchmark itself sets n_clusters"),
        ("pca_kmeans hops=1", "pca_kmeans has no flag hops"),
        ("pca_kmeans n_pcs=x", "argument --n_pcs: 'x' is not a whole number"),
        ("sctag train_centers=true", "unrecognized arguments: true"),
        ("sctag decoder_dims=" + "64," * 80 + "64", "has too many flags"),
    ],
)
def test_a_mistyped_method_is_one_sentence_before_any_job_runs(method, sentence, fake):
    done = fake.run("good", methods=["sctag", method])
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert sentence in done.err
    assert not fake.out.exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--datasets", "C"], "no data set 'C' in"),
        (["--datasets", "../data"], "'../data' is not the name of a data set"),
        (["--data_dir", "nowhere"], "there is no NAME/data.h5 in nowhere"),
        (["--methods", "leiden"], "no job is left"),
        (["--methods", "sctag", "--regimes", "default"], "no job is left"),
        (["--regimes", "none"], "invalid choice: 'none'"),
        (["--seeds", "-1"], "must be at least 0 and below 4294967296, not -1"),
        (["--jobs", "0"], "must be at least 1, not 0"),
        (["--time_limit", "nan"], "must be above 0, not nan"),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(flags, sentence, data, tmp_path):
    given = ["run", "--out", tmp_path / "out", *flags]
    done = command(*given, *([] if "--data_dir" in flags else ["--data_dir", data]))
    assert done.status == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(fake):
    done = fake.run("good", methods=["sctag", "leiden"], extra=["--dry_run"])
    assert done.status == 0
    assert "left out  leiden: such methods find one (default)" in done.out
    assert "plan      1 jobs: 1 true" in done.out
    assert "to run    good  sctag  true  seed 1" in done.out
    assert done.out.endswith("1 of 1 jobs would run\n")
    assert not fake.out.exists()
    fake.run("good")
    before = contents(fake.out)
    done = fake.run("good", seeds=[1, 2], extra=["--dry_run", "--retry_failed"])
    assert "ok        good  sctag  true  seed 1\nto run    good  sctag  true  seed 2" in done.out
    assert contents(fake.out) == before


def test_the_out_folder_must_be_one(fake):
    fake.out.write_text("a file")
    done = fake.run("good")
    assert done.status == 2
    assert "cannot write to" in done.err


# --- How a job ends -------------------------------------------------------------------------------


def test_every_way_to_fail_is_one_record_and_the_others_go_on(fake):
    names = ["crash", "damaged", "good", "greedy", "hang", "segv", "silent"]
    data_root(fake.data, *names)
    fake.run("hang", extra=["--time_limit", "0.5"])
    done = fake.run(*names, extra=["--memory_limit", "200", "--jobs", "3"])
    records = {name: record for (name, _, _), record in all_records(fake.out).items()}
    assert sorted(records) == names
    assert all(set(record) == KEYS for record in records.values())
    messages = {name: record["message"] for name, record in records.items()}
    assert messages["good"] is None
    assert messages["crash"] == "exit status 1: no cells like these"
    assert messages["segv"] == "killed by SIGSEGV: a line"
    assert messages["silent"] == "exit status 0, but there are no results in its folder"
    assert messages["hang"] == "stopped at the time limit of 0.5 s"
    assert messages["greedy"].startswith("stopped at the memory limit of 200 MiB: it used ")
    assert messages["damaged"] == "its results cannot be read (KeyError: 'cells')"
    assert 0.5 < records["hang"]["wall_seconds"] < 15
    assert records["greedy"]["peak_memory_mb"] > 200
    statuses = {name: record["exit_status"] for name, record in records.items()}
    stopped = dict.fromkeys(("greedy", "hang", "segv"))
    assert statuses == stopped | {"crash": 1, "damaged": 0, "good": 0, "silent": 0}
    for name in set(names) - {"good"}:
        assert records[name]["status"] == "failed"
        assert records[name]["scores"] is None
        assert records[name]["settings"] is None
        assert not (fake.out / Job(name, "sctag", "true", 1).run_dir).exists()
    assert not any(alive(pid) for _, _, pid in fake.starts())
    assert done.status == 1
    assert "6 of 7 jobs failed" in done.err
    assert str(fake.out / Job("crash", "sctag", "true", 1).log) in done.err.splitlines()[-1]
    assert "and 1 more" in done.err


def test_failed_jobs_run_again_only_on_request(fake):
    flags = {"seeds": [1, 2]}
    assert fake.run("crash", "good", **flags).status == 1
    assert fake.run("crash", "good", **flags).status == 1
    assert sorted(fake.started()) == [("crash", 1), ("crash", 2), ("good", 1), ("good", 2)]
    program = fake.suite / "train.py"
    program.write_text(program.read_text().replace('"crash"', '"mended"'))
    assert fake.run("crash", "good", **flags, extra=["--retry_failed"]).status == 0
    assert sorted(fake.started())[:5] == [("crash", 1)] * 2 + [("crash", 2)] * 2 + [("good", 1)]
    assert len(fake.started()) == 6
    assert all(record["status"] == "ok" for record in all_records(fake.out).values())


def test_a_record_holds_what_the_run_left(fake):
    fake.run("good", seeds=[3], methods=["sctag hops=2"], extra=["--jobs", "2"])
    (record,) = all_records(fake.out).values()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, cores // 2)
    run_dir = fake.out / "runs/good/sctag+hops=2-true-seed3"
    notes = json.loads((run_dir / "settings.json").read_text())
    assert notes["threads_seen"] == [str(threads)] * 2
    assert record["wall_seconds"] > 0
    expected = {
        "dataset": "good",
        "method": "sctag hops=2",
        "regime": "true",
        "seed": 3,
        "status": "ok",
        "message": None,
        "exit_status": 0,
        "cells": 9,
        "genes": 7,
        "n_classes": 3,
        "n_clusters": 2,
        "empty_clusters": 1,
        "scores": {"ACC": 0.5, "NMI": 0.5, "ARI": 0.375, "macro_F1": 0.5},
        "initial_scores": None,
        "seconds": 1.5,
        "wall_seconds": record["wall_seconds"],
        "peak_memory_mb": 64.0,
        "command": notes["command"],
        "settings": notes["settings"],
        "versions": notes["versions"],
        "suite_commit": "c",
        "machine": notes["machine"],
        "data_sha256": "d",
        "n_jobs": 2,
        "threads": threads,
    }
    assert record == expected


# --- Stopped and continued ------------------------------------------------------------------------

SLOW = {"seeds": [1, 2, 3, 4]}


def test_a_killed_benchmark_goes_on_where_it_was(fake):
    flags = fake.flags("slow", **SLOW)
    process = fake.process(flags)
    half_made = fake.out / Job("slow", "sctag", "true", 3).run_dir / ".partial-1"
    fake.wait_for(lambda: len(all_records(fake.out)) == 2 and half_made.exists())
    process.kill()
    process.communicate()
    *_, (_, _, pid) = fake.starts()
    if sys.platform == "linux":  # the job is killed with the benchmark
        psutil.wait_procs([psutil.Process(pid)] if alive(pid) else [], timeout=10)
        assert not alive(pid)
    records = list((fake.out / "records").rglob("*.json"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in records}
    assert len(before) == 2
    assert half_made.exists()

    assert fake.run("slow", **SLOW).status == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    assert fake.started() == [("slow", seed) for seed in (1, 2, 3, 3, 4)]
    scores = {key: record["scores"]["ARI"] for key, record in all_records(fake.out).items()}
    assert scores == {("slow", "sctag", seed): seed / 8 for seed in SLOW["seeds"]}
    assert not [path for path in fake.out.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_jobs_and_leaves_no_half_record(number, fake):
    process = fake.process([*fake.flags("good", "hang"), "--jobs", "2"])
    fake.wait_for(lambda: len(fake.starts()) == 3 and len(all_records(fake.out)) == 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"stopped by {number.name}; 1 running jobs were ended" in err
    assert "Traceback" not in out + err
    assert not any(alive(pid) for _, _, pid in fake.starts())
    assert list(all_records(fake.out)) == [("good", "sctag", 1)]
    assert not (fake.out / Job("hang", "sctag", "true", 1).run_dir).exists()


def test_two_benchmarks_in_one_folder_share_the_work(fake):
    flags = fake.flags("slow", **SLOW)
    both = [fake.process(flags) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert "4 of 4 jobs are ok" in out
    assert sorted(fake.started()) == [("slow", seed) for seed in SLOW["seeds"]]
    assert len(all_records(fake.out)) == 4


def test_a_complete_run_without_a_record_is_not_run_again(fake):
    fake.run("good")
    job = Job("good", "sctag", "true", 1)
    record = json.loads((fake.out / job.record).read_text())
    (fake.out / job.record).unlink()
    settings = fake.out / job.run_dir / "settings.json"
    settings.write_text(settings.read_text().replace('"seed"', '"gpu_option": "-1", "seed"'))
    record["settings"]["gpu_option"] = "-1"  # made by hand on another device
    run_files = contents(fake.out / job.run_dir)
    done = fake.run("good", seeds=[1, 2], extra=["--dry_run"])
    assert "complete  1 runs without a record, which is made of them" in done.out
    assert "complete  good  sctag  true  seed 1\nto run    good  sctag  true  seed 2" in done.out
    assert done.out.endswith("1 of 2 jobs would run\n")
    assert not (fake.out / job.record).exists()
    assert fake.run("good").status == 0
    assert fake.started() == [("good", 1)]
    assert contents(fake.out / job.run_dir) == run_files
    unwatched = dict.fromkeys(("exit_status", "wall_seconds", "n_jobs", "threads"))
    assert json.loads((fake.out / job.record).read_text()) == record | unwatched


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 2}, "holds another run (seed differ)"),
        ({"dataname": "bad"}, "holds another run (dataname differ)"),
        ({"pretrain_epochs": 7}, "holds another run (pretrain_epochs differ)"),
        (
            {"variant": "official", "n_clusters": 7},
            "holds another run (n_clusters, variant differ)",
        ),
        (None, "is not a run's settings"),
    ],
)
def test_a_complete_run_of_something_else_is_refused(change, sentence, fake):
    fake.run("good")
    job = Job("good", "sctag", "true", 1)
    path = fake.out / job.run_dir / "settings.json"
    notes = json.loads(path.read_text())
    path.write_text(json.dumps(notes | {"settings": notes["settings"] | change} if change else {}))
    (fake.out / job.record).unlink()
    done = fake.run("good")
    assert done.status == 2
    assert sentence in done.err
    assert not (fake.out / job.record).exists()


def test_a_complete_run_from_before_a_setting_was_renamed_is_the_job_s(fake, monkeypatch):
    fake.run("good", methods=["sctag hops=2"])
    job = Job("good", "sctag hops=2", "true", 1)
    (fake.out / job.record).unlink()
    path = fake.out / job.run_dir / "settings.json"
    notes = json.loads(path.read_text())
    monkeypatch.setattr(methods, "RENAMED", {"loops": "hops"})
    path.write_text(json.dumps(notes | {"settings": notes["settings"] | {"loops": 3}}))
    done = fake.run("good", methods=["sctag hops=2"])
    assert done.status == 2
    assert "holds another run (hops differ)" in done.err
    path.write_text(json.dumps(notes | {"settings": notes["settings"] | {"loops": 2}}))
    assert fake.run("good", methods=["sctag loops=2"]).status == 0
    assert fake.started() == [("good", 1)]
    assert json.loads((fake.out / job.record).read_text())["method"] == "sctag hops=2"


def test_a_file_that_is_no_record_is_refused(fake):
    fake.run("good")
    (fake.out / Job("good", "sctag", "true", 1).record).write_text("{}")
    done = fake.run("good")
    assert done.status == 2
    assert "good/sctag-true-seed1.json is damaged (it lacks dataset, method" in done.err


# --- What is left ---------------------------------------------------------------------------------


def test_the_time_left_by_hand():
    def record(seconds):
        return {"wall_seconds": seconds, "seconds": 1.0}

    a, b, other = (Job(name, "sctag", "true", 1) for name in ("A", "B", "C"))
    records = {a: record(10.0), b: record(30.0), Job("A", "spectral", "true", 1): record(2.0)}
    waiting = [a._replace(seed=2), other, Job("A", "leiden", "default", 1)]
    running = {b._replace(seed=2): 12.0, a._replace(seed=3): 11.0}
    # 10 of its own, 20 of its method, 14 of all; 18 and nothing of those that run; two at once
    left = (10 + 20 + 14 + 18 + 0) / 2
    assert progress.seconds_left(records, waiting, running, 2) == pytest.approx(left)
    assert progress.seconds_left({}, waiting, running, 2) is None
    assert progress.seconds_left(records, [], {}, 2) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (7799, "2 h 10 min")]
)
def test_durations(seconds, text):
    assert wording.duration(seconds) == text


def test_the_live_line_is_for_terminals(fake, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    done = ran(benchmark.main, fake.flags("crash", "good"), Terminal())
    assert "jobs 1/2" in done.err
    assert "1 running, 1 failed" in done.err
    assert "2/2  ok      good  sctag  true  seed 1" in done.out
    plain = fake.run("crash", "good", seeds=[2])
    assert "\r" not in plain.err
    assert "1/2  failed  crash  sctag  true  seed 2: exit status 1: no cells" in plain.err
    quiet = fake.run("crash", "good", seeds=[3], extra=["--quiet"])
    assert quiet.out == ""
    assert quiet.err.count("\n") == 2


# --- Real -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(simulated, tmp_path_factory):
    """Two data sets, one of them half of the other's cells."""
    root = tmp_path_factory.mktemp("real")
    for name, n in (("All", 120), ("Half", 60)):
        (root / "data" / name).mkdir(parents=True)
        path = root / "data" / name / "data.h5"
        names = {"cells": simulated.cells[:n], "genes": simulated.genes}
        write_published(path, simulated.counts[:n], labels=simulated.labels[:n], **names)
    return root


def check_real(record, run_dir):
    """The record of a run that ended well tells what the run's own files do."""
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert set(record) == KEYS
    assert record["status"] == "ok"
    assert record["scores"] == metrics["scores"]
    assert record["cells"] == {"All": 120, "Half": 60}[record["dataset"]]
    assert record["n_classes"] == 3
    assert record["n_clusters"] == len(metrics["cluster_sizes"])
    assert record["seconds"] == metrics["seconds"]["total"] <= record["wall_seconds"]
    assert record["settings"]["seed"] == record["seed"]


@pytest.mark.slow
def test_two_data_sets_from_end_to_end(real):
    """In the default regime the classes of the cells that are left come from the data file."""
    flags = ["run", "--out", real / "out", "--data_dir", real / "data", "--seeds", 1]
    flags += ["--methods", "pca_kmeans", "leiden", "--regimes", "true", "default", "--jobs", 2]
    done = command(*flags)
    assert done.status == 0, done.err
    assert done.out.endswith(f"4 of 4 jobs are ok, records in {real / 'out' / 'records'}\n")
    records = all_records(real / "out")
    regimes = {"pca_kmeans": "true", "leiden": "default"}
    assert set(records) == {(d, m, 1) for d in ("All", "Half") for m in regimes}
    for (dataset, method, seed), record in records.items():
        check_real(record, real / "out" / Job(dataset, method, regimes[method], seed).run_dir)
        assert record["initial_scores"] is None
    assert records["All", "pca_kmeans", 1]["scores"]["ARI"] > 0.95
    before = contents(real / "out")
    assert command(*flags).status == 0
    assert contents(real / "out") == before
    done = command("report", "--out", real / "out", "--quiet")
    assert done.status == 0, done.err
    path = real / "out" / "report" / "report.md"
    last_line = f"{path} and report.html: 4 jobs, 0 failed; 2 data sets, 2 methods\n"
    assert (done.out, path.exists()) == (last_line, True)


def test_one_job_for_a_workflow_engine(real):
    method = "sctag pretrain_epochs=2 maxiter=0 hidden_dim=8 decoder_dims=8"
    flags = ["job", "--out", real / "one", "--data_dir", real / "data", "--dataset", "Half"]
    done = command(*flags, "--method", method, "--seed", 2)
    assert done.status == 0, done.err
    ((key, record),) = all_records(real / "one").items()
    assert key == ("Half", method, 2)
    check_real(record, real / "one" / Job("Half", method, "true", 2).run_dir)
    assert set(record["initial_scores"]) == set(record["scores"])
    assert record["settings"]["decoder_dims"] == [8]
