"""How much memory this process may still take: of the machine, its container, and its limits."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

# Bytes of addresses that TensorFlow and its threads reserve and do not use, measured on 2 cores.
RESERVED = 1_900 * 2**20
NO_LIMIT = 2**60  # bytes: a control group without a limit says a number beyond this, or "max"


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take, or None where nothing tells.

    That is the least of what the machine has to give (MemAvailable), what each control group of
    the process (versions 1 and 2) leaves of its limit, and what is left of its address space
    (`ulimit -v`). What a group keeps only as copies of files counts as free.

    Parameters
    ----------
    root
        Where proc and sys lie.
    """
    numbers = [*_of_machine(root), *_of_groups(root), *_of_address_space(root)]
    return max(0, min(numbers)) if numbers else None


def resident(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process holds, 0 where nothing tells."""
    return 2**10 * _fields(root / "proc/self/status").get("VmRSS", 0)


def _fields(path: Path) -> dict[str, int]:
    """Return a file of names and numbers as a dictionary, without the lines that are others."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in lines)
    return {name: int(rest[0]) for name, *rest in words if rest and rest[0].isdecimal()}


def _number(path: Path) -> int | None:
    """Return the number that a file holds, None if there is no such file or it has another word."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _of_machine(root: Path) -> Iterator[int]:
    fields = _fields(root / "proc/meminfo")  # in KiB
    if "MemAvailable" in fields:
        yield 2**10 * fields["MemAvailable"]


# The files of a group's limit and of its use, and the field of memory.stat with the copies of files
# that it would give up, by the version of the control groups.
OF_VERSION = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def _of_groups(root: Path) -> Iterator[int]:
    """Yield what each control group of the process, and each above it, leaves of its limit.

    In a container the path of the group may be the host's, which is not there: then the group is
    at the top.
    """
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, version = (mount / "memory", 1) if controllers else (mount, 2)
        limit_file, use_file, copies = OF_VERSION[version]
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            limit, use = _number(folder / limit_file), _number(folder / use_file)
            if limit is not None and use is not None and limit < NO_LIMIT:
                yield limit - use + _fields(folder / "memory.stat").get(copies, 0)
            if folder == top:
                break


def _of_address_space(root: Path) -> Iterator[int]:
    """Yield what is left of the address space, without what TensorFlow will only reserve."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    fields = _fields(root / "proc/self/status")  # in KiB
    if limit != resource.RLIM_INFINITY and "VmSize" in fields:
        reserved = 0 if "tensorflow" in sys.modules else RESERVED
        yield limit - 2**10 * fields["VmSize"] - reserved
