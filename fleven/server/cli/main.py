"""`fleven-server`: the root of its commands, and the one place where errors become lines and exit codes.

Thin: parses, calls, prints. Sub-commands live in modules of their own and are imported when they are needed.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from fleven import __version__
from fleven.server.cli.common import ConfigOption, JsonOption, fail, now, print_json
from fleven.server.errors import ConfigurationError, ServerError, permission_hint
from fleven_agent.common.errors import describe

# Name → module and attribute of a command or a group of commands.
LAZY = {
    "nodes": "fleven.server.cli.nodes:app",
    "schedule": "fleven.server.cli.schedule:app",
    "runs": "fleven.server.cli.runs:app",
    "models": "fleven.server.cli.models:app",
    "users": "fleven.server.cli.users:app",
    "status": "fleven.server.cli.status:status_app",
    "check": "fleven.server.cli.check:check_app",
    "trust": "fleven.server.cli.trust:app",
    "backup": "fleven.server.cli.backup:backup_app",
    "restore": "fleven.server.cli.backup:restore_app",
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported at first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help page."""
        return [*LAZY, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module if need be."""
        if cmd_name not in LAZY:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = LAZY[cmd_name].partition(":")
        command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
        command.name = cmd_name
        return command


app = typer.Typer(
    name="fleven-server",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The server of a FLEVEn fleet: SuperLink, nodes, schedules and runs.",
)
config_app = typer.Typer(no_args_is_help=True, help="Show or check server.toml.")
app.add_typer(config_app, name="config")


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(f"fleven-server {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The server of a FLEVEn fleet: SuperLink, nodes, schedules and runs."""


@app.command()
def superlink(
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, print the command line, start nothing.")] = False,
) -> None:
    """Become the SuperLink: check ports, database and disk, then exec `flower-superlink`.

    Run by fleven-superlink.service. Exits with 78 and one clear line for each
    problem when it cannot start as configured, with 75 when it may start later by itself (port in use, disk full).

    Example: fleven-server superlink --dry-run
    """
    from fleven.server.config.loader import load
    from fleven.server.config.paths import Paths
    from fleven.server.flower.superlink import become_superlink, preflight
    from fleven.server.trust.upkeep import prepare

    loaded, paths = load(config).config, Paths.from_environment()
    preflight(loaded, paths)
    certificate = None if dry_run else prepare(loaded, paths, now())
    become_superlink(loaded, paths, certificate, dry_run=dry_run)


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the scheduler, the fleet report API and the web page until told to stop.

    Run by fleven-server.service. The SuperLink is another service: each restarts without the other.

    Example: fleven-server serve --config ./server.toml
    """
    from fleven.server.service.service import serve as run_service

    raise typer.Exit(run_service(config))


@config_app.command("check")
def config_check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check server.toml and its drop-ins with the daemon's own parser; exit 78 when something is wrong.

    When run as root, also check whether the services' user can read the files that it names.

    Example: fleven-server config check --config ./server.toml
    """
    from fleven.server.config.paths import Paths
    from fleven.server.service_user import load_for_service

    try:
        loaded = load_for_service(config, Paths.from_environment())
    except ConfigurationError as error:
        if as_json:
            print_json({"valid": False, "problems": error.problems})
            raise typer.Exit(error.exit_code) from None
        raise
    if as_json:
        print_json({"valid": True, "files": [str(file) for file in loaded.files], "problems": []})
    else:
        typer.echo(f"ok: {', '.join(map(str, loaded.files)) or 'no file, all defaults'}")


@config_app.command("show")
def config_show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print every key with the value in force.

    Example: fleven-server config show --json
    """
    import tomli_w

    from fleven.server.config.loader import load

    values = load(config).config.model_dump(mode="json", by_alias=True)
    if as_json:
        print_json(values)
    else:
        typer.echo(tomli_w.dumps(without_none(values)), nl=False)


def without_none(values: dict[str, object]) -> dict[str, object]:
    """Return a table without the keys that TOML cannot express."""
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def main() -> None:
    """Run the command line; every deliberate error ends here as one line and an exit code."""
    try:
        app(standalone_mode=True)
    except ServerError as error:
        sys.exit(fail(error))
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe: that is not an error.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # A right, a file or space that is missing is the operator's matter: one line, and no traceback.
        hint = permission_hint() if isinstance(error, PermissionError) else ""
        sys.exit(fail(ServerError(describe(error), hint=hint, code="system-refused")))
