"""`fleven-server schedule`: what runs next, when, and why it would not start now. Thin: parses, calls, prints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleven.server.access.model import Action
from fleven.server.cli.common import (
    ConfigOption,
    JsonOption,
    Opened,
    ScheduleArgument,
    console,
    note,
    now,
    opened,
    print_json,
    table,
)
from fleven.server.cli.schedule_options import changes_from, option_problem, split_assignment, with_spec_options
from fleven.server.errors import ServerError, UsageError
from fleven.server.formatting import ago, local

if TYPE_CHECKING:
    from fleven.server.schedules.spec import ScheduleSpec

app = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Plan runs: what runs next, what waits and why, what ran last.",
)


@app.callback()
def plans_command(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Plan runs: what runs next, what waits and why, what ran last.

    Example: fleven-server schedule

    Example: fleven-server schedule add nightly --cron "0 2 * * *" --min-nodes 3
    """
    if context.invoked_subcommand is not None:
        return
    from fleven.server.cli.run_tables import print_plans
    from fleven.server.runs.plans import read_plans
    from fleven.server.schemas.runs import plans_json

    with opened(config) as server:
        seen = read_plans(server.store, server.config, now())
    if as_json:
        print_json(plans_json(seen))
    else:
        print_plans(seen)


def run_config_from(app: Any, old: dict[str, Any], options: dict[str, Any], problems: Any) -> dict[str, Any]:
    """Return run-config overrides with `--set` and `--unset` applied to them."""
    from fleven.server.flower.app_bundle import parse_value

    values = {key: value for key, value in old.items() if key not in (options.get("unset") or [])}
    for text in options.get("set_") or []:
        with problems.of():
            key, value = split_assignment(text)
            values[key] = parse_value(app, key, value)
    return values


def place_of(server: Opened) -> Any:
    """Return where and when a schedule is given."""
    from fleven.server.database.facts import service_process_id
    from fleven.server.schedules.editing import Place
    from fleven.server.service_user import service_account

    at = now()
    return Place(server.config, at, service_account(server.paths), service_process_id(server.store, at))


def spec_from(
    server: Opened, old: "ScheduleSpec | None", options: dict[str, Any], *, new_name: str = ""
) -> "ScheduleSpec":
    """Return the settings that options make of a schedule, checked as a whole.

    Args:
        server: the opened server.
        old: the schedule as it is; None for a new one.
        options: as typer parsed them.
        new_name: the name of a schedule that is added.

    Raises:
        ServerError: something is wrong; all of it at once.
    """
    from fleven.server.schedules import editing

    stored = old.to_json() if old is not None else {}
    problems, found = editing.Problems(), None
    values = changes_from(options, stored, problems.of)
    if new_name:
        with problems.of():
            editing.check_name(new_name)
        with problems.of(), server.store.read() as connection:
            editing.check_dependency(connection, new_name, values.get("after", ""))
    with problems.of():
        found = editing.app_of(values, server.config)
    values["run-config"] = run_config_from(found, stored.get("run-config", {}), options, problems)
    return editing.checked(values, found, place_of(server), old=old, describe=option_problem, problems=problems)


@app.command("add")
@with_spec_options
def add_command(
    name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False, **options: Any
) -> None:
    """Add a schedule.

    Example: fleven-server schedule add nightly --cron "0 2 * * *" --timezone America/Sao_Paulo --min-nodes 3
    --set rounds=20 --retry 2 --max-duration 4h

    Example: fleven-server schedule add check --after nightly --app ./check-app
    """
    from fleven.server.schedules import editing
    from fleven.server.schedules.spec import trigger_text
    from fleven.server.schemas.runs import schedule_answer

    with opened(config, create=True) as server:
        spec = spec_from(server, None, options, new_name=name)
        with server.store.write() as connection:
            schedule = editing.add(connection, name, spec, now())
            note(connection, Action.SCHEDULE_ADDED, name, trigger_text(spec))
    if as_json:
        print_json(schedule_answer(schedule))
        return
    when = f", next {local(schedule.next_fire_at)}" if schedule.next_fire_at else ""
    typer.echo(f"added {name}: {trigger_text(spec)}{when}")


@app.command("edit")
@with_spec_options
def edit_command(
    name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False, **options: Any
) -> None:
    """Change a schedule: only what is given changes. Existing runs keep the settings they were made with.

    Example: fleven-server schedule edit nightly --set rounds=30 --unset seed --priority 5
    """
    from fleven.server.schedules import editing
    from fleven.server.schedules import store as schedule_store
    from fleven.server.schedules.spec import trigger_text
    from fleven.server.schemas.runs import schedule_answer

    with opened(config) as server:
        with server.store.read() as connection:
            old = schedule_store.get(connection, name)
        spec = spec_from(server, old.spec, options)
        # The app was asked meanwhile, and nobody else had to wait for that.
        with server.store.write() as connection:
            present = schedule_store.get(connection, name)
            if present.spec != old.spec:
                raise ServerError(f"{name} was changed by somebody else just now", hint="look at it, and try again")
            schedule = editing.change(connection, present, spec, now())
            if spec != old.spec:
                note(connection, Action.SCHEDULE_EDITED, name, trigger_text(spec))
    if as_json:
        print_json(schedule_answer(schedule))
        return
    changed = "changed" if spec != old.spec else "nothing to change in"
    typer.echo(f"{changed} {name}: {trigger_text(spec)}")


