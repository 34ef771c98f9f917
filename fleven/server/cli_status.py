"""`fleven-server status` and `fleven-server check`: how the server is, and what is wrong with it. Thin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleven.server.cli_common import ConfigOption, JsonOption, ago, console, local, now, opened, print_json, table

if TYPE_CHECKING:
    from fleven.server.server_status import StatusAnswer

status_app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
check_app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
GIGABYTE = 1e9


@status_app.command()
def status_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the server on one screen: SuperLink, fleet, queue, next fire, disk.

    Exits with 1 when something needs attention.

    Example: fleven-server status

    Example: fleven-server status --json
    """
    from fleven.server.register import Register
    from fleven.server.server_status import server_status

    with opened(config) as server:
        register = Register.from_config(server.store, server.config)
        status = server_status(server.store, register, server.config, server.paths, now())
    if as_json:
        print_json(status.model_dump(mode="json"))
    else:
        print_status(status)
    raise typer.Exit(1 if status.problems else 0)


def print_status(status: StatusAnswer) -> None:
    """Print the server on one screen."""
    from fleven.server.printing import styled

    out = console()
    at = status.server_time
    shown = table("part|fixed", "value")
    shown.show_header = False
    for name, value, style in (
        ("server", *service_line(status)),
        ("SuperLink", *superlink_line(status)),
        ("fleet", *fleet_line(status)),
        ("queue", *queue_line(status)),
        ("next", *next_line(status)),
        ("disk", *disk_line(status)),
        ("backup", ago(status.last_backup_at, at) if status.last_backup_at else "none yet", ""),
    ):
        shown.add_row(styled(name, "dim"), styled(value, style))
    out.print(shown)
    for problem in status.problems:
        out.print(styled(f"! {problem}", "red"))


def service_line(status: StatusAnswer) -> tuple[str, str]:
    """The service in one line, with its style."""
    service = status.service
    if service.running:
        return f"running, version {service.version}, process {service.pid}", "green"
    if service.heartbeat_at is None:
        return "has not run yet", "red"
    return f"does not run; last sign of life {ago(service.heartbeat_at, status.server_time)}", "red"


def superlink_line(status: StatusAnswer) -> tuple[str, str]:
    """The SuperLink in one line, with its style."""
    link = status.superlink
    if link.reachable is None:
        return "unknown while the server does not run", "yellow"
    if not link.reachable:
        return f"does not answer at {link.control_address} since {local(link.since)}", "red"
    read_at = link.flower_list_read_at
    listed = f"{link.nodes_online} nodes online, list read {ago(read_at, status.server_time)}"
    return f"answers since {local(link.since)}; {listed if read_at else 'its list was not read yet'}", "green"


def fleet_line(status: StatusAnswer) -> tuple[str, str]:
    """The fleet in one line, with its style."""
    fleet = status.fleet
    if not fleet.nodes:
        return "no node has reported yet", "yellow"
    others = [f"{count} {word}" for word, count in fleet.by_health.items() if word not in ("ready", "busy")]
    text = f"{fleet.ready} of {fleet.nodes} nodes ready"
    # The verdicts say these already.
    told = ("node-offline", "node-stale", "zombie")
    worst = [f"{count} {code}" for code, count in fleet.conditions.items() if code not in told][:3]
    return "; ".join([text, *([", ".join(others)] if others else []), *([", ".join(worst)] if worst else [])]), (
        "green" if fleet.ready == fleet.nodes else "yellow"
    )


def queue_line(status: StatusAnswer) -> tuple[str, str]:
    """Open runs, or how the last one ended."""
    queue = status.queue
    if queue.open:
        parts = []
        for run in queue.open[:4]:
            progress = run.progress
            rounds = f" round {progress.round} of {progress.rounds}" if progress and progress.rounds else ""
            why = f" ({run.message})" if run.state == "waiting" else ""
            parts.append(f"run {run.id} {run.schedule}: {run.state}{rounds}{why}")
        more = len(queue.open) - len(parts)
        return "\n".join([*parts, *([f"and {more} more"] if more else [])]), "cyan"
    last = queue.last_ended
    if last is None:
        return "empty; no run was made yet", ""
    return f"empty; run {last.id} {last.schedule} {last.state} {ago(last.ended_at, status.server_time)}", (
        "" if last.state == "succeeded" else "yellow"
    )


def next_line(status: StatusAnswer) -> tuple[str, str]:
    """What fires next."""
    paused = f"; {status.schedules_paused} paused" if status.schedules_paused else ""
    if status.next_fire is None:
        return f"nothing fires by itself ({status.schedules} schedules{paused})", ""
    fire = status.next_fire
    return f"{fire.schedule} {ago(fire.at, status.server_time)}, {local(fire.at)}{paused}", ""


def disk_line(status: StatusAnswer) -> tuple[str, str]:
    """Free space, and what the register takes."""
    disk = status.disk
    text = f"{disk.free_bytes / GIGABYTE:.1f} of {disk.total_bytes / GIGABYTE:.1f} GB free"
    return f"{text}, register {disk.register_bytes / 1e6:.1f} MB", "red" if disk.low else ""


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
    from fleven.server.check_catalogue import ALL
    from fleven.server.checks import Context, Outcome, run_checks, select
    from fleven.server.config import Paths
    from fleven.server.errors import UsageError

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
        for check, result in run_checks(chosen, context):
            row = {"id": check.id, "status": result.outcome.value, "message": result.message, "hint": result.hint}
            rows.append(row)
            if not as_json:
                print_result(row)
    finally:
        context.close()
    bad = any(row["status"] == Outcome.ERROR for row in rows)
    if as_json:
        print_json({"checks": rows, "ok": not bad})
    else:
        counts = {outcome: sum(row["status"] == outcome for row in rows) for outcome in Outcome}
        typer.echo(", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count))
    raise typer.Exit(1 if bad else 0)


STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


def print_result(row: dict[str, str]) -> None:
    """Print one outcome as soon as it is known."""
    from rich.text import Text

    line = Text(f"{row['status']:8}", style=STYLES[row["status"]])
    line.append(f"{row['id']:22} ", style="default")
    line.append(row["message"], style="default")
    out = console()
    out.print(line, soft_wrap=True)
    if row["hint"]:
        out.print(Text(f"{'':30} → {row['hint']}", style="dim"), soft_wrap=True)
