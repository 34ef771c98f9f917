"""What `fleven data` shows people: tables that fit 80 columns. Takes manifests and descriptions, computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
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
            names(client["vehicles"]),
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
