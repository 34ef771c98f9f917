"""How long to wait, and in which Flower."""

import ast
import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hand_clock import HandClock
from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.warm import flower_internals, pace_file, polling
from fleven_agent.warm.flower_internals import Wait, installed_internals, internals_for
from fleven_agent.warm.pace_file import PaceFile, Wanted
from fleven_agent.warm.polling import NotRecognisedError, Pace, PacedTime, SupernodeWaits, waits_in


def test_nothing_happened_yet_so_flower_keeps_its_own_interval() -> None:
    assert Pace(0.05).seconds(3.0) == 3.0


@pytest.mark.parametrize(("elapsed", "wait"), [(0.0, 0.05), (1.0, 0.05), (10.0, 0.5), (60.0, 3.0), (3600.0, 3.0)])
def test_the_wait_grows_with_the_time_since_something_happened(elapsed: float, wait: float) -> None:
    clock = HandClock()
    pace = Pace(0.05, clock=clock)
    pace.happened()
    clock.now += elapsed
    assert pace.seconds(3.0) == pytest.approx(wait)


@given(st.floats(0.001, 1), st.floats(0, 1e6), st.floats(0.5, 10))
def test_never_longer_than_flower_would_wait(floor: float, elapsed: float, longest: float) -> None:
    clock = HandClock()
    pace = Pace(floor, clock=clock)
    pace.happened()
    clock.now += elapsed
    assert 0 < pace.seconds(longest) <= longest


def test_supernode_waits_short_around_a_task_and_as_flower_does_when_idle() -> None:
    clock = HandClock()
    waits = SupernodeWaits(PaceFile(None), clock)
    assert waits.seconds(3) == 3  # idle since the start
    assert waits.seconds(0.5) == pytest.approx(0.02)  # a task came: look at once, and again
    clock.now += 30
    assert waits.seconds(0.5) == 0.5  # it trains for long: as Flower
    assert waits.seconds(3) == pytest.approx(0.05)  # its reply is sent: the next message may be near
    clock.now += 20
    assert waits.seconds(3) == pytest.approx(1.0)
    clock.now += 3600
    assert waits.seconds(3) == 3
    assert waits.seconds(0.5) == pytest.approx(0.02)


def test_a_message_every_minute_costs_few_questions() -> None:
    """The SuperLink serves all cars: a car asks it a hundred times in a round of a minute, instead of 20."""
    clock = HandClock()
    waits = SupernodeWaits(PaceFile(None), clock)
    waits.seconds(0.5)
    asked = 0
    end = clock.now + 60
    while clock.now < end:
        clock.now += waits.seconds(3)
        asked += 1
    assert 20 < asked < 110


def test_a_calm_server_stretches_the_pull_and_its_word_ends_the_wait(tmp_path: Path) -> None:
    file = tmp_path / "pace.json"
    clock = HandClock()
    waits = SupernodeWaits(PaceFile(str(file)), clock)
    pace_file.write(file, Wanted(pull_seconds=120.0, heartbeat_seconds=300.0))
    assert waits.seconds(3) == 120.0
    assert waits._while_calm(3) == 120.0
    clock.now += 50
    pace_file.write(file, Wanted(floor_seconds=0.2))
    assert waits._while_calm(3) == 0.0  # the wait is over, whatever was left of it
    assert waits.seconds(3) == 0.2  # a run is near: look again soon, but not sooner than the server can bear
    clock.now += 20
    assert waits.seconds(3) == 1.0
    clock.now += 3600
    assert waits.seconds(3) == 3
    pace_file.write(file, Wanted(floor_seconds=10.0))
    assert waits.seconds(3) == 10.0  # a thousand cars
    pace_file.write(file, Wanted(pull_seconds=120.0))
    assert waits.seconds(3) == 120.0
    file.unlink()
    assert waits.seconds(3) == pytest.approx(0.05)  # the agent is gone: as if a run were near, then as Flower
    clock.now += 3600
    assert waits.seconds(3) == 3


@pytest.mark.parametrize("since_task_seconds", [45, 3600])
def test_the_servers_word_ends_every_wait_of_a_calm_car(tmp_path: Path, since_task_seconds: float) -> None:
    file = tmp_path / "pace.json"
    clock = HandClock()
    ends_at = clock.now + since_task_seconds + 1

    def pause(seconds: float) -> None:
        clock.now += seconds
        if clock.now >= ends_at:
            pace_file.write(file, Wanted())

    pace_file.write(file, Wanted(pull_seconds=120.0))
    waits = SupernodeWaits(PaceFile(str(file)), clock, pause)
    waits.seconds(0.5)
    waits.seconds(3)  # a task's answer is sent
    clock.now += since_task_seconds
    waits.sleep(3)
    assert clock.now == pytest.approx(ends_at, abs=2 * pace_file.LOOK_SECONDS)


