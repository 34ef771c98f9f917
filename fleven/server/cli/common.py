"""What all commands of `fleven-server` share: options, opening the register, printing.

Heavy modules are imported inside functions, so that `--help` and completion stay fast.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleven.server.errors import ServerError, StoreError
from fleven_agent.common.formatting import fold

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from sqlalchemy import Connection

    from fleven.server.access.model import Action
    from fleven.server.config.paths import Paths
    from fleven.server.config.settings import ServerConfig
    from fleven.server.database import Store


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read this file (and FILE.d/*.toml) instead of /etc/fleven/server.toml.",
        rich_help_panel="Common options",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of text.", rich_help_panel="Common options")
]
ScheduleArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


@dataclass(frozen=True, slots=True)
class Opened:
    """What a command works with: configuration, folders and register."""

    config: ServerConfig
    paths: Paths
    store: Store


@contextmanager
def opened(config_file: Path | None = None, *, create: bool = False) -> Iterator[Opened]:
    """Read the configuration and open the register for one command.

    Args:
        config_file: the value of `--config`.
        create: make an empty register when there is none.

    Raises:
        ConfigurationError: server.toml has problems.
        StoreError: there is no register, or this user may not use it.
    """
    from fleven.server.config.loader import load
    from fleven.server.config.paths import Paths
    from fleven.server.database import open_store

    config = load(config_file).config
    paths = Paths.from_environment()
    if not create and not exists(paths.register):
        raise StoreError(
            f"{paths.register}: no register here yet",
            hint="start the server (systemctl start fleven-server), or set FLEVEN_SERVER_STATE_DIR",
            code="register-missing",
        )
    store = open_store(paths.register)
    try:
        yield Opened(config, paths, store)
    finally:
        store.close()


def exists(path: Path) -> bool:
    """Return whether a file exists.

    Raises:
        StoreError: this user may not look.
    """
    try:
        return path.exists()
    except PermissionError as error:
        from fleven.server.errors import permission_hint

        raise StoreError(f"{path}: no permission", hint=permission_hint(), code="register-permission") from error


def note(connection: Connection, action: Action, subject: str = "", detail: str = "") -> None:
    """Write into the audit trail what the person who runs this command changes, in the transaction of the change."""
    from fleven.server.access import audit

    audit.record(connection, now(), audit.local_actor(), action, subject, detail)


def now() -> datetime:
    """Return the current moment in UTC: the only clock of the commands."""
    return datetime.now(UTC)


def print_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=json_value) + "\n")


def json_value(value: Any) -> Any:
    """Return the JSON form of an answer, moment, path or set."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def tell(text: str) -> None:
    """Print a sentence, folded to the terminal's width; in one piece where a program reads it."""
    width = shutil.get_terminal_size((10_000, 24)).columns
    typer.echo(fold(text, width, "", "  "))


def console(*, stderr: bool = False) -> Console:
    """Return a console: as wide as the terminal, 80 columns when there is none."""
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not out.is_terminal:
        out.width = 80
    return out


def table(*columns: str, title: str = "") -> Table:
    """Return a table in the style of all commands: no frame, headings set apart, cells folded."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        name, _, option = column.partition("|")
        made.add_column(
            name,
            justify="right" if option == "right" else "left",
            no_wrap=option in ("right", "fixed"),
            overflow="fold",
        )
    return made


def fail(error: ServerError) -> int:
    """Print an error to stderr, one line each, and return its exit code."""
    lines = error.lines()
    sys.stderr.write(f"fleven-server: {lines[0]}\n")
    sys.stderr.writelines(f"{line}\n" for line in lines[1:])
    return error.exit_code
