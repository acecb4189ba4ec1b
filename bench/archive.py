"""All records of a benchmark in one file, to keep, to publish, and to go on from.

Each line of the file is one record as JSON; the file is gzipped if its name ends in .gz. The
folders of the machine that ran the jobs are left out, so the file can be published, and packing the
same records twice gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path, PurePath
from typing import Any

import results
from bench import records, tables
from bench.jobs import Job
from bench.wording import count
from formats.bounds import Bounded
from formats.parts import DAMAGE
from utils import InputError

LONGEST_NAME = 255  # bytes of the name of a file, as Linux and macOS have it
DATA_DIR = "data"  # the data folder that a packed record names


def pack(out: Path, file: Path) -> str:
    """Write all records of OUT/records into one file, sorted by job.

    Paths are reduced to what does not depend on the machine: "data" for the data folder, the
    run's folder relative to OUT, and the program's name.

    Returns
    -------
    The line that the command ends with.

    Raises
    ------
    InputError
        If there are no records, if one is damaged, or if the file cannot be written; an older file
        of that name then stays as it was.
    """
    sorted_records = sorted(
        tables.read_records(out), key=lambda record: [record[name] for name in records.JOB]
    )
    lines = [json.dumps(_portable(record), allow_nan=False) + "\n" for record in sorted_records]
    content = "".join(lines).encode()
    if file.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    try:
        results.write_whole(file, content)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): choose another file") from None
    return f"{file}: {count(len(sorted_records), 'record')}"


def unpack(file: Path, out: Path) -> str:
    """Write the records of a packed file into OUT/records.

    A record that OUT already has, the same but for its paths, is left alone.

    Returns
    -------
    The line that the command ends with.

    Raises
    ------
    InputError
        If the file cannot be read, if a line is no record, or if OUT has a different record of one
        of the jobs, all before anything is written; or if OUT cannot be written.
    """
    new = []
    for record in _read(file):
        path = out / _job(record).record
        for part in path.relative_to(out).parts:
            if len(os.fsencode(part)) > LONGEST_NAME:
                raise InputError(
                    f"{file}: a record needs a file of a name too long for one, {part[:60]}...: "
                    "the file may be damaged, fetch it again"
                )
        if not path.exists():
            new.append((path, record))
        elif _portable(records.read(path)) != _portable(record):
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


def _job(record: dict[str, Any]) -> Job:
    return Job(*(record[name] for name in records.JOB))


def _read(file: Path) -> list[dict[str, Any]]:
    """Return the records of a packed file, each checked.

    Raises InputError if the file cannot be read, is empty, has a line that is no record, or has two
    records of one job.
    """
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            with gzip.open(file) as stream:
                content = Bounded(stream, file).readall()
        lines = content.decode()
    except (*DAMAGE, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{file} cannot be read ({reason}): name a file that `benchmark.py pack` made"
        ) from None
    by_job: dict[Job, dict[str, Any]] = {}
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            record = records.parse(line)
            _check_job(record, by_job)
        except ValueError as error:
            raise InputError(
                f"line {number} of {file} is no record of a benchmark ({error}): name a file "
                "that `benchmark.py pack` made"
            ) from None
        by_job[_job(record)] = record
    if not by_job:
        raise InputError(f"{file} is empty: name a file that `benchmark.py pack` made")
    return list(by_job.values())


def _check_job(record: dict[str, Any], by_job: dict[Job, dict[str, Any]]) -> None:
    """Raise ValueError if the record's job cannot name a file, or is among those of `by_job`."""
    for name in ("dataset", "method"):
        if not re.fullmatch(r"[^/\\\0.][^/\\\0]*", record[name]):
            raise ValueError(f"its {name} {record[name]!r} cannot be part of a file name")
    if _job(record) in by_job:
        raise ValueError("a second record of its job")


def _portable(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record without the folders of the machine that ran the job."""
    settings = dict(record.get("settings") or {})
    words = list(record.get("command") or [])
    message = record.get("message")
    folders = {"out": str(_job(record).run_dir), "data_dir": DATA_DIR}
    for flag, folder in folders.items():
        if f"--{flag}" in words[:-1]:
            place = words.index(f"--{flag}") + 1
            message = message and message.replace(words[place], folder)
            words[place] = folder
        if settings.get(flag):
            settings[flag] = folder
    words[:1] = [PurePath(word).name for word in words[:1]]
    changed = {"command": words, "settings": settings, "message": message}
    return record | {name: value for name, value in changed.items() if record.get(name)}
