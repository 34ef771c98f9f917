"""The `fleven` command: parses, calls, prints.

Heavy modules (pandas, pyarrow, torch) are imported by the commands that need them, so that `--help` and completion are
fast. All errors that an operator can cause are caught in `main`, once.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fleven.data.cli import app as data_app
from fleven.data.errors import FlevenError

EXIT_CODES = """\
Exit codes: 0 done; 1 the output could not be written; 2 the command line or an input is wrong; 130 interrupted.
"""

app = typer.Typer(
    name="fleven",
    help="Federated learning for vehicles: prepare the cars' data, try the whole system on one machine.",
    epilog=EXIT_CODES + " The server has `fleven-server`, a car `fleven-agent`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fleven {version('fleven')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the command."""


@app.command(epilog=EXIT_CODES)
def demo(
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE_OR_DIR", help="Your own logs; without it, synthetic trips are made."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of your logs that identifies the vehicle.")
    ] = None,
    cars: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Cars in the federation.")] = 3,
    rounds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rounds to train; default: 5.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder for data, results, plots and logs.", file_okay=False)
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop what --keep left running (the newest, or the one in --output).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run a whole federation on this machine: server, cars, one training run, a table of results.

    Without --data the trips are synthetic. Ctrl-C stops everything that was started; --keep leaves it running and
    prints the addresses.

    **Examples**

        fleven demo

        fleven demo --data trips.csv --by VEHICLE_ID --cars 3 --rounds 5

        fleven demo --keep ; fleven demo --stop
    """
    from fleven.demo.demo import run
    from fleven.demo.demo import stop as stop_kept

    if stop:
        raise typer.Exit(stop_kept(output))
    raise typer.Exit(
        run(data=data, by=by, keep=keep, rounds=rounds, output=output, cars=cars, as_json=as_json),
    )


@app.command(epilog=EXIT_CODES)
def predict(
    trip: Annotated[
        Path | None, typer.Argument(metavar="TRIP", help="A trip, CSV or Parquet, with the columns of the model.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A run's model.safetensors; default: the model of this car."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table to write, instead of standard output.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Read JSON lines from standard input and answer each with one line.")
    ] = False,
) -> None:
    """Predict from a trip, or from readings as they arrive, without the server.

    **Examples**

        fleven predict trip_0001.csv --out predicted.csv

        logger | fleven predict --follow --model model.safetensors
    """
    from fleven.predict import command

    if follow == (trip is not None):
        raise typer.BadParameter("give a TRIP or --follow")
    if follow:
        command.follow(model)
    elif trip is not None:
        command.predict(trip, model, out)


def main() -> None:
    """Entry point of the `fleven` command."""
    try:
        app()
    except FlevenError as error:
        for problem in error.problems:
            print(problem.line(), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
