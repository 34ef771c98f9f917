"""The machine as a whole, from files of /proc."""

import os
import socket
from pathlib import Path

import psutil
import pytest

from fleven_agent.system import totals

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.0.0/16 2 0 2
        |-- 10.1.0.0
           /16 link UNICAST
        |-- 10.1.2.3
           /32 host LOCAL
        |-- 10.1.255.255
           /32 link BROADCAST
"""


def put(proc: Path, name: str, text: str) -> None:
    file = proc / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_processors_work_for_the_time_that_was_neither_idle_nor_waiting(tmp_path: Path) -> None:
    put(tmp_path, "stat", "cpu  100 0 0 800 100 0 0 0 50 0\ncpu0 1 1\n")
    processors = totals.Processors(tmp_path)
    put(tmp_path, "stat", "cpu  150 10 10 860 160 5 5 0 90 0\n")
    assert processors.percent() == 40.0  # 80 of 200 ticks; guests are counted in user
    assert processors.percent() == 0.0
    put(tmp_path, "stat", "cpu  100 0 0 800 100 0 0 0 50 0\n")
    assert processors.percent() == 0.0


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu x y z 1 2 3 4 5\n", "cpu 1 2 3\n"])
def test_processors_that_say_nonsense_say_nothing(tmp_path: Path, text: str) -> None:
    put(tmp_path, "stat", text)
    assert totals.Processors(tmp_path).percent() is None


def test_memory_in_bytes(tmp_path: Path) -> None:
    lines = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\nSwapTotal: 100 kB\nSwapFree: 60 kB\nHuge: 0\n"
    put(tmp_path, "meminfo", lines)
    assert totals.memory(tmp_path) == totals.Memory(1_024_000, 409_600, 102_400, 40_960)


def test_the_network_without_loopback(tmp_path: Path) -> None:
    head = "Inter-| Receive | Transmit\n face |bytes packets ...\n"
    eth0 = "  eth0: 1000 5 2 0 0 0 0 0 300 4 1 0 0 0 0 0\n"
    put(
        tmp_path,
        "net/dev",
        f"{head}    lo: 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7\n{eth0}wlan0:1 0 0 0 0 0 0 0 2 0 3 0 0 0 0 0\n",
    )
    assert totals.traffic(tmp_path) == totals.Traffic(1001, 302, 2, 4)
    put(tmp_path, "net/dev", f"{head}  eth0: 1000 5\n")
    assert totals.traffic(tmp_path) is None


def test_addresses_of_both_families(tmp_path: Path) -> None:
    put(tmp_path, "net/fib_trie", FIB_TRIE)
    assert totals.own_addresses(tmp_path) == {"10.1.2.3"}
    put(tmp_path, "net/if_inet6", "fd7a115ca1e000000000000000000007 05 80 00 80 tailscale0\n")
    assert totals.own_addresses(tmp_path) == {"10.1.2.3", "fd7a:115c:a1e0::7"}


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert totals.memory(tmp_path) == totals.Memory()
    assert totals.traffic(tmp_path) is None
    assert totals.own_addresses(tmp_path) == frozenset()


def test_this_machine_reads_as_psutil_reads_it() -> None:
    families = (socket.AF_INET, socket.AF_INET6)
    entries = [one for entries in psutil.net_if_addrs().values() for one in entries if one.family in families]
    assert totals.own_addresses() == {one.address.partition("%")[0] for one in entries}
    found, swap = totals.memory(), psutil.swap_memory()
    assert (found.total, found.swap_total) == (psutil.virtual_memory().total, swap.total)
    space = os.statvfs("/")
    assert space.f_blocks * space.f_frsize == psutil.disk_usage("/").total
