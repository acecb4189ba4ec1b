"""A few runs are killed as scripts/kill_runs.py kills hundreds; what it looks for is found."""

import importlib.util
import json
import signal
import subprocess
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "scripts" / "kill_runs.py"


@pytest.fixture(scope="module")
def kill_runs():
    spec = importlib.util.spec_from_file_location("kill_runs", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_that_is_killed_ends_as_if_nothing_had_been(kill_runs, capsys):
    """In processes of their own, by the system's signals."""
    assert kill_runs.main(["--kills", "1", "--jobs", "1", "--seed", "2"]) == 0
    assert "faults: 0" in capsys.readouterr().out


@pytest.mark.slow
def test_twelve_kills(kill_runs, capsys):
    assert kill_runs.main(["--kills", "12", "--jobs", "2"]) == 0
    assert "faults: 0" in capsys.readouterr().out


def test_faults_are_seen(kill_runs, base, tmp_path, capsys):
    """Of a run's end, of its exit, and of what stands under a final name."""
    names = {path.name for path in base.out.iterdir()}
    reference = kill_runs.Reference(names, kill_runs.digests(base.out))
    killer = kill_runs.Killer(tmp_path, kills=1, seed=1)
    killer.command = lambda _: ["true"]
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", base.out, out], check=True)
    killer.check_end(out, reference)
    killer._look(out, 143, "", signal.SIGTERM, reference)
    assert not killer.faults
    settings = (out / "settings.json").read_text()
    (out / "settings.json").write_text(settings[:50])
    (out / "labels.csv").write_text("cell,cluster\n")
    (out / "stray").touch()
    killer._look(out, 1, "Traceback", signal.SIGTERM, reference)
    killer.check_end(out, reference)
    texts = " ".join(killer.faults)
    for fault in ("exit status 1", "a traceback", "half-written: settings.json"):
        assert fault in texts
    for fault in ("half-written: labels.csv", "missing: ['stray']", "not the same: labels.csv"):
        assert fault in texts
    assert json.loads(settings)
    assert capsys.readouterr().err.count("\n") == 6
