"""What Linux tells about memory."""

from pathlib import Path

import pytest

from fleven_agent.warm import memory


def test_available_memory_and_pressure_are_read(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  1900000 kB\nMemAvailable:    1024 kB\n")
    (tmp_path / "pressure").write_text("some avg10=25.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00 total=0\n")
    assert memory.available_bytes(tmp_path / "meminfo") == 1 << 20
    assert memory.pressure_percent(tmp_path / "pressure") == 25.5


def test_a_kernel_without_these_files_is_not_under_pressure(tmp_path: Path) -> None:
    assert memory.available_bytes(tmp_path / "none") is None
    assert memory.pressure_percent(tmp_path / "none") == 0.0


@pytest.mark.parametrize(
    ("available", "pressure", "short"),
    [(100, 0.0, True), (300, 0.0, False), (300, 21.0, True), (None, 0.0, False), (None, 50.0, True)],
)
def test_short_of_memory(monkeypatch: pytest.MonkeyPatch, available: int | None, pressure: float, short: bool) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    monkeypatch.setattr(memory, "pressure_percent", lambda: pressure)
    assert memory.is_short(200) is short


def test_only_code_that_nobody_wrote_to_is_given_back() -> None:
    smaps = (
        "7f0000000000-7f0000001000 r-xp 00000000 08:01 1234  /lib/clean.so\nSize: 4 kB\nPrivate_Dirty:         0 kB\n"
        "VmFlags: rd ex\n"
        "7f0000002000-7f0000003000 r-xp 00000000 08:01 1235  /lib/patched.so\nSize: 4 kB\nPrivate_Dirty:        4 kB\n"
        "7f0000004000-7f0000005000 rw-p 00000000 08:01 1236  /lib/data.so\nPrivate_Dirty:         0 kB\n"
        "7f0000006000-7f0000007000 r-xp 00000000 00:00 0     [vdso]\nPrivate_Dirty:         0 kB\n"
    )
    assert [match[1] for match in memory.CODE_MAPPING.finditer(smaps)] == ["7f0000000000"]
