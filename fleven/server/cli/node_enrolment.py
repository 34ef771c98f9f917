"""`fleven-server nodes invite`, `pending`, `accept`, `reject`, `revoke`, `rotate`, `accept-key`: who is in. Thin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleven.server.access.model import Action
from fleven.server.cli.common import ConfigOption, JsonOption, console, note, now, opened, print_json, table

if TYPE_CHECKING:
    from fleven.server.enrolment.model import Identity
    from fleven.server.enrolment.operations import Invited, Operations

PANEL = "Who is in the fleet"
CarArgument = Annotated[
    str,
    typer.Argument(metavar="NODE", help="Its name, or the fingerprint of its key (SHA256:...).", show_default=False),
]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why; shown wherever the node is shown.")]
PartitionOption = Annotated[
    int | None,
    typer.Option("--partition", "-p", min=0, max=2**31 - 1, help="Its partition-id; default: the next free one."),
]


@contextmanager
def operations(config: Path | None) -> Iterator[Operations]:
    """Open the register for an operator."""
    from fleven.server.enrolment.operations import Operations

    with opened(config, create=True) as server:
        yield Operations(server.store, server.config, server.paths)


def noted(server: Operations, action: Action, done: Sequence[Identity | Invited], detail: str = "") -> None:
    """Write into the audit trail what was decided, once for each car."""
    with server.store.write() as connection:
        for one in done:
            note(connection, action, one.name, detail)


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `fleven-server nodes`."""
    for name, command in (
        ("invite", invite_command),
        ("pending", pending_command),
        ("accept", accept_command),
        ("reject", reject_command),
        ("revoke", revoke_command),
        ("rotate", rotate_command),
        ("accept-key", accept_key_command),
    ):
        app.command(name, rich_help_panel=PANEL)(command)


