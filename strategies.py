"""Which devices share the training of a run: one, several GPUs of a machine, or several machines.

Under "multiworker" each process of the run, a worker, is started with the same command; the first
one is the chief, which alone writes results and checkpoints. TensorFlow is imported where a
strategy is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import devices
import parts
import utils
from settings import Settings
from utils import InputError, TrainingError

log = logging.getLogger("sctag")

# Replicas among which the parts of a step can be divided.
REPLICAS = [number for number in range(2, parts.TOGETHER + 1) if parts.TOGETHER % number == 0]
FIRST_PORT, PORTS = 20_000, 10_000  # of the workers of SLURM's jobs, by the number of the job


# What a worker that is not the chief leaves out.
OF_CHIEF: dict[str, Any] = {
    "quiet": True,
    "log_file": None,
    "tensorboard": None,
    "no_h5ad": True,
    "no_report": True,
    "denoised": False,
}


class Worker(NamedTuple):
    """A process among those of a run: its number from 0, which is the chief's, and how many."""

    place: int
    total: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"worker {self.place + 1} of {self.total}"


def worker_of(settings: Settings) -> Worker | None:
    """Return which of the processes of a run this is; the only one unless there are workers.

    TF_CONFIG says so, as TensorFlow documents it, or where there is none SLURM's variables; None if
    they do not.
    """
    if settings.strategy != "multiworker":
        return Worker(0, 1)
    text = os.environ.get("TF_CONFIG")
    try:
        if text is None:
            return Worker(*(int(os.environ[f"SLURM_{n}"]) for n in ("PROCID", "STEP_NUM_TASKS")))
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        names = [
            (kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, ())))
        ]
        return Worker(names.index((task["type"], int(task["index"]))), len(names))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def of_follower(settings: Settings) -> Settings | None:
    """Return the settings of a worker that is not the chief, None for any other process."""
    worker = worker_of(settings)
    if worker is None or worker.place == 0:
        return None
    return dataclasses.replace(settings, **OF_CHIEF)


def check(settings: Settings, n_cells: int | None = None) -> None:
    """Raise InputError if the strategy that is asked for has no steps that can be shared.

    Before the data are read the number of cells is None.
    """
    name = settings.strategy
    if name in ("auto", "one"):
        return
    if worker_of(settings) is None:
        says = "TF_CONFIG does not say" if "TF_CONFIG" in os.environ else "nothing says"
        raise InputError(
            f"--strategy multiworker: {says} which workers there are, and which of them this is: "
            "start it with srun as workflow/slurm/multiworker.sh does, or set TF_CONFIG for each"
        )
    if settings.graph_loss == "mse":
        raise InputError(
            f"--strategy {name} shares steps of parts of the graph, and the graph loss of all "
            "pairs of cells has none: leave it out, or give --graph_loss jaccard"
        )
    if n_cells is not None and parts.cells_of_step(settings, n_cells) is None:
        raise InputError(
            f"--strategy {name} shares steps of parts of the graph, and each step of this run has "
            f"all {n_cells} cells: leave it out, or give --batch_cells with a smaller number"
        )


def start(settings: Settings, n_cells: int) -> tuple[devices.Device, Any]:
    """Start TensorFlow; return the first device, and the strategy that shares the steps, or None.

    Under "auto" two or more GPUs share them, if TensorFlow is shown so many and the steps are of
    parts of the graph. The settings are those that `check` accepts.

    Raises
    ------
    InputError
        If the parts of a step cannot be divided among the devices.
    """
    name, strategy = settings.strategy, None
    if name == "multiworker":
        made, worker = [], worker_of(settings)
        log.info("workers   %s waits for the others", worker and worker.name)
        device = devices.start_tensorflow(
            settings.gpu_option, all_gpus=True, connect=lambda: made.append(_multiworker())
        )
        strategy = made[0]
        _check_replicas(name, strategy.num_replicas_in_sync)
    else:
        device = devices.start_tensorflow(settings.gpu_option, all_gpus=name == "mirrored")
        in_parts = parts.cells_of_step(settings, n_cells) is not None
        shared = _devices(name) if in_parts and name != "one" else []
        if shared:
            import tensorflow as tf

            with devices.tensorflow_session():
                strategy = tf.distribute.MirroredStrategy(shared)
    if strategy is not None:
        number = strategy.num_replicas_in_sync
        log.info("strategy  %s: %d devices share the cells of each step", name, number)
    return device, strategy


def _devices(name: str) -> list[str]:
    """Return the devices that share the steps: all of them, or as many as can, or none."""
    import tensorflow as tf

    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    if name == "auto":
        number = max((n for n in REPLICAS if n <= len(gpus)), default=0)
        return gpus[:number]
    names = gpus or [cpu.name for cpu in tf.config.list_logical_devices("CPU")]
    _check_replicas(name, len(names))
    return names


def _check_replicas(name: str, number: int) -> None:
    """Raise InputError unless the parts of a step can be divided among so many devices."""
    if number not in REPLICAS:
        *some, last = map(str, REPLICAS)
        advice = "--gpu_option 0,1 chooses two GPUs"
        if name == "multiworker":
            advice = "start as many workers as have so many in all"
        raise InputError(
            f"--strategy {name} is for {', '.join(some)} or {last} devices, and TensorFlow sees "
            f"{number}: {advice}, --strategy one takes one"
        )


def _multiworker() -> Any:
    """Join the other workers; return the strategy of all. It waits until all are there."""
    import tensorflow as tf

    resolver = None
    if "TF_CONFIG" not in os.environ:
        tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
        # SLURM itself gives each task its GPUs, so the resolver need not divide them.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=FIRST_PORT + int(os.environ.get("SLURM_JOB_ID", 0)) % PORTS,
            gpus_per_node=tasks,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
    # Python's own handlers of signals would wait until the others are there.
    ends = utils.handled([signal.SIGINT, *utils.STOPS], signal.SIG_DFL)
    with ends, devices.tensorflow_session():
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def record(settings: Settings, strategy: Any) -> dict[str, Any]:
    """Return what metrics.json says of a strategy of `start`: its name, and how many replicas."""
    if strategy is None:
        return {"strategy": "one", "replicas": 1}
    name = "mirrored" if settings.strategy == "auto" else settings.strategy
    return {"strategy": name, "replicas": strategy.num_replicas_in_sync}


def check_same(strategy: Any, what: str, content: Any) -> None:
    """Raise InputError unless all workers have the same content, as JSON, named in words."""
    import tensorflow as tf

    text = json.dumps(content, default=str).encode()
    digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8).astype(np.float32)

    def of_replica() -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(tf.constant(digest)[None], axis=0)

    gather = tf.function(
        lambda: strategy.run(of_replica)
    )  # an eager exchange warns that it is slow
    with with_all_workers():
        digests = strategy.experimental_local_results(gather())[0].numpy()
    if (digests != digests[0]).any():
        raise InputError(
            f"--strategy multiworker: the workers differ in {what}: start all with the same "
            "command, on the same data, with the same versions, on machines of one kind"
        )


@contextlib.contextmanager
def with_all_workers() -> Iterator[None]:
    """Have a worker that is gone while others wait for it end the run with one sentence."""
    import tensorflow as tf

    gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    try:
        yield
    except gone:
        raise TrainingError("another worker has ended, or cannot be reached any more") from None
