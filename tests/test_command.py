"""What a command meets in the environment: closed streams, other encodings, notebooks, Keras."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import command

ROOT = Path(__file__).parent.parent
PROGRAM = """
import logging, os, sys
import command
def job():
    for i in range(2000):
        logging.getLogger("sctag").info("line %d", i)
    with open(sys.argv[1], "w") as file:
        file.write("done")
    return "the last line"
sys.exit(command.run_command("a.py", job, quiet=False))
"""


def shell(tail, tmp_path, **env):
    """Run PROGRAM from a shell that redirects it; its exit status, stderr, and what it left."""
    (tmp_path / "a.py").write_text(PROGRAM)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} a.py made {tail}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr, (tmp_path / "made").read_text()


@pytest.mark.parametrize("tail", ["| head -n 1", ">&-", "2>&-", ">&- 2>&-", "> /dev/full"])
def test_a_stream_that_is_closed_or_full_is_no_reason_to_lose_a_run(tail, tmp_path):
    assert shell(tail, tmp_path) == (0, "", "done")


@pytest.mark.parametrize("stream", ["out", "err"])
def test_any_character_can_be_printed_where_output_is_ascii(stream, tmp_path):
    program = tmp_path / "a.py"
    program.write_text(
        "import sys, command, utils\n"
        "def job():\n"
        "    if sys.argv[1] == 'err': raise utils.InputError('échantillon n°1')\n"
        "    return 'échantillon n°1'\n"
        "sys.exit(command.run_command('a.py', job, quiet=True))\n"
    )
    done = subprocess.run(
        [sys.executable, program, stream],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr if stream == "out" else done.stdout) == (
        (0, "") if stream == "out" else (2, "")
    )
    assert r"\xe9chantillon n\xb01" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_figures_are_files_whatever_a_notebook_left_in_the_environment(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    command.settle_environment()
    assert os.environ["MPLBACKEND"] == "Agg"


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "MPLCONFIGDIR"])
def test_libraries_get_a_folder_that_can_be_written(variable, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path / "new")})
    command.settle_environment()
    assert variable not in os.environ
    (tmp_path / "file").write_text("no folder")
    for home in (str(tmp_path / "file" / "home"), "~"):  # the second is of a user without any
        monkeypatch.setattr(os, "environ", {"HOME": home})
        command.settle_environment()
        folder = Path(os.environ[variable])
        folder.mkdir(parents=True, exist_ok=True)
        assert os.access(folder, os.W_OK)
    monkeypatch.setattr(os, "environ", {"HOME": home, variable: "mine"})
    command.settle_environment()
    assert os.environ[variable] == "mine"


@pytest.mark.parametrize("name", ["train.py", "baselines.py"])
def test_a_clone_says_its_version_and_commit(name):
    done = subprocess.run(
        [sys.executable, ROOT / name, "--version"], capture_output=True, text=True
    )
    assert re.fullmatch(r"sctag \d+\.\d+\.\d+( \(commit .+\))?\n", done.stdout)
    assert done.returncode == 0
