"""The diagnostics of `fleven-server check`, each with a stable id, and a hint when all is not well.

Ids are `group.name` and never change once shipped, so that scripts can name them. The checks run in the command's own
process and only look: nothing is created or repaired. Must not import typer or FastAPI.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleven.server.config.loader import Loaded, load
from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig, local_address
from fleven.server.database import Store, open_store
from fleven.server.database.engine import check_integrity
from fleven.server.database.facts import BACKUP_FACT, KEYS_BACKUP_FACT, backup_failures
from fleven.server.errors import ConfigurationError, ServerError
from fleven.server.flower import app_cell, flwr_command, line
from fleven.server.flower.certificate_problem import certificate_problem
from fleven.server.flower.superlink_database import database_obstacles
from fleven.server.nodes.model import NodeHealth
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.schemas.status import StatusAnswer, disk_answer, server_status, service_answer
from fleven.server.service_user import unreadable_for_service
from fleven.server.trust.ends import End, Outlook, certificate_ends, tailscale_end, to_tell
from fleven.server.trust.files import trust_files
from fleven_agent.common import firewall, flower_versions
from fleven_agent.common.checks import Check, Result, SkippedError, error, ok, skipped, warning
from fleven_agent.common.foreign_text import printable
from fleven_agent.common.tailscale import tailscale_status

if TYPE_CHECKING:
    import ssl


@dataclass
class Context:
    """What checks look at; costly parts are worked out once, when first asked for."""

    config_file: Path | None
    paths: Paths
    now: datetime

    @cached_property
    def loaded(self) -> Loaded | ConfigurationError:
        """The configuration, or what is wrong with it."""
        try:
            return load(self.config_file)
        except ConfigurationError as caught:
            return caught

    @property
    def config(self) -> ServerConfig:
        """The configuration.

        Raises SkippedError when it cannot be used.
        """
        if isinstance(self.loaded, ConfigurationError):
            raise SkippedError("server.toml cannot be used")
        return self.loaded.config

    @cached_property
    def store(self) -> Store:
        """The open register.

        Raises SkippedError when there is none or it cannot be used; `register.open` says why.
        """
        if not self.paths.register.exists():
            raise SkippedError("there is no register yet")
        try:
            return open_store(self.paths.register)
        except ServerError as caught:
            raise SkippedError("the register cannot be opened") from caught

    @cached_property
    def status(self) -> StatusAnswer:
        """Everything that `status` shows."""
        return server_status(
            self.store, NodeRegistry.from_config(self.store, self.config), self.config, self.paths, self.now
        )

    def close(self) -> None:
        """Close the register."""
        if "store" in self.__dict__:
            self.store.close()


HINT_FOR_A_DEFECT = "report this to the maintainers with the journal of fleven-server"
HTTP_TIMEOUT_SECONDS = 5.0
BACKUP_LATE = timedelta(hours=30)
"""One is made every night."""


def configuration_valid(context: Context) -> Result:
    """server.toml and its drop-ins, by the daemon's own parser."""
    if isinstance(context.loaded, ConfigurationError):
        lines = context.loaded.problems or (context.loaded.message,)
        return error("; ".join(lines), "correct server.toml, then `fleven-server config check`")
    if problems := unreadable_for_service(context.loaded, context.paths):
        return error("; ".join(problems), "the services' user must be able to read them")
    files = ", ".join(map(str, context.loaded.files))
    return ok(files or "no file, all defaults")


def configuration_token(context: Context) -> Result:
    """Whether everybody who can reach the report address may report."""
    web = context.config.web
    host = web.address.rpartition(":")[0]
    if web.report_token is not None:
        return ok("reports need a token")
    if host in ("127.0.0.1", "[::1]", "localhost"):
        return ok("reports are accepted from this machine only")
    return ok(f"{web.address} accepts reports without a token: keep it inside the VPN, or set web.report-token")


def configuration_app(context: Context) -> Result:
    """The app that schedules run by default."""
    app = context.config.app()
    if app.is_file() or (app / "pyproject.toml").is_file():
        return ok(str(app))
    return error(f"{app}: there is no app", "install the fleven-server package again, or set app-path in server.toml")


