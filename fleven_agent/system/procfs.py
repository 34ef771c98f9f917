"""Reads single processes from /proc, far cheaper than a scan of all of them every second would be.

Used for SuperNode's own processes, whose ids are known; ``totals`` has the whole machine. Imports nothing of the agent.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _read(path: str) -> bytes:
    # os.open and not pathlib: this runs several times a second for ever, at a third of the cost.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while chunk := os.read(descriptor, 65_536):
            content += chunk
        return content
    finally:
        os.close(descriptor)


def _numbers(folder: str) -> list[int]:
    with os.scandir(folder) as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says (proc_pid_stat(5))."""

    pid: int
    state: str
    """R, S, D, Z (defunct), T (stopped) ..."""
    parent: int
    group: int
    session: int
    cpu_seconds: float
    start_ticks: int
    """Clock ticks after boot; with the pid it names a process for ever."""
    rss_bytes: int
    exit_code: int | None
    """For a defunct process, the status as wait() would give it; None when not readable."""

    @property
    def defunct(self) -> bool:
        """Whether the process has ended and waits for its parent to notice."""
        return self.state in "ZX"

    @property
    def frozen(self) -> bool:
        """Whether somebody stopped the process with SIGSTOP."""
        return self.state == "T"


def stat(pid: int, proc: Path = PROC) -> Stat | None:
    """Return the status of a process, or None when there is no such process."""
    try:
        text = _read(f"{proc}/{pid}/stat").decode("ascii", "replace")
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses: fields begin after the last one.
    parts = text[text.rfind(")") + 2 :].split()
    if len(parts) < 22:
        return None
    exit_code = int(parts[49]) if len(parts) > 49 and parts[0] in "ZX" else None
    return Stat(
        pid=pid,
        state=parts[0],
        parent=int(parts[1]),
        group=int(parts[2]),
        session=int(parts[3]),
        cpu_seconds=(int(parts[11]) + int(parts[12])) / TICKS_PER_SECOND,
        start_ticks=int(parts[19]),
        rss_bytes=int(parts[21]) * PAGE_BYTES,
        exit_code=exit_code,
    )


def children(pid: int, proc: Path = PROC) -> list[int]:
    """Return the ids of a process's children, of all its threads."""
    found: list[int] = []
    try:
        threads = _numbers(f"{proc}/{pid}/task")
    except OSError:
        return []
    readable = False
    for thread in threads:
        try:
            found += [int(part) for part in _read(f"{proc}/{pid}/task/{thread}/children").split()]
            readable = True
        except OSError:
            continue
    if not readable and threads:  # a kernel without CONFIG_PROC_CHILDREN
        found = [other.pid for other in processes(proc) if other.parent == pid]
    return found


def descendants(pid: int, proc: Path = PROC) -> list[int]:
    """Return the ids of all that descends from a process, parents first."""
    found: list[int] = []
    queue = children(pid, proc)
    while queue:
        one = queue.pop(0)
        if one not in found:
            found.append(one)
            queue += children(one, proc)
    return found


def command_line(pid: int, proc: Path = PROC) -> list[str]:
    """Return argv of a process; empty for a defunct one."""
    try:
        content = _read(f"{proc}/{pid}/cmdline")
    except OSError:
        return []
    return [part.decode("utf-8", "replace") for part in content.split(b"\0") if part]


def peak_rss_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Return the highest resident memory of a living process so far (VmHWM)."""
    try:
        for line in _read(f"{proc}/{pid}/status").splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def processes(proc: Path = PROC) -> Iterator[Stat]:
    """Return the status of every process on the machine."""
    for pid in _numbers(str(proc)):
        if (found := stat(pid, proc)) is not None:
            yield found


def environment_holds(pid: int, entry: bytes, proc: Path = PROC) -> bool:
    """Return whether ``NAME=value`` is in the environment with which a process was started."""
    try:
        return entry in _read(f"{proc}/{pid}/environ").split(b"\0")
    except OSError:
        return False


def marked(entry: str, *, session: int | None = None, except_for: Iterable[int] = ()) -> list[Stat]:
    """Return the living processes that carry an environment entry or belong to a session."""
    wanted, spared = entry.encode(), set(except_for)
    return [
        one
        for one in processes()
        if one.pid not in spared
        and not one.defunct
        and ((session is not None and one.session == session) or environment_holds(one.pid, wanted))
    ]


def filters_calls(proc: Path = PROC) -> bool:
    """Return whether a filter of system calls (seccomp(2)) holds this process."""
    try:
        lines = _read(f"{proc}/self/status").splitlines()
    except OSError:
        return False
    return any(line.split() == [b"Seccomp:", b"2"] for line in lines)


def boot_id(proc: Path = PROC) -> str:
    """Return the random id of this boot; empty where there is none."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
