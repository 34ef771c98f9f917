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
    from rich.text import Text

POLL_SECONDS = 0.4
WARN_AFTER_SECONDS = 8.0
LINE_BAR_WIDTH = 20

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
    took = span(seconds if seconds is not None else max(0.0, (at - run.created_at).total_seconds()))
    parts = [(f"run {run.id}", "bold"), (took.rjust(6), "dim")]
    if drawn := bar(run, LINE_BAR_WIDTH):
        parts.append((drawn, "green"))
    parts.append((step_text(run, at), "cyan"))
    made = Text("  ").join(Text(text, style=style) for text, style in parts)
    made.truncate(width, overflow="ellipsis")
    return made


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
