"""What a terminal of 80 columns and 24 lines shows of a run that is followed."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fleven.server.cli import follow
from fleven.server.runs.model import Attempt, Progress, Reason, Run, RunState, Trigger
from fleven.server.runs.results import RunFolders
from fleven.server.schedules.spec import ScheduleSpec

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LONG = "needs 3 nodes, 1 ready; not: pi-north-2 (gated), pi-south-1 (zombie), pi-van (offline), pi-old (offline)"


def run(state: RunState, reason: Reason, message: str = "", progress: Progress | None = None, **values: Any) -> Run:
    accepted = None if state in (RunState.PENDING, RunState.WAITING) else NOW - timedelta(seconds=40)
    attempt = Attempt(1, "token", NOW, flower_run_id="17200161685783928237", accepted_at=accepted)
    created = NOW - timedelta(minutes=5)
    given_values: dict[str, Any] = {"attempt": attempt, "attempts": 1, "progress": progress, **values}
    spec = ScheduleSpec()
    return Run(123, "nightly", Trigger.MANUAL, NOW, created, state, reason, message, NOW, spec, **given_values)


def shown(picture: Any) -> list[str]:
    out = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)
    out.print(picture)
    assert isinstance(out.file, io.StringIO)
    return [text.rstrip() for text in out.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (run(RunState.PENDING, Reason.REQUESTED, "due today"), "run 123   5 min  pending (requested): due today"),
        (run(RunState.SUBMITTED, Reason.ACCEPTED, "Flower run 7"), "run 123    40 s  submitted, Flower run 7"),
        (
            run(RunState.RUNNING, Reason.STARTED, "", Progress("running", 3, 4, "", 2, 1)),
            "run 123    40 s  ████████████░░░░░░░░  running, round 3 of 4, 1 of 2 nodes",
        ),
        (
            run(RunState.SUCCEEDED, Reason.COMPLETED, "4 of 4 rounds", Progress("succeeded", 4, 4, "", 2, 0)),
            "run 123    40 s  ████████████████████  succeeded (completed): 4 of 4 rounds",
        ),
        (
            run(RunState.WAITING, Reason.RETRY_BACKOFF, LONG, retry_at=NOW + timedelta(seconds=60)),
            "run 123   5 min  waiting (retry-backoff): tries again in 60 s",
        ),
    ],
)
def test_the_line_of_a_run_says_where_it_stands(seen: Run, line: str) -> None:
    assert shown(follow.line(seen, NOW, 80)) == [line]


def test_a_line_that_is_too_long_is_cut_and_stays_one() -> None:
    (text,) = shown(follow.line(run(RunState.WAITING, Reason.TOO_FEW_NODES, LONG), NOW, 80))
    assert len(text) == 80
    assert text.startswith("run 123   5 min  waiting (too-few-nodes): needs 3 nodes, 1 ready; not:")
    assert text.endswith("…")


def test_a_long_run_of_a_large_fleet_fits_the_terminal(tmp_path: Path) -> None:
    rounds = [{"round": n, "rmse": 30.0 - n, "mae": 9.5, "r2": 0.7, "nodes": 40, "seconds": 12.25} for n in range(20)]
    cars = [
        {"round": 19, "partition_id": n, "node_name": f"a-car-with-a-very-long-name-{n}", "ok": n != 2, "rmse": 9.5}
        | ({"error_code": "data-missing"} if n == 2 else {"rows": 123_456, "seconds": 3.5})
        for n in range(40)
    ]
    (tmp_path / "rounds.json").write_text(json.dumps(rounds))
    (tmp_path / "clients.json").write_text(json.dumps(cars))
    seen = run(RunState.RUNNING, Reason.STARTED, "", Progress("running", 20, 50, "training", 40, 12))
    picture = shown(follow.draw(seen, RunFolders(tmp_path, None), NOW, 24))
    assert len(picture) < 24
    assert max(map(len, picture)) <= 80
    assert picture[0] == "run 123  nightly  40 s"
    assert "running, round 20 of 50, 12 of 40 nodes" in picture
    assert [text for text in picture if text.split()[:2] == ["19", "11.00"]]
    assert [text for text in picture if "data-missing" in text]
    assert picture[-1] == "and 32 more cars"


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 200))
def test_the_rows_fill_the_terminal_and_do_not_pass_it(rounds: int, cars: int, height: int) -> None:
    rounds_shown, cars_shown = follow.rows_shown(rounds, cars, height)
    free = max(2 * follow.FEWEST_ROWS, height - follow.OTHER_LINES)
    assert rounds_shown + cars_shown == min(rounds + cars, free)
    assert 0 <= rounds_shown <= rounds
    assert 0 <= cars_shown <= cars
    assert cars_shown >= min(cars, free // 2)