def invite_command(
    name: Annotated[str, typer.Argument(metavar="NODE", help="What the car will be called.", show_default=False)],
    partition: PartitionOption = None,
    labels: Annotated[
        list[str] | None, typer.Option("--labels", "-l", help="Labels for the car; several with commas, or repeated.")
    ] = None,
    expires: Annotated[str, typer.Option("--expires", help="How long the line can be used: 30m, 24h, 7d.")] = "24h",
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1_000, help="Invite this many cars: car-3, car-4 ...")
    ] = 1,
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--address", "-a", help="HOST or HOST:PORT by which the car reaches this server; may be repeated."
        ),
    ] = None,
    qr: Annotated[bool, typer.Option("--qr", help="Print the code as a QR code too.")] = False,
    cloud_init: Annotated[bool, typer.Option("--cloud-init", help="Print cloud-init user-data instead.")] = False,
    drop_in: Annotated[
        Path | None,
        typer.Option("--drop-in", metavar="FILE", help="Write a file for /etc/fleven/node.toml.d/ on a fresh card."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Invite a car: print the one line that lets it join, once, until it expires.

    The line holds this server's addresses, the fingerprint of its authority and a secret that only this line has: the
    server keeps its digest. A name that is enrolled already goes to the board that uses the line; the one before is
    revoked then.

    Example: fleven-server nodes invite car-3

    Example: fleven-server nodes invite car-0 --count 3 --labels fleet=north --expires 7d

    Example: fleven-server nodes invite car-3 --drop-in /media/card/etc/fleven/node.toml.d/50-join.toml
    """
    from fleven.server.nodes.registry import checked_label

    given = sorted({checked_label(part.strip()) for text in labels or () for part in text.split(",") if part.strip()})
    if (drop_in is not None or cloud_init) and count > 1:
        raise typer.BadParameter("one card is for one car: leave out --count", param_hint="--count")
    with operations(config) as server:
        made = server.invite(
            name,
            now(),
            partition_id=partition,
            labels=given,
            lasts=lasting(expires),
            count=count,
            reached_at=tuple(address or ()),
        )
        noted(server, Action.CAR_INVITED, made)
    if drop_in is not None:
        write_drop_in(drop_in, made[0])
    if as_json:
        print_json({"invitations": [invitation_json(one) for one in made]})
    elif cloud_init:
        typer.echo(cloud_config(made[0]))
    elif drop_in is None:
        print_invitations(made, qr=qr)
    else:
        typer.echo(f"{drop_in}: written; keep the card secret until {made[0].expires_at.astimezone():%a %d %b %H:%M}")


def lasting(text: str) -> timedelta:
    """Return a duration of the command line.

    Raises:
        BadParameter: it is none.
    """
    from fleven.server.schedules.parts import parse_duration

    try:
        return timedelta(seconds=float(parse_duration(text)))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from None


def invitation_json(one: Invited) -> dict[str, object]:
    """Return an invitation for programs."""
    return {
        "name": one.name,
        "partition_id": one.partition_id,
        "expires_at": one.expires_at,
        "code": one.code,
        "command": one.command,
        "replaces": one.replaces,
    }


def print_invitations(made: list[Invited], *, qr: bool) -> None:
    """Print the lines to paste; each stands alone on its line, so that it can be selected whole."""
    for one in made:
        until = f"{one.expires_at.astimezone():%a %d %b %H:%M}"
        where = "" if one.partition_id is None else f", partition-id {one.partition_id}"
        typer.echo(f"On {one.name}{where}, once, until {until}:", err=True)
        if one.replaces:
            typer.echo(f"({one.name} is enrolled: the board that uses this line takes its place)", err=True)
        typer.echo(f"sudo {one.command}")
        if qr:
            import segno

            segno.make(one.code, error="l").terminal(compact=True)


def cloud_config(one: Invited) -> str:
    """Return cloud-init user-data with which a fresh board joins at its first boot."""
    content = "".join(f"      {line}\n" for line in drop_in_text(one).splitlines())
    return (
        "#cloud-config\n"
        f"# Lets a fresh board join as {one.name}, once, until {one.expires_at:%Y-%m-%d %H:%M}Z.\n"
        "# Its image must hold the package fleven-node.\n"
        "write_files:\n"
        "  - path: /etc/fleven/node.toml.d/50-join.toml\n"
        '    permissions: "0600"\n'
        "    content: |\n"
        f"{content}"
        "runcmd:\n"
        # The file is root's; this lets the agent read it, as each boot does.
        "  - [systemd-tmpfiles, --create, fleven-node.conf]\n"
        "  - [systemctl, enable, fleven-agent]\n"
        # An agent that runs already has not seen the file.
        "  - [systemctl, restart, fleven-agent]"
    )


def drop_in_text(one: Invited) -> str:
    """Return a file for /etc/fleven/node.toml.d/ with which a board joins when its agent starts."""
    return f'# Joins the fleet as {one.name}, once, until {one.expires_at:%Y-%m-%d %H:%M}Z.\njoin = "{one.code}"\n'


def write_drop_in(file: Path, one: Invited) -> None:
    """Write the file for a fresh card.

    Raises:
        UsageError: it cannot be written.
    """
    from fleven.server.errors import UsageError
    from fleven_agent.common.files import write_atomically

    try:
        write_atomically(file, drop_in_text(one).encode(), 0o600)
    except OSError as error:
        hint = f"the invitation was made anyway; `nodes invite {one.name}` again makes another"
        raise UsageError(f"{file}: {(error.strerror or str(error)).lower()}", hint=hint) from None


def pending_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the cars that wait to be accepted, and those that are held, with the fingerprints of their keys.

    Compare a fingerprint with what `fleven-agent status` shows on the car before you accept it.

    Example: fleven-server nodes pending
    """
    from fleven.server.enrolment.keys import fingerprint
    from fleven.server.formatting import ago

    at = now()
    with operations(config) as server:
        waiting = server.waiting()
    if as_json:
        print_json({"pending": [identity_json(one) for one in waiting]})
        return
    out = console()
    if not waiting:
        out.print("No car waits.")
        return
    shown = table("NODE|fixed", "ID|right", "STATUS|fixed", "ASKED", "FROM", "WHY, AND THE KEY'S FINGERPRINT")
    for one in waiting:
        wished = "-" if one.partition_id is None else str(one.partition_id)
        words = f"{one.reason}\n" if one.reason else ""
        print_of = fingerprint(one.current.public_key)
        shown.add_row(one.name, wished, one.status.value, ago(one.asked_at, at), one.asked_from, f"{words}{print_of}")
    out.print(shown)
    out.print("\nfleven-server nodes accept NODE lets one in; reject NODE sends it away.", markup=False)


def identity_json(one: Identity) -> dict[str, object]:
    """Return a car for programs."""
    from fleven.server.enrolment.keys import fingerprint

    return {
        "name": one.name,
        "status": one.status.value,
        "car_id": one.car_id,
        "partition_id": one.partition_id,
        "fingerprint": fingerprint(one.current.public_key),
        "kind": one.kind.value,
        "reason": one.reason,
        "asked_from": one.asked_from,
        "asked_at": one.asked_at,
        "board_model": one.board_model,
        "flower_node_id": one.current.flower_node_id,
    }


def accept_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE]...", help="Names, or fingerprints (SHA256:...).")
    ] = None,
    all_pending: Annotated[bool, typer.Option("--all-pending", help="Every waiting car.")] = False,
    name: Annotated[str, typer.Option("--name", help="A name other than the one that the car asks for.")] = "",
    partition: PartitionOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let waiting cars in. One that is held is let in again and brings a new key.

    Example: fleven-server nodes accept car-0

    Example: fleven-server nodes accept --all-pending
    """
    given = names or []
    if bool(given) == all_pending:
        raise typer.BadParameter("name the cars, or give --all-pending", param_hint="NODE")
    if len(given) != 1 and (name or partition is not None):
        raise typer.BadParameter("--name and --partition are for one car", param_hint="NODE")
    with operations(config) as server:
        if all_pending:
            done = server.accept_all(now())
        else:
            done = [server.accept(one, now(), name=name, partition_id=partition) for one in given]
        noted(server, Action.CAR_ACCEPTED, done)
    tell(done, "accepted", as_json=as_json)


def reject_command(
    names: Annotated[list[str], typer.Argument(metavar="NODE...", help="Names, or fingerprints (SHA256:...).")],
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send waiting cars away; `accept` undoes it.

    Example: fleven-server nodes reject unknown-pi --reason "not ours"
    """
    with operations(config) as server:
        done = [server.reject(one, reason, now()) for one in names]
        noted(server, Action.CAR_REJECTED, done, reason)
    tell(done, "rejected", as_json=as_json)


