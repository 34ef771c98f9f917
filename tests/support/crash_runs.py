"""Runs of the crash benchmark's federation, for tests."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crash_federation import Federation


@contextmanager
def crash_federation(folder: Path, **options: Any) -> Iterator[Federation]:
    """Yield a federation in a folder, with nothing started yet; at the end all is stopped."""
    made = Federation(folder, **options)
    try:
        yield made
    finally:
        made.stop()


def start(federation: Any, *schedules: str, retries: int) -> None:
    """Start everything, wait until the server has seen both nodes, and add schedules without a time."""
    federation.start()
    federation.wait_for_register(60)
    for name in schedules:
        federation.command(
            *("schedule", "add", name, "--manual", "--min-nodes", "2"),
            *("--retry", str(retries), "--retry-backoff", "2s", "--overlap", "queue"),
        )


def until(look: Callable[[], Any], seconds: float) -> Any:
    """Return what `look` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {look}")


def show(federation: Any, run: int) -> dict[str, Any]:
    """Return what `runs show --json` says."""
    found: dict[str, Any] = json.loads(federation.command("runs", "show", str(run), "--json").stdout)
    return found
