"""The machine as a whole, from /proc: processors, memory, network. What it does not tell is None, never zero.

psutil reads the same files; the agent does without it since an idle car would keep 0.7 MB of it for four numbers and a
list. Formats: proc(5), and in the kernel's documentation filesystems/proc.rst and networking/fib_trie. Imports nothing
of the agent.
"""

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory and swap [bytes]."""

    total: int | None = None
    available: int | None = None
    swap_total: int | None = None
    swap_used: int | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums over all interfaces but loopback since boot."""

    received_bytes: int
    sent_bytes: int
    receive_errors: int
    send_errors: int


class Processors:
    """How much all processors together work.

    Args:
        proc: where /proc is.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._file = proc / "stat"
        self._before = self._ticks()

    def percent(self) -> float | None:
        """Return the share of time since the last call in which they worked [percent]."""
        before, self._before = self._before, self._ticks()
        if before is None or self._before is None:
            return None
        idle, total = self._before[0] - before[0], self._before[1] - before[1]
        if total <= 0:
            return 0.0
        return round(max(0.0, min(100.0, 100.0 * (total - idle) / total)), 1)

    def _ticks(self) -> tuple[int, int] | None:
        """Return the ticks without work and all ticks."""
        try:
            with self._file.open(encoding="ascii") as file:
                ticks = [int(word) for word in file.readline().split()[1:]]
        except (OSError, ValueError):
            return None
        # user nice system idle iowait irq softirq steal; what guests used, behind it, is in user and nice already.
        return (ticks[3] + ticks[4], sum(ticks[:8])) if len(ticks) >= 8 else None


def memory(proc: Path = PROC) -> Memory:
    """Return how much memory there is and how much of it programs can have."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            words = value.split()
            if words and words[0].isdigit():
                found[name] = int(words[0]) * 1024
    swap_total, swap_free = found.get("SwapTotal"), found.get("SwapFree")
    used = None if swap_total is None or swap_free is None else swap_total - swap_free
    return Memory(found.get("MemTotal"), found.get("MemAvailable"), swap_total, used)


def traffic(proc: Path = PROC) -> Traffic | None:
    """Return what the network has carried."""
    sums = [0, 0, 0, 0]
    try:
        for line in (proc / "net/dev").read_text(encoding="utf-8").splitlines()[2:]:
            name, _, rest = line.rpartition(":")
            if name.strip() != "lo":
                numbers = [int(word) for word in rest.split()]
                sums = [had + numbers[place] for had, place in zip(sums, (0, 8, 2, 10), strict=True)]
    except (OSError, ValueError, IndexError):
        return None
    return Traffic(*sums)


def own_addresses(proc: Path = PROC) -> frozenset[str]:
    """Return the addresses of this machine's interfaces, IPv4 and IPv6."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        address = ""
        for line in (proc / "net/fib_trie").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[:1] == ["|--"]:
                address = words[1]
            elif words[:1] == ["/32"] and words[-1] == "LOCAL":
                found.add(address)
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "net/if_inet6").read_text(encoding="ascii").splitlines():
            found.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split(maxsplit=1)[0])))
    return frozenset(found)