def revoke_command(
    names: Annotated[list[str], typer.Argument(metavar="NODE...", help="Names, or fingerprints (SHA256:...).")],
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the membership of cars for good: their reports and their SuperNodes are refused, also in a run under way.

    A revoked key never comes back; `invite` lets the car in again with a new one.

    Example: fleven-server nodes revoke car-3 --reason "the card was stolen"
    """
    with operations(config) as server:
        done = [server.revoke(one, reason, now()) for one in names]
        noted(server, Action.CAR_REVOKED, done, reason)
    tell(done, "revoked", as_json=as_json)


def rotate_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE]...", help="Names, or fingerprints (SHA256:...).")
    ] = None,
    all_nodes: Annotated[bool, typer.Option("--all", help="Every enrolled car that has an agent.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask cars for a new key and a new secret; the old ones end with the first report that the new secret signs.

    While a run is under way no car changes its key, since it would leave the run: the wish waits for the run's end.

    Example: fleven-server nodes rotate car-3
    """
    from fleven.server.enrolment.model import Kind
    from fleven.server.enrolment.store import read
    from fleven.server.runs.store import open_runs
    from fleven_agent.protocol.identity import IdentityStatus

    if bool(names) == all_nodes:
        raise typer.BadParameter("name the cars, or give --all", param_hint="NODE")
    with operations(config) as server:
        members = read(server.store).identities.values() if all_nodes else ()
        accepted = [one for one in members if one.status is IdentityStatus.ACCEPTED and one.kind is Kind.AGENT]
        done = [server.rotate(one, now()) for one in names or sorted(one.car_id for one in accepted)]
        noted(server, Action.CAR_ROTATED, done)
        with server.store.read() as connection:
            waits = any(run.state.active for run in open_runs(connection))
    tell(done, "is asked for a new key when the run has ended" if waits else "asked for a new key", as_json=as_json)


def accept_key_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Public key: OpenSSH or PEM.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NODE", help="What the node will be called.", show_default=False)],
    partition: PartitionOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a plain flower-supernode in by its public key. It has no agent, so it shows as unmanaged.

    Example: fleven-server nodes accept-key lab.pub lab --partition 7
    """
    from fleven.server.enrolment.keys import read_key_file

    with operations(config) as server:
        done = [server.accept_key(read_key_file(file), name, partition, now())]
        noted(server, Action.CAR_ACCEPTED, done, "by its key")
    tell(done, "accepted", as_json=as_json)


def tell(done: list[Identity], what: str, *, as_json: bool) -> None:
    """Say what was decided."""
    if as_json:
        print_json({"nodes": [identity_json(one) for one in done]})
        return
    if not done:
        typer.echo("No car waits.")
    for one in done:
        where = "" if one.partition_id is None else f", partition-id {one.partition_id}"
        typer.echo(f"{one.name}: {what}{where}")
