"""`runs watch` in a terminal: rounds and cars of a run, drawn live from the register and the run's own files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fleven.server.cli_common import console, now, span, table
from fleven.server.config import Paths
from fleven.server.follow import POLL_SECONDS, bar, step_text
from fleven.server.lifecycle import run_seconds
from fleven.server.model import Run
from fleven.server.printing import number, styled
from fleven.server.run_files import RunFolders, rows
from fleven.server.store import Store
from fleven.server.store import runs as run_queries

if TYPE_CHECKING:
    from rich.console import RenderableType

OTHER_LINES = 8
"""Head, step, bar, message, two headings, the count of cars that are not shown, and the line of the cursor."""
FEWEST_ROWS = 3
"""Of each table, however low the terminal is."""
NAME_WIDTH = 24
BAR_WIDTH = 40


def newest_of_each_car(clients: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each car's newest row, by partition-id."""
    newest: dict[str, dict[str, Any]] = {}
    for row in clients:
        key = str(row.get("partition_id") if row.get("partition_id") is not None else row.get("node_id"))
        newest[key] = {**newest.get(key, {}), **{name: value for name, value in row.items() if value is not None}}
    return [newest[key] for key in sorted(newest, key=lambda key: (len(key), key))]


def rows_shown(rounds: int, cars: int, height: int) -> tuple[int, int]:
    """Return how many rounds and cars fit a terminal of so many lines: half of it each, or what the other leaves."""
    free = max(2 * FEWEST_ROWS, height - OTHER_LINES)
    for_cars = min(cars, max(free // 2, free - rounds))
    return min(rounds, free - for_cars), for_cars


def shortened(name: str) -> str:
    """Return a name that takes one line of the table."""
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"


def draw(run: Run, folders: RunFolders, at: datetime, height: int) -> RenderableType:
    """Return the whole picture of a run.

    Args:
        run: the run.
        folders: where its files lie.
        at: the current time.
        height: lines of the terminal; more would push the picture out of it.
    """
    from rich.console import Group

    done = rows(folders, "rounds.json")
    cars = newest_of_each_car(rows(folders, "clients.json"))
    rounds_shown, cars_shown = rows_shown(len(done), len(cars), height)
    seconds = run_seconds(run, at)
    head = f"run {run.id}  {run.schedule_name}  {span(seconds) if seconds is not None else ''}"
    parts: list[RenderableType] = [styled(head, "bold"), styled(step_text(run, at), "cyan")]
    if drawn := bar(run, BAR_WIDTH):
        parts.append(styled(drawn, "green"))
    if run.progress is not None and run.progress.message:
        parts.append(styled(run.progress.message, "dim"))
    if done:
        rounds = table("round|right", "RMSE|right", "MAE|right", "R²|right", "nodes|right", "seconds|right")
        for row in done[-rounds_shown:]:
            rounds.add_row(
                number(row.get("round")),
                number(row.get("rmse")),
                number(row.get("mae")),
                number(row.get("r2"), 3),
                number(row.get("nodes")),
                number(row.get("seconds"), 1),
            )
        parts.append(rounds)
    if cars:
        made = table("car", "round|right", "RMSE|right", "rows|right", "seconds|right", "state")
        for row in cars[:cars_shown]:
            state = styled("ok", "green") if row.get("ok") else styled(f"{row.get('error_code', 'failed')}", "red")
            name = str(row.get("node_name") or f"partition {row.get('partition_id')}")
            numbers = (number(row.get("round")), number(row.get("rmse")), number(row.get("rows")))
            made.add_row(styled(shortened(name), ""), *numbers, number(row.get("seconds"), 1), state)
        parts.append(made)
        if len(cars) > cars_shown:
            parts.append(styled(f"and {len(cars) - cars_shown} more cars", "dim"))
    return Group(*parts)


def watch_live(store: Store, paths: Paths, run_id: int) -> Run:
    """Draw a run until it ends, and return it."""
    from rich.live import Live

    out = console()
    with Live(console=out, auto_refresh=False, transient=True) as live:
        while True:
            with store.read() as connection:
                run = run_queries.get(connection, run_id)
            live.update(draw(run, RunFolders.of(run, paths), now(), out.height), refresh=True)
            if run.state.terminal:
                return run
            time.sleep(POLL_SECONDS)
