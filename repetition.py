"""A run again: the settings of an earlier one from its settings.json, and what differs from it.

    python train.py --settings results/NAME/sctag-seed1/settings.json --overwrite

What decides the result is taken from the file, and a flag that is given beside it wins. What a run
writes and prints is not taken, since the new run has a folder of its own.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import command
import console
import results
import settings
from settings import RENAMED, RETIRED, Settings
from utils import InputError

log = logging.getLogger("sctag")

# Settings that are neutral, since they do not decide the result, and yet are taken from the run.
TAKEN = ("data", "data_dir", "gpu_option")
# A flag that is given beside the file takes the place of these settings too, which would stand
# against it or before it.
REPLACES = {
    "dataname": ("data",),
    "data_dir": ("data",),
    "resolution": ("n_clusters",),
    "n_clusters": ("resolution",),
    "labels": ("label_key",),
    "label_key": ("labels",),
    "no_report": ("markers",),
}
# What settings.json says of files: the key of their record in `data`, and what they are called.
FILES = {None: "the data", "labels_file": "--labels", "cells_file": "--cells"}


class Earlier(NamedTuple):
    """An earlier run of train.py, by its settings.json.

    Parameters
    ----------
    path
        The file.
    settings
        The settings that decided the run, checked and by their present names.
    absent
        What the file says of settings that this version does not have, as text.
    record
        All that the file holds.
    """

    path: Path
    settings: dict[str, Any]
    absent: list[str]
    record: dict[str, Any]


def parse(argv: Sequence[str] | None = None, *, prog: str) -> tuple[Settings, Earlier | None]:
    """Return the settings of a command line, and the earlier run that it repeats, if any.

    Exits with status 2 and one sentence on stderr where a flag or the file cannot be used.
    """
    parser = command.build_parser(prog)
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="repeat an earlier run by its settings.json: its settings are taken but for what it "
        "wrote and printed, flags that are given as well win, and what differs is logged",
    )
    given = vars(parser.parse_args(argv))
    path = given.pop("settings", None)
    if path is None:
        return command.settings_of(given), None
    try:
        earlier = read(path)
    except InputError as error:
        parser.exit(2, f"{prog}: error: {console.one_line(str(error))}\n")
    return settings_of(given, earlier), earlier


def read(path: Path) -> Earlier:
    """Return the run that a settings.json is of.

    Raises
    ------
    InputError
        If the file cannot be read, is not of a run of train.py, or has a value that no setting
        can have.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"--settings {path} cannot be read ({error.strerror}): name the settings.json of a run"
        ) from None
    except (ValueError, RecursionError):
        raise InputError(
            f"--settings {path} is not a JSON file: name the settings.json of a run"
        ) from None
    recorded = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(recorded, dict) or "variant" not in recorded:
        raise InputError(
            f"--settings {path} is not of a run of train.py: name the settings.json of one"
        )
    present = {RENAMED.get(name, name): value for name, value in recorded.items()}
    known = {name: value for name, value in present.items() if name in settings.specs()}
    absent = [
        f"{name} {command.as_text(value)}"
        for name, value in present.items()
        if name not in known and not (name in RETIRED and str(value) in ("auto", RETIRED[name]))
    ]
    if "method" in present:
        raise InputError(
            f"--settings {path} is of a run of baselines.py: give that command the flags of the run"
        )
    try:
        values = dataclasses.asdict(Settings.of(**known))
    except InputError as error:
        raise InputError(f"--settings {path}: {error}") from None
    taken = {name: values[name] for name in known if _is_taken(name)}
    return Earlier(path, taken, absent, record)


def _is_taken(name: str) -> bool:
    """Return whether a setting of the earlier run is one of the new run too."""
    return name in TAKEN or not settings.specs()[name].neutral


def settings_of(given: dict[str, Any], earlier: Earlier) -> Settings:
    """Return the settings of an earlier run with those that are given in their place.

    Where another variant is given, what the earlier run had by default follows that variant.
    """
    variant = earlier.settings["variant"]
    replaced = {other for name in given for other in REPLACES.get(name, ())}
    usual = settings.defaults(variant) if given.get("variant", variant) != variant else {}
    taken = {
        name: value
        for name, value in earlier.settings.items()
        if name not in replaced and (name not in usual or value != usual[name])
    }
    return command.settings_of({"variant": variant} | taken | given)


# --- What differs ---------------------------------------------------------------------------------


def log_differences(earlier: Earlier, own: Settings, source: dict[str, Any]) -> None:
    """Log what differs from the earlier run, a line for each: settings, data, versions, machine.

    Parameters
    ----------
    earlier
        The run that is repeated.
    own
        The settings of this run.
    source
        What `pipeline.Data` says of this run's data.
    """
    log.info("repeats   %s", earlier.path)
    for words in earlier.absent:
        log.warning(
            "warning: the setting %s of the run that is repeated is unknown to this version: the "
            "result may be another one",
            words,
        )
    files = list(_other_files(earlier.record.get("data"), source))
    for words in files:
        log.warning("warning: the data are not those of the run that is repeated: %s", words)
    lines = [*_other_settings(earlier, own), *_other_environment(earlier.record)]
    for line in lines:
        log.info("differs   %s", line)
    if not (earlier.absent or files or lines):
        log.info("differs   nothing: data, settings, versions and machine are the same")


def _other_settings(earlier: Earlier, own: Settings) -> Iterator[str]:
    """Yield each setting that can change the result and has another value now, in words."""
    before = settings.defaults(own.variant) | earlier.settings
    for name, spec in settings.specs().items():
        now = getattr(own, name)
        if not spec.neutral and now != before[name]:
            yield f"--{name} {command.as_text(now)}, was {command.as_text(before[name])}"


def _other_files(before: Any, source: dict[str, Any]) -> Iterator[str]:
    """Yield which files do not have the SHA-256 that the earlier run recorded, in words."""
    for key, words in FILES.items():
        then, now = _checksum(before, key), _checksum(source, key)
        if then != now:
            yield f"the SHA-256 of {words} is {now}, was {then}"


def _checksum(record: Any, key: str | None) -> str:
    """Return the SHA-256 in a record of files, or in that of one of them; "none" without any."""
    if key is not None and isinstance(record, dict):
        record = record.get(key)
    return str(record.get("sha256", "none")) if isinstance(record, dict) else "none"


def _other_environment(before: dict[str, Any]) -> Iterator[str]:
    """Yield which versions, and what of the machine, the earlier run recorded otherwise."""
    present = results.environment()
    for key in ("versions", "machine"):
        then = before.get(key)
        if not isinstance(then, dict):
            yield f"perhaps the {key}, which that run did not record"
            continue
        for name, now in present[key].items():
            # A package that is not yet imported may be installed under another name.
            if now is not None and name in then and now != then[name]:
                yield f"{name} {now}, was {then[name]}"
    if present["suite_commit"] != before.get("suite_commit"):
        yield f"sctag {present['suite_commit']}, was {before.get('suite_commit')}"
