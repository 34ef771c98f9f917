"""`fleven-server status`: the server on one screen. Thin: parses, calls, prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from fleven.server.cli.common import ConfigOption, JsonOption, console, now, opened, print_json, table
from fleven.server.formatting import ago, local

if TYPE_CHECKING:
    from fleven.server.schemas.status import StatusAnswer


status_app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
GIGABYTE = 1e9


@status_app.command()
def status_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the server on one screen: SuperLink, fleet, queue, next fire, disk.

    Exits with 1 when something needs attention.

    Example: fleven-server status

    Example: fleven-server status --json
    """
    from fleven.server.nodes.registry import NodeRegistry
    from fleven.server.schemas.status import server_status

    with opened(config) as server:
        register = NodeRegistry.from_config(server.store, server.config)
        status = server_status(server.store, register, server.config, server.paths, now())
    if as_json:
        print_json(status.model_dump(mode="json"))
    else:
        print_status(status)
    raise typer.Exit(1 if status.problems else 0)


def print_status(status: StatusAnswer) -> None:
    """Print the server on one screen."""
    from fleven.server.cli.run_tables import styled

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
        ("trust", *trust_line(status)),
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
    return f"not running; last sign of life {ago(service.heartbeat_at, status.server_time)}", "red"


def superlink_line(status: StatusAnswer) -> tuple[str, str]:
    """The SuperLink in one line, with its style."""
    link = status.superlink
    if link.reachable is None:
        return "unknown while the server is not running", "yellow"
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
    # The verdicts already say these.
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


def trust_line(status: StatusAnswer) -> tuple[str, str]:
    """Who gets in, and what ends first."""
    first = min(status.trust.ends, key=lambda end: end.ends_at, default=None)
    ends = f"; {first.message}" if first is not None else ""
    if status.trust.insecure:
        return f"insecure: strangers may join and report, connections need not be encrypted{ends}", "red"
    return f"TLS, only enrolled cars{ends}", "" if all(end.outlook == "fine" for end in status.trust.ends) else "yellow"


def disk_line(status: StatusAnswer) -> tuple[str, str]:
    """Free space, and what the register takes."""
    disk = status.disk
    text = f"{disk.free_bytes / GIGABYTE:.1f} of {disk.total_bytes / GIGABYTE:.1f} GB free"
    return f"{text}, register {disk.register_bytes / 1e6:.1f} MB", "red" if disk.low else ""
