"""Following a run: a live bar when there is a terminal, plain lines otherwise. Reads the register only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from fleven.server.cli_common import ago, console, now, span
from fleven.server.lifecycle import run_seconds
from fleven.server.model import Reason, Run, RunState
from fleven.server.plans import service_alive
from fleven.server.store import Store
from fleven.server.store import runs as run_queries

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

POLL_SECONDS = 0.4
WARN_AFTER_SECONDS = 8.0

Printer = Callable[[str], None]


def step_text(run: Run, at: datetime) -> str:
    """Return where a run stands, in one phrase."""
    if run.state is RunState.RUNNING and run.progress is not None and run.progress.rounds:
        progress = run.progress
        replied = f", {progress.nodes_replied} of {progress.nodes_expected} nodes" if progress.nodes_expected else ""
        return f"running, round {progress.round} of {progress.rounds}{replied}"
    if run.reason is Reason.ACCEPTED:
        return f"submitted, {run.message}"
    if run.state is RunState.WAITING and run.retry_at is not None:
        return f"waiting ({run.reason.value}): tries again {ago(run.retry_at, at)}"
    return f"{run.state.value} ({run.reason.value}){': ' + run.message if run.message else ''}"


def warn_when_silent(store: Store, began: float, warned: bool) -> bool:
    """Say once that nobody acts on the run, when the service does not run."""
    if warned or time.monotonic() - began < WARN_AFTER_SECONDS:
        return warned
    if service_alive(store, now()):
        return True
    sys.stderr.write("fleven-server: the server does not run: the run waits in the register (fleven-server serve)\n")
    return True


def follow_run(store: Store, run_id: int) -> Run:
    """Show a run until it ends, and return it.

    Raises:
        KeyboardInterrupt: Ctrl-C; the run goes on.
    """
    out = console()
    if not out.is_terminal:
        return follow_plain(store, run_id)
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("run {task.fields[run]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=False) as bars:
        task = bars.add_task("pending", run=run_id, total=None)
        return watch_until_end(store, run_id, lambda run: move(bars, task, run), out.print)


def move(bars: Progress, task: TaskID, run: Run) -> None:
    """Draw a run's state into its bar."""
    progress = run.progress
    if progress is not None and progress.rounds and run.state in (RunState.RUNNING, RunState.SUCCEEDED):
        # A round that is under way counts by the cars that have answered.
        part = progress.nodes_replied / progress.nodes_expected if progress.nodes_expected else 0.0
        done = float(progress.rounds if run.state is RunState.SUCCEEDED else max(0, progress.round - 1) + min(part, 1))
        bars.update(task, total=progress.rounds, completed=done, description=step_text(run, now()))
    elif run.state.terminal:
        bars.update(task, total=1, completed=1 if run.state is RunState.SUCCEEDED else 0, description=run.state.value)
    else:
        bars.update(task, description=step_text(run, now())[:60])


def watch_until_end(store: Store, run_id: int, draw: Callable[[Run], None], say: Printer) -> Run:
    """Call `draw` with the run until it ends; `say` prints what stays on the screen: waits and retries."""
    began, warned, said = time.monotonic(), False, ""
    while True:
        with store.read() as connection:
            run = run_queries.get(connection, run_id)
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


def end_text(run: Run, at: datetime) -> str:
    """Return how a run ended, in one line."""
    seconds = run_seconds(run, at)
    took = f" after {span(seconds)}" if seconds is not None else ""
    tries = f", attempt {run.attempts}" if run.attempts > 1 else ""
    return f"run {run.id} {run.state.value}{took}{tries}: {run.message or run.reason.value}"
