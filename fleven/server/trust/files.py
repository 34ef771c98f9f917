"""The folder `trust/` of the state folder: keys, certificates, the operator's names; whole files under one lock.

What is wanted, `policy` decides; here it is made and written. SuperLink, service and commands come here.
Every step leaves a state that the next call completes, wherever the power is cut.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.errors import ConfigurationError, ServerError, UsageError, permission_hint
from fleven.server.trust import certificates, policy
from fleven.server.trust.certificates import CertificateFacts, Lifetimes
from fleven.server.trust.policy import Renewal
from fleven_agent.common.files import write_atomically

LIFETIMES = Lifetimes()
NOTES_SCHEMA_VERSION = 1
MAXIMUM_GIVEN_NAMES = 50
SECRET, GROUP_READABLE = 0o600, 0o640


@dataclass(frozen=True, slots=True)
class Authority:
    """Whom the cars are told to believe.

    Attributes:
        bundle: certificates in PEM: the present authority first, then one that it replaces, then the operator's own.
        fingerprint: of the present authority: SHA-256 over its DER, 64 hexadecimal digits.
    """

    bundle: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Made:
    """What a call made again, and why; None for what stayed."""

    authority: Renewal | None = None
    server: Renewal | None = None


class TrustFiles:
    """The files of one server's trust.

    Args:
        folder: `trust/` of the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority_key = folder / "ca.key"
        self.next_authority_key = folder / "ca-next.key"
        self.authority_bundle = folder / "ca.crt"
        self.cross = folder / "ca-cross.crt"
        self.server_key = folder / "server.key"
        self.server_certificate = folder / "server.crt"
        self.notes = folder / "authority.json"

    def given_names(self) -> tuple[str, ...]:
        """Return the names that the operator has given, in their order.

        Raises:
            ConfigurationError: the file that holds them is damaged.
        """
        try:
            content = json.loads(self.notes.read_bytes())
            return tuple(str(name) for name in content["names"])
        except FileNotFoundError:
            return ()
        except (ValueError, KeyError, TypeError):
            raise damaged(self.notes, "is not a list of names") from None

    def add_name(self, name: str) -> bool:
        """Keep a name that the server's certificate must hold for from now on; return whether it is a new one.

        Raises:
            UsageError: it is neither a DNS name nor an address, or there are too many.
        """
        if not certificates.is_name(name):
            raise UsageError(f"{name!r} is neither a DNS name nor an address", hint="write it without port and scheme")
        with self.locked():
            names = self.given_names()
            if name.lower() in names:
                return False
            if len(names) >= MAXIMUM_GIVEN_NAMES:
                raise UsageError(f"there are {len(names)} names already", hint=f"see {self.notes}")
            content = {"schema_version": NOTES_SCHEMA_VERSION, "names": [*names, name.lower()]}
            write_atomically(self.notes, json.dumps(content).encode(), SECRET)
            return True

    def server_facts(self) -> CertificateFacts | None:
        """Return what the server's certificate says, or None when there is none that can be read."""
        return facts_of(self.server_certificate)

    def authority_facts(self) -> list[CertificateFacts]:
        """Return what the authorities say, the present one first; empty when there is none that can be read."""
        try:
            return certificates.bundle_facts(self.authority_bundle.read_bytes())
        except (FileNotFoundError, ValueError):
            return []

    def bring_up_to_date(
        self,
        now: datetime,
        names: Callable[[], frozenset[str]],
        *,
        lifetimes: Lifetimes = LIFETIMES,
        asked: bool = False,
        authority_asked: bool = False,
    ) -> Made:
        """Make what is missing, ends soon or does not hold for all names.

        Args:
            now: the current moment.
            names: finds the names that the server's certificate must hold for; may take seconds.
            lifetimes: how long certificates hold.
            asked: make another server certificate in any case.
            authority_asked: replace the authority in any case.

        Raises:
            ConfigurationError: a file is damaged: a fleet's authority is never replaced because it cannot be read.
            OSError: the folder cannot be written.
        """
        wanted = names()
        with self.locked():
            authority = self._renew_authority(now, lifetimes, asked=authority_asked)
            self._forget_ended(now)
            return Made(authority, self._renew_server(now, wanted, lifetimes, asked=asked))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; the folder is made when it is missing, and belongs to the services' user."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            handle = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, SECRET)
        except PermissionError as error:
            text = f"{self.folder}: no permission to write"
            raise ConfigurationError(text, hint=permission_hint(), code="trust-permission") from error
        try:
            if os.geteuid() == 0:
                owner = self.folder.parent.stat()
                os.chown(self.folder, owner.st_uid, owner.st_gid)
                os.fchown(handle, owner.st_uid, owner.st_gid)
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _renew_authority(self, now: datetime, lifetimes: Lifetimes, *, asked: bool) -> Renewal | None:
        key = self._authority_key()
        present = self.authority_facts()
        public = certificates.public_key_of(key) if key is not None else None
        if present and public is None:
            raise damaged(self.authority_key, "is missing or cannot be read, and its certificate is there")
        renewal = policy.authority_renewal(present[0] if present else None, public, now, lifetimes)
        renewal = renewal or (Renewal.ASKED if asked else None)
        if renewal is None:
            return None
        if self.authority_bundle.exists() and (renewal is Renewal.UNUSABLE or not present):
            raise damaged(self.authority_bundle, "does not belong to the key beside it")
        if renewal is Renewal.MISSING or key is None:
            if key is None:
                key = certificates.new_key()
                write_atomically(self.authority_key, key, SECRET)
            made = certificates.make_authority(key, authority_name(), now, lifetimes)
            write_atomically(self.authority_bundle, made, GROUP_READABLE)
            return renewal
        self._replace_authority(key, now, lifetimes)
        return renewal

    def _replace_authority(self, key: bytes, now: datetime, lifetimes: Lifetimes) -> None:
        """Put a new authority before the present one, which vouches for it until its end."""
        present = certificates.split_bundle(self.authority_bundle.read_bytes())[0]
        new_key = certificates.new_key()
        made = certificates.make_authority(new_key, authority_name(), now, lifetimes)
        # The key waits under another name: only when the bundle names the new authority does it become the key.
        write_atomically(self.next_authority_key, new_key, SECRET)
        write_atomically(self.cross, certificates.cross_sign(made, key, present, now, lifetimes), GROUP_READABLE)
        write_atomically(self.authority_bundle, made + present, GROUP_READABLE)
        self.next_authority_key.replace(self.authority_key)

    def _authority_key(self) -> bytes | None:
        """Return the key of the present authority; None when there is none.

        Raises:
            ConfigurationError: it cannot be used.
        """
        present = self.authority_facts()
        with suppress(FileNotFoundError):
            waiting = self.next_authority_key.read_bytes()
            if present and usable_public_key(self.next_authority_key) == present[0].public_key:
                self.next_authority_key.replace(self.authority_key)
                return waiting
        with suppress(FileNotFoundError):
            usable_public_key(self.authority_key)
            return self.authority_key.read_bytes()
        return None

    def _forget_ended(self, now: datetime) -> None:
        """Take authorities that have ended out of the bundle, and the one that vouched for the present one."""
        bundle = certificates.split_bundle(self.authority_bundle.read_bytes())
        replaced = [certificates.facts(one) for one in bundle[1:]]
        kept = [one for one, holds in zip(bundle[1:], policy.still_trusted(replaced, now), strict=True) if holds]
        if len(kept) < len(replaced):
            write_atomically(self.authority_bundle, b"".join([bundle[0], *kept]), GROUP_READABLE)
        cross = facts_of(self.cross)
        if cross is not None and (not kept or cross.ends <= now):
            self.cross.unlink(missing_ok=True)

    def _renew_server(
        self, now: datetime, wanted: frozenset[str], lifetimes: Lifetimes, *, asked: bool
    ) -> Renewal | None:
        authority = self.authority_facts()[0]
        present = self.server_facts()
        public = usable_public_key(self.server_key) if self.server_key.exists() else None
        wanted |= frozenset(self.given_names())
        renewal = policy.server_renewal(present, public, authority, wanted, now, lifetimes)
        renewal = renewal or (Renewal.ASKED if asked else None)
        if renewal is None:
            return None
        if public is None:
            write_atomically(self.server_key, certificates.new_key(), SECRET)
        issuer = certificates.split_bundle(self.authority_bundle.read_bytes())[0]
        names = policy.names_to_certify(wanted, present, renewal)
        made = certificates.make_server_certificate(
            self.server_key.read_bytes(), names, self.authority_key.read_bytes(), issuer, now, lifetimes
        )
        # A car that knows only the replaced authority finds its way by the certificate with which that one vouches.
        vouched = self.cross.read_bytes() if self.cross.exists() else b""
        write_atomically(self.server_certificate, made + vouched, GROUP_READABLE)
        return renewal


