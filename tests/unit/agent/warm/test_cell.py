"""What a cell learns from its tasks, and when it imports that."""

import json
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest

from fleven_agent.common.cell import sweep
from fleven_agent.common.cell.server import Row, Running
from fleven_agent.common.cell.sweep import Space
from fleven_agent.warm import cell as warm_cell
from fleven_agent.warm import memory, preload
from fleven_agent.warm.cell import BEGAN, WarmCell
from fleven_agent.warm.flower_internals import installed_internals
from fleven_agent.warm.settings import Fallback, WarmReason

NAMES = ("learnt_of_tasks_one", "learnt_of_tasks_two")
OPTIONS: dict[str, Any] = {
    "modules": [], "learned": [], "left_out": {}, "maximum_memory_bytes": 1 << 40, "minimum_available_bytes": 0,
    "idle_seconds": 600, "short_polling": False, "interpreter_flags": "",
}  # fmt: skip


class StartedAgainError(Exception):
    """The process would have become another one, with these options."""


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmCell]:
    """A warm cell that has imported nothing, with two packages installed that tasks may import."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(preload, "installed_folders", lambda: (str(tmp_path) + "/",))
    nothing = replace(installed_internals(), preloaded_modules=())
    monkeypatch.setattr(preload, "installed_internals", lambda: nothing)
    monkeypatch.setattr(memory, "settle", lambda: None)
    monkeypatch.setattr(sweep, "own_group", lambda unit: tmp_path)
    monkeypatch.setattr(preload, "check_after", lambda name, new: None)  # threads of the test's own process
    warm_cell._is_installed.cache_clear()
    configuration = json.dumps({"warm": OPTIONS, "environment": {}})
    with socket.socket() as listener:
        options = Namespace(
            configuration=configuration, listener=listener.detach(), unit="a.service", home=tmp_path, home_owner="",
            watcher=None, left=None, kept=None, swept=[], maximum_bytes=1, maximum_files=1,
        )  # fmt: skip
        made = WarmCell(options)
    made.told.ready = True
    yield made
    made.listener.close()
    for name in NAMES:
        sys.modules.pop(name, None)


def end_task(cell: WarmCell, *names: str) -> None:
    """Have a task end that says it has imported these."""
    row = Row(1, 1, 0.0, warm=True)
    cell.task_ended(Running(row, Mock(), [Space(1, 1)], noted=BEGAN + json.dumps(names).encode()))


def test_what_two_tasks_import_is_imported_before_the_next(cell: WarmCell) -> None:
    end_task(cell, NAMES[0])
    assert NAMES[0] not in sys.modules
    end_task(cell, NAMES[0], NAMES[1])
    assert [name in sys.modules for name in NAMES] == [True, False]
    assert cell.told.learned == [NAMES[0]]


def test_a_task_that_waits_would_import_it_as_well(cell: WarmCell) -> None:
    """The next task of a quick round is there before the one before has ended: it was never imported then."""
    cell.queue.append(Mock())
    end_task(cell, *NAMES)
    end_task(cell, *NAMES)
    assert all(name in sys.modules for name in NAMES)


def test_a_task_does_not_wait_long_and_the_rest_is_imported_later(
    cell: WarmCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_cell, "IMPORT_SECONDS", -1.0)
    cell.queue.append(Mock())
    end_task(cell, *NAMES)
    end_task(cell, *NAMES)
    assert not any(name in sys.modules for name in NAMES)
    cell.queue.clear()
    end_task(cell)
    assert all(name in sys.modules for name in NAMES)


def test_a_module_that_must_not_be_here_costs_no_task(cell: WarmCell, monkeypatch: pytest.MonkeyPatch) -> None:
    def keeps_a_thread(name: str, new: object) -> None:
        raise preload.CulpritError(name, "keeps a thread")

    def start_again(self: WarmCell, configuration: dict[str, Any], left: object) -> NoReturn:
        raise StartedAgainError(configuration["warm"]["left_out"])

    monkeypatch.setattr(preload, "check_after", keeps_a_thread)
    monkeypatch.setattr(WarmCell, "start_again", start_again)
    waiting = Mock()
    cell.queue.append(waiting)
    end_task(cell, NAMES[0])
    end_task(cell, NAMES[0])
    assert cell.queue[0] is waiting
    assert not cell.told.ready, "a process with a thread must not fork: the task is started as a program"
    cell.queue.clear()
    with pytest.raises(StartedAgainError, match="keeps a thread"):
        cell.cycle(0.0)


@pytest.mark.parametrize(("left", "said"), [(WarmReason.IDLE, False), (WarmReason.MEMORY_PRESSURE, True)])
def test_cooling_after_each_run_writes_nothing_to_the_card(
    cell: WarmCell,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    left: WarmReason,
    said: bool,
) -> None:
    def become(*_: object) -> NoReturn:
        raise StartedAgainError

    monkeypatch.setattr(warm_cell.os, "execve", become)
    cell.options.address_option = "--address"
    caplog.set_level("INFO")
    with pytest.raises(StartedAgainError):
        cell.start_again({**cell.current, "warm": None}, left)
    assert (f"cooling reason={left.value}" in caplog.text) is said


def test_what_a_task_has_imported_is_found_without_a_list_of_all(
    cell: WarmCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell.warm_up()
    assert cell.loaded == frozenset(sys.modules)
    assert preload.imported_since(cell.loaded) == []
    for name in NAMES:
        __import__(name)
    assert preload.imported_since(cell.loaded) == list(NAMES)


class NextTask:
    """The process that waits, played."""

    process_id = 4711
    note = 9

    def __init__(self, *, dead: bool = False) -> None:
        self.dead = dead
        self.ended = False
        self.given: object = None

    def hand_over(self, request: object, descriptors: object) -> None:
        if self.dead:
            raise BrokenPipeError
        self.given = request

    def end(self) -> None:
        self.ended = True


def asked(cell: WarmCell, monkeypatch: pytest.MonkeyPatch, reason: object = None) -> tuple[Running, list[str]]:
    """Ask for a task that can be a fork, or for this reason not; return it and how it was started besides."""
    ways: list[str] = []
    monkeypatch.setattr(WarmCell, "_why_cold", lambda self, request: reason)
    monkeypatch.setattr(WarmCell, "_fork", lambda self, running: ways.append("fork"))
    monkeypatch.setattr(WarmCell, "start_program", lambda self, running: ways.append("program"))
    running = Running(Row(0, 1, 0.0), Mock(), [Space(1, 1)])
    cell.start_task(running)
    return running, ways


def test_the_process_that_waits_becomes_the_task(cell: WarmCell, monkeypatch: pytest.MonkeyPatch) -> None:
    cell.waiting = waiting = NextTask()  # type: ignore[assignment]
    running, ways = asked(cell, monkeypatch)
    assert (running.row.process_id, running.row.warm, running.note, ways) == (4711, True, 9, [])
    assert waiting.given is running.asked.request
    assert cell.waiting is None


@pytest.mark.parametrize(
    ("dead", "reason", "way"), [(True, None, "fork"), (False, Fallback.ENVIRONMENT, "program")], ids=["dead", "cold"]
)
def test_no_task_that_starts_otherwise_has_it_beside_itself(
    cell: WarmCell, monkeypatch: pytest.MonkeyPatch, dead: bool, reason: object, way: str
) -> None:
    cell.waiting = waiting = NextTask(dead=dead)  # type: ignore[assignment]
    _, ways = asked(cell, monkeypatch, reason)
    assert (ways, waiting.ended, cell.waiting) == ([way], True, None)


def test_it_goes_before_anything_is_imported_and_when_no_task_comes(cell: WarmCell) -> None:
    cell.waiting = first = NextTask()  # type: ignore[assignment]
    end_task(cell, NAMES[0])
    assert not first.ended
    end_task(cell, NAMES[0])
    assert first.ended, "it has not imported what the cell has now"
    cell.waiting = second = NextTask()  # type: ignore[assignment]
    cell.cycle(cell.expected_until + 1)
    assert (second.ended, cell.waiting) == (True, None)


@pytest.mark.parametrize("name", ["antigravity", "fleven.app", "learnt_of_tasks_one.__main__", "not_there", "a b", ""])
def test_a_task_cannot_have_anything_else_imported(cell: WarmCell, name: str) -> None:
    end_task(cell, name)
    end_task(cell, name)
    assert cell.told.learned == []
