"""`fleven-agent check`: runs the diagnostics and prints them."""

import argparse
import json
import shutil
import sys
from pathlib import Path

from fleven_agent.checks import ALL, HINT_FOR_A_DEFECT, Context
from fleven_agent.common.checks import Status, run_checks, select
from fleven_agent.common.errors import EXIT_FAILURE, EXIT_STOPPED
from fleven_agent.common.formatting import fold
from fleven_agent.errors import UsageError

_MARKS = {Status.OK: "ok", Status.WARNING: "warning", Status.ERROR: "ERROR", Status.SKIPPED: "skipped"}
_COLOURS = {Status.OK: "32", Status.WARNING: "33", Status.ERROR: "31", Status.SKIPPED: "2"}


def check(arguments: argparse.Namespace, state: Path, runtime: Path) -> int:
    """Run the checks that were asked for. Return 1 when one of them is an error.

    Raises:
        UsageError: a name is neither a check nor a group.
    """
    try:
        chosen = select(ALL, arguments.only)
    except KeyError as error:
        raise UsageError(f"there is no check {error.args[0]!r}", hint="`fleven-agent check --list` names all") from None
    if arguments.list:
        listed = [{"id": one.id, "title": one.title} for one in chosen]
        print(
            json.dumps(listed, indent=2) if arguments.json else "\n".join(f"{one.id:28} {one.title}" for one in chosen)
        )
        return EXIT_STOPPED
    context = Context(arguments.config.absolute(), state, runtime, timeout_seconds=arguments.timeout_seconds)
    rows: list[dict[str, str]] = []
    for one, result in run_checks(chosen, context, hint_for_a_defect=HINT_FOR_A_DEFECT):
        rows.append({"id": one.id, "status": result.status.value, "message": result.message, "hint": result.hint})
        if not arguments.json:
            _print(one.id, result.status, result.message, result.hint)
    worst = any(row["status"] == Status.ERROR for row in rows)
    if arguments.json:
        print(json.dumps({"checks": rows, "ok": not worst}, indent=2))
    else:
        counts = {status: sum(row["status"] == status for row in rows) for status in Status}
        print(", ".join(f"{number} {status.value}" for status, number in counts.items() if number))
    return EXIT_FAILURE if worst else EXIT_STOPPED


def _print(name: str, status: Status, message: str, hint: str) -> None:
    mark = f"{_MARKS[status]:8}"
    # A program that reads these lines wants each in one piece; a person wants them to fit.
    width = shutil.get_terminal_size((10_000, 24)).columns
    indent = " " * 38
    line = fold(message, width, indent, indent)
    if sys.stdout.isatty():
        mark = f"\x1b[{_COLOURS[status]}m{mark}\x1b[0m"
    print(f"{mark} {name:28} {line[len(indent) :]}", flush=True)
    if hint:
        print(fold(hint, width, f"{indent}→ ", f"{indent}  "), flush=True)
