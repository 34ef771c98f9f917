"""`fleven data`: parse, call, print. pandas and pyarrow are imported by the commands, not by this module."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_CODES = """\
Exit codes: 0 done; 1 the output could not be written; 2 the command line or an input is wrong; 130 interrupted.
"""

app = typer.Typer(
    help="Bring logs into the folder that FLEVEn trains from, look at it, or make synthetic trips.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)

OutputFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder to write: DIR/client_<n>/<car>_trip_<k>.parquet, manifest.json.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output instead of tables.")]
Force = Annotated[bool, typer.Option("--force", help="Replace DIR if FLEVEn wrote it and nothing was added since.")]


class FileFormat(StrEnum):
    """How trips are stored."""

    PARQUET = "parquet"
    CSV = "csv"


TripFormat = Annotated[FileFormat, typer.Option("--format", help="How to store trips.")]


@contextlib.contextmanager
def stopped_cleanly() -> Iterator[None]:
    """Let SIGTERM unwind the command as Ctrl-C does, so that it leaves nothing half-written."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, all) that moves a bar on standard error; silent unless that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_json(value: Any) -> None:
    """Print a value as JSON to standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@app.command(epilog=EXIT_CODES)
def synthesise(
    folder: OutputFolder,
    cars: Annotated[int, typer.Option(metavar="N", help="Cars, one client folder each.")] = 3,
    trips: Annotated[int, typer.Option(metavar="M", help="Trips of each car.")] = 4,
    minutes: Annotated[float, typer.Option(metavar="T", help="About what one trip lasts.")] = 15.0,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same bytes.")] = 1,
    file_format: TripFormat = FileFormat.PARQUET,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write SYNTHETIC trips: a vehicle model drives city, suburb and highway; a logger model reads it.

    Each car has its own mass, gearbox, engine and driver. No real car is in these files, and the manifest, the README
    beside it and the file names say so.

    Examples:

      fleven data synthesise trips

      fleven data synthesise trips --cars 5 --trips 10 --minutes 30 --seed 7
    """
    from fleven.data.synthesis import synthesise as make
    from fleven.data.tables import print_manifest

    with stopped_cleanly(), progress_bar("Computing trips") as progress:
        manifest = make(
            folder,
            cars=cars,
            trips=trips,
            minutes=minutes,
            seed=seed,
            file_format=file_format.value,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(manifest)
    else:
        print_manifest(folder, manifest)
