"""The files that a run's ServerApp writes, read by the server: rounds, cars, result, plots, model.

They belong to another process, and for another app than the shipped one they may be missing or different: whatever
cannot be read counts as missing. Must not import FastAPI or SQLAlchemy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleven.server.config.paths import Paths
from fleven.server.errors import ServerError
from fleven.server.nodes.names import named_rows
from fleven.server.runs.lifecycle import run_seconds
from fleven.server.runs.model import Run

if TYPE_CHECKING:
    pass


MAXIMUM_JSON_BYTES = 20_000_000
LARGEST_NUMBER = 1e300
DOWNLOADS = {
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    # Models of version 0.1.0.
    ".pt": "application/octet-stream",
}
"""Which of a run's files may be fetched, with their media types."""


@dataclass(frozen=True, slots=True)
class RunFolders:
    """Where a run's files lie; None while nothing has been written."""

    metrics: Path | None
    results: Path | None

    @classmethod
    def of(cls, run: Run, paths: Paths) -> RunFolders:
        """The folders of a run's newest attempt."""
        attempt = run.attempt
        if attempt is None:
            return cls(None, None)
        metrics = Path(attempt.metrics_folder) if attempt.metrics_folder is not None else None
        if attempt.results_folder is not None:
            return cls(metrics, Path(attempt.results_folder))
        # Of attempts that an earlier version made, only the metrics' folder is known: the shipped app's lies beside it.
        return cls(metrics, paths.state / "results" / metrics.parent.name / metrics.name if metrics else None)


def read_json(file: Path) -> Any:
    """The content of a JSON file, infinities and NaN as None; None when it is missing, too large or not JSON."""
    try:
        if file.stat().st_size > MAXIMUM_JSON_BYTES:
            return None
        # Python's reader takes NaN and Infinity, which its writer for HTTP refuses: they become None here.
        return json.loads(file.read_bytes(), parse_constant=lambda _: None, parse_float=_finite)
    except (OSError, ValueError, RecursionError):
        return None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def car_label(row: Mapping[str, Any]) -> str:
    """What people call the car of a row: its name, else its partition, else Flower's node id."""
    if row.get("node_name"):
        return str(row["node_name"])
    if row.get("partition_id") is not None:
        return f"partition {row['partition_id']}"
    return f"node {row.get('node_id')}"


def rows(folders: RunFolders, name: str, names: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The rows of `rounds.json` or `clients.json`; also of `{"rows": […]}`. `names`: cars by Flower's node id."""
    if folders.metrics is None:
        return []
    content = read_json(folders.metrics / name)
    if isinstance(content, dict):
        content = content.get("rows")
    found = [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    return named_rows(found, names) if names else found


def result(folders: RunFolders, names: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """What `result.json` says, with its own path as `result_path`; None before the end.

    `names`: cars by Flower's node id, for those that the app could not name.
    """
    if folders.metrics is None:
        return None
    path = folders.metrics / "result.json"
    content = read_json(path)
    if not isinstance(content, dict):
        return None
    for key in ("cars", "excluded"):
        if names and isinstance(content.get(key), list):
            content[key] = named_rows([row for row in content[key] if isinstance(row, dict)], names)
    return content | {"result_path": str(path)}


def _candidates(folders: RunFolders) -> Iterator[Path]:
    for folder in (folders.metrics, folders.results):
        if folder is not None and folder.is_dir():
            yield from sorted(folder.iterdir())
            yield from sorted(folder.glob("plots/*"))


def downloads(folders: RunFolders) -> dict[str, Path]:
    """The files of a run that may be fetched, by name: plain files with a known ending, no links, nothing hidden."""
    found: dict[str, Path] = {}
    try:
        for file in _candidates(folders):
            if _may_be_fetched(file):
                found.setdefault(file.name, file)
    except OSError:
        # A folder that is being removed.
        return found
    return found


def download(folders: RunFolders, name: str) -> Path | None:
    """One of `downloads` by its name, without a look at the others; None when there is none."""
    places = [folder for folder in (folders.metrics, folders.results) if folder is not None]
    candidates = [place / name for folder in places for place in (folder, folder / "plots")]
    try:
        return next((file for file in candidates if file.name == name and _may_be_fetched(file)), None)
    except (OSError, ValueError):
        return None


def _may_be_fetched(file: Path) -> bool:
    plain = file.is_file() and not file.is_symlink() and not file.name.startswith(".")
    return plain and file.suffix in DOWNLOADS


def number(value: Any) -> float | None:
    """The value as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A whole number may be larger than any float.
    return float(value) if abs(value) < LARGEST_NUMBER else None


def result_of(run: Run, paths: Paths, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a run's result.

    Raises:
        ServerError: it has none; says why.
    """
    folders = RunFolders.of(run, paths)
    found = result(folders, names)
    if found is not None:
        return found
    if folders.metrics is None:
        why = "its app writes none" if run.attempt is not None and run.attempt.flower_run_id else "it never started"
        raise ServerError(f"run {run.id} has no result: {why}", code="no-result")
    hint = f"see: fleven-server runs logs {run.id}" if run.state.terminal else "it is still under way"
    raise ServerError(f"run {run.id} has written no result", hint=hint, code="no-result")


def comparison(first: tuple[Run, Any], second: tuple[Run, Any]) -> dict[str, Any]:
    """Return in what two runs differ: configuration, measures over all cars and of each car."""
    pair = (first, second)
    configs = [{**(result.get("config") or {}), **run.spec.run_config} for run, result in pair]
    keys = sorted(set(configs[0]) | set(configs[1]))
    cars: dict[str, list[dict[str, Any]]] = {}
    for index, (_, ended) in enumerate(pair):
        for car in ended.get("cars") or []:
            cars.setdefault(str(car.get("partition_id")), [{}, {}])[index] = car
    return {
        "runs": [run.id for run, _ in pair],
        "states": [run.state.value for run, _ in pair],
        "config": {key: [c.get(key) for c in configs] for key in keys if configs[0].get(key) != configs[1].get(key)},
        "global": {
            key: [(result.get("global") or {}).get(key) for _, result in pair] for key in ("rmse", "mae", "r2", "rows")
        },
        "rounds": [result.get("rounds") for _, result in pair],
        "seconds": [run_seconds(run, run.since) for run, _ in pair],
        "cars": {
            name: {key: [car.get(key) for car in both] for key in ("rmse", "mae", "r2")}
            for name, both in sorted(cars.items(), key=lambda item: (len(item[0]), item[0]))
        },
    }
