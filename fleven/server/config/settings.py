"""server.toml as frozen models: every key with its default, its bounds, and what must fit together.

Checks too whether the certificates and keys that are named can be used. Must not import the database.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from fleven.server.config.paths import Paths
from fleven_agent.common import addresses


def readable(value: Path | None) -> Path | None:
    """Return a file that this user can read, or None.

    Raises:
        ValueError: it is missing, or not readable.
    """
    if value is not None and not os.access(value, os.R_OK):
        raise ValueError(f"{value} is missing or not readable (the service runs as user fleven-server)")
    return value


def check_pair(certificate: Path, private_key: Path) -> None:
    """Load a certificate with its key, as a TLS server does.

    Raises:
        ValueError: either cannot be read as one, they do not belong together, or the key has a password.
    """
    # Imported late: OpenSSL costs every command some milliseconds, and most servers run without TLS.
    import ssl

    try:
        # An empty password keeps OpenSSL from asking the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key, password="")
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        text = f"{certificate} and {private_key} cannot be used: {str(reason).lower().replace('_', ' ')}"
        raise ValueError(f"{text} (a PEM certificate and its own key, without a password)") from error


PACKAGED_APP = Path("/usr/share/fleven/app")
FLEET_PORT, CONTROL_PORT, SERVERAPPIO_PORT, WEB_PORT = 9092, 9093, 9091, 9190

EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- compared, not bound


def kebab(name: str) -> str:
    """Return the TOML spelling of a field name."""
    return name.replace("_", "-")


class Table(BaseModel):
    """Base of every table of server.toml: frozen, kebab-case, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=kebab, populate_by_name=True)


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` (an IPv6 host in brackets).

    Raises:
        ValueError: it has no port between 1 and 65535, or no host.
    """
    try:
        return addresses.split(address)
    except ValueError as error:
        host, _, port = address.rpartition(":")
        if host in ("", "*") and port.isdigit():
            raise ValueError(f'is not an address: write "0.0.0.0:{port}" for all addresses of this machine') from None
        raise ValueError(f"is not an address (write host:port, for example 127.0.0.1:9093): {error}") from None


def local_address(address: str) -> str:
    """Return an address that this machine itself can connect to: a wildcard host becomes the loopback address."""
    host, port = split_address(address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    return addresses.join(host, port)


class SuperLinkTable(Table):
    """Where the SuperLink listens, and how."""

    fleet_address: str = f"0.0.0.0:{FLEET_PORT}"
    control_address: str = f"127.0.0.1:{CONTROL_PORT}"
    serverappio_address: str = f"127.0.0.1:{SERVERAPPIO_PORT}"
    certificate: Path | None = None
    private_key: Path | None = None
    root_certificates: Path | None = None
    supernode_authentication: bool | None = None
    """None: on, unless the server is `insecure`."""
    server_app_cell: Literal["required", "off"] = "required"
    """Whether a ServerApp must work apart from the server, as another user."""

    @field_validator("fleet_address", "control_address", "serverappio_address")
    @classmethod
    def _address(cls, value: str) -> str:
        split_address(value)
        return value

    _readable = field_validator("certificate", "private_key", "root_certificates")(readable)

    @model_validator(mode="after")
    def _consistent(self) -> SuperLinkTable:
        given = [self.certificate, self.private_key, self.root_certificates]
        if any(given) and not all(given):
            raise ValueError("certificate, private-key and root-certificates belong together (give all or none)")
        if self.certificate and self.private_key:
            check_pair(self.certificate, self.private_key)
        ports = [split_address(a)[1] for a in (self.fleet_address, self.control_address, self.serverappio_address)]
        if len(set(ports)) < len(ports):
            raise ValueError("fleet-address, control-address and serverappio-address need three different ports")
        return self

    @property
    def insecure(self) -> bool:
        """Whether this table names no certificate: as `superlink_in_force` returns it, whether it runs without TLS."""
        return self.certificate is None


class WebTable(Table):
    """The fleet report API and the web page."""

    address: str = f"0.0.0.0:{WEB_PORT}"
    certificate: Path | None = None
    private_key: Path | None = None
    report_token: SecretStr | None = Field(default=None, min_length=16, max_length=256)
    maximum_report_bytes: int = Field(default=1_000_000, ge=10_000, le=50_000_000)
    maximum_unpacked_report_bytes: int = Field(default=8_000_000, ge=10_000, le=200_000_000)
    requests_per_minute: int = Field(default=120, ge=10, le=100_000)
    session_idle_hours: float = Field(default=12, ge=0.1, le=24 * 30)
    session_days: float = Field(default=7, ge=0.01, le=90)

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        split_address(value)
        return value

    _readable = field_validator("certificate", "private_key")(readable)

    @model_validator(mode="after")
    def _pair(self) -> WebTable:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private-key belong together (give both or none)")
        if self.certificate and self.private_key:
            check_pair(self.certificate, self.private_key)
        return self


class FleetTable(Table):
    """When a silent car counts as stale and as offline."""

    count_unmanaged: bool = False
    stale_after_seconds: int = Field(default=45, ge=5, le=86_400)
    offline_after_seconds: int = Field(default=120, ge=10, le=604_800)
    maximum_nodes: int = Field(default=5_000, ge=1, le=100_000)

    @model_validator(mode="after")
    def _order(self) -> FleetTable:
        if self.offline_after_seconds < self.stale_after_seconds:
            raise ValueError("offline-after-seconds must not be below stale-after-seconds")
        return self


class SchedulerTable(Table):
    """Limits of the run scheduler."""

    max_concurrent_runs: int = Field(default=1, ge=1, le=100)
    tick_seconds: float = Field(default=1.0, ge=0.1, le=10)
    node_refresh_seconds: float = Field(default=60, ge=5, le=3600)
    command_timeout_seconds: float = Field(default=60, ge=10, le=600)


class RetentionTable(Table):
    """How long the server keeps what it stores."""

    backups_days: int = Field(default=7, ge=1, le=365)
    backup_hour: int = Field(default=3, ge=0, le=23)
    runs_days: int = Field(default=365, ge=1)
    raw_samples_hours: int = Field(default=24, ge=1, le=720)
    hourly_samples_days: int = Field(default=90, ge=1)
    node_events_days: int = Field(default=90, ge=1)
    audit_days: int = Field(default=365, ge=1)


def age_recipient(text: str) -> Any:
    """Return a public key as the library of age takes it.

    Raises:
        ValueError: it is none.
    """
    # Imported late: most servers name none, and no other command needs it.
    import pyrage

    try:
        return (pyrage.ssh if text.startswith("ssh-") else pyrage.x25519).Recipient.from_str(text.strip())
    except pyrage.RecipientError as error:
        hint = "age1… of `age-keygen`, or a line of an SSH public key, ed25519 or RSA"
        # What somebody has mistaken for a public key may be the private one.
        shown = "the private key" if "SECRET" in text.upper() else repr(text[:60])
        raise ValueError(f"{shown} is not a public key of age or SSH: {error} ({hint})") from None


class BackupTable(Table):
    """For whom the nightly backup with keys is sealed."""

    recipients: tuple[str, ...] = Field(default=(), max_length=20)

    @field_validator("recipients")
    @classmethod
    def _recipients(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            age_recipient(one)
        return value


class ServerConfig(Table):
    """The whole of server.toml; every key has a default."""

    app_path: Path | None = None
    insecure: bool = False
    """Whether strangers may join and report, and transport may be plain where no certificate is named."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    superlink: SuperLinkTable = SuperLinkTable()
    web: WebTable = WebTable()
    fleet: FleetTable = FleetTable()
    scheduler: SchedulerTable = SchedulerTable()
    retention: RetentionTable = RetentionTable()
    backup: BackupTable = BackupTable()

    @field_validator("app_path")
    @classmethod
    def _app(cls, value: Path | None) -> Path | None:
        if value is not None and not (value.is_file() or (value / "pyproject.toml").is_file()):
            raise ValueError(f"{value} is neither a .fab file nor a folder with pyproject.toml")
        return value

    @model_validator(mode="after")
    def _doors(self) -> ServerConfig:
        authentication = self.superlink.supernode_authentication
        if authentication and self.insecure and self.superlink.insecure:
            text = "superlink.supernode-authentication needs TLS"
            raise ValueError(f"{text} (remove insecure = true, or name certificates of your own)")
        if authentication is False and not self.insecure:
            raise ValueError("superlink.supernode-authentication = false lets everybody in: it needs insecure = true")
        return self

    @model_validator(mode="after")
    def _ports(self) -> ServerConfig:
        host, port = split_address(self.web.address)
        for key in ("fleet_address", "control_address", "serverappio_address"):
            other_host, other_port = split_address(getattr(self.superlink, key))
            if port == other_port and (host == other_host or {host, other_host} & EVERY_ADDRESS):
                name = f"superlink.{kebab(key)}"
                raise ValueError(f"web.address and {name} need two different ports, and both have {port}")
        return self

    @property
    def plain_reports(self) -> bool:
        """Whether reports and page are answered without TLS too, as version 0.1.0 did."""
        return self.insecure and self.web.certificate is None

    def app(self) -> Path:
        """Return the folder of the default app: app-path, else the checkout that runs, else the packaged one."""
        if self.app_path is not None:
            return self.app_path
        checkout = Path(__file__).resolve().parents[3]
        return checkout if (checkout / "pyproject.toml").is_file() else PACKAGED_APP


def superlink_in_force(config: ServerConfig, paths: Paths) -> SuperLinkTable:
    """Return `[superlink]` as the SuperLink runs with it: with the server's own certificate where none is named."""
    table = config.superlink
    if not table.insecure:
        authentication = table.supernode_authentication
        return table.model_copy(
            update={"supernode_authentication": not config.insecure if authentication is None else authentication}
        )
    if config.insecure:
        return table.model_copy(update={"supernode_authentication": False})
    own = {
        "certificate": paths.trust / "server.crt",
        "private_key": paths.trust / "server.key",
        "root_certificates": paths.trust / "ca.crt",
    }
    return table.model_copy(update={**own, "supernode_authentication": True})
