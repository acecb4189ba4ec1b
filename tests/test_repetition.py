"""A run again by its settings.json: which settings it has, and what is said to differ."""

import hashlib
import json
import logging
import shutil

import pytest
from conftest import TINY, assert_same_clustering, opened

import repetition
import results
import settings
from settings import Settings


@pytest.fixture
def recorded(tmp_path):
    """Write a settings.json as a run does, with some of its settings given; returns its path."""

    def recorded(variant="sctag", **given):
        environment = results.environment()
        record = {
            "settings": Settings.of(variant, **given).to_json(),
            "data": {"path": "a.h5", "sha256": "1234"},
        } | environment
        path = tmp_path / "settings.json"
        results.write_json(path, record)
        return path

    return recorded


def changed(path, **parts):
    """Write a settings.json with some of its parts replaced, or left out where None is given."""
    record = json.loads(path.read_text()) | parts
    record = {name: part for name, part in record.items() if part is not None}
    path.write_text(json.dumps(record))
    return path


def parsed(*flags):
    return repetition.parse([str(flag) for flag in flags], prog="train.py")


def lines(caplog, earlier, own, source):
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="sctag"):
        repetition.log_differences(earlier, own, source)
    return caplog.messages


SOURCE = {"path": "b.h5", "sha256": "1234"}

# --- Which settings -------------------------------------------------------------------------------


def other_than_usual():
    """A value of each setting that can change the result, not the default of either variant."""
    for name, spec in settings.specs().items():
        usual = [spec.default_in(variant) for variant in settings.VARIANTS]
        if spec.neutral or name == "variant":
            continue
        if bool in spec.types:
            value = usual[0] is not True
        elif spec.choices:
            value = next(word for word in spec.choices if word != usual[0])
        elif spec.number:
            value = 0.125 if spec.number is float else max(7, spec.low or 0)
        else:
            value = "words"
        yield name, [value] if spec.is_list else value


@pytest.mark.parametrize(("name", "value"), [*other_than_usual()])
def test_every_setting_that_can_change_the_result_is_that_of_the_run(name, value, recorded):
    own, _ = parsed("--settings", recorded(**{name: value}))
    assert own == Settings.of(**{name: value})
    assert getattr(own, name) != getattr(Settings(), name)


@pytest.mark.parametrize("variant", settings.VARIANTS)
def test_a_run_with_nothing_given_has_the_defaults_of_its_variant(variant, recorded):
    assert parsed("--settings", recorded(variant))[0] == Settings.of(variant)


def test_what_the_run_wrote_and_printed_is_not_taken(recorded):
    path = recorded(
        data="a.h5", out="there", overwrite=True, quiet=True, log_file="log", no_h5ad=True
    )
    assert parsed("--settings", path)[0] == Settings.of(data="a.h5")
    with_flags = parsed("--settings", path, "--quiet", "--out", "here")[0]
    assert with_flags == Settings.of(data="a.h5", quiet=True, out="here")


@pytest.mark.parametrize(
    ("before", "flags", "after"),
    [
        ({"hops": 2, "seed": 5}, ["--seed", "1"], {"hops": 2}),
        ({"data": "a.h5"}, ["--dataname", "Young"], {"dataname": "Young"}),
        ({"data": "a.h5"}, ["--data", "b.h5"], {"data": "b.h5"}),
        ({"data": ["a.h5", "b.h5"]}, [], {"data": ["a.h5", "b.h5"]}),
        ({"n_clusters": 3}, ["--resolution", "1"], {"resolution": 1}),
        ({"resolution": 1}, ["--n_clusters", "3"], {"n_clusters": 3}),
        ({"labels": "a.csv"}, ["--label_key", "type"], {"label_key": "type"}),
        ({"markers": "a.csv"}, ["--no_report"], {"no_report": True}),
        ({"clip": 5}, ["--clip", "none"], {"clip": None}),
    ],
)
def test_flags_that_are_given_win(before, flags, after, recorded):
    assert parsed("--settings", recorded(**before), *flags)[0] == Settings.of(**after)


def test_another_variant_brings_its_defaults_where_the_run_had_its_own(recorded):
    own, _ = parsed("--settings", recorded(hops=2, seed=5), "--variant", "official")
    assert own == Settings.of("official", hops=2, seed=5)


def test_a_setting_that_is_newer_than_the_run_has_its_default(recorded, caplog):
    path = recorded("official", hops=2)
    record = json.loads(path.read_text())
    del record["settings"]["dropout"]
    own, earlier = parsed("--settings", changed(path, **record))
    assert own == Settings.of("official", hops=2)
    assert lines(caplog, earlier, own, SOURCE)[1:] == [
        "differs   nothing: data, settings, versions and machine are the same"
    ]


def test_the_names_and_settings_of_earlier_versions(recorded, monkeypatch, caplog):
    monkeypatch.setitem(settings.RENAMED, "loops", "hops")
    path = recorded(hops=2)
    record = json.loads(path.read_text())
    record["settings"]["loops"] = record["settings"].pop("hops")
    record["settings"] |= {"restarts": 1, "networks": "auto"}
    own, earlier = parsed("--settings", changed(path, **record))
    assert own == Settings.of(hops=2)
    assert earlier.absent == []
    record["settings"] |= {"restarts": 3, "warmth": None}
    own, earlier = parsed("--settings", changed(path, **record))
    assert own == Settings.of(hops=2)
    warnings = lines(caplog, earlier, own, SOURCE)[1:]
    assert ["restarts 3" in warnings[0], "warmth none" in warnings[1], len(warnings)] == [1, 1, 2]


