"""The locks: exact versions, the SHA-256 of their files, and within what is asked for."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ["requirements.lock", "workflow/requirements.lock"]
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pins(lock):
    """The versions of a lock by the names of packages, with their hashes."""
    text = re.sub(r"\\\n", " ", (ROOT / lock).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    versions = {}
    for line in lines:
        pin, *hashes = line.split()
        name, version = re.fullmatch(r"([\w.-]+)==([\w.+!]+)", pin).groups()
        assert canonicalize_name(name) not in versions, name
        versions[canonicalize_name(name)] = version, hashes
    return versions


def asked_for(name):
    """The requirements of a file, and of those that it includes."""
    for line in (ROOT / name).read_text().splitlines():
        words = line.partition("#")[0].strip()
        if words.startswith("-r "):
            yield from asked_for(words.removeprefix("-r "))
        elif words:
            yield Requirement(words)


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_is_pinned_with_the_checksums_of_its_files(lock):
    for name, (_, hashes) in pins(lock).items():
        assert hashes, name
        assert all(HASH.fullmatch(each) for each in hashes), name


def test_no_lock_names_where_packages_are_from():
    for lock in LOCKS:
        assert "://" not in (ROOT / lock).read_text()
        assert not re.search(r"^-", (ROOT / lock).read_text(), re.M)


@pytest.mark.parametrize("name", ["requirements-dev.txt", "workflow/requirements.txt"])
def test_what_is_asked_for_is_in_the_locks(name):
    both = pins(LOCKS[1]) | pins(LOCKS[0])
    for requirement in asked_for(name):
        version, _ = both[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_a_package_is_in_one_lock():
    assert not pins(LOCKS[0]).keys() & pins(LOCKS[1]).keys()


def test_every_installation_checks_the_checksums():
    text = (ROOT / "Makefile").read_text()
    assert "--require-hashes" in re.search(r"^INSTALL := .*$", text, re.M)[0]
    for line in re.findall(r"^\t.*requirements\.lock.*$", text, re.M):
        assert "$(INSTALL)" in line or line.lstrip().startswith(("{ echo", "cat "))
