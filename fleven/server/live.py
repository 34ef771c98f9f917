"""`runs watch` in a terminal: rounds and cars of a run, drawn live from the register and the run's own files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fleven.server.cli_common import console, now, span, table
from fleven.server.config import Paths
from fleven.server.follow import POLL_SECONDS, step_text
from fleven.server.lifecycle import run_seconds
from fleven.server.model import Run
from fleven.server.printing import number, styled
from fleven.server.run_files import RunFolders, rows
from fleven.server.store import Store
from fleven.server.store import runs as run_queries

if TYPE_CHECKING:
    from rich.console import RenderableType

ROUNDS_SHOWN = 10
CARS_SHOWN = 12
BAR_WIDTH = 40


def bar(run: Run) -> str:
    """Return a bar of the rounds that are done."""
    progress = run.progress
    if progress is None or not progress.rounds:
        return ""
    done = progress.round - 1 if progress.nodes_replied < progress.nodes_expected else progress.round
    filled = round(BAR_WIDTH * max(0, min(done, progress.rounds)) / progress.rounds)
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def newest_of_each_car(clients: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each car's newest row, by partition-id."""
    newest: dict[str, dict[str, Any]] = {}
    for row in clients:
        key = str(row.get("partition_id") if row.get("partition_id") is not None else row.get("node_id"))
        newest[key] = {**newest.get(key, {}), **{name: value for name, value in row.items() if value is not None}}
    return [newest[key] for key in sorted(newest, key=lambda key: (len(key), key))]


def draw(run: Run, folders: RunFolders) -> RenderableType:
    """Return the whole picture of a run."""
    from rich.console import Group

    at = now()
    seconds = run_seconds(run, at)
    head = f"run {run.id}  {run.schedule_name}  {span(seconds) if seconds is not None else ''}"
    parts: list[RenderableType] = [styled(head, "bold"), styled(step_text(run, at), "cyan")]
    if drawn := bar(run):
        parts.append(styled(drawn, "green"))
    if run.progress is not None and run.progress.message:
        parts.append(styled(run.progress.message, "dim"))
    if done := rows(folders, "rounds.json"):
        rounds = table("round|right", "RMSE|right", "MAE|right", "R²|right", "nodes|right", "seconds|right")
        for row in done[-ROUNDS_SHOWN:]:
            rounds.add_row(
                number(row.get("round")),
                number(row.get("rmse")),
                number(row.get("mae")),
                number(row.get("r2"), 3),
                number(row.get("nodes")),
                number(row.get("seconds"), 1),
            )
        parts.append(rounds)
    cars = newest_of_each_car(rows(folders, "clients.json"))
    if cars:
        made = table("car", "round|right", "RMSE|right", "rows|right", "seconds|right", "state")
        for row in cars[:CARS_SHOWN]:
            state = styled("ok", "green") if row.get("ok") else styled(f"{row.get('error_code', 'failed')}", "red")
            name = str(row.get("node_name") or f"partition {row.get('partition_id')}")
            numbers = (number(row.get("round")), number(row.get("rmse")), number(row.get("rows")))
            made.add_row(styled(name, ""), *numbers, number(row.get("seconds"), 1), state)
        parts.append(made)
        if len(cars) > CARS_SHOWN:
            parts.append(styled(f"and {len(cars) - CARS_SHOWN} more cars", "dim"))
    return Group(*parts)


def watch_live(store: Store, paths: Paths, run_id: int) -> None:
    """Draw a run until it ends."""
    from rich.live import Live

    with Live(console=console(), auto_refresh=False, transient=True) as live:
        while True:
            with store.read() as connection:
                run = run_queries.get(connection, run_id)
            live.update(draw(run, RunFolders.of(run, paths)), refresh=True)
            if run.state.terminal:
                return
            time.sleep(POLL_SECONDS)
