"""What `fleven data` shows people: tables of 80 columns. Takes manifests and descriptions, computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from fleven.app import columns


def duration(seconds: float) -> str:
    """Return a duration in words: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def names(values: list[str], most: int = 6) -> str:
    """Return a list of names as one cell, shortened."""
    shown = ", ".join(values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def new_table(title: str, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table; columns named in `numbers` are set to the right and never broken."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        number = column in numbers
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def client_table(manifest: dict[str, Any]) -> Table:
    """Return what each client got: one row per client."""
    title = "Synthetic trips by client" if manifest["synthetic"] else "Trips by client"
    numbers = ("Client", "Trips", "Rows", "Time")
    windows = {each["client"]: each["train_windows"] for each in manifest.get("training", {}).get("clients", [])}
    more = ("Windows",) if windows else ()
    table = new_table(title, "Client", "Vehicles", *numbers[1:], *more, numbers=(*numbers, *more))
    for client in manifest["clients"]:
        own = (f"{windows[client['client']]:,}",) if windows else ()
        table.add_row(
            str(client["client"]),
            escape(names(client["vehicles"])),
            str(client["trips"]),
            f"{client['rows']:,}",
            duration(client["seconds"]),
            *own,
        )
    if windows:
        table.caption = "Windows: what a car would train on with the app's default settings."
        table.caption_justify = "left"
    return table


def print_warnings(warnings: list[str]) -> None:
    """Print to standard error what an operator must not miss."""
    console = Console(stderr=True, highlight=False)
    for line in warnings:
        console.print(f"WARNING: {escape(line)}", style="bold yellow", soft_wrap=True)


def print_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Print what was written."""
    console = Console(highlight=False)
    console.print(client_table(manifest))
    console.print()
    if manifest["synthetic"]:
        console.print("These trips are synthetic: a vehicle model computed them, no car drove them.")
    console.print(f"Written to {folder}/ (see {folder}/manifest.json)", soft_wrap=True)


_DROPPED = {
    "broken-line": "a different number of cells than the header",
    "above-header": "above the first header",
    "repeated-header": "a header in the middle of the file",
    "no-vehicle": "the vehicle's cell is empty",
    "no-clock": "the clock's cell is empty or unreadable",
    "no-reading": "no value in any column",
    "one-reading": "lines of one reading each, in the rows of others",
    "duplicate-time": "merged with a row of the same time",
    "short-trip": "in a trip of fewer than {minimum_rows} rows",
}


def column_table(files: list[dict[str, Any]]) -> Table:
    """Return where each column came from, all files together."""
    numbers = ("Values", "Missing", "Bad", "Outside")
    table = new_table("Columns", "Column", "Unit", "From", *numbers, numbers=("Column", "Unit", *numbers))
    table.columns[0].justify = table.columns[1].justify = "left"
    table.caption = "Missing: empty cells. Bad: not a number. Outside: not possible, left out."
    table.caption_justify = "left"
    merged: dict[tuple[str, str, str], list[int]] = {}
    for entry in files:
        for each in entry["columns"]:
            key = each["name"], each["unit"], each["source"]
            counts = [each["values"], each["missing"], each["unreadable"], each["out_of_range"]]
            merged[key] = [a + b for a, b in zip(merged.get(key, [0] * 4), counts, strict=True)]
    for key, values in merged.items():
        table.add_row(*(escape(text) for text in key), *(f"{value:,}" if value else "-" for value in values))
    return table


def rows_table(manifest: dict[str, Any]) -> Table:
    """Return how many rows were read, left out for which reason, and kept."""
    table = new_table("Rows", "Rows", "", numbers=("Rows",))
    table.show_header = False
    rows = manifest["rows"]
    table.add_row(f"{rows['read']:,}", "read")
    for why, count in rows["dropped"].items():
        table.add_row(f"-{count:,}", f"left out: {_DROPPED[why].format(**manifest['rules'])}")
    table.add_row(f"{rows['kept']:,}", "kept")
    return table


def ignored_lines(files: list[dict[str, Any]]) -> list[str]:
    """Return the columns that were not used, gathered by reason."""
    reasons: dict[str, list[str]] = {}
    for entry in files:
        for each in entry["ignored"]:
            reasons.setdefault(each["reason"], [])
            if each["source"] not in reasons[each["reason"]]:
                reasons[each["reason"]].append(each["source"])
    return [f"{names(sources, 30)}: {reason}" for reason, sources in reasons.items()]


def print_import(folder: Path, manifest: dict[str, Any]) -> None:
    """Print what an import made of the logs, and what it left out."""
    console = Console(highlight=False)
    for table in (client_table(manifest), column_table(manifest["files"]), rows_table(manifest)):
        console.print(table)
        console.print()
    for title, lines in (
        ("Columns not used", ignored_lines(manifest["files"])),
        ("Vehicles without a trip", manifest["vehicles_without_trips"]),
        ("Files left out", [each["reason"] for each in manifest["files_skipped"]]),
        ("Notes", manifest["notes"]),
    ):
        if lines:
            console.print(title, style="italic")
            for line in lines[:20]:
                console.print(Padding(escape(line), (0, 0, 0, 2)))
            if len(lines) > 20:
                console.print(f"  and {len(lines) - 20} more, see the manifest")
            console.print()
    console.print(f"Written to {folder}/ (see {folder}/manifest.json)", soft_wrap=True, markup=False)


def number(value: float | None) -> str:
    """Return a number as short as is useful: 3 digits, more before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def described_clients_table(description: dict[str, Any]) -> Table:
    """Return one row for each client: how much, how often, how regular."""
    numbers = ("Client", "Trips", "Rows", "Time", "Interval", "Gaps", "Longest", "Missing")
    synthetic = description["synthetic"]
    table = new_table("Clients (synthetic trips)" if synthetic else "Clients", *numbers, numbers=numbers)
    for each in description["clients"]:
        table.add_row(
            "-" if each["client"] is None else str(each["client"]),
            f"{each['trips']:,}",
            f"{each['rows']:,}",
            duration(each["seconds"]),
            f"{each['interval_seconds']:g} s",
            f"{each['gaps']:,}" if each["gaps"] else "-",
            duration(each["longest_gap_seconds"]) if each["gaps"] else "-",
            f"{each['missing_cells']:,}" if each["missing_cells"] else "-",
        )
    return table


def described_columns_table(title: str, described: list[dict[str, Any]]) -> Table:
    """Return one row a column: how many values, and between what."""
    numbers = ("Values", "Missing", "Outside", "Least", "Mean", "Most")
    table = new_table(title, "Column", "Unit", *numbers, numbers=numbers)
    for each in described:
        counts = (each["values"], each["missing"], each["out_of_range"])
        ranges = (each["minimum"], each["mean"], each["maximum"])
        table.add_row(
            escape(each["name"]),
            each["unit"],
            *(f"{value:,}" if value else "-" for value in counts),
            *(number(value) for value in ranges),
        )
    return table


def described_trips_table(trips: list[dict[str, Any]]) -> Table:
    """Return one row for each trip."""
    numbers = ("Rows", "Time", "Interval", "Gaps", "Longest")
    table = new_table("Trips", "File", *numbers, numbers=numbers)
    for each in trips:
        table.add_row(
            escape(each["file"]),
            f"{each['rows']:,}",
            duration(each["duration_seconds"]),
            f"{each['interval_seconds']:g} s",
            f"{each['gaps']:,}" if each["gaps"] else "-",
            duration(each["longest_gap_seconds"]) if each["gaps"] else "-",
        )
    return table


def print_description(description: dict[str, Any], *, details: bool) -> None:
    """Print what is in a folder of trips; `details` adds each client's columns and each trip."""
    console = Console(highlight=False)
    tables = [described_clients_table(description), described_columns_table("Columns", description["columns"])]
    if details:
        tables += [
            described_columns_table(f"Columns of client {each['client']}", each["columns"])
            for each in description["columns_of_clients"]
        ]
        tables.append(described_trips_table(description["trips"]))
    for table in tables:
        console.print(table)
        console.print()
    factor = description["gap_factor"]
    console.print(f"Gap: a step longer than {factor:g} usual intervals of its trip. Missing: empty cells.")
    if description["synthetic"]:
        console.print("These trips are synthetic: a vehicle model computed them, no car drove them.")
    for line in description["problems"]:
        console.print(escape(line), style="yellow", soft_wrap=True)


def print_columns() -> None:
    """Print the canonical columns and the names they are found under."""
    console = Console(highlight=False)
    table = new_table(
        "Columns that FLEVEn knows", "Column", "Unit", "From", "To", "Also called", numbers=("From", "To")
    )
    for name, column in columns.CANONICAL.items():
        same = [alias for alias, target in columns.ALIASES.items() if target == name and alias != columns.key(name)]
        table.add_row(name, column.unit, number(column.minimum), number(column.maximum), ", ".join(same))
    console.print(table)
    console.print()
    console.print(
        "Names are compared without case, spaces and punctuation, and may carry a unit: "
        r"`Vehicle Speed\[km/h]`, `Speed (mph)`. "
        "Values outside From and To are left out. VEHICLE_ID, VehId, Car and the like identify vehicles, Trip and "
        'Session trips. --map "HEADER=name" adds a name, also one of your own.'
    )
