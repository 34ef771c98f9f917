"""What the agent tells SuperNode of its pace, and waits that end when it changes."""

from pathlib import Path

import pytest

from fleven_agent.warm import pace_file
from fleven_agent.warm.pace_file import PaceFile, Wanted


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pace.json"
    seen = PaceFile(str(file))
    assert seen.wanted == Wanted()
    for wanted in (Wanted(120.0, 300.0, 0.4), Wanted(), Wanted(600.0), Wanted(server_time_at_boot_seconds=1.7e9)):
        pace_file.write(file, wanted)
        assert seen.wanted == wanted
    assert [one.name for one in tmp_path.iterdir()] == ["pace.json"]
    file.unlink()
    assert seen.wanted == Wanted()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b'{"pull_seconds": "9", "heartbeat_seconds": true}'),
        *(b'{"pull_seconds": -1}', b'{"pull_seconds": 1e9}', b'{"heartbeat_seconds": NaN}'),
        *(b'{"server_time_at_boot_seconds": Infinity}', b'{"server_time_at_boot_seconds": "now"}'),
    ],
)
def test_a_file_that_says_nothing_leaves_flower_as_it_is(content: bytes) -> None:
    assert pace_file.read(content) == Wanted()


def test_a_wait_ends_when_its_end_moves_up() -> None:
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace_file.wait(lambda began: began + (100.0 if now[0] < 1.0 else 0.0), sleep, lambda: now[0], 0.4)
    assert slept == [0.4, 0.4, 0.4]
    slept.clear()
    pace_file.wait(lambda began: began + 0.5, sleep, lambda: now[0], 0.4)
    assert slept == pytest.approx([0.4, 0.1])


def test_a_stopped_wait_ends_at_once() -> None:
    slept: list[float] = []

    def stopped(seconds: float) -> bool:
        slept.append(seconds)
        return True

    pace_file.wait(lambda began: began + 100.0, stopped, lambda: 0.0, 0.4)
    assert slept == [0.4]
