"""Following a run: a live bar when there is a terminal, plain lines otherwise. Reads the register only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from fleven.server.cli.common import console, now, print_json, table
from fleven.server.cli.run_tables import number, step_text, styled
from fleven.server.config.paths import Paths
from fleven.server.database import Store
from fleven.server.database.facts import service_alive
from fleven.server.errors import ServerError
from fleven.server.nodes.names import car_names
from fleven.server.runs import store as run_store
from fleven.server.runs.lifecycle import run_seconds
from fleven.server.runs.model import Run, RunState
from fleven.server.runs.results import RunFolders, car_label, rows
from fleven.server.schemas.runs import run_answer
from fleven_agent.common.formatting import span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


POLL_SECONDS = 0.2
WARN_AFTER_SECONDS = 8.0
LINE_BAR_WIDTH = 20
Printer = Callable[[str], None]


def warn_when_silent(store: Store, began: float, warned: bool) -> bool:
    """Say, when the service does not run, that nothing will happen to the run until it does."""
    if warned or time.monotonic() - began < WARN_AFTER_SECONDS:
        return warned
    if service_alive(store, now()):
        return True
    sys.stderr.write("fleven-server: the server is not running: the run waits in the register (fleven-server serve)\n")
    return True


def follow_run(store: Store, run_id: int) -> Run:
    """Show a run until it ends, and return it.

    Raises:
        KeyboardInterrupt: Ctrl-C; the run goes on.
    """
    out = console()
    if not out.is_terminal:
        return follow_plain(store, run_id)
    from rich.live import Live

    # The run's line stays at the bottom, and in the end on the screen; what `say` prints goes above it.
    with Live(console=out, auto_refresh=False) as live:

        def draw(run: Run) -> None:
            live.update(line(run, now(), out.width), refresh=True)

        return watch_until_end(store, run_id, draw, out.print)


def rounds_done(run: Run) -> float | None:
    """Return how many rounds of a run are done, or None while it is not known how many it has.

    A round that is under way counts by the cars that have answered.
    """
    progress = run.progress
    if progress is None or not progress.rounds:
        return None
    if run.state is RunState.SUCCEEDED:
        return float(progress.rounds)
    part = min(progress.nodes_replied / progress.nodes_expected, 1.0) if progress.nodes_expected else 1.0
    return min(max(0.0, progress.round - 1 + part), float(progress.rounds))


def bar(run: Run, width: int) -> str:
    """Return a bar of the rounds that are done, or "" while there is none to draw."""
    done = rounds_done(run)
    if done is None or run.progress is None:
        return ""
    filled = int(width * done / run.progress.rounds)
    return "█" * filled + "░" * (width - filled)


def line(run: Run, at: datetime, width: int) -> Text:
    """Return where a run stands, in one line that fits the terminal.

    Args:
        run: the run.
        at: the current time.
        width: columns of the terminal.
    """
    from rich.text import Text

    seconds = run_seconds(run, at)
    # Before it is accepted there is only the wait to tell of.
    took = span(seconds if seconds is not None else max(0.0, (at - run.created_at).total_seconds()))
    parts = [(f"run {run.id}", "bold"), (took.rjust(6), "dim")]
    if drawn := bar(run, LINE_BAR_WIDTH):
        parts.append((drawn, "green"))
    parts.append((step_text(run, at), "cyan"))
    made = Text("  ").join(Text(text, style=style) for text, style in parts)
    made.truncate(width, overflow="ellipsis")
    return made


def watch_until_end(store: Store, run_id: int, draw: Callable[[Run], None], say: Printer) -> Run:
    """Call `draw` with the run until it ends; `say` prints lines that stay on the screen: waits and retries."""
    began, warned, said = time.monotonic(), False, ""
    while True:
        with store.read() as connection:
            run = run_store.get(connection, run_id)
        draw(run)
        if run.state.terminal:
            return run
        text = run.message if run.state is RunState.WAITING else ""
        if text and text != said:
            say(f"waiting ({run.reason.value}): {text}")
            said = text
        warned = warn_when_silent(store, began, warned)
        time.sleep(POLL_SECONDS)


def follow_plain(store: Store, run_id: int) -> Run:
    """Print a line for each change until the run ends, and return it."""
    last = ""

    def draw(run: Run) -> None:
        nonlocal last
        text = step_text(run, now())
        key = text if run.retry_at is None else run.message
        if key != last:
            sys.stdout.write(f"run {run.id}: {text}\n")
            sys.stdout.flush()
            last = key

    return watch_until_end(store, run_id, draw, lambda _text: None)


def follow_to_end(server: Any, run_id: int, *, as_json: bool, drawn: bool = False) -> None:
    """Follow a run, print how it ended, and leave with its exit code.

    Args:
        server: the opened server.
        run_id: number of the run.
        as_json: print nothing but the answer at the end.
        drawn: draw the run live where there is a terminal, instead of a line for each step.
    """
    # All that the end needs is loaded before it comes: nobody waits for it then.
    import rich.table
    import rich.text  # noqa: F401

    from fleven.server.cli.run_tables import end_text, print_result
    from fleven.server.runs.results import RunFolders, result

    store = server.store
    try:
        if as_json:
            run = watch_until_end(store, run_id, lambda _: None, lambda _: None)
        elif drawn and console().is_terminal:
            run = watch_live(store, server.paths, run_id)
        else:
            run = follow_run(store, run_id)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nrun {run_id} goes on; stop it with: fleven-server runs stop {run_id}\n")
        raise typer.Exit(130) from None
    if as_json:
        print_json(run_answer(run, now()))
    else:
        with store.read() as connection:
            names = car_names(connection)
        if ended := result(RunFolders.of(run, server.paths), names):
            print_result(ended)
        typer.echo(end_text(run, now()))
    raise typer.Exit(result_exit_code(run.state))


OTHER_LINES = 8
"""Head, step, bar, message, two headings, the count of cars that are not shown, and the line of the cursor."""
FEWEST_ROWS = 3
"""Rows of each table, however small the terminal is."""
NAME_WIDTH = 24
BAR_WIDTH = 40


def hand_back(server: Any, run_id: int, *, follow: bool, as_json: bool) -> None:
    """Answer a command that has queued a run: follow it to its end, or say how to.

    Raises:
        typer.Exit: the followed run has ended.
    """
    if follow:
        follow_to_end(server, run_id, as_json=as_json)
    with server.store.read() as connection:
        run = run_store.get(connection, run_id)
    if as_json:
        print_json(run_answer(run, now()))
    else:
        typer.echo(f"run {run_id} is queued; follow it: fleven-server runs watch {run_id}")


def newest_of_each_car(clients: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each car's newest row, by partition-id."""
    newest: dict[str, dict[str, Any]] = {}
    for row in clients:
        key = str(row.get("partition_id") if row.get("partition_id") is not None else row.get("node_id"))
        newest[key] = {**newest.get(key, {}), **{name: value for name, value in row.items() if value is not None}}
    return [newest[key] for key in sorted(newest, key=lambda key: (len(key), key))]


