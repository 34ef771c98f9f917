"""`fleven-server trust`: authority, certificate, and the way from the open mode to TLS. Thin: parses, calls, prints.

Works on files and register, so it answers while the service is down too. The running service takes a new certificate
by itself within a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleven.server.access.model import Action
from fleven.server.cli.common import ConfigOption, JsonOption, console, note, now, opened, print_json, table, tell

if TYPE_CHECKING:
    from fleven.server.cli.common import Opened
    from fleven.server.schemas.trust import TrustStatusAnswer

app = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="See and change whom the fleet trusts: authority, certificate, open mode.",
)


@app.callback()
def trust_command(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """See and change whom the fleet trusts: authority, certificate, open mode.

    Example: fleven-server trust

    Example: fleven-server trust add-name fleet.example.org
    """
    if context.invoked_subcommand is None:
        status_command(config=config, as_json=as_json)


@app.command("status")
def status_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show who gets in, each car's stage (open, enrolled, tls), what expires when, and what to do next.

    Example: fleven-server trust status --json
    """
    with opened(config) as server:
        status = read_status(server, config)
    if as_json:
        from fleven.server.schemas.trust import next_step

        print_json(status.model_dump(mode="json") | {"next_step": next_step(status)})
    else:
        print_status(status)


@app.command("show-ca")
def show_ca_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the certificates of the authorities that clients of this server must trust, as PEM.

    For a browser, curl, Prometheus, or `flwr` on another machine.

    Example: fleven-server trust show-ca > fleven-ca.crt
    """
    from fleven.server.config.loader import load
    from fleven.server.config.paths import Paths
    from fleven.server.trust.certificates import bundle_facts
    from fleven.server.trust.files import authority

    found = authority(load(config).config, Paths.from_environment(), now())
    if as_json:
        fingerprints = [one.fingerprint for one in bundle_facts(found.bundle.encode())]
        print_json({"ca_certificates": found.bundle, "fingerprints": fingerprints})
        return
    typer.echo(f"SHA-256 {found.fingerprint}", err=True)
    typer.echo(found.bundle, nl=False)


@app.command("add-name")
def add_name_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="DNS name or address by which cars reach this server.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the server's certificate valid for one more name, for ever. The machine's own names are detected.

    Example: fleven-server trust add-name fleet.example.org
    """
    from fleven.server.trust.files import trust_files

    with opened(config, create=True) as server:
        if trust_files(server.paths).add_name(name):
            with server.store.write() as connection:
                note(connection, Action.NAME_ADDED, name.lower())
        make_certificate(server, as_json=as_json)