@app.command("run")
def run_command(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A schedule; without it the default app runs.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key (repeatable).")
    ] = None,
    app_path: Annotated[Path | None, typer.Option("--app", help="Flower app folder or .fab.")] = None,
    min_nodes: Annotated[int | None, typer.Option("--min-nodes", min=0, help="Ready nodes to wait for.")] = None,
    experiment: Annotated[str | None, typer.Option("--experiment", help="Folder name of its results.")] = None,
    wait: Annotated[str | None, typer.Option("--wait", help="Give up waiting for nodes after this time.")] = None,
    max_duration: Annotated[str | None, typer.Option("--max-duration", help="Stop the run after this time.")] = None,
    retry: Annotated[int | None, typer.Option("--retry", min=0, help="Further tries after a failure.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Follow the run until it ends.")] = True,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run now, and follow until the end. Ctrl-C leaves the run going.

    Exit codes: 0 succeeded, 1 failed, 3 timed out, 4 cancelled, 5 skipped.

    Example: fleven-server schedule run --set rounds=3

    Example: fleven-server schedule run nightly --no-follow
    """
    from fleven.server.runs import firing
    from fleven.server.schedules import store as schedule_store

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
        old = None
        if name:
            with server.store.read() as connection:
                old = schedule_store.get(connection, name).spec
        spec = spec_from(server, old, options)
        with server.store.write() as connection:
            run_id = firing.run_now(connection, name or "default", spec, now())
            note(connection, Action.RUN_QUEUED, f"run {run_id}", name)
        # Loaded while the scheduler is at work already: what shows a run takes as long as all that queues it.
        from fleven.server.cli.follow import hand_back

        hand_back(server, run_id, follow=follow, as_json=as_json)


@app.command("show")
def show_command(name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print a schedule as TOML, with its place in time as comments.

    Example: fleven-server schedule show nightly
    """
    from fleven.server.schedules import store as schedule_store
    from fleven.server.schedules.toml_file import to_toml
    from fleven.server.schemas.runs import schedule_answer

    with opened(config) as server, server.store.read() as connection:
        schedule = schedule_store.get(connection, name)
    if as_json:
        print_json(schedule_answer(schedule))
        return
    typer.echo(to_toml([schedule]), nl=False)
    typer.echo(f"# paused: {'yes ' + schedule.pause_reason if schedule.paused else 'no'}")
    typer.echo(f"# next: {local(schedule.next_fire_at)}")


@app.command("preview")
def preview_command(
    name: ScheduleArgument,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=1000, help="How many fires.")] = 10,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the next times at which a schedule fires, in its own time zone and in this machine's.

    Example: fleven-server schedule preview nightly -n 10
    """
    from zoneinfo import ZoneInfo

    from fleven.server.schedules import store as schedule_store
    from fleven.server.schedules.calendar import blackout_until, next_fires

    with opened(config) as server, server.store.read() as connection:
        schedule = schedule_store.get(connection, name)
    at = now()
    fires = next_fires(schedule.spec, at, schedule.created_at, count)
    if as_json:
        print_json([{"at": fire, "blackout_until": blackout_until(schedule.spec.blackouts, fire)} for fire in fires])
        return
    if not fires:
        typer.echo(
            f"{name} does not fire by itself"
            if schedule.spec.trigger.kind == "manual"
            else f"{name} will not fire again"
        )
        return
    zone_name = getattr(schedule.spec.trigger, "timezone", "UTC")
    made = table(f"{zone_name}|fixed", "UTC|fixed", "in|fixed", "note")
    for fire in fires:
        until = blackout_until(schedule.spec.blackouts, fire)
        there = fire.astimezone(ZoneInfo(zone_name))
        note = f"waits: blackout until {until:%H:%M}Z" if until else ""
        made.add_row(f"{there:%a %Y-%m-%d %H:%M %z}", f"{fire:%Y-%m-%d %H:%M}", ago(fire, at).removeprefix("in "), note)
    console().print(made)
    if schedule.paused:
        typer.echo(f"{name} is paused: none of these will fire until `fleven-server schedule resume {name}`")


@app.command("why")
def why_command(name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show each condition of a start, met or not, naming the nodes. Exit code 1 when it would not start now.

    Example: fleven-server schedule why nightly
    """
    from fleven.server.cli.run_tables import print_checks
    from fleven.server.runs.plans import Would, explain
    from fleven.server.schemas.runs import check_answer

    with opened(config) as server:
        planned = explain(server.store, server.config, name, now())
    schedule, would = planned.schedule, planned.would
    starts = would is Would.START
    if as_json:
        conditions = [check_answer(check) for check in planned.requirements]
        answer = {"name": name, "paused": schedule.paused, "would_start": starts, "would": would.value}
        print_json({**answer, "conditions": conditions})
    else:
        print_checks(planned.requirements)
        if schedule.paused:
            typer.echo(f"{name} is paused{': ' + schedule.pause_reason if schedule.pause_reason else ''}")
        told = {Would.NOTHING: "would not start", Would.WAIT: "would not start now: it would wait"}
        typer.echo(f"{name} {told.get(would, would.words + ' now')}")
    raise typer.Exit(0 if starts else 1)


