"""What `fleven data` shows people: tables that fit 80 columns. Takes manifests and descriptions, computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table


def duration(seconds: float) -> str:
    """Return a duration as people say it: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def names(values: list[str], most: int = 4) -> str:
    """Return a list of names as one cell, shortened."""
    shown = ", ".join(values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def new_table(title: str, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table; columns named in `numbers` are set to the right and never broken."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column in numbers
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def client_table(manifest: dict[str, Any]) -> Table:
    """Return who got what: one row a client."""
    title = "Synthetic trips by client" if manifest["synthetic"] else "Trips by client"
    table = new_table(title, "Client", "Vehicles", "Trips", "Rows", "Time", numbers=("Client", "Trips", "Rows", "Time"))
    for client in manifest["clients"]:
        table.add_row(
            str(client["client"]),
            escape(names(client["vehicles"])),
            str(client["trips"]),
            f"{client['rows']:,}",
            duration(client["seconds"]),
        )
    return table


def print_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Print what was written."""
    console = Console(highlight=False)
    console.print(client_table(manifest))
    if manifest["synthetic"]:
        console.print("These trips are synthetic: a vehicle model computed them, no car drove them.")
    console.print(f"Written to {folder}/ (see {folder}/manifest.json)", soft_wrap=True)


_DROPPED = {
    "broken-line": "another number of cells than the header",
    "repeated-header": "the header once more",
    "no-vehicle": "the vehicle's cell is empty",
    "no-clock": "the clock's cell is empty or unreadable",
    "no-reading": "no value in any column",
    "duplicate-time": "merged with a row of the same time",
    "short-trip": "in a trip of fewer than {minimum_rows} rows",
}


def column_table(files: list[dict[str, Any]]) -> Table:
    """Return where each column came from, all files together."""
    numbers = ("Values", "Missing", "Unreadable", "Out of range")
    table = new_table("Columns", "Column", "From", *numbers, numbers=numbers)
    merged: dict[tuple[str, str], list[int]] = {}
    for entry in files:
        for each in entry["columns"]:
            key = f"{each['name']} [{each['unit']}]" if each["unit"] else each["name"], each["source"]
            counts = [each["values"], each["missing"], each["unreadable"], each["out_of_range"]]
            merged[key] = [a + b for a, b in zip(merged.get(key, [0] * 4), counts, strict=True)]
    for (name, source), values in merged.items():
        table.add_row(escape(name), escape(source), *(f"{value:,}" if value else "-" for value in values))
    return table


def rows_table(manifest: dict[str, Any]) -> Table:
    """Return how many rows were read, left out for which reason, and kept."""
    table = new_table("Rows", "Rows", "", numbers=("Rows",))
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
    console.print(client_table(manifest))
    console.print(column_table(manifest["files"]))
    console.print(rows_table(manifest))
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
