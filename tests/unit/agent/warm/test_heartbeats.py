"""Heartbeats at another interval: when they are due, and in which Flower."""

import importlib
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleven_agent.warm import heartbeats, pace_file
from fleven_agent.warm.flower_internals import installed_internals
from fleven_agent.warm.heartbeats import INTERVAL, NotRecognisedError, due_seconds, stretch_heartbeats
from fleven_agent.warm.pace_file import PaceFile, Wanted

FLOWER = installed_internals()


@pytest.mark.parametrize(
    ("told", "wanted", "due"),
    [(30.0, 30.0, 20.0), (300.0, 300.0, 236.0), (30.0, 300.0, 20.0), (300.0, 30.0, 20.0)],
)
def test_a_longer_interval_waits_for_the_heartbeat_that_tells_it(told: float, wanted: float, due: float) -> None:
    assert due_seconds(told, wanted, timeout_seconds=5.0, share=0.8) == pytest.approx(due)


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's two modules, put back afterwards."""
    sender = importlib.import_module(FLOWER.heartbeat_module)
    connection = importlib.import_module(FLOWER.connection_module)
    monkeypatch.setattr(sender.HeartbeatSender, "_run", sender.HeartbeatSender._run)
    monkeypatch.setattr(connection, INTERVAL, getattr(connection, INTERVAL))
    return SimpleNamespace(sender=sender.HeartbeatSender, connection=connection)


def test_each_heartbeat_tells_the_interval_that_is_wanted(
    flower: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "LOOK_SECONDS", 0.01)
    file = tmp_path / "pace.json"
    pace_file.write(file, Wanted(heartbeat_seconds=300.0))
    stretch_heartbeats(FLOWER, PaceFile(str(file)))
    told: list[float] = []
    twice, once = threading.Event(), threading.Event()

    def beat() -> bool:
        told.append(flower.connection.HEARTBEAT_DEFAULT_INTERVAL)
        (twice if len(told) > 1 else once).set()
        return True

    sender = flower.sender(beat)
    sender.start()
    assert once.wait(10)
    assert not twice.is_set()
    pace_file.write(file, Wanted(heartbeat_seconds=5.001))  # 1 ms is left of it: due at once
    assert twice.wait(10)
    sender.stop()
    assert told[:2] == [300.0, 5.001]


@pytest.mark.parametrize(
    "change",
    [
        {"heartbeat_names": frozenset({"another"})},
        {"heartbeat_class": "Gone"},
        {"heartbeat_function": "gone"},
        {"connection_function": "gone"},
        {"heartbeat_constants": {**FLOWER.heartbeat_constants, INTERVAL: 31}},
    ],
)
def test_another_flower_is_left_as_it_is(flower: Any, change: dict[str, Any]) -> None:
    before = flower.sender._run
    with pytest.raises(NotRecognisedError):
        stretch_heartbeats(replace(FLOWER, **change), PaceFile(None))
    assert flower.sender._run is before
    assert flower.connection.HEARTBEAT_DEFAULT_INTERVAL == 30