def machine_state(context: Context) -> Result:
    """The state folder."""
    state = context.paths.state
    if not state.is_dir():
        return error(
            f"{state}: is not a folder", "systemctl start fleven-server creates it; or set FLEVEN_SERVER_STATE_DIR"
        )
    if not os.access(state, os.R_OK | os.X_OK):
        return error(f"{state}: this user may not look into it", "run it as root or as fleven-server: use sudo")
    if not os.access(state, os.W_OK | os.X_OK):
        owner = pwd.getpwuid(state.stat().st_uid).pw_name if state.stat().st_uid in known_users() else "another user"
        return warning(f"{state}: belongs to {owner}", "run this check with sudo, or sudo -u fleven-server")
    return ok(str(state))


def known_users() -> set[int]:
    """User ids that have a name."""
    return {entry.pw_uid for entry in pwd.getpwall()}


def machine_disk(context: Context) -> Result:
    """Space for register, checkpoints and models."""
    if not context.paths.state.is_dir():
        return skipped("there is no state folder")
    disk = disk_answer(context.paths)
    text = f"{disk.free_bytes / 1e9:.1f} GB of {disk.total_bytes / 1e9:.1f} GB free"
    if disk.low:
        return error(text, f"free some space: du -sh {disk.path}/*")
    return ok(text)


def machine_proxy(_context: Context) -> Result:
    """Whether a proxy is set here that `flwr`, called by hand, would ask for the SuperLink."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):  # in the order in which gRPC looks
        if os.environ.get(name):
            text = f"{name} is set: fleven-server ignores it, but a `flwr` called here uses it to reach the SuperLink"
            return warning(text, "export grpc_proxy= before you call flwr by hand")
        if name in os.environ:
            break
    return ok("no proxy stands between `flwr` and the SuperLink")


FIREWALL_UNIT, FIREWALL_TABLE = "fleven-server-firewall.service", "fleven_server"


def machine_local_users(_context: Context) -> Result:
    """Whether only root and the server's user reach the Control API and the port for ServerApps on this machine."""
    found = firewall.look(FIREWALL_UNIT, FIREWALL_TABLE)
    if not found.installed:
        return skipped("only the package brings an nftables table")
    wrong = firewall.problem(
        found, FIREWALL_UNIT, "ports 9091 and 9093, and may start code on the server and in all cars"
    )
    return ok("only root and the server reach ports 9091 and 9093") if wrong is None else warning(*wrong)


