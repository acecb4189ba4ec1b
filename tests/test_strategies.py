"""Steps of sub-graphs that several devices or processes share, against those of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import EAGER_DATA, TINY, contents

import devices
import strategies
from keeper import Keeper, following
from settings import Settings
from strategies import Worker, worker_of
from utils import InputError

SCRIPT = Path(__file__).with_name("replicas.py")
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")}
LOSSES = ["total", "adj", "zinb", "kl"]


def started(*args, **environment):
    """A process of replicas.py."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, args)],
        env=os.environ | ONE_THREAD | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_devices_train_as_one_does(tmp_path):
    """With dropout, two hops, and the target of the clustering phase: all but rounding."""
    process = started("mirrored", tmp_path / "ends.npz")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    ends = np.load(tmp_path / "ends.npz")
    assert ends["replicas"] == 2
    np.testing.assert_allclose(ends["two_losses"], ends["one_losses"], rtol=1e-5)
    assert ends["one_losses"][0, 0] > ends["one_losses"][-1, 0]
    np.testing.assert_allclose(ends["two_weights"], ends["one_weights"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(ends["two_q"], ends["one_q"], rtol=1e-4)


def of_workers(ports):
    """TF_CONFIG of each of the workers at these ports."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    tasks = [{"type": "worker", "index": index} for index in range(len(ports))]
    return [json.dumps({"cluster": cluster, "task": task}) for task in tasks]


def free_ports(number):
    """Ports of this machine that nothing listens to."""
    sockets = [socket.socket() for _ in range(number)]
    for opened_socket in sockets:
        opened_socket.bind(("127.0.0.1", 0))
    ports = [opened_socket.getsockname()[1] for opened_socket in sockets]
    for opened_socket in sockets:
        opened_socket.close()
    return ports


def run_workers(*flags, others=(), folder):
    """Run the command in two workers; `others` are more flags of the second one."""
    processes = [
        started(*("worker", *flags, *more), TF_CONFIG=config, TMPDIR=str(folder))
        for config, more in zip(of_workers(free_ports(2)), ((), others), strict=True)
    ]
    return [(*process.communicate(timeout=300), process.returncode) for process in processes]


@pytest.mark.slow
@pytest.mark.filterwarnings(EAGER_DATA)
def test_two_workers_train_as_one_process_does(tiny, simulated, tmp_path):
    """The chief leaves the results of one process, to rounding; the other one leaves nothing."""
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    flags = [*TINY, "--data", simulated.path, "--batch_cells", 40]
    ended = run_workers(*flags, "--strategy=multiworker", "--out", out, folder=scratch)
    assert [status for *_, status in ended] == [0, 0], ended
    alone = tiny("--data", simulated.path, "--batch_cells", 40)
    assert (alone.metrics["strategy"], alone.metrics["replicas"]) == ("one", 1)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["strategy"], metrics["replicas"]) == ("multiworker", 2)
    history = pd.read_csv(out / "history.csv")
    np.testing.assert_allclose(history[LOSSES], alone.history[LOSSES], rtol=1e-5, atol=1e-7)
    assert (pd.read_csv(out / "labels.csv")["cluster"] == alone.labels["cluster"]).all()
    assert set(contents(out)) == set(contents(alone.out))
    assert not [path for path in scratch.iterdir() if path.name.startswith("sctag-w")]
    assert "worker 1 of 2 waits for the others" in ended[0][0]
    assert ended[1][0] == "the chief of the workers writes the results\n"


@pytest.mark.slow
def test_workers_with_other_commands_are_refused(simulated, tmp_path):
    flags = [*TINY, "--data", simulated.path, "--batch_cells", 40, "--strategy=multiworker"]
    ended = run_workers(
        *(*flags, "--out", tmp_path / "out"), others=("--dropout=0.1",), folder=tmp_path
    )
    assert [status for *_, status in ended] == [2, 2]
    for _, err, _ in ended:
        assert "the workers differ in what they train" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


# --- Which devices --------------------------------------------------------------------------------

MULTIWORKER = Settings.of(strategy="multiworker", batch_cells=40)
SLURM = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}
CHIEF = {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}
WORKERS = [
    ({"TF_CONFIG": of_workers([1, 2])[1]}, Worker(1, 2)),
    ({"TF_CONFIG": json.dumps(CHIEF)}, Worker(1, 2)),
    ({"TF_CONFIG": of_workers([1, 2])[0]} | SLURM, Worker(0, 2)),
    (SLURM, Worker(2, 4)),
    ({"SLURM_PROCID": "0"}, None),
    ({}, None),
    *(({"TF_CONFIG": text}, None) for text in ("", "[]", '{"cluster": {}, "task": {}}')),
]


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables that name the workers, and no others."""

    def environment(variables):
        for name in ("TF_CONFIG", *SLURM):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return environment


@pytest.mark.parametrize(("variables", "expected"), WORKERS)
def test_the_environment_says_which_worker_a_process_is(environment, variables, expected):
    environment(variables)
    assert worker_of(MULTIWORKER) == expected
    assert worker_of(Settings.of(strategy="auto")) == Worker(0, 1)
    follower = strategies.of_follower(MULTIWORKER)
    if expected is None or expected.place == 0:
        assert follower is None
    else:
        assert follower.quiet
        assert follower.no_h5ad
        assert (follower.batch_cells, follower.strategy) == (40, "multiworker")


def test_workers_that_nothing_names_are_refused(environment, refused, simulated):
    flags = ("--data", simulated.path, "--batch_cells", "40", "--strategy", "multiworker")
    environment({})
    assert "nothing says which workers there are" in refused(*flags)
    environment({"TF_CONFIG": "{}"})
    assert "TF_CONFIG does not say which workers there are" in refused(*flags)


def test_steps_that_cannot_be_shared_are_refused(refused, simulated):
    flags = ("--data", simulated.path, "--strategy", "mirrored")
    assert "has all 120 cells: leave it out, or give --batch_cells" in refused(*flags)
    assert "give --graph_loss jaccard" in refused(*flags, "--graph_loss", "mse")


GPUS = [("auto", n, m) for n, m in ((0, 0), (1, 0), (2, 2), (3, 2), (7, 4), (9, 8))]


@pytest.mark.parametrize(("name", "visible", "used"), [*GPUS, ("mirrored", 4, 4)])
def test_the_gpus_that_share_the_steps(name, visible, used, logical_devices):
    logical_devices(gpus=visible)
    assert strategies._devices(name) == [f"GPU:{number}" for number in range(used)]


@pytest.mark.parametrize(("gpus", "sees"), [(0, 1), (1, 1), (3, 3), (16, 16)])
def test_devices_that_do_not_divide_the_parts_of_a_step_are_refused(gpus, sees, logical_devices):
    logical_devices(gpus=gpus)
    with pytest.raises(InputError, match=f"2, 4 or 8 devices, and TensorFlow sees {sees}: "):
        strategies._devices("mirrored")


@pytest.fixture
def logical_devices(monkeypatch):
    """Have TensorFlow see some GPUs, and one processor."""
    import tensorflow as tf

    def logical_devices(*, gpus):
        numbers = {"GPU": gpus, "CPU": 1}

        def listed(kind):
            names = [f"{kind}:{number}" for number in range(numbers[kind])]
            return [tf.config.LogicalDevice(name, kind) for name in names]

        monkeypatch.setattr(tf.config, "list_logical_devices", listed)

    return logical_devices


@pytest.mark.parametrize(("all_gpus", "expected"), [(False, "0"), (True, None)])
def test_all_gpus_are_visible_where_they_are_asked_for(all_gpus, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "to be restored at the end")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    devices.start_tensorflow(None, all_gpus=all_gpus)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


def test_a_follower_reads_checkpoints_and_writes_none(tmp_path, monkeypatch):
    settings = Settings.of(resume=True)
    kept = following(tmp_path, settings)
    assert (kept.folder, kept.resume) == (tmp_path / "checkpoints", True)
    assert not following(tmp_path, Settings.of(resume=True, checkpoint_minutes=0)).resume
    monkeypatch.setattr(Keeper, "write", lambda _: pytest.fail("a checkpoint was written"))
    kept.keep(None)


@pytest.mark.parametrize(("columns", "first"), [(10, 0), (7, 3)])
def test_the_dropout_of_some_rows_is_that_of_the_whole(columns, first):
    from layers import InputDropout

    whole = np.ones((9, columns), np.float32)
    expected = InputDropout(0.4, seed=3)(whole, training=True).numpy()
    assert {0.0} < set(np.unique(expected))
    rows = InputDropout(0.4, seed=3)(
        whole[first : first + 4], training=True, first=first, rows_in_all=9
    )
    np.testing.assert_array_equal(rows, expected[first : first + 4])