@app.command("renew")
def renew_command(
    authority: Annotated[
        bool,
        typer.Option("--authority", help="Replace the authority too; cars learn the new one with their next report."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new certificate now. This happens by itself 30 days before its end and when addresses change.

    Example: fleven-server trust renew
    """
    with opened(config, create=True) as server:
        make_certificate(server, as_json=as_json, asked=True, authority=authority)


@app.command("enforce")
def enforce_command(
    force: Annotated[bool, typer.Option("--force", help="Even if cars that take part now would be shut out.")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Fail when a run is open, instead of waiting for its end.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the open mode that an upgrade from 0.1 kept: from then on only enrolled cars get in, over TLS.

    Waits until no run is open, removes insecure = true and restarts SuperLink and server.

    Example: sudo fleven-server trust enforce
    """
    from fleven.server.cli.enforce import enforce
    from fleven.server.schemas.trust import shut_out

    with opened(config) as server:
        cars = read_status(server, config).cars
        done = enforce(server, config, cars, force=force, wait=not no_wait)
        if done["changed"]:
            left = shut_out(cars)
            with server.store.write() as connection:
                note(connection, Action.DOORS_CLOSED, detail=f"shut out: {', '.join(left)}" if left else "")
    if as_json:
        print_json(done)
    else:
        tell(done["message"])


def make_certificate(server: Opened, *, as_json: bool, asked: bool = False, authority: bool = False) -> None:
    """Bring the certificate up to date, write down what was made, and print what it holds for."""
    from fleven.server.trust.files import trust_files
    from fleven.server.trust.upkeep import bring_up_to_date

    files = trust_files(server.paths)
    made = bring_up_to_date(server.config, server.paths, now(), asked=asked, authority_asked=authority)
    facts = files.server_facts()
    with server.store.write() as connection:
        if made.authority is not None:
            note(connection, Action.AUTHORITY_RENEWED, files.authority_facts()[0].fingerprint, made.authority.value)
        if made.server is not None:
            ends = f"until {facts.ends:%Y-%m-%d}" if facts is not None else ""
            note(connection, Action.CERTIFICATE_RENEWED, facts.fingerprint if facts is not None else "", ends)
    names = sorted(facts.names) if facts is not None else []
    if as_json:
        print_json({"made": made.server, "authority_made": made.authority, "names": names})
        return
    what = "made another certificate" if made.server is not None else "the certificate is up to date"
    tell(f"{what}; it holds for {', '.join(names)}")
    if made.server is not None:
        tell("a running server shows it within a minute; the SuperLink is started again when no run is open")


def read_status(server: Opened, config: Path | None) -> TrustStatusAnswer:
    """Read who gets in, and what ends when."""
    from fleven.server.cli.enforce import insecure_files
    from fleven.server.config.loader import load
    from fleven.server.enrolment import store as enrolment_store
    from fleven.server.nodes.registry import NodeRegistry
    from fleven.server.schemas.status import EndAnswer
    from fleven.server.schemas.trust import TrustStatusAnswer, WaitingAnswer, car_trust
    from fleven.server.trust.ends import certificate_ends, tailscale_end
    from fleven.server.trust.files import trust_files
    from fleven_agent.common.tailscale import tailscale_status
    from fleven_agent.protocol.identity import IdentityStatus

    at, files = now(), trust_files(server.paths)
    ends, tailscale = certificate_ends(server.config, server.paths), tailscale_status()
    if tailscale is not None and tailscale.key_ends is not None:
        ends = [*ends, tailscale_end(tailscale.key_ends)]
    insecure = server.config.insecure
    nodes = [record.node for record in NodeRegistry.from_config(server.store, server.config).records(at)]
    authorities, facts = files.authority_facts(), files.server_facts()
    waits = (IdentityStatus.PENDING, IdentityStatus.HELD)
    return TrustStatusAnswer(
        insecure=insecure,
        insecure_files=insecure_files(load(config)) if insecure else [],
        fingerprint=authorities[0].fingerprint if authorities else None,
        names=sorted(facts.names) if facts is not None else [],
        given_names=list(files.given_names()),
        ends=[EndAnswer.of(end, at) for end in ends],
        cars=car_trust(nodes, insecure=insecure),
        waiting=[
            WaitingAnswer(name=one.name, status=one.status)
            for one in enrolment_store.read(server.store).identities.values()
            if one.status in waits
        ],
    )


def print_status(status: TrustStatusAnswer) -> None:
    """Print who gets in, and what ends when."""
    from fleven.server.cli.run_tables import styled
    from fleven.server.formatting import ago
    from fleven.server.schemas.trust import next_step

    out = console()
    if status.insecure:
        source = f" ({status.insecure_files[-1]})" if status.insecure_files else ""
        out.print(styled(f"open: strangers may join and report, connections need not be encrypted{source}", "red"))
    else:
        out.print(styled("closed: only enrolled cars, over TLS", "green"))
    out.print(f"authority  {status.fingerprint or 'none yet: the server has not run'}", soft_wrap=True)
    if status.names:
        out.print(f"names      {', '.join(status.names)}")
    for end in status.ends:
        out.print(styled(f"{'':11}{end.message}", "" if end.outlook == "fine" else "yellow"))
    if status.cars:
        shown = table("car", "stage|fixed", "state|fixed", "last report|fixed")
        at = now()
        for car in status.cars:
            shown.add_row(car.name, car.stage.value, car.health, ago(car.last_seen_at, at))
        out.print()
        out.print(shown)
    if step := next_step(status):
        out.print()
        out.print(styled(f"next: {step}", "bold"), soft_wrap=True)
