"""The device on which TensorFlow computes, and how TensorFlow is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import devices

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("environment", "option", "expected"),
    [(None, None, "0"), ("3", None, "3"), ("", None, ""), ("3", "1", "1"), ("3", "-1", "-1")],
)
def test_the_device_that_a_scheduler_set_is_respected(environment, option, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "to be restored at the end")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if environment is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    assert devices.start_tensorflow(option).name == "CPU"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_keras_is_pinned_before_it_is_imported():
    script = (
        "import devices; devices.start_tensorflow('-1'); import keras; "
        "print(keras.backend.backend())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "tensorflow\n"


def test_keras_on_another_backend_is_refused_in_one_sentence(monkeypatch):
    import keras

    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Keras already runs on jax"):
        devices.start_tensorflow("-1")


def test_memory_growth_of_gpus_in_use_is_left_as_it_is(monkeypatch):
    import tensorflow as tf

    def in_use(gpu, enabled):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    experimental = tf.config.experimental
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["gpu"])
    monkeypatch.setattr(experimental, "set_memory_growth", in_use)
    monkeypatch.setattr(experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setattr(experimental, "get_device_details", lambda gpu: {"device_name": "H100"})
    monkeypatch.setattr(devices, "gpu_memory", lambda option: 2**36)
    assert devices.start_tensorflow(None) == ("H100", 2**30, 2**36)


def fake_smi(tmp_path, monkeypatch, script):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_gpu_memory_is_what_nvidia_smi_says_of_the_first_gpu(tmp_path, monkeypatch):
    script = 'case "$*" in *--id=1) echo 16384;; *) exit 6;; esac'
    fake_smi(tmp_path, monkeypatch, script)
    assert devices.gpu_memory("1,0") == 16 * 2**30
    assert devices.gpu_memory("0") is None


@pytest.mark.parametrize("script", ["echo '[N/A]'", "exit 9", "true"])
def test_gpu_memory_is_unknown_where_nvidia_smi_cannot_tell(tmp_path, monkeypatch, script):
    fake_smi(tmp_path, monkeypatch, script)
    assert devices.gpu_memory("0") is None


def test_gpu_memory_is_unknown_without_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.gpu_memory("0") is None
