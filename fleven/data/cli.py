"""`fleven data`: parses, calls, prints. pandas and pyarrow are imported by the commands, not by this module."""

from __future__ import annotations

import codecs
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

NOT_TRAINABLE = 3
IMPORT_EXIT_CODES = EXIT_CODES.replace("130", "3 with --strict, cars cannot train on what was written; 130")

app = typer.Typer(
    help="Import logs into the folder that FLEVEn trains from, describe it, or make synthetic trips.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

OutputFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder to write: DIR/client_<n>/<car>_trip_<k>.parquet, manifest.json.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output instead of tables.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace DIR if FLEVEn wrote it and nothing has been added since.")
]


class FileFormat(StrEnum):
    """How trips are stored."""

    PARQUET = "parquet"
    CSV = "csv"


class Decimal(StrEnum):
    """The decimal marks."""

    COMMA = ","
    POINT = "."


TripFormat = Annotated[FileFormat, typer.Option("--format", help="How to store trips.")]


@contextlib.contextmanager
def stopped_cleanly() -> Iterator[None]:
    """Let SIGTERM unwind the command as Ctrl-C does, so that it leaves nothing half-written."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: nothing was written", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (what, done, all) that moves a bar on standard error; silent unless that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    parts = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def one_character(delimiter: str | None) -> str | None:
    """Return the delimiter that the operator named, by itself or in words.

    Raises:
        typer.BadParameter: it is more than one character.
    """
    from fleven.data.importing.text_table import DELIMITER_NAMES

    chosen = DELIMITER_NAMES.get(delimiter.lower(), delimiter) if delimiter else None
    if chosen is not None and (len(chosen) != 1 or chosen in '\r\n"'):
        raise typer.BadParameter("one character, or tab, comma, semicolon, pipe, space", param_hint="--delimiter")
    return chosen


def known_encoding(encoding: str | None) -> str | None:
    """Return the encoding's name if Python knows it.

    Raises:
        typer.BadParameter: it does not.
    """
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise typer.BadParameter(f"{encoding} is not a known encoding", param_hint="--encoding") from error
    return encoding


def print_json(value: Any) -> None:
    """Print a value as JSON to standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@app.command("import", epilog=IMPORT_EXIT_CODES)
