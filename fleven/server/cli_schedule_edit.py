"""`fleven-server schedule add|edit|run|export|import`: the commands that make schedules and runs. Thin.

They are attached to the group in `cli_schedule`.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fleven.server.cli_common import ConfigOption, JsonOption, ScheduleArgument, local, now, opened, print_json
from fleven.server.cli_follow import follow_to_end
from fleven.server.cli_options import (
    changes_from,
    option_problem,
    split_assignment,
    with_spec_options,
)
from fleven.server.errors import UsageError


def run_config_from(app_config: Any, old: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return run-config overrides with `--set` and `--unset` laid on them."""
    from fleven.server.staging import parse_value

    values = {key: value for key, value in old.items() if key not in (options.get("unset") or [])}
    for text in options.get("set_") or []:
        key, value = split_assignment(text)
        values[key] = parse_value(app_config, key, value)
    return values


def spec_from(server: Any, old: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return the settings that options make of a schedule's stored form, checked against its app."""
    from fleven.server import editing

    values = changes_from(options, old)
    if options.get("cron") and options.get("timezone") is None and "timezone" not in values.get("trigger", {}):
        values["trigger"]["timezone"] = "UTC"
    found = editing.app_of(values, server.config)
    values["run-config"] = run_config_from(found, old.get("run-config", {}), options)
    return editing.validated_for(editing.completed(values, found), found, option_problem)


@with_spec_options
def add_command(
    name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False, **options: Any
) -> None:
    """Add a schedule.

    Example: fleven-server schedule add nightly --cron "0 2 * * *" --timezone America/Sao_Paulo --min-nodes 3
    --set rounds=20 --retry 2 --max-duration 4h

    Example: fleven-server schedule add check --after nightly --app ./check-app
    """
    from fleven.server import editing
    from fleven.server.run_answers import schedule_answer
    from fleven.server.schedule_spec import trigger_text

    with opened(config, create=True) as server:
        spec = spec_from(server, {}, options)
        with server.store.write() as connection:
            schedule = editing.add(connection, name, spec, now())
    if as_json:
        print_json(schedule_answer(schedule))
        return
    when = f", next {local(schedule.next_fire_at)}" if schedule.next_fire_at else ""
    typer.echo(f"added {name}: {trigger_text(spec)}{when}")


@with_spec_options
def edit_command(
    name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False, **options: Any
) -> None:
    """Change a schedule: only what is named changes. Runs that exist keep what they were made with.

    Example: fleven-server schedule edit nightly --set rounds=30 --unset seed --priority 5
    """
    from fleven.server import editing
    from fleven.server.run_answers import schedule_answer
    from fleven.server.schedule_spec import trigger_text
    from fleven.server.store import schedules as queries

    with opened(config) as server, server.store.write() as connection:
        old = queries.get(connection, name)
        spec = spec_from(server, old.spec.to_json(), options)
        schedule = editing.change(connection, old, spec, now())
    if as_json:
        print_json(schedule_answer(schedule))
        return
    changed = "changed" if spec != old.spec else "nothing to change in"
    typer.echo(f"{changed} {name}: {trigger_text(spec)}")


def run_command(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A schedule; without it the default app runs.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key (repeatable).")
    ] = None,
    app_path: Annotated[Path | None, typer.Option("--app", help="Flower app folder or .fab.")] = None,
    min_nodes: Annotated[int | None, typer.Option("--min-nodes", min=0, help="Ready nodes to wait for.")] = None,
    experiment: Annotated[str | None, typer.Option("--experiment", help="Folder name of its results.")] = None,
    wait: Annotated[str | None, typer.Option("--wait", help="Give up waiting for nodes after this time.")] = None,
    max_duration: Annotated[str | None, typer.Option("--max-duration", help="Then the run is stopped.")] = None,
    retry: Annotated[int | None, typer.Option("--retry", min=0, help="More tries after a failure.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Follow the run until it ends.")] = True,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run now, and follow until the end. Ctrl-C leaves the run going.

    Exit codes: 0 succeeded, 1 failed, 3 timed out, 4 cancelled, 5 skipped.

    Example: fleven-server schedule run --set rounds=3

    Example: fleven-server schedule run nightly --no-follow
    """
    from fleven.server import firing
    from fleven.server.run_answers import run_answer
    from fleven.server.store import runs as run_queries
    from fleven.server.store import schedules as queries

    options: dict[str, Any] = {
        "set_": set_,
        "app": app_path,
        "min_nodes": min_nodes,
        "experiment": experiment,
        "wait": wait,
        "max_duration": max_duration,
        "retry": retry,
    }
    with opened(config, create=True) as server:
        old: dict[str, Any] = {}
        if name:
            with server.store.read() as connection:
                old = queries.get(connection, name).spec.to_json()
        spec = spec_from(server, old, options)
        with server.store.write() as connection:
            run_id = firing.run_now(connection, name or "default", spec, now())
        if follow:
            follow_to_end(server, run_id, as_json=as_json)
        with server.store.read() as connection:
            run = run_queries.get(connection, run_id)
    if as_json:
        print_json(run_answer(run, now()))
    else:
        typer.echo(f"run {run_id} is queued; follow it: fleven-server runs watch {run_id}")


def export_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="All when none is named.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print schedules as TOML, for a file that `import` reads.

    Example: fleven-server schedule export > schedules.toml
    """
    from fleven.server.run_answers import schedule_answer
    from fleven.server.store import schedules as queries
    from fleven.server.transfer import to_toml

    with opened(config) as server, server.store.read() as connection:
        found = [queries.get(connection, name) for name in names] if names else queries.every(connection)
    if as_json:
        print_json([schedule_answer(schedule) for schedule in found])
    else:
        typer.echo(to_toml(found), nl=False)


def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML as `export` writes it; - for stdin.")],
    replace: Annotated[bool, typer.Option("--replace", help="Change schedules that exist already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add schedules from TOML: all of them, or none when one has a problem.

    Example: fleven-server schedule import schedules.toml --replace
    """
    from fleven.server.transfer import from_toml, store_all

    text = sys.stdin.read() if str(file) == "-" else read_text(file)
    with opened(config, create=True) as server:
        wanted = from_toml(text, str(file), server.config)
        outcome = store_all(server.store, wanted, now(), replace=replace, dry_run=dry_run)
    if as_json:
        print_json(outcome)
        return
    for word, names in outcome.items():
        if names:
            typer.echo(f"{'would be ' if dry_run else ''}{word}: {', '.join(names)}")
    if not any(outcome.values()):
        typer.echo(f"{file}: no schedule in it")


def read_text(file: Path) -> str:
    """Return a file's text.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or 'is no text'}") from error