def rows_shown(rounds: int, cars: int, height: int) -> tuple[int, int]:
    """Return how many rounds and cars fit into a terminal: half of its lines each, or what the other leaves."""
    free = max(2 * FEWEST_ROWS, height - OTHER_LINES)
    for_cars = min(cars, max(free // 2, free - rounds))
    return min(rounds, free - for_cars), for_cars


def shortened(name: str) -> str:
    """Return a name that takes one line of the table."""
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"


def draw(run: Run, folders: RunFolders, at: datetime, height: int) -> RenderableType:
    """Return everything that is drawn of a run.

    Args:
        run: the run.
        folders: where its files lie.
        at: the current time.
        height: lines of the terminal; more would scroll the top out of it.
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
            name = car_label(row)
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
                run = run_store.get(connection, run_id)
            live.update(draw(run, RunFolders.of(run, paths), now(), out.height), refresh=True)
            if run.state.terminal:
                return run
            time.sleep(POLL_SECONDS)


EXIT_CODES = {
    RunState.SUCCEEDED: 0,
    RunState.FAILED: 1,
    RunState.TIMED_OUT: 3,
    RunState.CANCELLED: 4,
    RunState.SKIPPED: 5,
}
"""Exit code of a command that waited for a run."""


def result_exit_code(state: RunState) -> int:
    """Return the exit code for a run's end.

    Raises:
        ServerError: the run has not ended.
    """
    if state not in EXIT_CODES:
        raise ServerError(f"the run is {state.value}, not ended", code="run-open")
    return EXIT_CODES[state]
