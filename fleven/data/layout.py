"""The folder that FLEVEn trains from, and how it is written: completely or not at all.

    DIR/manifest.json                              what is there and where it came from
    DIR/client_<n>/<vehicle>_trip_<k>.parquet      one folder for each client, one file for each trip

Everything is written into a hidden folder beside DIR, which takes DIR's name at the end. Must not import torch or
flwr; pandas and pyarrow only inside functions, so that `--help` stays fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from fleven.data.errors import OutputError, OutputExistsError, Problem

if TYPE_CHECKING:
    import pandas as pd

MANIFEST_NAME: Final = "manifest.json"
MANIFEST_KIND: Final = "fleven-data"
SCHEMA_VERSION: Final = 1
TRIP_SUFFIXES: Final = (".parquet", ".csv")

Format = Literal["parquet", "csv"]
# Called as progress(what is being done, done, of how many).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Trip:
    """One drive of one vehicle.

    `frame` holds canonical columns, `time_sec` from 0 s and rising. `start` is the wall time of the first row (ISO
    8601), or None where the log has no wall clock. `source` says which input the rows came from.
    """

    vehicle: str
    frame: pd.DataFrame
    source: str
    start: str | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.frame)

    @property
    def seconds(self) -> float:
        """Duration from the first row to the last [s]."""
        time = self.frame["time_sec"]
        return round(float(time.iloc[-1] - time.iloc[0]), 3)


def client_folders(folder: Path) -> dict[int, Path]:
    """Return the `client_<n>` folders in `folder`, by n, in rising order."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        number = re.fullmatch(r"client_(\d+)", path.name)
        if number and path.is_dir():
            found[int(number[1])] = path
    return dict(sorted(found.items()))


def trip_files(folder: Path) -> list[Path]:
    """Return the trip files in a client's folder, by name; hidden files are unfinished."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TRIP_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder that FLEVEn made; None where there is none or it is something else's."""
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == MANIFEST_KIND else None


def safe_name(vehicle: str) -> str:
    """Return a vehicle's name as part of a file name on any file system."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", vehicle).strip("-.")[:60] or "vehicle"


def check_target(target: Path, *, force: bool) -> None:
    """Refuse an output folder that must not be replaced.

    Raises:
        OutputExistsError: it is a file, or not empty (with `force`: not made by FLEVEn, or files were added since).
    """
    place = str(target)
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputExistsError(Problem(place, "", "is a file", "name a folder"))
    if not any(target.iterdir()):
        return
    manifest = read_manifest(target)
    if manifest is None:
        hint = f"it has no {MANIFEST_NAME} of FLEVEn: name another folder"
        raise OutputExistsError(Problem(place, "", "is not empty", hint))
    if not force:
        hint = "--force replaces what FLEVEn wrote there"
        raise OutputExistsError(Problem(place, "", "holds data already", hint))
    listed = {str(trip.get("file", "")) for trip in manifest.get("trips", [])} | set(manifest.get("texts", []))
    present = {str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir()}
    added = sorted(present - listed - {MANIFEST_NAME})
    if added:
        hint = "move them away, or name another folder"
        problem = f"holds {len(added)} files that FLEVEn did not write, such as {added[0]}"
        raise OutputExistsError(Problem(place, "", problem, hint))


@contextlib.contextmanager
def replacing(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends, and vanishes when it raises.

    Raises:
        OutputExistsError: `target` must not be replaced.
        OutputError: the folder cannot be written.
    """
    target = target.resolve()
    check_target(target, force=force)
    unfinished = target.parent / f".{target.name}.unfinished-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        unfinished.mkdir()
        try:
            yield unfinished
            _flush(unfinished)
            _swap(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise OutputError(Problem(str(target), "", f"cannot be written: {error.strerror or error}")) from error


def _remove_leftovers(target: Path) -> None:
    """Remove what killed runs left beside `target`, unless their process is still alive."""
    for path in target.parent.glob(f".{target.name}.unfinished-*"):
        process_id = path.name.rpartition("-")[2]
        if process_id.isdigit() and not Path(f"/proc/{process_id}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Bring every file to the disk before the rename, so that a power cut leaves the old folder or the new one."""
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap(unfinished: Path, target: Path) -> None:
    if not target.exists():
        unfinished.rename(target)
        return
    old = target.parent / f".{target.name}.unfinished-{os.getpid()}-old"
    target.rename(old)
    try:
        unfinished.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


def write_trip(trip: Trip, path: Path, *, synthetic: bool) -> None:
    """Write one trip as Parquet or CSV, by the path's suffix; Parquet carries vehicle and origin as metadata."""
    if path.suffix == ".csv":
        trip.frame.to_csv(path, index=False)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(trip.frame, preserve_index=False)
    about = {"fleven.vehicle": trip.vehicle, "fleven.synthetic": str(synthetic).lower()}
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), path)


def write_layout(
    folder: Path,
    clients: Sequence[Sequence[Trip]],
    about: Mapping[str, Any],
    *,
    texts: Mapping[str, str] | None = None,
    file_format: Format = "parquet",
    progress: Progress | None = None,
    examine: Callable[[Path], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write all trips and the manifest into `folder` and return the manifest.

    `clients[n]` are the trips of `client_<n>`. `about` are the maker's own keys of the manifest; it must hold
    `synthetic`. `texts` are further text files by name. `examine(folder)` looks at the trips that were written and
    returns more keys.
    """
    from fleven.data.gaps import sampling

    trips: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    for number, group in enumerate(clients):
        (folder / f"client_{number}").mkdir()
        counts: dict[str, int] = {}
        for trip in group:
            name = safe_name(trip.vehicle)
            counts[name] = counts.get(name, 0) + 1
            file = f"client_{number}/{name}_trip_{counts[name]:04d}.{file_format}"
            write_trip(trip, folder / file, synthetic=bool(about["synthetic"]))
            if progress:
                progress("Writing trips", len(trips), sum(map(len, clients)))
            pace = sampling(trip.frame["time_sec"].to_numpy())
            trips.append(
                {
                    "file": file,
                    "client": number,
                    "vehicle": trip.vehicle,
                    "source": trip.source,
                    "start": trip.start,
                    "duration_seconds": trip.seconds,
                    "rows": trip.rows,
                    "interval_seconds": pace.interval_seconds,
                    "gaps": pace.gaps,
                }
            )
        totals.append(
            {
                "client": number,
                "vehicles": list(dict.fromkeys(trip.vehicle for trip in group)),
                "trips": len(group),
                "rows": sum(trip.rows for trip in group),
                "seconds": round(sum(trip.seconds for trip in group), 3),
            }
        )
    for name, text in (texts or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": MANIFEST_KIND,
        **about,
        **(examine(folder) if examine else {}),
        "texts": sorted(texts or {}),
        "clients": totals,
        "trips": trips,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
    return manifest
