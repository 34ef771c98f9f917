"""The files of a run that the server, the command line and the web page read. All are written whole or not at all.

Must not import flwr, torch or pandas.
"""

import csv
import io
import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import AppError
from ..files import write_text
from ..settings import Settings
from .text import cell

SCHEMA_VERSION = 1
Row = dict[str, Any]

ROUND_COLUMNS = ("round", "train_loss", "rmse", "mae", "r2", "nodes", "windows", "seconds", "bytes_down", "bytes_up")
CLIENT_COLUMNS = (
    "round", "node_id", "partition_id", "node_name", "phase", "ok", "error_code", "error_reason",
    "rmse", "mae", "r2", "train_loss", "gradient_norm", "rows", "windows_train", "windows_test",
    "seconds", "cpu_seconds", "peak_rss_bytes", "bytes_up", "threads",
    "personal_rmse", "personal_mae", "personal_r2", "personal_kept",
    "champion_rmse", "champion_mae", "champion_r2",
    "update_norm_ratio", "update_cosine",
)  # fmt: skip


class State(StrEnum):
    """State of a run in status.json. The values never change."""

    STARTING = "starting"
    WAITING_FOR_NODES = "waiting-for-nodes"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


class RunFiles:
    """The folders of one run, and its status.json."""

    def __init__(self, settings: Settings, run_id: int) -> None:
        """Make both folders and write the first status.json."""
        inner = Path(settings.experiment) / str(run_id)
        self.metrics = (Path(settings.metrics_base_path) / inner).resolve()
        self.results = (Path(settings.results_base_path) / inner).resolve()
        self.metrics.mkdir(parents=True, exist_ok=True)
        self.results.mkdir(parents=True, exist_ok=True)
        now = _now()
        self._status: Row = {
            "schema_version": SCHEMA_VERSION,
            "run_id": str(run_id),
            "experiment": settings.experiment,
            "state": State.STARTING,
            "round": 0,
            "rounds": settings.rounds,
            "started_at": now,
            "updated_at": now,
            "message": "",
            "nodes_expected": 0,
            "nodes_replied": 0,
            "error": None,
        }
        self.status()

    def status(self, **changes: Any) -> None:
        """Change fields of status.json and write it."""
        unknown = set(changes) - set(self._status)
        if unknown:
            raise KeyError(f"no such field in status.json: {', '.join(sorted(unknown))}")
        self._status |= changes | {"updated_at": _now()}
        write_json(self.metrics / "status.json", self._status)

    def failed(self, error: AppError) -> None:
        """Note the error that ended the run."""
        self.status(
            state=State.FAILED,
            message=error.message,
            error=error.plain(),
        )

    def rounds(self, rows: Iterable[Row]) -> None:
        """Write rounds.csv and rounds.json."""
        _table(self.metrics / "rounds", ROUND_COLUMNS, rows)

    def clients(self, rows: Iterable[Row]) -> None:
        """Write clients.csv and clients.json."""
        _table(self.metrics / "clients", CLIENT_COLUMNS, rows)

    def result(self, result: Row) -> None:
        """Write result.json."""
        write_json(self.metrics / "result.json", {"schema_version": SCHEMA_VERSION} | result)

    def checkpoint_path(self, number: int) -> Path:
        """Return the file of the checkpoint after a round; names sort by round."""
        return self.results / f"checkpoint-round-{number:06d}.safetensors"


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every parser reads: numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def _table(path: Path, names: tuple[str, ...], rows: Iterable[Row]) -> None:
    full = [{name: _finite(row.get(name)) for name in names} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in full)
    write_text(path.with_suffix(".csv"), text.getvalue())
    write_json(path.with_suffix(".json"), full)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
