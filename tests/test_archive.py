"""All records in one file: there and back, on another machine, and what is refused."""

import gzip
import json
import re

import pytest
from test_report import record

import benchmark
from bench import archive, methods, records, report, tables
from bench.jobs import Job


def job_record(dataset, seed, *, root, ari=0.5, **changed):
    """A record as a run under the folder `root` leaves it."""
    run_dir = f"{root}/out/runs/{dataset}/sctag-true-seed{seed}"
    command = [f"{root}/suite/train.py", "--variant", "sctag", "--dataname", dataset]
    command += ["--data_dir", f"{root}/data sets", "--seed", str(seed), "--out", run_dir]
    settings = {"data_dir": f"{root}/data sets", "out": run_dir, "dropout": 0.2, "data": None}
    changed = {"command": command, "settings": settings} | changed
    return record(dataset, "sctag", seed, ari, **changed)


def put(out, records):
    """Write records where a benchmark does."""
    for content in records:
        path = out / "records" / content["dataset"] / f"sctag-true-seed{content['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def command(*words):
    return benchmark.main([str(word) for word in words])


@pytest.fixture
def three_records():
    """Three records, of two data sets; one is of a failed job."""
    root = "/home/someone"
    failed = {"settings": None, "message": f"{root}/data sets/B/data.h5 is empty"}
    return [
        *(job_record("A", seed, root=root) for seed in (1, 2)),
        job_record("B", 1, root=root, ari=None, **failed),
    ]


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.gz"])
def test_there_and_back_the_report_is_the_same(name, three_records, tmp_path):
    put(tmp_path / "here", three_records)
    assert command("pack", tmp_path / name, "--out", tmp_path / "here") == 0
    assert command("unpack", tmp_path / name, "--out", tmp_path / "there") == 0
    for place in ("here", "there"):
        report.write(tmp_path / place, tmp_path / place / "report")
    before, after = (
        (tmp_path / place / "report" / "summary.csv").read_text() for place in ("here", "there")
    )
    assert before == after
    assert sorted(p.name for p in (tmp_path / "there" / "records" / "A").iterdir()) == [
        "sctag-true-seed1.json",
        "sctag-true-seed2.json",
    ]


def test_what_is_packed_names_no_folder_of_the_machine(three_records, tmp_path):
    put(tmp_path, three_records)
    archive.pack(tmp_path, tmp_path / "records.jsonl")
    text = (tmp_path / "records.jsonl").read_text()
    assert "someone" not in text
    packed = [json.loads(line) for line in text.splitlines()]
    run_dir = "runs/A/sctag-true-seed1"
    assert packed[0]["settings"] == {
        "data_dir": "data",
        "out": run_dir,
        "dropout": 0.2,
        "data": None,
    }
    flags = "--variant sctag --dataname A --data_dir data --seed 1 --out"
    assert packed[0]["command"] == ["train.py", *flags.split(), run_dir]
    assert packed[2]["message"] == "data/B/data.h5 is empty"
    same = set(three_records[0]) - {"settings", "command", "message"}
    assert all(packed[i][name] == three_records[i][name] for i in range(3) for name in same)


def test_the_same_records_make_the_same_bytes_wherever_they_are(three_records, tmp_path):
    put(tmp_path / "here", three_records)
    archive.pack(tmp_path / "here", tmp_path / "1.gz")
    archive.unpack(tmp_path / "1.gz", tmp_path / "there")
    archive.pack(tmp_path / "there", tmp_path / "2.gz")
    assert (tmp_path / "1.gz").read_bytes() == (tmp_path / "2.gz").read_bytes()


def test_a_benchmark_takes_what_it_lacks_and_keeps_what_it_has(three_records, tmp_path, capsys):
    put(tmp_path / "all", three_records)
    archive.pack(tmp_path / "all", tmp_path / "all.jsonl")
    put(tmp_path / "some", three_records[:1])
    path = tmp_path / "some" / "records" / "A" / "sctag-true-seed1.json"
    before = path.read_bytes()
    assert command("unpack", tmp_path / "all.jsonl", "--out", tmp_path / "some") == 0
    assert "2 new records" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert len(list((tmp_path / "some").glob("records/*/*.json"))) == 3


def test_another_record_of_a_job_is_refused_and_nothing_is_written(three_records, tmp_path, capsys):
    put(tmp_path / "all", three_records)
    archive.pack(tmp_path / "all", tmp_path / "all.jsonl")
    put(tmp_path / "some", [three_records[2] | {"message": "another"}])
    assert command("unpack", tmp_path / "all.jsonl", "--out", tmp_path / "some") == 2
    assert "is another record of the same job" in capsys.readouterr().err
    assert len(list((tmp_path / "some").glob("records/*/*.json"))) == 1


