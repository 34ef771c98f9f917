"""`fleven-server check`: find out what is wrong. Thin: parses, calls, prints."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from fleven.server.cli.common import ConfigOption, JsonOption, console, now, print_json
from fleven_agent.common.formatting import fold

check_app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})


@check_app.command()
def check_command(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="A check or a group; may be repeated.")
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List the ids of all checks and run none.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find out what is wrong with the server, with a hint for each problem. Exits with 1 when something is.

    Example: fleven-server check

    Example: fleven-server check --only register --only service.http --json
    """
    from fleven.server.checks import ALL, HINT_FOR_A_DEFECT, Context
    from fleven.server.config.paths import Paths
    from fleven.server.errors import UsageError
    from fleven_agent.common.checks import Status, run_checks, select

    try:
        chosen = select(ALL, only or [])
    except KeyError as error:
        raise UsageError(
            f"there is no check {error.args[0]!r}", hint="`fleven-server check --list` names all"
        ) from None
    if list_only:
        if as_json:
            print_json([{"id": check.id, "title": check.title} for check in chosen])
        else:
            typer.echo("\n".join(f"{check.id:22} {check.title}" for check in chosen))
        return
    context = Context(config, Paths.from_environment(), now())
    rows: list[dict[str, str]] = []
    try:
        for check, result in run_checks(chosen, context, hint_for_a_defect=HINT_FOR_A_DEFECT):
            row = {"id": check.id, "status": result.status.value, "message": result.message, "hint": result.hint}
            rows.append(row)
            if not as_json:
                print_result(row)
    finally:
        context.close()
    bad = any(row["status"] == Status.ERROR for row in rows)
    if as_json:
        print_json({"checks": rows, "ok": not bad})
    else:
        counts = {status: sum(row["status"] == status for row in rows) for status in Status}
        typer.echo(", ".join(f"{count} {status.value}" for status, count in counts.items() if count))
    raise typer.Exit(1 if bad else 0)


STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


def print_result(row: dict[str, str]) -> None:
    """Print one outcome as soon as it is known."""
    from rich.text import Text

    # A program that reads these lines wants each in one piece; a person wants them to fit.
    width, indent = shutil.get_terminal_size((10_000, 24)).columns, " " * 31
    line = Text(f"{row['status']:8}", style=STYLES[row["status"]])
    line.append(f"{row['id']:22} ", style="default")
    line.append(fold(row["message"], width, indent, indent)[len(indent) :], style="default")
    out = console()
    out.print(line, soft_wrap=True)
    if row["hint"]:
        out.print(Text(fold(row["hint"], width, f"{indent}→ ", f"{indent}  "), style="dim"), soft_wrap=True)