def test_an_app_at_work_is_looked_at_as_ever_while_the_server_is_calm(tmp_path: Path) -> None:
    file = tmp_path / "pace.json"
    pace_file.write(file, Wanted(pull_seconds=120.0))
    clock = HandClock()
    waits = SupernodeWaits(PaceFile(str(file)), clock)
    assert waits.seconds(0.5) == pytest.approx(0.02)
    clock.now += 30
    assert waits.seconds(0.5) == 0.5
    assert waits.seconds(3) == pytest.approx(0.05)  # the answer is sent: the next message may be near


def test_everything_else_of_time_stays() -> None:
    import time

    slept: list[float] = []
    paced = PacedTime(slept.append)
    paced.sleep(3)
    assert slept == [3]
    assert paced.monotonic is time.monotonic


def test_waits_are_found_with_function_and_length() -> None:
    source = "import time\ndef outer():\n    def inner():\n        time.sleep(0.5)\n    time.sleep(3)\n"
    assert waits_in(source) == {Wait("inner", 0.5), Wait("outer", 3)}


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef f():\n    time.sleep(x)\n",
        "import time\ndef f():\n    time.sleep(seconds=3)\n",
        "import time\ndef f():\n    return time.monotonic()\n",
    ],
)
def test_another_use_of_time_is_not_recognised(source: str) -> None:
    with pytest.raises(NotRecognisedError):
        waits_in(source)


@pytest.fixture
def changed_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that waits otherwise than the known one of its name."""
    name = "flower_with_other_waits"
    (tmp_path / f"{name}.py").write_text("import time\n\ndef run_superexec():\n    time.sleep(2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    importlib.sys.modules.pop(name, None)  # type: ignore[attr-defined]


def test_a_changed_flower_is_named_with_what_was_found(changed_module: str) -> None:
    with pytest.raises(NotRecognisedError, match="run_superexec:2"):
        polling.recognised(changed_module, frozenset({Wait("run_superexec", 1)}))


FLOWER = installed_internals()


@pytest.mark.parametrize(
    ("name", "waits"),
    [(FLOWER.supernode_module, FLOWER.supernode_waits), (FLOWER.superexec_module, FLOWER.superexec_waits)],
)
def test_the_installed_flower_is_the_known_one(name: str, waits: frozenset[Wait]) -> None:
    module = polling.recognised(name, waits)
    assert isinstance(module, ModuleType)
    assert "time" in ast.dump(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")))


def test_another_line_of_flower_is_another_object(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(FLOWER, lowest=(1, 42), superlink_wait_seconds=5.0)
    monkeypatch.setattr(flower_internals, "LINES", (FLOWER, newer))
    assert [internals_for(version) for version in ("1.31.0", "1.34.2", "1.42.0", "2.0", "unknown")] == [
        FLOWER,
        FLOWER,
        newer,
        newer,
        FLOWER,
    ]


class Channel:
    """Notes who follows its states."""

    def __init__(self) -> None:
        self.followed: list[object] = []

    def subscribe(self, callback: object, try_to_connect: bool = False) -> None:
        self.followed.append((callback, try_to_connect))


def task_module(monkeypatch: pytest.MonkeyPatch, callback: object) -> ModuleType:
    """A module in the place of Flower's task, with this callback for a channel's states."""
    module = ModuleType("flower_task")
    module.__dict__.update(create_channel=lambda address: Channel(), on_channel_state_change=callback)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(polling, "installed_internals", lambda: replace(FLOWER, task_module=module.__name__))
    return module


def test_nothing_of_flowers_follows_a_tasks_channel_and_an_app_may(monkeypatch: pytest.MonkeyPatch) -> None:
    task = importlib.import_module(FLOWER.task_module)
    module = task_module(monkeypatch, task.on_channel_state_change)
    polling.close_channel_at_once()
    channel = module.__dict__["create_channel"]("127.0.0.1:1")
    channel.subscribe(task.on_channel_state_change)
    assert channel.followed == []
    channel.subscribe(print, try_to_connect=True)
    assert channel.followed == [(print, True)]


def test_a_task_that_does_more_with_its_channels_states_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    module = task_module(monkeypatch, lambda state: print("state", state))
    before = dict(module.__dict__)
    with pytest.raises(NotRecognisedError, match="follows its channel in an unknown way"):
        polling.close_channel_at_once()
    assert module.__dict__ == before
