"""The records of a benchmark as one file, to keep, to pass on, and to go on from.

A line of the file is one record as JSON; gzip packs them if the name ends in .gz. Folders of the
machine that made them are left out, so a file can be published, and two packs of the same records
are the same bytes.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path, PurePath
from typing import Any

import results
from bench import records, tables
from bench.jobs import Job
from bench.wording import count
from utils import InputError

DATA_DIR = "data"  # where a packed record says that its data were


def pack(out: Path, file: Path) -> str:
    """Write all of OUT/records into `file`, in the order of jobs; returns the command's last line.

    Of paths only what does not depend on the machine stays: "data" for the data folder, the run's
    folder as seen from OUT, the program's name. Raises InputError if there are no records, if one
    is damaged, or if the file cannot be written; then a file of that name is as it was.
    """
    found = sorted(tables.read_records(out), key=lambda record: [record[n] for n in records.JOB])
    lines = "".join(json.dumps(_portable(record), allow_nan=False) + "\n" for record in found)
    content = lines.encode()
    if file.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    try:
        results.write_whole(file, content)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): choose another file") from None
    return f"{file}: {count(len(found), 'record')}"


def unpack(file: Path, out: Path) -> str:
    """Put the records of a packed file into OUT/records; returns the command's last line.

    A record that OUT has already, word for word but for its paths, is left alone. Raises
    InputError, before anything is written, if the file cannot be read, if a line is no record, or
    if OUT has another record of one of the jobs.
    """
    new = []
    for record in _read(file):
        job = Job(*(record[name] for name in records.JOB))
        path = out / job.record
        if not path.exists():
            new.append((path, record))
        elif _portable(records.read(path)) != record:
            raise InputError(
                f"{path} is another record of the same job than {file} has: unpack into another "
                "--out, or remove one"
            )
    try:
        for path, record in new:
            records.write(path, record)
    except OSError as error:
        raise InputError(
            f"cannot write to {out} ({error.strerror}): choose another --out"
        ) from None
    return f"{out / 'records'}: {count(len(new), 'new record')} from {file}"


def _read(file: Path) -> list[dict[str, Any]]:
    """The records of a packed file, each checked; raises InputError."""
    try:
        content = file.read_bytes()
        lines = (gzip.decompress(content) if file.suffix == ".gz" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{file} cannot be read ({reason}): name a file that `benchmark.py pack` made"
        ) from None
    found, jobs = [], set()
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            record = json.loads(line)
            problem = records.problem(record) or _no_file_name(record)
        except ValueError as error:
            problem = f"not JSON: {error}"
        if not problem:
            job = tuple(record[name] for name in records.JOB)
            problem = "a second record of its job" if job in jobs else None
            jobs.add(job)
        if problem:
            raise InputError(
                f"line {number} of {file} is no record of a benchmark ({problem}): name a file "
                "that `benchmark.py pack` made"
            )
        found.append(record)
    if not found:
        raise InputError(f"{file} is empty: name a file that `benchmark.py pack` made")
    return found


def _no_file_name(record: dict[str, Any]) -> str | None:
    """Why the record's job cannot name a file; None if it can."""
    for name in records.JOB[:2]:
        if not re.fullmatch(r"[^/\\\0.][^/\\\0]*", record[name]):
            return f"its {name} {record[name]!r} cannot be part of a file name"
    return None


def _portable(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the folders of the machine that made it."""
    job = Job(*(record[name] for name in records.JOB))
    settings = dict(record.get("settings") or {})
    words = list(record.get("command") or [])
    message = record.get("message")
    folders = {"out": str(job.run_dir), "data_dir": DATA_DIR}
    for flag, value in folders.items():
        if f"--{flag}" in words[:-1]:
            place = words.index(f"--{flag}") + 1
            message = message and message.replace(words[place], value)
            words[place] = value
    words[:1] = [PurePath(word).name for word in words[:1]]
    settings |= {flag: value for flag, value in folders.items() if settings.get(flag)}
    changed = {"command": words, "settings": settings, "message": message}
    return record | {name: value for name, value in changed.items() if record.get(name)}
