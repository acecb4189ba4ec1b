"""What every module may need and none owns: errors, the console, the device, checksums."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm


class CommandError(Exception):
    """What a command cannot get past: one sentence that says what, where, and what to do.

    The command prints it on stderr without a traceback and exits with `status`.
    """

    status = 1


class InputError(CommandError):
    """The user's input cannot be used."""

    status = 2


class TrainingError(CommandError):
    """Training cannot go on: a loss is no longer finite."""


class _ConsoleHandler(logging.Handler):
    """Log lines to stdout, warnings to stderr, without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        tqdm.write(self.format(record), file=stream)


def start_console(*, quiet: bool) -> None:
    """Send the suite's log lines to the terminal: all of them, or warnings only if `quiet`."""
    logger = logging.getLogger("sctag")
    logger.handlers = [_ConsoleHandler()]
    logger.propagate = False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def run_command(
    program: str, job: Callable[[], str], *, quiet: bool, left: str = "nothing was written"
) -> int:
    """Run a command's job and print the line that it ends with, or one sentence on what went wrong.

    left: what is there after a full disk or an interruption. Returns the exit status: 0, that of a
    CommandError, 1 (the system refused, the disk is full, say) or 130 (interrupted).
    """
    start_console(quiet=quiet)
    try:
        last_line = job()
    except CommandError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"{program}: error: {error}; {left}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {left}", file=sys.stderr)
        return 130
    print(last_line)
    return 0


@contextlib.contextmanager
def native_stderr_held() -> Iterator[None]:
    """Hold back what C++ libraries write to stderr, and show it only if the block fails.

    TensorFlow announces itself there before any log level can be set.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                held.seek(0)
                sys.stderr.write(held.read().decode(errors="replace"))


class Device(NamedTuple):
    """Where a run computes: its name, and the bytes that a block's widest array may take there."""

    name: str
    block_bytes: int


# A block has about ten arrays of the widest one's size alive, and the data need the most of it.
GPU_SHARE = 1 / 64


def gpu_memory(gpu_option: str) -> int | None:
    """Bytes of memory of the first GPU of `gpu_option`, as nvidia-smi tells; None if it does not.

    TensorFlow itself says what is used of a GPU's memory, not how much there is.
    """
    query = ["--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    command = ["nvidia-smi", *query, f"--id={gpu_option.split(',')[0]}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return int(done.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def start_tensorflow(gpu_option: str) -> Device:
    """Import TensorFlow quietly, on the GPU that `gpu_option` names; returns the device.

    gpu_option: as CUDA_VISIBLE_DEVICES; "-1" for the CPU. Memory growth is on and GPU kernels are
    deterministic, so that a seed gives one result. To be called before TensorFlow is imported.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu_option
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with native_stderr_held():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if gpus:
            tf.config.experimental.enable_op_determinism()
        # The compiler announces itself too, at its first use.
        tf.function(lambda: tf.zeros([]), jit_compile=True)()
    from blocks import CACHE_BYTES

    if not gpus:
        return Device("CPU", CACHE_BYTES)
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return Device(str(name), max(CACHE_BYTES, int((gpu_memory(gpu_option) or 0) * GPU_SHARE)))


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model and the widest vectors that TensorFlow can use there, as far as known.

    Seconds depend on both: "AMD EPYC, avx2" (Linux), or what Python knows of it (elsewhere).
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    told = {key.strip(): value.strip() for key, _, value in (s.partition(":") for s in lines)}
    flags = told.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2", "avx") if name in flags), None)
    model = told.get("model name") or platform.processor() or platform.machine()
    return f"{model}, {vectors}" if vectors else model


def peak_memory_mb() -> float:
    """Largest resident set of this process so far, in MiB.

    Linux counts it for each program (`VmHWM`); what `getrusage` reports there, and elsewhere is all
    there is, a process inherits from the one that started it, however large that was.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
