"""`fleven data import`: from loggers' files to the folder that FLEVEn trains from.

Files are read one after the other, cut into trips, gathered by vehicle, distributed over the clients, and written
at once or not at all. Must not import torch or flwr.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fleven.app import columns
from fleven.data.errors import InputError, Problem
from fleven.data.importing.column_mapping import Split
from fleven.data.importing.column_selection import FileError, Options
from fleven.data.importing.header_names import parts
from fleven.data.importing.input_files import find_sources
from fleven.data.importing.partitioning import each_its_own, natural, partition_trips
from fleven.data.importing.row_cleaning import Dropped, FileRows, read_rows
from fleven.data.importing.segmentation import Cut, to_trips
from fleven.data.importing.trainability import examine
from fleven.data.layout import Format, Progress, Trip, check_target, replacing, write_layout


@dataclass(slots=True)
class Gathered:
    """All files' trips, and the account of the rows."""

    trips: list[Trip] = field(default_factory=list)
    dropped: Counter[tuple[str, Dropped]] = field(default_factory=Counter)
    cuts: Counter[Cut] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_logs(
    inputs: Sequence[Path],
    target: Path,
    options: Options,
    *,
    clients: int | None = None,
    file_format: Format = "parquet",
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Import files and folders of files into `target`; returns the manifest.

    `clients` distributes the vehicles over that many clients, about as many rows each; without it each vehicle is one.

    Raises:
        InputError: with all that is wrong with the inputs.
        OutputExistsError, OutputError: `target` must not or cannot be written.
    """
    check_target(target, force=force)
    sources = find_sources(inputs)
    gathered = Gathered()
    problems: list[Problem] = []
    for number, source in enumerate(sources):
        if progress:
            progress(f"Reading {source.name}", number, len(sources))
        try:
            rows = read_rows(source, options)
        except FileError as error:
            if source.named:
                problems += error.problems
            gathered.skipped += [{"name": source.name, "reason": problem.line()} for problem in error.problems]
            continue
        _gather(gathered, rows, options)
    problems += _unused_maps(gathered, options)
    gathered.notes += _one_vehicle(gathered, options) + _twice(gathered.trips)
    if problems or not gathered.files:
        raise InputError(problems or [Problem("", "", entry["reason"]) for entry in gathered.skipped])
    if options.rules.by == Split.TRIP:
        gathered.trips = each_its_own(gathered.trips)
    partitions = partition_trips(gathered.trips, clients)
    _check_enough(gathered, partitions, clients, options)
    about = _about(gathered, partitions, options)
    with replacing(target, force=force) as folder:
        return write_layout(
            folder,
            partitions,
            about,
            file_format=file_format,
            progress=progress,
            examine=lambda written: examine(written, about["rows"]),
        )


def _gather(gathered: Gathered, rows: FileRows, options: Options) -> None:
    cut = to_trips(rows, options)
    gathered.trips += cut.trips
    gathered.dropped += rows.dropped + cut.dropped
    gathered.cuts += cut.cuts
    kept = sum(trip.rows for trip in cut.trips)
    lost: Counter[str] = Counter()
    for (_, why), count in (rows.dropped + cut.dropped).items():
        lost[why.value] += count
    for entry in rows.about["columns"]:
        held = cut.held.get(entry["name"])
        entry["held_forward"] = asdict(held) if held else None
    about = {**rows.about, "rows_spread": cut.rows_spread}
    gathered.files.append({**about, "rows_kept": kept, "rows_dropped": dict(sorted(lost.items()))})
    gathered.notes += [f"{rows.name}: {note}" for note in (*rows.notes, *cut.notes)]


def _check_enough(gathered: Gathered, partitions: list[list[Trip]], clients: int | None, options: Options) -> None:
    if not gathered.trips:
        problem = Problem("", "", "no trip is left", _why_none(gathered, options))
        raise InputError([problem, *(Problem("", "", note) for note in gathered.notes)])
    found = len({trip.vehicle for trip in gathered.trips})
    if clients is not None and found < clients:
        hint = "--by trip splits trips instead of vehicles" if len(gathered.trips) >= clients else "use fewer clients"
        raise InputError(Problem("--clients", str(clients), f"the logs hold only {found} vehicles", hint))


def _why_none(gathered: Gathered, options: Options) -> str:
    """Say what cut the rows to pieces, and which option changes that."""
    lost = sum(count for (_, why), count in gathered.dropped.items() if why == Dropped.SHORT_TRIP)
    if not lost:
        return "the rows hold no clock or no reading"
    short = f"{lost} rows are in trips of fewer than {options.minimum_rows} rows"
    back, pauses, labels = (gathered.cuts[each] for each in (Cut.CLOCK_BACK, Cut.PAUSE, Cut.LABEL))
    causes = {
        f'the clock goes back {_often(back)} (is it the right one? --map "HEADER=time_sec" names another)': back,
        f"{_often(pauses)} nothing comes for more than {options.pause_seconds:g} s (see --pause-seconds; is the clock "
        f"in another unit? --unit {columns.TIME_COLUMN}=ms)": pauses,
        f"the vehicle or trip changes {_often(labels)} (see --by)": labels,
    }
    said = [text for text, count in sorted(causes.items(), key=lambda item: -item[1]) if count]
    return f"{short}: {'; '.join(said)}" if said else f"{short}: see --min-rows, --pause-seconds"


def _often(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _one_vehicle(gathered: Gathered, options: Options) -> list[str]:
    """Say so where several files became one vehicle only because nothing tells them apart."""
    files = len(gathered.files)
    told = options.rules.by is not None or any(entry["vehicle_column"] for entry in gathered.files)
    if told or files < 2 or len({trip.vehicle for trip in gathered.trips}) != 1:
        return []
    return [f"no column tells vehicles apart: all {files} files became one (--by file or --by folder tells them apart)"]


def _twice(trips: Sequence[Trip]) -> list[str]:
    """Say so where trips of a vehicle hold the same readings: a drive that is there twice counts twice."""
    seen: Counter[tuple[str, str | None, bytes]] = Counter(
        (trip.vehicle, trip.start, trip.frame.to_numpy().tobytes()) for trip in trips if trip.start is not None
    )
    again = sum(count - 1 for count in seen.values())
    return [f"{again} trips hold the readings of another one: are drives in the files twice?"] if again else []


def _unused_maps(gathered: Gathered, options: Options) -> list[Problem]:
    """Report every `--map` whose header no file has: a typing error would otherwise go unnoticed."""
    seen: set[str] = set()
    for entry in gathered.files:
        headers = [each["source"] for each in (*entry["columns"], *entry["ignored"])]
        headers += [entry["vehicle_column"], entry["trip_column"], entry["clock"]["column"]]
        for header in headers:
            if header:
                names = header, columns.split_unit(header)[0], parts(header)[0]
                seen |= {name.strip().casefold() for name in names}
    unused = sorted(set(options.rules.targets) - seen)
    if not gathered.files:
        return []
    return [
        Problem("--map", header, "no file has this column", f"did you mean {close[0]}?" if close else "")
        for header in unused
        for close in [difflib.get_close_matches(header, sorted(seen), n=1)]
    ]


def _about(gathered: Gathered, partitions: list[list[Trip]], options: Options) -> dict[str, Any]:
    """Return the importer's keys of the manifest."""
    lost: Counter[str] = Counter()
    by_vehicle: dict[str, Counter[str]] = {}
    for (vehicle, why), count in gathered.dropped.items():
        lost[why.value] += count
        by_vehicle.setdefault(vehicle, Counter())[why.value] += count
    kept = sum(trip.rows for trip in gathered.trips)
    vehicles = []
    for number, group in enumerate(partitions):
        for name in dict.fromkeys(trip.vehicle for trip in group):
            own = [trip for trip in group if trip.vehicle == name]
            rows = sum(trip.rows for trip in own)
            dropped = dict(sorted(by_vehicle.get(name, Counter()).items()))
            vehicles.append(
                {"vehicle": name, "client": number, "trips": len(own), "rows_kept": rows, "rows_dropped": dropped}
            )
    units = {each["name"]: each["unit"] for entry in gathered.files for each in entry["columns"]}
    left_out = sorted(set(by_vehicle) - {entry["vehicle"] for entry in vehicles} - {""}, key=natural)
    return {
        "made_by": "fleven data import",
        "synthetic": any(entry["synthetic"] for entry in gathered.files),
        "units": {columns.TIME_COLUMN: "s", **units},
        "rules": {"minimum_rows": options.minimum_rows, "pause_seconds": options.pause_seconds},
        "rows": {"read": kept + sum(lost.values()), "kept": kept, "dropped": dict(sorted(lost.items()))},
        "vehicles": vehicles,
        "vehicles_without_trips": left_out if options.rules.by != Split.TRIP else [],
        "files": gathered.files,
        "files_skipped": gathered.skipped,
        "notes": gathered.notes,
    }
