"""What a device is asked for, without one."""

import pytest

import utils


def fake_smi(tmp_path, monkeypatch, script):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_gpu_memory_is_what_nvidia_smi_says_of_the_first_gpu(tmp_path, monkeypatch):
    script = 'case "$*" in *--id=1) echo 16384;; *) exit 6;; esac'
    fake_smi(tmp_path, monkeypatch, script)
    assert utils.gpu_memory("1,0") == 16 * 2**30
    assert utils.gpu_memory("0") is None


@pytest.mark.parametrize("script", ["echo '[N/A]'", "exit 9", "true"])
def test_gpu_memory_is_unknown_where_nvidia_smi_cannot_tell(tmp_path, monkeypatch, script):
    fake_smi(tmp_path, monkeypatch, script)
    assert utils.gpu_memory("0") is None


def test_gpu_memory_is_unknown_without_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert utils.gpu_memory("0") is None
