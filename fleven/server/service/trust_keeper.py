"""Keeps what the fleet trusts in order while the service runs: renews and reloads certificates, announces their expiry.

The page's certificate is replaced under open connections. The SuperLink reads its own once: it is started again
when no run is open, neither one of the register nor one that somebody gave it by hand. A look is slow (the resolver,
Tailscale), so it runs on a worker; what may stop the SuperLink is decided by the loop that starts runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig, check_pair, superlink_in_force
from fleven.server.database import Store
from fleven.server.database.facts import TRUST_FACT
from fleven.server.errors import CertificateRefusedError, ServerError
from fleven.server.flower.answers import FlowerRun
from fleven.server.http.transport import TlsContext
from fleven.server.runs import store as run_store
from fleven.server.trust.ends import End, Outlook, certificate_ends, fact_of_ends, tailscale_end, to_tell
from fleven.server.trust.files import facts_of
from fleven.server.trust.upkeep import NameFinder, bring_up_to_date
from fleven_agent.common.files import write_atomically
from fleven_agent.common.tailscale import tailscale_status

logger = logging.getLogger("fleven.server.trust")

LOOK_EVERY = timedelta(seconds=60)
TELL_EVERY = timedelta(days=1)
TAILSCALE_EVERY = timedelta(hours=1)
ASK_AGAIN_AFTER = timedelta(minutes=5)
"""So long nothing is asked of a SuperLink that has foreign runs, or that was told to start again."""
HOLD = timedelta(seconds=60)
"""So long no run is submitted after the SuperLink was told to start again: it needs about 15 s."""
INSECURE_HINT = "strangers may join and report, nothing is encrypted: fleven-server trust status"


@dataclass(frozen=True, slots=True)
class SuperLinkRecord:
    """What the SuperLink wrote down at its start.

    Attributes:
        process_id: its process.
        certificate: fingerprint of the certificate that it reads once; None without TLS.
        watched: whether a process beside it can end it so that systemd starts it again.
    """

    process_id: int
    certificate: str | None
    watched: bool


def wants_restart(record: SuperLinkRecord | None, present: str | None) -> bool:
    """Return whether the SuperLink uses another certificate than the present one. Pure."""
    if record is None or record.certificate is None or present is None:
        return False
    return record.certificate != present


def foreign_runs(found: list[FlowerRun], own: frozenset[str]) -> list[str]:
    """Return the open runs that the SuperLink got from somebody else. Pure.

    Args:
        found: all runs that the SuperLink knows.
        own: Flower's ids of the runs that the register knows: of those it says itself whether they are open, and one
            that it has given up stays open for the SuperLink for ever.
    """
    return [run.run_id for run in found if run.status != "finished" and run.run_id not in own]


@dataclass
class TrustKeeper:
    """Looks once a minute; see the module.

    Attributes:
        store: the register.
        config: server.toml.
        paths: the server's folders.
        tls: what the page's port shows.
        executor: runs the looks.
        list_runs: asks the SuperLink for its runs.
    """

    store: Store
    config: ServerConfig
    paths: Paths
    tls: TlsContext
    executor: Executor
    list_runs: Callable[[], list[FlowerRun]]
    hold_until: datetime | None = None
    """No run is to be submitted before."""
    _busy: bool = field(default=False, init=False)
    _looked_at: datetime | None = field(default=None, init=False)
    _asked_at: datetime | None = field(default=None, init=False)
    _tailscale_at: datetime | None = field(default=None, init=False)
    _tailscale: list[End] = field(default_factory=list, init=False)
    _told: dict[str, datetime] = field(default_factory=dict, init=False)
    _restart: SuperLinkRecord | None = field(default=None, init=False)
    _seen: list[tuple[int, int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._finder = NameFinder(self.config)
        self._seen = self._signatures()

    def holds(self, now: datetime) -> bool:
        """Return whether no run may be submitted now, since the SuperLink is about to start again."""
        return self.hold_until is not None and now < self.hold_until

    def run_due(self, now: datetime, own_runs: int) -> None:
        """Begin what is due.

        Args:
            now: the current moment.
            own_runs: runs of the register for which the SuperLink must stay: another start ends their ServerApps.
        """
        if self._busy:
            return
        if self._looked_at is None or not timedelta(0) <= now - self._looked_at < LOOK_EVERY:
            self._looked_at = now
            self._begin(lambda: self._look(now))
        elif self._restart is not None and own_runs == 0 and self._may_ask(now):
            self._asked_at, record = now, self._restart
            if not record.watched:
                self._tell("restart", now, "event=certificate-waits hint='restart the SuperLink: it reads it once'")
                return
            # From here on no run is submitted, so that none can begin between the question and the restart.
            self.hold_until = now + HOLD
            self._begin(lambda: self._restart_superlink(record))

    def _may_ask(self, now: datetime) -> bool:
        return self._asked_at is None or not timedelta(0) <= now - self._asked_at < ASK_AGAIN_AFTER

    def _begin(self, work: Callable[[], None]) -> None:
        self._busy = True

        def job() -> None:
            try:
                work()
            except (ServerError, OSError, ValueError) as error:
                logger.warning("event=trust-look-failed error=%r", str(error))
            finally:
                self._busy = False

        self.executor.submit(job)

    def _look(self, now: datetime) -> None:
        try:
            bring_up_to_date(self.config, self.paths, now, finder=self._finder)
        except ServerError as error:
            # When nothing can be renewed, it matters most that the ends are told.
            logger.warning("event=renewal-failed error=%r hint=%r", str(error), error.hint)
        self._reload()
        if self._tailscale_at is None or now - self._tailscale_at >= TAILSCALE_EVERY:
            self._tailscale_at, found = now, tailscale_status()
            key_ends = found.key_ends if found is not None else None
            self._tailscale = [tailscale_end(key_ends)] if key_ends is not None else []
        ends = [*certificate_ends(self.config, self.paths), *self._tailscale]
        for end in to_tell(ends, now):
            level = logging.ERROR if end.outlook(now) is Outlook.ENDED else logging.WARNING
            self._tell(end.name, now, f"event=end-near what={end.text(now)!r} hint={end.hint!r}", level)
        if self.config.insecure:
            self._tell("insecure", now, f"event=insecure hint={INSECURE_HINT!r}")
        self._restart = self._superlink_to_restart()
        self.store.set_fact(TRUST_FACT, fact_of_ends(ends), now)

    def _superlink_to_restart(self) -> SuperLinkRecord | None:
        """Return the SuperLink that uses an old certificate, when the new one can be used."""
        record, table = read_record(self.paths), superlink_in_force(self.config, self.paths)
        if table.certificate is None or table.private_key is None:
            return None
        facts = facts_of(table.certificate)
        if not wants_restart(record, facts.fingerprint if facts is not None else None):
            return None
        # A certificate whose key is not there yet would keep the SuperLink from starting at all.
        check_pair(table.certificate, table.private_key)
        return record

    def _restart_superlink(self, record: SuperLinkRecord) -> None:
        with self.store.read() as connection:
            own = run_store.known_to_flower(connection)
        try:
            found = self.list_runs()
        except CertificateRefusedError:
            # Only another start mends that: nobody new can connect, so nothing is lost that could still be asked for.
            found = []
        if foreign := foreign_runs(found, own):
            logger.info("event=certificate-waits reason='run %s was given to the SuperLink by hand'", foreign[0])
            self.hold_until = None
            return
        logger.info("event=superlink-restart reason='its certificate was renewed' pid=%d", record.process_id)
        write_atomically(self.paths.superlink_restart, f"{record.process_id}\n".encode())
        self._restart = None

    def _reload(self) -> None:
        """Show new certificates on the page's port when a file has changed, also one of the operator's."""
        seen = self._signatures()
        if seen != self._seen:
            self.tls.reload()
            self._seen = seen
            logger.info("event=certificate-loaded")

    def _signatures(self) -> list[tuple[int, int]]:
        found = []
        for file in self.tls.files():
            state = file.stat()
            found.append((state.st_mtime_ns, state.st_ino))
        return found

    def _tell(self, what: str, now: datetime, line: str, level: int = logging.WARNING) -> None:
        """Write a line to the journal, once a day for each matter."""
        last = self._told.get(what)
        if last is None or not timedelta(0) <= now - last < TELL_EVERY:
            self._told[what] = now
            logger.log(level, line)


def read_record(paths: Paths) -> SuperLinkRecord | None:
    """Return what the SuperLink wrote down at its start, or None."""
    try:
        content = json.loads(paths.superlink_record.read_bytes())
        certificate = content.get("certificate")
        return SuperLinkRecord(int(content["pid"]), certificate, bool(content.get("watched")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