# --- What cannot be used --------------------------------------------------------------------------

FOREIGN = {
    "absent": (None, "cannot be read (No such file or directory)"),
    "empty": ("", "not a JSON file"),
    "cut_short": ('{"settings": {"variant"', "not a JSON file"),
    "binary": (b"\x89HDF\r\n\x80", "not a JSON file"),
    "deep": ("[" * 10**5, "not a JSON file"),
    "long_number": ('{"settings": {"seed": ' + "9" * 5000 + "}}", "not a JSON file"),
    "list": ("[1, 2]", "not of a run of train.py"),
    "no_settings": ('{"data": {}}', "not of a run of train.py"),
    "settings_are_a_list": ('{"settings": ["variant"]}', "not of a run of train.py"),
    "metrics": ('{"scores": null, "cells": 3}', "not of a run of train.py"),
    "predicted": ('{"model": {"folder": "a"}, "data": {}}', "not of a run of train.py"),
    "rival": ('{"settings": {"method": "leiden", "variant": "sctag"}}', "of baselines.py"),
    "variant": ('{"settings": {"variant": "new"}}', "the setting variant must be one of"),
    "no_variant": ('{"settings": {"variant": ["sctag"]}}', "the setting variant must be one of"),
    "type": ('{"settings": {"variant": "sctag", "hops": "2"}}', "hops must be a whole number"),
    "bounds": ('{"settings": {"variant": "sctag", "hops": 0}}', "hops must be at least 1"),
    "nan": ('{"settings": {"variant": "sctag", "dropout": NaN}}', "dropout must be at least 0"),
    "huge": ('{"settings": {"variant": "sctag", "clip": ' + "9" * 400 + "}}", "the setting clip"),
    "nested": ('{"settings": {"variant": "sctag", "layer": {"a": 1}}}', "layer must be text"),
    "data": ('{"settings": {"variant": "sctag", "data": 3}}', "the setting data"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_that_is_not_of_a_run_is_refused_in_one_sentence(case, refused, tmp_path):
    content, part = FOREIGN[case]
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused("--settings", path)
    assert part in message
    assert str(path) in message


def test_a_folder_is_refused_with_what_to_name(refused, tmp_path):
    assert "name the settings.json of a run" in refused("--settings", tmp_path)


# --- What differs ---------------------------------------------------------------------------------


def test_each_difference_is_a_line(recorded, caplog):
    path = recorded(hops=2)
    record = json.loads(path.read_text())
    record["versions"]["numpy"] = "1.0"
    record["versions"]["gone"] = "2.0"
    record["machine"]["processor"] = "an abacus"
    record |= {"suite_commit": "1234567", "data": {"sha256": "5678", "cells_file": None}}
    own, earlier = parsed("--settings", changed(path, **record), "--seed", "3")
    source = SOURCE | {"labels_file": {"sha256": "99"}}
    now = results.environment()
    assert lines(caplog, earlier, own, source) == [
        f"repeats   {path}",
        "warning: the data are not those of the run that is repeated: the SHA-256 of the data is "
        "1234, was 5678",
        "warning: the data are not those of the run that is repeated: the SHA-256 of --labels is "
        "99, was none",
        "differs   --seed 3, was 1",
        f"differs   numpy {now['versions']['numpy']}, was 1.0",
        f"differs   processor {now['machine']['processor']}, was an abacus",
        f"differs   sctag {now['suite_commit']}, was 1234567",
    ]


def test_a_record_without_versions_or_data_says_so(recorded, caplog):
    path = changed(recorded(), versions=None, machine=3, data=["a"])
    own, earlier = parsed("--settings", path)
    assert lines(caplog, earlier, own, SOURCE)[1:] == [
        "warning: the data are not those of the run that is repeated: the SHA-256 of the data is "
        "1234, was none",
        "differs   perhaps the versions, which that run did not record",
        "differs   perhaps the machine, which that run did not record",
    ]


# --- The command ----------------------------------------------------------------------------------


def test_a_run_is_repeated_from_its_folder(base, run, tmp_path):
    """Its --no_report says what is written, and is given again."""
    path = tmp_path / "settings.json"
    shutil.copy(base.out / "settings.json", path)
    out = tmp_path / "again"
    again = opened(run("--settings", path, "--out", out, "--no_report", compiled=False), out)
    assert_same_clustering(again, base)
    assert "differs   nothing" in again.ran.out
    before, after = base.settings["settings"], again.settings["settings"]
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"out"}


def test_other_data_are_said_to_be_others(base, run, simulated, tmp_path):
    other = tmp_path / "other.h5"
    shutil.copy(simulated.path, other)
    with other.open("ab") as file:
        file.write(b"\0")
    flags = ["--settings", base.out / "settings.json", "--data", other, "--out", tmp_path / "out"]
    ran = run(*flags, "--n_clusters", "999", "--quiet")
    assert ran.status == 2
    then, now = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (simulated.path, other))
    assert f"is {now}, was {then}" in ran.err


def test_a_run_in_its_own_folder_is_refused_unless_it_may_be_replaced(base, refused):
    message = refused("--settings", base.out / "settings.json", *TINY, out=base.out)
    assert "--overwrite" in message
