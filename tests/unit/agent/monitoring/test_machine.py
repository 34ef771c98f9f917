"""Readings of a Raspberry Pi and of machines without its sensors, from folders of fixtures."""

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

from fleven_agent.monitoring import machine
from fleven_agent.monitoring.machine import Reader, tree_of
from fleven_agent.protocol.readings import Throttling
from fleven_agent.system import procfs


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="ascii")


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "gpu-thermal\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "41000\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/type", "cpu-thermal\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "61234\n")
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    put(tmp_path, "proc/pressure/cpu", "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00 total=0\n")
    put(tmp_path, "proc/pressure/memory", "some avg10=0.25 avg60=0.00 avg300=0.00 total=5\n")
    return tmp_path


def test_a_raspberry_pi(pi: Path) -> None:
    reader = Reader([], sys=pi / "sys", proc=pi / "proc")
    assert reader.temperature() == 61.234
    assert reader.throttling() == Throttling(
        undervoltage=True, throttled=True, undervoltage_occurred=True, throttled_occurred=True
    )
    assert reader.board_model() == "Raspberry Pi 4 Model B Rev 1.4"
    pressure = reader.pressure()
    assert pressure is not None
    assert (pressure.cpu_percent, pressure.memory_percent, pressure.io_percent) == (12.5, 0.25, None)


def test_a_machine_without_sensors(tmp_path: Path) -> None:
    reader = Reader([], sys=tmp_path / "sys", proc=tmp_path / "proc")
    found = (reader.temperature(), reader.throttling(), reader.board_model(), reader.pressure())
    assert found == (None, None, None, None)


@pytest.mark.parametrize("content", ["", "x", "0x"])
def test_sensors_that_say_nonsense_say_nothing(pi: Path, content: str) -> None:
    for path in (
        "sys/class/thermal/thermal_zone1/temp",
        "sys/devices/platform/soc/soc:firmware/get_throttled",
        "proc/pressure/cpu",
        "proc/pressure/memory",
    ):
        put(pi, path, content)
    reader = Reader([], sys=pi / "sys", proc=pi / "proc")
    assert (reader.temperature(), reader.throttling(), reader.pressure()) == (None, None, None)


def test_the_voltage_monitor_of_newer_kernels(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert Reader([], sys=tmp_path / "sys", proc=tmp_path).throttling() == Throttling(undervoltage=True)


def test_a_pc(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/dmi/id/product_name", "ThinkCentre\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", "45000\n")
    reader = Reader([str(tmp_path), "/nowhere/at/all"], sys=tmp_path / "sys", proc=tmp_path / "proc")
    assert (reader.board_model(), reader.temperature()) == ("ThinkCentre", 45.0)
    assert [disk.path for disk in reader.disks()] == [str(tmp_path)]


def test_this_machine_is_read(tmp_path: Path) -> None:
    found = Reader([str(tmp_path)]).read()
    assert found.memory_total_bytes
    assert found.uptime_seconds
    assert found.agent is not None
    assert found.agent.rss_bytes > 1_000_000
    assert found.agent.threads >= 1


def test_this_process_in_proc() -> None:
    own = procfs.stat(os.getpid())
    assert own is not None
    assert (own.parent, own.group, own.defunct, own.frozen) == (os.getppid(), os.getpgrp(), False, False)
    assert abs(own.cpu_seconds - time.process_time()) < 1
    assert procfs.command_line(os.getpid())
    assert (procfs.peak_rss_bytes(os.getpid()) or 0) >= own.rss_bytes * 0.9
    assert procfs.stat(2**22 + 1) is None
    assert procfs.descendants(2**22 + 1) == []


def test_a_name_with_spaces_and_parentheses_is_no_trap(tmp_path: Path) -> None:
    fields = ["R", "1", "2", "3", *["0"] * 7, "150", "50", *["0"] * 5, "777", "0", "10", *["0"] * 30]
    put(tmp_path, "42/stat", f"42 (a ) (b) {' '.join(fields)}\n")
    found = procfs.stat(42, tmp_path)
    assert found is not None
    assert (found.parent, found.group, found.session, found.cpu_seconds) == (1, 2, 3, 200 / procfs.TICKS_PER_SECOND)


def test_the_sum_of_processes() -> None:
    tree = tree_of([os.getpid(), 2**22 + 1], (time.monotonic() - 10, 0.0))
    assert tree is not None
    assert tree.processes == 1
    assert tree.cpu_percent is not None
    assert tree_of([2**22 + 1]) is None


@pytest.mark.parametrize(("line", "filtered"), [("Seccomp:\t2\n", True), ("Seccomp:\t0\n", False), ("", False)])
def test_a_filter_of_system_calls_is_seen(tmp_path: Path, line: str, filtered: bool) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(f"Name:\tpython\nNoNewPrivs:\t1\n{line}Seccomp_filters:\t2\n")
    assert procfs.filters_calls(tmp_path) is filtered
    assert procfs.filters_calls(tmp_path / "missing") is False


def test_systemd_is_asked_more_rarely_while_it_says_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each question starts a service, and writes to the journal."""
    now, answers, asked = [0.0], [False, False, False, False, False, True, True], list[float]()

    def answer() -> bool | None:
        asked.append(now[0])
        return answers[len(asked) - 1]

    monkeypatch.setattr(machine, "_kernel_clock", lambda: None)
    monkeypatch.setattr(machine, "_TIMESYNC_FILE", tmp_path / "none")
    monkeypatch.setattr(machine, "_systemd_clock", answer)
    monkeypatch.setattr("fleven_agent.monitoring.machine.time.monotonic", lambda: now[0])
    reader = machine.Reader([])
    while len(asked) < len(answers):
        assert reader.clock_synchronised() is answers[len(asked) - 1]
        now[0] += 60.0
    waited = [after - before for before, after in pairwise(asked)]
    assert waited == [600.0, 1_200.0, 2_400.0, 3_600.0, 3_600.0, 600.0]
