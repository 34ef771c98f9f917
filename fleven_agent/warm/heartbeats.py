"""SuperNode's heartbeats at the interval that the agent wants, told to the SuperLink in Flower's own field.

Flower sends one about every 20 s and says with each that the next follows within 30 s; after two that are missing the
node counts as gone. Here both, the wait and what is said, follow the agent's wish. A longer interval counts only once
a heartbeat has told it, so the SuperLink never waits for one in vain; a shorter one is told at once. Nothing is
replaced in a Flower that is not as known. Imports Flower only when asked to change it.
"""

import importlib
import random
import time
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from fleven_agent.warm import pace_file
from fleven_agent.warm.flower_internals import FlowerInternals, NotRecognisedError
from fleven_agent.warm.pace_file import PaceFile

LOOK_SECONDS = 1.0
"""Between two looks at the wish: one that wants more may be late by this much."""
INTERVAL = "HEARTBEAT_DEFAULT_INTERVAL"


def due_seconds(told_seconds: float, wanted_seconds: float, *, timeout_seconds: float, share: float) -> float:
    """Return after how long the next heartbeat is due.

    Args:
        told_seconds: the interval that the last one told.
        wanted_seconds: the interval that is wanted now.
        timeout_seconds: of one call.
        share: of what is left of the interval, drawn for each heartbeat, so that a fleet's do not meet.
    """
    return (min(told_seconds, wanted_seconds) - timeout_seconds) * share


def stretch_heartbeats(flower: FlowerInternals, file: PaceFile) -> None:
    """Let the heartbeats of this process follow ``file``; raises ``NotRecognisedError`` and leaves all as it is."""
    sender_module = importlib.import_module(flower.heartbeat_module)
    connection = importlib.import_module(flower.connection_module)
    sender = getattr(sender_module, flower.heartbeat_class, None)
    run = getattr(getattr(sender, "_run", None), "__code__", None)
    _check(flower, sender_module, connection, run)
    constants: Any = flower.heartbeat_constants
    usual = float(constants[INTERVAL])
    timeout_seconds, multiplier = float(constants["HEARTBEAT_CALL_TIMEOUT"]), constants["HEARTBEAT_BASE_MULTIPLIER"]

    def wanted() -> float:
        return file.wanted.heartbeat_seconds or usual

    def beat_until_stopped(self: Any) -> None:
        """Stand for the loop of Flower's sender."""
        while not self._stop_event.is_set():
            told = wanted()
            connection.__dict__[INTERVAL] = told
            self._retry_invoker.invoke(self._heartbeat)
            share = multiplier + random.uniform(*constants["HEARTBEAT_RANDOM_RANGE"])  # noqa: S311 - spreads a fleet
            pace_file.wait(
                _due(told, wanted, timeout_seconds, share), self._stop_event.wait, time.monotonic, LOOK_SECONDS
            )

    sender._run = beat_until_stopped  # type: ignore[union-attr]  # it has one: its code was looked at


def _due(told: float, wanted: Callable[[], float], timeout_seconds: float, share: float) -> Callable[[float], float]:
    return lambda began: began + due_seconds(told, wanted(), timeout_seconds=timeout_seconds, share=share)


def _check(flower: FlowerInternals, sender: ModuleType, connection: ModuleType, run: CodeType | None) -> None:
    if run is None or frozenset(run.co_names) != flower.heartbeat_names:
        raise NotRecognisedError("heartbeats are sent in an unknown way")
    if any(getattr(sender, name, None) != value for name, value in flower.heartbeat_constants.items()):
        raise NotRecognisedError("the intervals of heartbeats are not the known ones")
    function = getattr(connection, flower.connection_function, None)
    # Flower's function is a context manager: the one that it was made of holds the code.
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    inner = [one for one in (code.co_consts if code is not None else ()) if isinstance(one, CodeType)]
    tells = any(one.co_name == flower.heartbeat_function and INTERVAL in one.co_names for one in inner)
    if not tells or getattr(connection, INTERVAL, None) != flower.heartbeat_constants[INTERVAL]:
        raise NotRecognisedError("heartbeats tell their interval in an unknown way")
