"""A run's own files (status.json, rounds.json, clients.json, result.json) as plain values. Read only; no printing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleven.server.errors import ServerError
from fleven.server.model import Run

MAXIMUM_BYTES = 50_000_000


class NoResultError(ServerError):
    """The run has written no result."""

    code = "no-result"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What a run has written so far."""

    folder: Path | None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    clients: list[dict[str, Any]] = field(default_factory=list)
    result: Mapping[str, Any] = field(default_factory=dict)


def read_json(file: Path) -> Any:
    """Return a JSON file's content, or None when it is missing, too large or no JSON."""
    try:
        if file.stat().st_size > MAXIMUM_BYTES:
            return None
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def rows(value: Any, key: str) -> list[dict[str, Any]]:
    """Return the rows of a file that is a list, or an object that holds one under a key."""
    if isinstance(value, dict):
        value = value.get(key)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def read_files(run: Run) -> RunFiles:
    """Read what a run's newest attempt has written."""
    if run.attempt is None or run.attempt.metrics_folder is None:
        return RunFiles(None)
    folder = Path(run.attempt.metrics_folder)
    result = read_json(folder / "result.json")
    return RunFiles(
        folder,
        rows(read_json(folder / "rounds.json"), "rounds"),
        rows(read_json(folder / "clients.json"), "clients"),
        result if isinstance(result, dict) else {},
    )


def result_of(run: Run) -> tuple[RunFiles, Mapping[str, Any]]:
    """Return a run's files and its result.

    Raises:
        NoResultError: it has none; says why.
    """
    files = read_files(run)
    if files.folder is None:
        why = "its app writes none" if run.attempt is not None and run.attempt.flower_run_id else "it never started"
        raise NoResultError(f"run {run.id} has no result: {why}")
    if not files.result:
        hint = "it is still under way" if not run.state.terminal else f"see: fleven-server runs logs {run.id}"
        raise NoResultError(f"run {run.id} has written no result yet", hint=hint)
    return files, files.result
