"""What happens from time to time: the nightly backup, retention. On a worker; a failure is logged and tried again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime, timedelta
from pathlib import Path

from fleven.server.access import audit
from fleven.server.access import store as access_store
from fleven.server.backup.making import make
from fleven.server.backup.sealing import Seal
from fleven.server.config import Loaded, Paths
from fleven.server.database import Store
from fleven.server.database.engine import back_up
from fleven.server.database.facts import BACKUP_FACT, KEYS_BACKUP_FACT
from fleven.server.errors import ServerError
from fleven.server.http.context import session_limits
from fleven.server.models import registry
from fleven.server.nodes.history import age
from fleven.server.runs import store as run_store

logger = logging.getLogger("fleven.server.housekeeping")

RETENTION_EVERY = timedelta(hours=1)
MODELS_EVERY = timedelta(minutes=1)
MODELS_SINCE = timedelta(days=1)
"""Older runs are looked through by `fleven-server models`."""
TRY_AGAIN_AFTER = timedelta(minutes=15)


def backup_is_due(now: datetime, hour: int, last: datetime | None) -> bool:
    """Return whether the backup of today is to be made: from its hour on, local time, once a day.

    Args:
        now: the current time, in local time.
        hour: hour of the day.
        last: when the last one was made, or None.
    """
    if last is None:
        return True
    start = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    return now >= start > last


class Housekeeping:
    """Runs what is due, one job at a time."""

    def __init__(self, store: Store, loaded: Loaded, paths: Paths, executor: Executor) -> None:
        self.store = store
        self.loaded = loaded
        self.config = loaded.config
        self.paths = paths
        self.executor = executor
        self.busy = False
        self.not_before: datetime | None = None
        self.retained_at: datetime | None = None
        self.models_at: datetime | None = None

    def run_due(self, now: datetime) -> None:
        """Start the jobs that are due."""
        if self.busy or (self.not_before is not None and now < self.not_before):
            return
        fact = self.store.fact(BACKUP_FACT)
        last = fact[1] if fact is not None else None
        if backup_is_due(now.astimezone(), self.config.retention.backup_hour, last):
            self._begin(lambda: self._back_up(now), now)
        elif self.retained_at is None or now - self.retained_at >= RETENTION_EVERY:
            self.retained_at = now
            self._begin(lambda: self._retain(now), now)
        elif self.models_at is None or not timedelta(0) <= now - self.models_at < MODELS_EVERY:
            self.models_at = now
            self._begin(lambda: self._take_in_models(now), now)

    def models_soon(self) -> None:
        """A run has succeeded: take in its model at the next turn."""
        self.models_at = None

    def _begin(self, work: Callable[[], None], now: datetime) -> None:
        self.busy = True

        def job() -> None:
            try:
                work()
                self.not_before = None
            except (ServerError, OSError) as error:
                self.not_before = now + TRY_AGAIN_AFTER
                logger.warning("event=housekeeping-failed error=%r", str(error))
            finally:
                self.busy = False

        self.executor.submit(job)

    def _back_up(self, now: datetime) -> None:
        target = back_up(self.store, self.paths.backups, now, self.config.retention.backups_days)
        if recipients := self.config.backup.recipients:
            self._back_up_whole(recipients, target.with_name(f"fleven-{target.stem.partition('-')[2]}.age"), now)
        self.store.set_fact(BACKUP_FACT, {"file": target.name, "bytes": target.stat().st_size}, now)
        logger.info("event=backup file=%s", target)

    def _back_up_whole(self, recipients: tuple[str, ...], target: Path, now: datetime) -> None:
        """Make tonight's backup with keys, sealed; those that are too old go."""
        target.unlink(missing_ok=True)  # of a night that was not written down
        made = make(self.loaded, self.paths, target, Seal(recipients=recipients), now, with_keys=True)
        self.store.set_fact(KEYS_BACKUP_FACT, {"file": target.name, "bytes": made.size}, now)
        logger.info("event=backup-with-keys file=%s bytes=%d sealed_for=%d", target, made.size, len(recipients))
        for old in target.parent.glob("fleven-*.age"):
            if now.timestamp() - old.stat().st_mtime > self.config.retention.backups_days * 86_400:
                old.unlink()

    def _take_in_models(self, now: datetime) -> None:
        for model in registry.take_in_all(self.store, self.paths, now, since=now - MODELS_SINCE):
            logger.info("event=model-taken-in model=%s run=%s sha256=%s", model.name, model.run_id, model.sha256)

    def _retain(self, now: datetime) -> None:
        keep = self.config.retention
        age(
            self.store,
            now,
            raw_hours=keep.raw_samples_hours,
            hourly_days=keep.hourly_samples_days,
            event_days=keep.node_events_days,
        )
        removed = 0
        while True:
            with self.store.write() as connection:
                batch = run_store.delete_old(connection, now, keep.runs_days)
            removed += batch
            if not batch:
                break
        with self.store.write() as connection:
            access_store.forget_old_sessions(connection, now, session_limits(self.config))
            audit.forget_old(connection, now, keep.audit_days)
        if removed:
            logger.info("event=runs-removed count=%d older_than_days=%d", removed, keep.runs_days)