def with_name(line, **changed):
    return json.dumps(json.loads(line) | changed)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda lines: [lines[0], lines[1][:40]], "line 2 of .*not JSON"),
        (lambda lines: [lines[0], lines[0]], "line 2 of .*a second record of its job"),
        (lambda lines: [with_name(lines[0], status="fine")], "line 1 of .*its status is 'fine'"),
        (lambda lines: [with_name(lines[0], dataset="../x")], "cannot be part of a file name"),
        (lambda lines: [with_name(lines[0], method="a/../b")], "cannot be part of a file name"),
        (
            lambda lines: [with_name(lines[0], method="m" * 300)],
            r"a name too long for one, m{60}\.\.\.",
        ),
    ],
)
def test_a_line_that_is_no_record_is_refused_before_anything_is_written(
    spoil, sentence, three_records, tmp_path, capsys
):
    put(tmp_path / "all", three_records)
    archive.pack(tmp_path / "all", tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    (tmp_path / "spoilt.jsonl").write_text("\n".join(spoil(lines)))
    assert command("unpack", tmp_path / "spoilt.jsonl", "--out", tmp_path / "some") == 2
    errors = capsys.readouterr().err
    assert re.search(sentence, errors), errors
    assert not (tmp_path / "some").exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"not gzip", gzip.compress(b"x" * 99, mtime=0)[:-9]],
    ids=["missing", "empty", "not gzip", "cut short"],
)
def test_a_file_that_cannot_be_read_is_one_sentence(content, tmp_path, capsys):
    file = tmp_path / "records.jsonl.gz"
    if content is not None:
        file.write_bytes(content)
    assert command("unpack", file, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"benchmark.py: error: {file} ")
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_written_is_one_sentence(three_records, tmp_path, capsys):
    put(tmp_path, three_records)
    (tmp_path / "folder").mkdir()
    assert command("pack", tmp_path / "folder", "--out", tmp_path) == 2
    assert "choose another file" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*partial"))
    assert command("pack", tmp_path / "x.gz", "--out", tmp_path / "nothing") == 2
    assert "holds no records" in capsys.readouterr().err


# --- Records from before a setting was renamed ----------------------------------------------------


@pytest.fixture
def old_file(tmp_path):
    """A packed file whose record has a flag that is called `loops` in it."""
    run_dir = "runs/A/sctag+loops=2-true-seed1"
    content = record(
        "A",
        "sctag loops=2",
        1,
        0.5,
        command=["train.py", "--variant", "sctag", "--loops", "2", "--out", run_dir],
        settings={"data_dir": "data", "out": run_dir, "loops": 2},
    )
    file = tmp_path / "old.jsonl"
    file.write_text(json.dumps(content) + "\n")
    return file


@pytest.fixture
def renamed(monkeypatch):
    """The flag `loops` has been renamed to `hops`."""
    monkeypatch.setattr(methods, "RENAMED", {"loops": "hops"})


def test_an_old_record_is_filed_under_the_present_name(old_file, renamed, tmp_path, capsys):
    assert command("unpack", old_file, "--out", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").glob("records/*/*.json")
    assert path.relative_to(tmp_path / "out") == Job("A", "sctag hops=2", "true", 1).record
    filed = records.read(path)
    old = json.loads(old_file.read_text())
    assert filed == old | {"method": "sctag hops=2"}  # the settings as they were called then
    capsys.readouterr()
    assert command("unpack", old_file, "--out", tmp_path / "out") == 0
    assert "0 new records" in capsys.readouterr().out


def test_a_benchmark_goes_on_from_old_records(old_file, renamed, tmp_path, capsys):
    archive.unpack(old_file, tmp_path / "out")
    (tmp_path / "data" / "A").mkdir(parents=True)
    (tmp_path / "data" / "A" / "data.h5").touch()
    run = ["run", "--dry_run", "--out", tmp_path / "out", "--data_dir", tmp_path / "data"]
    for method in ("sctag hops=2", "sctag loops=2"):
        capsys.readouterr()
        assert command(*run, "--methods", method, "--seeds", 1, 2) == 0
        printed = capsys.readouterr().out
        assert "ok        A  sctag hops=2  true  seed 1\n" in printed
        assert printed.endswith("1 of 2 jobs would run\n")


def test_an_old_record_packed_again_names_the_present_folder(old_file, renamed, tmp_path):
    archive.unpack(old_file, tmp_path / "out")
    archive.pack(tmp_path / "out", tmp_path / "1.jsonl")
    packed = json.loads((tmp_path / "1.jsonl").read_text())
    assert packed["method"] == "sctag hops=2"
    assert packed["command"][-1] == packed["settings"]["out"] == "runs/A/sctag+hops=2-true-seed1"
    assert packed["command"][3:5] == ["--loops", "2"]
    archive.unpack(tmp_path / "1.jsonl", tmp_path / "out")  # the same record: nothing to refuse


def test_a_folder_with_an_old_record_is_read_under_the_present_name(old_file, renamed, tmp_path):
    path = tmp_path / "out" / "records" / "A" / "sctag+loops=2-true-seed1.json"
    path.parent.mkdir(parents=True)
    path.write_text(old_file.read_text())
    assert [record["method"] for record in tables.read_records(tmp_path / "out")] == [
        "sctag hops=2"
    ]


def test_an_old_and_a_present_record_of_one_job_are_two(old_file, renamed, tmp_path, capsys):
    lines = old_file.read_text() + old_file.read_text().replace("loops", "hops")
    old_file.write_text(lines)
    assert command("unpack", old_file, "--out", tmp_path / "out") == 2
    errors = capsys.readouterr().err
    assert re.search("line 2 of .*a second record of its job", errors), errors
