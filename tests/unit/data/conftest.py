"""Helpers of the data tests: write a log as text, import it, read what came out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fleven.data.importing.column_mapping import parse_rules
from fleven.data.importing.column_selection import Options
from fleven.data.importing.importing import import_logs


@dataclass
class Imported:
    """What an import wrote: its manifest, and each trip's rows."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def trips(self) -> list[pd.DataFrame]:
        return [self.read(trip["file"]) for trip in self.manifest["trips"]]

    @property
    def only(self) -> pd.DataFrame:
        assert len(self.manifest["trips"]) == 1
        return self.trips[0]

    @property
    def dropped(self) -> dict[str, int]:
        return self.manifest["rows"]["dropped"]

    def read(self, file: str) -> pd.DataFrame:
        path = self.folder / file
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)

    def column(self, name: str) -> dict[str, Any]:
        found = [each for entry in self.manifest["files"] for each in entry["columns"] if each["name"] == name]
        assert len(found) == 1
        return found[0]

    def ignored(self) -> dict[str, str]:
        return {each["source"]: each["reason"] for entry in self.manifest["files"] for each in entry["ignored"]}


@pytest.fixture
def run_import(tmp_path: Path) -> Callable[..., Imported]:
    """Return a function that imports a text, bytes, a data frame, or files, and reads the result."""

    def run(
        *logs: str | bytes | Path, maps: tuple[str, ...] = (), units: tuple[str, ...] = (), **keys: Any
    ) -> Imported:
        paths = []
        for number, log in enumerate(logs):
            if isinstance(log, Path):
                paths.append(log)
                continue
            path = tmp_path / f"log{number}.csv"
            path.write_bytes(log.encode() if isinstance(log, str) else log)
            paths.append(path)
        fields = {name: keys.pop(name) for name in list(keys) if name in Options.__dataclass_fields__}
        fields.setdefault("minimum_rows", 2)
        options = Options(parse_rules(maps, units, keys.pop("by", None)), **fields)
        folder = tmp_path / "out"
        return Imported(folder, import_logs(paths, folder, options, **keys))

    return run


@pytest.fixture
def log() -> Callable[..., str]:
    """Return a function that writes rows as a delimited text."""

    def write(header: list[str], rows: list[list[object]], delimiter: str = ",") -> str:
        return "\n".join(delimiter.join(str(cell) for cell in row) for row in [header, *rows]) + "\n"

    return write