def machine_cell(context: Context) -> Result:
    """Whether ServerApps work apart from the server: starts a cell to ask it."""
    if context.config.superlink.server_app_cell == "off":
        return warning(
            "apps can do all that the server can: read its keys and its register, and reach what it reaches",
            'remove server-app-cell = "off" from [superlink], then systemctl restart fleven-superlink',
        )
    path = app_cell.socket_path()
    if not os.access(path.parent, os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        return skipped("only root and the server's own user may ask the cell: use sudo")
    problem = app_cell.problem(path)
    if problem:
        return error(printable(problem), "systemctl restart fleven-app.socket ; journalctl -u 'fleven-app@*'")
    return ok("ServerApps work as another user, without network, keys or state")


def machine_clock(_context: Context) -> Result:
    """Whether this machine's clock follows a time server: schedules and reports depend on it."""
    if not Path("/run/systemd/timesync").exists() and shutil.which("chronyc") is None:
        return skipped("no time service found on this machine")
    if Path("/run/systemd/timesync/synchronized").exists():
        return ok("synchronised")
    if shutil.which("chronyc") is not None:
        return ok("kept by chrony")
    return warning("not synchronised yet", "timedatectl set-ntp true ; timedatectl timesync-status")


def flower_version(_context: Context) -> Result:
    """The installed Flower."""
    version = line.installed_version()
    if not version:
        return error("flwr is not installed", "install the fleven-server package again")
    if not flower_versions.is_supported(version):
        return error(
            f"flwr {version} is installed, this server knows {flower_versions.RANGE_TEXT}", flower_versions.INSTALL_HINT
        )
    return ok(f"flwr {version}")


def flower_database(context: Context) -> Result:
    """The SuperLink's database."""
    obstacles = database_obstacles(context.paths)
    if obstacles:
        return error(obstacles[0].problem, "see journalctl -u fleven-superlink")
    if not context.paths.superlink_database.exists():
        return skipped("the SuperLink has not run yet")
    return ok(str(context.paths.superlink_database))


def register_open(context: Context) -> Result:
    """The register opens, and is of this version."""
    if not context.paths.register.exists():
        return skipped("there is none yet: the service creates it at its first start")
    try:
        open_store(context.paths.register).close()
    except ServerError as caught:
        return error(caught.message, caught.hint or "journalctl -u fleven-server")
    return ok(str(context.paths.register))


def register_integrity(context: Context) -> Result:
    """Every page of the register."""
    if not context.paths.register.exists():
        return skipped("there is no register yet")
    try:
        check_integrity(context.paths.register)
    except ServerError as caught:
        return error(caught.message, caught.hint or "restore a backup")
    with closing(sqlite3.connect(context.paths.register)) as connection:
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    if broken:
        return error(
            f"{len(broken)} rows refer to missing rows", "restore a backup, and send this register to the maintainers"
        )
    return ok("every page is intact")


def register_backup(context: Context) -> Result:
    """The nightly copy, and the nightly backup with keys."""
    if failures := backup_failures(context.store, sealed=bool(context.config.backup.recipients)):
        return warning("; ".join(failures), "journalctl -u fleven-server | grep -e backup -e housekeeping")
    fact, keys = context.store.fact(BACKUP_FACT), context.store.fact(KEYS_BACKUP_FACT)
    if fact is None and keys is not None:
        return warning(f"no nightly copy yet; {keys_backup(keys, context.now)}", "see the journal of the service")
    if fact is None:
        return warning("no backup was made yet", "the service makes one at its first start; see its journal")
    hours = (context.now - fact[1]).total_seconds() / 3600
    if context.now - fact[1] > BACKUP_LATE:
        return warning(f"the newest is {hours:.0f} h old", "journalctl -u fleven-server | grep backup")
    text = f"{fact[0].get('file', 'made')}, {hours:.0f} h old"
    return ok(f"{text}; {keys_backup(keys, context.now)}")


def keys_backup(fact: tuple[Any, datetime] | None, now: datetime) -> str:
    """Return which backup holds the keys."""
    if fact is None:
        return "none holds the keys yet (fleven-server backup, or backup.recipients)"
    return f"with the keys: {fact[0].get('file', 'made')}, {(now - fact[1]).days} d old"


def service_running(context: Context) -> Result:
    """The scheduler's loop, by its heartbeat."""
    service = service_answer(context.store, context.now)
    if service.running:
        return ok(f"process {service.pid}, version {service.version}")
    return error("fleven-server is not running: nothing fires", "systemctl status fleven-server")


def service_http(context: Context) -> Result:
    """What the report address itself answers."""
    web = context.config.web
    scheme = "http" if context.config.plain_reports else "https"
    url = f"{scheme}://{local_address(web.address)}/healthz"
    import ssl

    # The name in the certificate matters to the cars: here only the answer counts.
    trust = ssl._create_unverified_context() if scheme == "https" else None  # noqa: S323
    try:
        with unproxied(trust).open(url, timeout=HTTP_TIMEOUT_SECONDS) as answer:
            return ok(f"{url} answers {answer.status}")
    except urllib.error.HTTPError as caught:
        said = printable(caught.read(2000).decode(errors="replace"))
        return error(f"{url} answers {caught.code}: {said}", "journalctl -u fleven-server")
    except (OSError, ValueError) as caught:
        return error(f"{url}: {printable(str(caught))}", "systemctl status fleven-server")


def unproxied(trust: ssl.SSLContext | None = None) -> urllib.request.OpenerDirector:
    """Return an opener that asks no proxy: what is asked here runs on this machine."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    return urllib.request.build_opener(*handlers, *([urllib.request.HTTPSHandler(context=trust)] if trust else []))


def service_superlink(context: Context) -> Result:
    """Whether the SuperLink answers at its Control API."""
    address = local_address(context.config.superlink.control_address)
    flower = flwr_command.flower_for(context.config, context.paths)
    if flower.reachable():
        roots = flower.root_certificates
        if roots is not None and (problem := certificate_problem(address, roots)):
            return error(
                f"answers at {address}, but its certificate is refused: {problem}",
                "fleven-server check --only service.certificate",
            )
        return ok(f"answers at {address}")
    if (
        os.geteuid() not in {0, context.paths.state.stat().st_uid}
        and firewall.look(FIREWALL_UNIT, FIREWALL_TABLE).active
    ):
        return skipped(f"only root and the server reach {address} on this machine; sudo fleven-server check says more")
    return error(f"nothing answers at {address}", "systemctl status fleven-superlink")


def service_certificate(context: Context) -> Result:
    """How long the certificates hold, the server's own and the operator's."""
    return judged(certificate_ends(context.config, context.paths), context.now, "no certificate yet")


def service_tailscale(context: Context) -> Result:
    """How long Tailscale's own key of this machine holds."""
    found = tailscale_status()
    if found is None:
        return skipped("Tailscale is not installed, is not running, or does not answer this user")
    if found.key_ends is None:
        return ok(f"{found.name}: its key does not expire")
    return judged([tailscale_end(found.key_ends)], context.now, "")


def judged(ends: Sequence[End], now: datetime, none: str) -> Result:
    """Return one result for all that ends: what ends first decides."""
    if not ends:
        return skipped(none)
    near = to_tell(ends, now)
    if not near:
        first = min(ends, key=lambda end: end.ends)
        return ok(first.text(now))
    text, hint = "; ".join(end.text(now) for end in near), near[0].hint
    return error(text, hint) if near[0].outlook(now) is Outlook.ENDED else warning(text, hint)


def service_authority(context: Context) -> Result:
    """Whom the cars believe."""
    files = trust_files(context.paths)
    authorities = files.authority_facts()
    if not authorities:
        if files.authority_bundle.exists():
            return error(f"{files.authority_bundle}: cannot be read as certificates", "restore it from a backup")
        return skipped("the server has not run yet")
    replaced = f", and {len(authorities) - 1} that it replaces" if len(authorities) > 1 else ""
    return ok(f"{authorities[0].fingerprint}{replaced}")


def service_doors(context: Context) -> Result:
    """Whether only enrolled cars get in, encrypted."""
    if context.config.insecure:
        text = "insecure = true: strangers may join and report, and connections need not be encrypted"
        return warning(text, "fleven-server trust status")
    return ok("only enrolled cars, over TLS")


def fleet_nodes(context: Context) -> Result:
    """Which nodes are ready."""
    fleet = context.status.fleet
    if not fleet.nodes:
        return warning("no node has reported yet", "on each Pi: fleven-agent check")
    text = f"{fleet.ready} of {fleet.nodes} ready"
    bad = [h for h in (NodeHealth.ZOMBIE, NodeHealth.FAILED) if fleet.by_health.get(h.value)]
    if bad:
        counts = ", ".join(f"{fleet.by_health[h.value]} {h.value}" for h in bad)
        return warning(f"{text}, {counts}", "fleven-server nodes")
    if not fleet.ready:
        return warning(text, "fleven-server nodes says why")
    return ok(text)


def fleet_partitions(context: Context) -> Result:
    """Every car has its own partition-id, and all have the server's Flower."""
    conditions = context.status.fleet.conditions
    found = [code for code in ("duplicate-partition", "duplicate-name", "version-mismatch") if conditions.get(code)]
    if found:
        return warning(", ".join(f"{conditions[code]} nodes with {code}" for code in found), "fleven-server nodes")
    return ok("partition-ids and names differ, versions agree")


ALL: tuple[Check[Context], ...] = (
    Check("configuration.valid", "server.toml and its drop-ins", configuration_valid),
    Check("configuration.token", "who may send reports", configuration_token),
    Check("configuration.app", "the app that schedules run", configuration_app),
    Check("machine.state", "the state folder", machine_state),
    Check("machine.disk", "free space", machine_disk),
    Check("machine.proxy", "proxies in the environment", machine_proxy),
    Check("machine.clock", "this machine's clock", machine_clock),
    Check("machine.local-users", "who reaches the Control API", machine_local_users),
    Check("machine.cell", "what an app may do here", machine_cell),
    Check("flower.version", "the installed Flower", flower_version),
    Check("flower.database", "the SuperLink's database", flower_database),
    Check("register.open", "the register opens", register_open),
    Check("register.integrity", "the register is intact", register_integrity),
    Check("register.backup", "the nightly backup", register_backup),
    Check("service.running", "the scheduler's loop runs", service_running),
    Check("service.http", "report address and page", service_http),
    Check("service.superlink", "the SuperLink answers", service_superlink),
    Check("service.certificate", "certificates", service_certificate),
    Check("service.authority", "whom the cars trust", service_authority),
    Check("service.doors", "who gets in", service_doors),
    Check("service.tailscale", "Tailscale's own key", service_tailscale),
    Check("fleet.nodes", "nodes that are ready", fleet_nodes),
    Check("fleet.partitions", "partition-ids, names, versions", fleet_partitions),
)
