"""The device on which TensorFlow computes: how TensorFlow is started, and the bytes of a block."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import utils
from utils import InputError


@contextlib.contextmanager
def native_stderr_held() -> Iterator[None]:
    """Hold back what C++ libraries write to stderr, and show it only if the block fails.

    TensorFlow announces itself there before any log level can be set. An interruption is no
    failure.
    """
    try:
        sys.stderr.flush()
        stderr = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is no stderr to hold
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        failed = False
        try:
            yield
        except Exception:
            failed = True
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                held.seek(0)
                sys.stderr.write(held.read().decode(errors="replace"))


class Device(NamedTuple):
    """Where a run computes.

    Parameters
    ----------
    name
        The device's name.
    block_bytes
        Bytes that a block's widest array may take: they suit the cache of a CPU, or the memory of a
        GPU.
    memory
        Bytes of the memory of a GPU, None for a CPU or where they are not known.
    """

    name: str
    block_bytes: int
    memory: int | None = None


# Bytes of a block's widest array on a CPU, so that it stays in the cache. Between 2 and 16 MB the
# time of an epoch hardly changes.
CACHE_BYTES = 8_000_000
# A block has about ten arrays of the widest one's size alive, and the data need the most of it.
GPU_SHARE = 1 / 64


def block_bytes(memory: int | None) -> int:
    """Return the bytes of a block's widest array for a GPU of so many bytes, None for a CPU."""
    return max(CACHE_BYTES, int((memory or 0) * GPU_SHARE))


def gpu_memory(gpu_option: str) -> int | None:
    """Return the bytes of memory of the first GPU of `gpu_option`, or None if unknown.

    nvidia-smi is asked, because TensorFlow tells how much of a GPU's memory is used, not how much
    there is.
    """
    query = ["--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    command = ["nvidia-smi", *query, f"--id={gpu_option.split(',')[0]}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return int(done.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def pin_keras() -> None:
    """Make Keras, which is imported after this, use TensorFlow, whatever the environment says.

    Raises
    ------
    InputError
        If Keras already runs on another backend in this process.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config") and keras.config.backend() != "tensorflow":
        raise InputError(
            f"Keras already runs on {keras.config.backend()} in this process, and scTAG needs "
            "TensorFlow: start a new session, with the environment variable KERAS_BACKEND unset"
        )
    os.environ["KERAS_BACKEND"] = "tensorflow"


@contextlib.contextmanager
def tensorflow_session() -> Iterator[None]:
    """Have Keras create float32 weights, and TensorFlow keep to errors, during a block.

    Keras may be set to another precision in ~/.keras/keras.json or by a notebook. TensorFlow warns
    where functions are compiled again and again, as they are for each data set that is clustered.
    """
    import keras

    logger = logging.getLogger("tensorflow")
    floatx, level = keras.config.floatx(), logger.level
    keras.config.set_floatx("float32")
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        logger.setLevel(level)


@functools.cache
def _start_compiler() -> None:
    """Compile something, once: the compiler announces itself too, at its first use."""
    import tensorflow as tf

    tf.function(lambda: tf.zeros([]), jit_compile=True)()


def start_tensorflow(
    gpu_option: str | None,
    *,
    all_gpus: bool = False,
    connect: Callable[[], Any] = lambda: None,
) -> Device:
    """Import TensorFlow without its announcements and return the device on which it computes.

    Memory growth is on and GPU kernels are deterministic, so that a seed gives one result. Where
    TensorFlow has run before in this process, as in a notebook, it keeps the devices it has.

    Parameters
    ----------
    gpu_option
        As CUDA_VISIBLE_DEVICES, "-1" for the CPU. None for what that variable says already, as a
        scheduler sets it, or else for the first GPU.
    all_gpus
        Whether all GPUs are visible, not the first one, where neither says which.
    connect
        Is called before TensorFlow computes anything; it may join other processes.
    """
    if gpu_option is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_option
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    if not all_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pin_keras()
    with native_stderr_held():
        with utils.importing():
            import tensorflow as tf

        gpus = tf.config.get_visible_devices("GPU")
        for gpu in gpus:
            with contextlib.suppress(RuntimeError):  # it has run before: its memory is laid out
                tf.config.experimental.set_memory_growth(gpu, True)
        if gpus:
            tf.config.experimental.enable_op_determinism()
        connect()
        _start_compiler()
    if not gpus:
        return Device("CPU", CACHE_BYTES)
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    memory = gpu_memory(visible)
    return Device(str(name), block_bytes(memory), memory)
