"""`fleven-server schedule`: what runs next, when, and if it would not start now, why not. Thin: parse, call, print."""

from typing import Annotated

import typer

from fleven.server import cli_schedule_edit
from fleven.server.cli_common import (
    ConfigOption,
    JsonOption,
    ScheduleArgument,
    ago,
    console,
    local,
    now,
    opened,
    print_json,
    table,
)
from fleven.server.errors import UsageError

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
    from fleven.server.plans import plans_json, read_plans
    from fleven.server.printing import print_plans

    with opened(config) as server:
        seen = read_plans(server.store, server.config, now())
    if as_json:
        print_json(plans_json(seen))
    else:
        print_plans(seen)


app.command("add")(cli_schedule_edit.add_command)
app.command("edit")(cli_schedule_edit.edit_command)
app.command("run")(cli_schedule_edit.run_command)


@app.command("show")
def show_command(name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print a schedule as TOML, with its place in time as comments.

    Example: fleven-server schedule show nightly
    """
    from fleven.server.run_answers import schedule_answer
    from fleven.server.store import schedules as queries
    from fleven.server.transfer import to_toml

    with opened(config) as server, server.store.read() as connection:
        schedule = queries.get(connection, name)
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

    from fleven.server.calendar import blackout_until, next_fires
    from fleven.server.store import schedules as queries

    with opened(config) as server, server.store.read() as connection:
        schedule = queries.get(connection, name)
    at = now()
    fires = next_fires(schedule.spec, at, schedule.created_at, count)
    if as_json:
        print_json([{"at": fire, "blackout_until": blackout_until(schedule.spec.blackouts, fire)} for fire in fires])
        return
    if not fires:
        typer.echo(
            f"{name} does not fire by itself" if schedule.spec.trigger.kind == "manual" else f"{name} fires no more"
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
    from fleven.server.plans import explain
    from fleven.server.printing import print_checks
    from fleven.server.run_answers import check_answer

    with opened(config) as server:
        schedule, checks = explain(server.store, server.config, name, now())
    starts = all(check.met for check in checks) and not schedule.paused
    if as_json:
        conditions = [check_answer(check) for check in checks]
        print_json({"name": name, "paused": schedule.paused, "would_start": starts, "conditions": conditions})
    else:
        print_checks(checks)
        if schedule.paused:
            typer.echo(f"{name} is paused{': ' + schedule.pause_reason if schedule.pause_reason else ''}")
        typer.echo(f"{name} {'would start' if starts else 'would not start'} now")
    raise typer.Exit(0 if starts else 1)


@app.command("pause")
def pause_command(
    name: ScheduleArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever looks next.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a schedule from firing until it is resumed. A run that is open goes on.

    Example: fleven-server schedule pause nightly --reason "cars are at the workshop"
    """
    from fleven.server import editing

    with opened(config) as server, server.store.write() as connection:
        editing.pause(connection, name, reason, now())
    print_json({"name": name, "paused": True}) if as_json else typer.echo(f"paused {name}")


@app.command("resume")
def resume_command(name: ScheduleArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Let a paused schedule fire again, from now on: what passed meanwhile is not made up for.

    Example: fleven-server schedule resume nightly
    """
    from fleven.server import editing

    with opened(config) as server, server.store.write() as connection:
        schedule = editing.resume(connection, name, now())
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
    from fleven.server.model import Reason
    from fleven.server.store import run_changes
    from fleven.server.store import runs as run_queries
    from fleven.server.store import schedules as queries

    with opened(config) as server, server.store.write() as connection:
        found = [queries.get(connection, name) for name in names]
        every = [schedule for name in names for schedule in queries.following(connection, name)]
        followers = [schedule.name for schedule in every if schedule.name not in names]
        if followers:
            hint = f"fleven-server schedule edit {followers[0]} --after ''"
            raise UsageError(f"{', '.join(followers)} runs after it", hint=hint, code="schedule-needed")
        open_ids = [run_id for schedule in found for run_id in run_queries.open_ids(connection, schedule.name)]
        if stop:
            run_changes.request_stop(connection, open_ids, Reason.SCHEDULE_REMOVED, "its schedule was removed")
        queries.delete(connection, names)
    if as_json:
        print_json({"removed": names, "open_runs": open_ids, "stopped": stop})
        return
    typer.echo(f"removed {', '.join(names)}")
    if open_ids and not stop:
        typer.echo(f"still open: run {', '.join(map(str, open_ids))} (fleven-server runs stop …)")


app.command("export")(cli_schedule_edit.export_command)
app.command("import")(cli_schedule_edit.import_command)