def trust_files(paths: Paths) -> TrustFiles:
    """Return the files of this server's trust."""
    return TrustFiles(paths.trust)


def authority(config: ServerConfig, paths: Paths, now: datetime) -> Authority:
    """Return whom cars are told to believe; the authority is made when there is none yet.

    Args:
        config: server.toml, which may name certificates of the operator's own.
        paths: the server's folders.
        now: the current moment.

    Raises:
        ServerError: the authority is damaged, or may not be read.
    """
    files = trust_files(paths)
    try:
        if not files.authority_bundle.exists():
            files.bring_up_to_date(now, lambda: frozenset({certificates.SERVER_COMMON_NAME}))
        bundle = files.authority_bundle.read_bytes()
    except PermissionError as error:
        text = f"{files.authority_bundle}: no permission to read"
        raise ServerError(text, hint=permission_hint(), code="trust-permission") from error
    present = files.authority_facts()
    if not present:
        raise damaged(files.authority_bundle, "holds no certificate")
    own = config.superlink.root_certificates
    extra = own.read_bytes() if own is not None and not own.samefile(files.authority_bundle) else b""
    return Authority((bundle + extra).decode("ascii", errors="replace"), present[0].fingerprint)


def facts_of(file: Path) -> CertificateFacts | None:
    """Return what a certificate file says, or None when there is none that can be read."""
    try:
        return certificates.facts(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def usable_public_key(file: Path) -> bytes:
    """Return the public half of a key file.

    Raises:
        ConfigurationError: it is damaged.
        FileNotFoundError: it is not there.
    """
    try:
        return certificates.public_key_of(file.read_bytes())
    except (ValueError, TypeError):
        raise damaged(file, "holds no private key that can be used") from None


def authority_name() -> str:
    """Return a name for a new authority: of this machine, and unlike any before."""
    return f"FLEVEn {socket.gethostname()[:40]} {secrets.token_hex(4)}"


def damaged(file: Path, what: str) -> ConfigurationError:
    """Return the error for a file of this folder that cannot be used; cars believe it, so nothing replaces it."""
    hint = "restore it from a backup; removing the folder makes a new authority, and every car must join again"
    return ConfigurationError(f"{file}: {what}", hint=hint, code="trust-damaged")