@app.command("pause")
def pause_command(
    name: ScheduleArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the next person who looks.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a schedule from firing until it is resumed. An open run goes on.

    Example: fleven-server schedule pause nightly --reason "cars are at the workshop"
    """
    from fleven.server.schedules import editing

    with opened(config) as server, server.store.write() as connection:
        editing.pause(connection, name, reason, now())
        note(connection, Action.SCHEDULE_PAUSED, name, reason)
    print_json({"name": name, "paused": True}) if as_json else typer.echo(f"paused {name}")


@app.command("resume")
def resume_command(name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Let a paused schedule fire again, from now on: fires that were missed meanwhile are not made up for.

    Example: fleven-server schedule resume nightly
    """
    from fleven.server.schedules import editing

    with opened(config) as server, server.store.write() as connection:
        schedule = editing.resume(connection, name, now())
        note(connection, Action.SCHEDULE_RESUMED, name)
    if as_json:
        print_json({"name": name, "paused": False, "next_fire_at": schedule.next_fire_at})
    else:
        typer.echo(f"resumed {name}, next {local(schedule.next_fire_at)}")


@app.command("remove")
def remove_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Schedules to remove.")],
    stop: Annotated[bool, typer.Option("--stop", help="Stop their open runs too.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove schedules. Their past runs and results stay.

    Example: fleven-server schedule remove nightly
    """
    from fleven.server.runs import store as run_store
    from fleven.server.runs.model import Reason
    from fleven.server.schedules import store as schedule_store

    with opened(config) as server, server.store.write() as connection:
        found = [schedule_store.get(connection, name) for name in names]
        every = [schedule for name in names for schedule in schedule_store.following(connection, name)]
        followers = [schedule.name for schedule in every if schedule.name not in names]
        if followers:
            hint = f"fleven-server schedule edit {followers[0]} --after ''"
            raise UsageError(f"{', '.join(followers)} runs after it", hint=hint, code="schedule-needed")
        open_ids = [run_id for schedule in found for run_id in run_store.open_ids(connection, schedule.name)]
        if stop:
            run_store.request_stop(connection, open_ids, Reason.SCHEDULE_REMOVED, "its schedule was removed")
        schedule_store.delete(connection, names)
        for name in names:
            note(connection, Action.SCHEDULE_REMOVED, name, "open runs stopped" if stop and open_ids else "")
    if as_json:
        print_json({"removed": names, "open_runs": open_ids, "stopped": stop})
        return
    typer.echo(f"removed {', '.join(names)}")
    if open_ids and not stop:
        typer.echo(f"still open: run {', '.join(map(str, open_ids))} (fleven-server runs stop …)")


@app.command("export")
def export_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="Default: all schedules.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print schedules as TOML, for a file that `import` reads.

    Example: fleven-server schedule export > schedules.toml
    """
    from fleven.server.schedules import store as schedule_store
    from fleven.server.schedules.toml_file import to_toml
    from fleven.server.schemas.runs import schedule_answer

    with opened(config) as server, server.store.read() as connection:
        found = [schedule_store.get(connection, name) for name in names] if names else schedule_store.every(connection)
    if as_json:
        print_json([schedule_answer(schedule) for schedule in found])
    else:
        typer.echo(to_toml(found), nl=False)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML as `export` writes it; - for stdin.")],
    replace: Annotated[bool, typer.Option("--replace", help="Change schedules that already exist.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add schedules from TOML: all of them, or none when one has a problem.

    Example: fleven-server schedule import schedules.toml --replace
    """
    from fleven.server.schedules import store as schedule_store
    from fleven.server.schedules.toml_file import from_toml, store_all

    text = sys.stdin.read() if str(file) == "-" else read_text(file)
    with opened(config, create=True) as server:
        with server.store.read() as connection:
            existing = {schedule.name: schedule.spec for schedule in schedule_store.every(connection)}
        wanted = from_toml(text, str(file), place_of(server), existing)
        outcome = store_all(server.store, wanted, now(), replace=replace, dry_run=dry_run)
        if not dry_run and any(outcome.values()):
            with server.store.write() as connection:
                for name in (name for names in outcome.values() for name in names):
                    note(connection, Action.SCHEDULE_IMPORTED, name, str(file))
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
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or 'is not a text file'}") from error
