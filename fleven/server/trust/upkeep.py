"""Bringing the server's certificate up to date: at a start, and from time to time while the service runs.

Finds the names, lets `files` make what is wanted, and says so in the journal. Must not know runs or the register.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from fleven.server.config.paths import Paths
from fleven.server.config.settings import EVERY_ADDRESS, ServerConfig, split_address, superlink_in_force
from fleven.server.errors import ConfigurationError, TemporaryError, permission_hint
from fleven.server.trust.certificates import Lifetimes, is_name
from fleven.server.trust.files import LIFETIMES, Made, facts_of, trust_files
from fleven.server.trust.names import MachineNames, interface_addresses, machine_names

logger = logging.getLogger("fleven.server.trust")

SLOW_NAMES_EVERY = timedelta(hours=1)
"""How often the resolver and Tailscale are asked; the interfaces are looked at each time."""


def configured_hosts(config: ServerConfig) -> frozenset[str]:
    """Return the hosts that server.toml binds by name or address: clients connect to them."""
    addresses = (config.superlink.fleet_address, config.superlink.control_address, config.web.address)
    hosts = {split_address(address)[0].lower() for address in addresses} - EVERY_ADDRESS
    return frozenset(host for host in hosts if is_name(host))


@dataclass
class NameFinder:
    """Finds the names that the certificate must hold for; remembers what is slow to find.

    Attributes:
        config: server.toml.
        look_up: asks the machine for all its names.
    """

    config: ServerConfig
    look_up: Callable[[], MachineNames] = machine_names
    _machine: MachineNames | None = field(default=None, init=False)
    _looked_at: datetime | None = field(default=None, init=False)

    def names(self, now: datetime) -> frozenset[str]:
        """Return all names and addresses of the moment."""
        fresh = self._looked_at is not None and timedelta(0) <= now - self._looked_at < SLOW_NAMES_EVERY
        if self._machine is None or not fresh:
            self._machine, self._looked_at = self.look_up(), now
            return self._machine.certified() | configured_hosts(self.config)
        return self._machine.certified(interface_addresses()) | configured_hosts(self.config)


CERTIFICATE_SECONDS = "FLEVEN_CERTIFICATE_SECONDS"


def lifetimes_from(environment: Mapping[str, str]) -> Lifetimes:
    """Return how long certificates hold: a server's, shorter where FLEVEN_CERTIFICATE_SECONDS says so.

    With it a renewal can be tried out without waiting for a year. Two thirds of a short life before its end the next
    certificate is made.

    Raises:
        ConfigurationError: it is no number of seconds from 60 to the usual life.
    """
    text = environment.get(CERTIFICATE_SECONDS)
    if not text:
        return LIFETIMES
    longest = LIFETIMES.server.total_seconds()
    if not text.isascii() or not text.isdecimal() or not 60 <= int(text) <= longest:
        hint = "leave it out: certificates then hold for 397 days"
        raise ConfigurationError(f"{CERTIFICATE_SECONDS}: {text!r} is not a number from 60 to {longest:.0f}", hint=hint)
    life = timedelta(seconds=int(text))
    return replace(LIFETIMES, server=life, replace_server=min(LIFETIMES.replace_server, life * 2 / 3))


def bring_up_to_date(
    config: ServerConfig,
    paths: Paths,
    now: datetime,
    *,
    finder: NameFinder | None = None,
    asked: bool = False,
    authority_asked: bool = False,
) -> Made:
    """Make what is missing, ends soon or does not hold for all names, and tell the journal.

    Args:
        config: server.toml.
        paths: the server's folders.
        now: the current moment.
        finder: finds the names; None: a new one.
        asked: make another certificate in any case.
        authority_asked: replace the authority in any case.

    Raises:
        ConfigurationError: the authority is damaged, or the folder belongs to somebody else.
        TemporaryError: the folder cannot be written now.
    """
    find = finder or NameFinder(config)
    files = trust_files(paths)
    try:
        made = files.bring_up_to_date(
            now,
            lambda: find.names(now),
            lifetimes=lifetimes_from(os.environ),
            asked=asked,
            authority_asked=authority_asked,
        )
    except OSError as error:
        text = f"{files.folder}: {(error.strerror or str(error)).lower()}"
        if isinstance(error, PermissionError):
            raise ConfigurationError(text, hint=permission_hint(), code="trust-permission") from error
        raise TemporaryError(text, code="trust-unwritable") from error
    if made.authority is not None:
        fingerprint = files.authority_facts()[0].fingerprint
        logger.warning("event=authority-made reason=%s fingerprint=%s", made.authority.value, fingerprint)
    if made.server is not None:
        facts = files.server_facts()
        ends = f"{facts.ends:%Y-%m-%d}" if facts else ""
        logger.info("event=certificate-made reason=%s ends=%s", made.server.value, ends)
    return made


def prepare(config: ServerConfig, paths: Paths, now: datetime) -> str | None:
    """Have a certificate ready; return the fingerprint of the one that the SuperLink is to run with, None without TLS.

    Raises:
        ConfigurationError: the authority is damaged, or the folder belongs to somebody else.
        TemporaryError: the folder cannot be written now.
    """
    bring_up_to_date(config, paths, now)
    certificate = superlink_in_force(config, paths).certificate
    facts = facts_of(certificate) if certificate is not None else None
    return facts.fingerprint if facts is not None else None