def import_(
    logs: Annotated[
        list[Path],
        typer.Argument(metavar="LOGFILE...", help="CSV-like text, also gzipped, Parquet, or folders of these."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column that identifies the vehicle (found by its name where it is VEHICLE_ID, VehId, ...); or "
            "file, folder, trip.",
        ),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            metavar="N",
            help="Distribute the vehicles over N clients, with about equal numbers of rows.",
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="HEADER=NAME", help="Name an unknown column; see fleven data columns."),
    ] = None,
    units: Annotated[
        list[str] | None,
        typer.Option("--unit", metavar="NAME=UNIT", help="Unit of a column, if the file gives none or a wrong one."),
    ] = None,
    minimum_rows: Annotated[
        int, typer.Option("--min-rows", min=2, metavar="N", help="Leave out trips with fewer rows.")
    ] = 30,
    pause_seconds: Annotated[float, typer.Option(min=1, metavar="S", help="A longer pause ends the trip.")] = 300.0,
    interval_seconds: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="S", help="The log has no clock: count rows, one every S seconds."),
    ] = None,
    decimal: Annotated[Decimal | None, typer.Option(help="Decimal mark, if it cannot be detected.")] = None,
    delimiter: Annotated[
        str | None, typer.Option(metavar="C", help="One character, or tab, comma, semicolon, pipe, space.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(metavar="NAME", help="Such as latin-1, cp1251, utf-16.")] = None,
    file_format: TripFormat = FileFormat.PARQUET,
    force: Force = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 if a car cannot train on it with the app's default settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn loggers' files into the folder that FLEVEn trains from: one client for each vehicle, one file for each trip.

    Delimiter, decimal comma, encoding and units are detected; manifest.json in DIR says which vehicle became which
    client, what every column was made from, how many rows were left out and why, and whether cars can train on it.

    **Examples**

        fleven data import 19drivers.csv --out trips

        fleven data import 19drivers.csv --out trips --by VEHICLE_ID --clients 3

        fleven data import logs/ --out trips --by file --map "Motor U/min=engine_rpm" --unit vehicle_speed=mph
    """
    from fleven.data.cli_tables import print_import, print_warnings
    from fleven.data.importing.column_mapping import parse_rules
    from fleven.data.importing.column_selection import Options
    from fleven.data.importing.importing import import_logs

    options = Options(
        rules=parse_rules(maps or [], units or [], by),
        decimal=decimal.value if decimal else None,
        delimiter=one_character(delimiter),
        encoding=known_encoding(encoding),
        interval_seconds=interval_seconds,
        minimum_rows=minimum_rows,
        pause_seconds=pause_seconds,
    )
    with stopped_cleanly(), progress_bar() as progress:
        manifest = import_logs(
            logs,
            out,
            options,
            clients=clients,
            file_format=file_format.value,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(manifest)
    else:
        print_import(out, manifest)
        print_warnings(manifest["warnings"])
    if strict and not manifest["trainable"]:
        raise typer.Exit(NOT_TRAINABLE)


@app.command(epilog=EXIT_CODES)
def synthesise(
    folder: OutputFolder,
    cars: Annotated[int, typer.Option(metavar="N", help="Cars, one client folder each.")] = 3,
    trips: Annotated[int, typer.Option(metavar="M", help="Trips of each car.")] = 4,
    minutes: Annotated[float, typer.Option(metavar="T", help="About how long one trip lasts.")] = 15.0,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same bytes.")] = 1,
    file_format: TripFormat = FileFormat.PARQUET,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write SYNTHETIC trips: a vehicle model drives city, suburb and highway; a logger model reads it.

    Each car has its own mass, gearbox, engine and driver. No real car is in these files, and the manifest, the README
    beside it and the file names say so.

    **Examples**

        fleven data synthesise trips

        fleven data synthesise trips --cars 5 --trips 10 --minutes 30 --seed 7
    """
    from fleven.data.cli_tables import print_manifest
    from fleven.data.synthetic.synthesis import synthesise as make

    with stopped_cleanly(), progress_bar() as progress:
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


@app.command(epilog=EXIT_CODES)
def describe(
    path: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with client_<n> folders, folder of trips, or one trip file.")
    ],
    details: Annotated[bool, typer.Option("--details", help="Also each client's columns, and each trip.")] = False,
    as_json: Json = False,
) -> None:
    """Show what there is to train on: trips, rows, time, gaps, ranges, missing cells.

    Files that the cars could not read are named with the reason. Exit code 2 if none can be read.

    **Examples**

        fleven data describe trips

        fleven data describe trips/client_0 --details

        fleven data describe trips --json | jq .clients
    """
    from fleven.data.cli_tables import print_description
    from fleven.data.describe import describe as look

    with progress_bar() as progress:
        description = look(path, progress)
    if as_json:
        print_json(description)
    else:
        print_description(description, details=details)


@app.command("columns", epilog=EXIT_CODES)
def columns_(as_json: Json = False) -> None:
    """Show the columns that FLEVEn knows: names, units, plausible ranges, and what loggers call them.

    `fleven data import` finds these names by itself; `--map "HEADER=name"` adds others.

    **Examples**

        fleven data columns

        fleven data columns --json
    """
    from dataclasses import asdict

    from fleven.app import columns
    from fleven.data.cli_tables import print_columns
    from fleven.data.importing.logger_names import NAMES

    if as_json:
        print_json(
            [
                {**asdict(column), "aliases": [alias for alias, target in NAMES.items() if target == name]}
                for name, column in columns.CANONICAL.items()
            ]
        )
    else:
        print_columns()
