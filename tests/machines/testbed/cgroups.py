"""Gives each machine control groups of its own, on hosts with cgroup v2, v1 or both at once, with or without systemd.

A host with systemd delegates a scope. Elsewhere (a container, a micro virtual machine) the groups are made by hand
below the ones that this process is in, so that limits on this process go on holding. Imports nothing of fleven.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

# systemd as PID 1 of a machine uses none of these v1 controllers, and an empty cpuset would take no process.
UNUSED_V1 = {"cpuset", "freezer", "net_cls", "net_prio", "perf_event", "hugetlb", "rdma", "misc"}


def _mounts() -> dict[str, str]:
    """Mount point by v1 controller name, and of v2 by the empty name."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found[""] = point
        elif kind == "cgroup":
            found.update((option, point) for option in options.split(","))
    return found


def make(name: str) -> list[Path]:
    """Create the machine's group in every hierarchy and return the folders; empty where systemd gives a scope."""
    if Path("/run/systemd/system").is_dir():
        return []
    mounts, folders = _mounts(), []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        first = controllers.split(",")[0]
        if controllers and set(controllers.split(",")) <= UNUSED_V1:
            continue
        point = mounts.get(first if first else "")
        if point is None:
            continue
        parent = Path(point + path.rstrip("/"))
        folder = parent / name
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            folders.append(folder)
        if not controllers:
            for controller in (parent / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):  # refused where the parent has processes of its own
                    (parent / "cgroup.subtree_control").write_text(f"+{controller}")
    return folders


def remove(folders: list[Path]) -> None:
    """Remove the groups, deepest first; one that is still in use stays and does no harm."""
    for folder in folders:
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()


def freezer(pid: int, name: str, members: Callable[[], list[int]]) -> tuple[Path, str, str]:
    """The file that freezes the machine whose PID 1 is `pid` on this host, and what to write into it: freeze, thaw.

    Args:
        pid: of the machine's first process.
        name: for a group of its own in the freezer of cgroup v1.
        members: returns all processes of the machine, as pids of this host.

    Raises:
        FileNotFoundError: neither version has a freezer for this machine.
    """
    mounts = _mounts()
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::") and "" in mounts:
            path = line[3:].removesuffix("/init.scope")
            file = Path(f"{mounts['']}{path}/cgroup.freeze")
            if path not in {"", "/"} and file.exists():
                return file, "1", "0"
    if "freezer" not in mounts:
        raise FileNotFoundError("no cgroup freezer for this machine")
    folder = Path(mounts["freezer"]) / name
    folder.mkdir(exist_ok=True)
    for _ in range(3):  # a child that was born meanwhile is caught by the next look
        for member in members():
            with contextlib.suppress(OSError):
                (folder / "cgroup.procs").write_text(str(member))
    return folder / "freezer.state", "FROZEN", "THAWED"
