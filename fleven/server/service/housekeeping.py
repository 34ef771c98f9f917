"""What happens from time to time: the nightly backup, retention. On a worker; a failure is logged and tried again."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from fleven.server.access import audit
from fleven.server.access import store as access_store
from fleven.server.backup.making import make
from fleven.server.backup.sealing import Seal
from fleven.server.config.loader import Loaded
from fleven.server.config.paths import Paths
from fleven.server.database import Store
from fleven.server.database.engine import back_up
from fleven.server.database.facts import BACKUP_FACT, BACKUP_FAILURES_FACT, KEYS_BACKUP_FACT, BackupJob
from fleven.server.errors import ServerError
from fleven.server.http.context import session_limits
from fleven.server.models import registry
from fleven.server.nodes.history import age
from fleven.server.runs import store as run_store
from fleven_agent.common.errors import describe

logger = logging.getLogger("fleven.server.housekeeping")

RETENTION_EVERY = timedelta(hours=1)
MODELS_EVERY = timedelta(minutes=1)
MODELS_SINCE = timedelta(days=1)
"""Older runs are looked through by `fleven-server models`."""
TRY_AGAIN_AFTER = timedelta(minutes=15)


class Job(StrEnum):
    """What is done from time to time, the most important first."""

    COPY = BackupJob.COPY.value
    SEALED_BACKUP = BackupJob.SEALED.value
    RETENTION = "retention"
    MODELS = "models"


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
    """Runs what is due, one job at a time; one that failed waits, and keeps no other from being done."""

    def __init__(self, store: Store, loaded: Loaded, paths: Paths, executor: Executor) -> None:
        self.store = store
        self.loaded = loaded
        self.config = loaded.config
        self.paths = paths
        self.executor = executor
        self.busy = False
        self.not_before: dict[Job, datetime] = {}
        self.retained_at: datetime | None = None
        self.models_at: datetime | None = None
        self._work: dict[Job, Callable[[datetime], None]] = {
            Job.COPY: self._back_up,
            Job.SEALED_BACKUP: self._back_up_whole,
            Job.RETENTION: self._retain,
            Job.MODELS: self._take_in_models,
        }

    def run_due(self, now: datetime) -> None:
        """Start the first job that is due."""
        if self.busy:
            return
        due = (job for job in Job if not self._waits(job, now) and self._due(job, now))
        if (job := next(due, None)) is not None:
            self._begin(job, now)

    def models_soon(self) -> None:
        """A run has succeeded: take in its model at the next turn."""
        self.models_at = None

    def _waits(self, job: Job, now: datetime) -> bool:
        until = self.not_before.get(job)
        return until is not None and timedelta(0) < until - now <= TRY_AGAIN_AFTER

    def _due(self, job: Job, now: datetime) -> bool:
        local, hour = now.astimezone(), self.config.retention.backup_hour
        match job:
            case Job.COPY:
                return backup_is_due(local, hour, self._fact_at(BACKUP_FACT))
            case Job.SEALED_BACKUP:
                wanted = bool(self.config.backup.recipients)
                return wanted and backup_is_due(local, hour, self._fact_at(KEYS_BACKUP_FACT))
            case Job.RETENTION:
                return self.retained_at is None or now - self.retained_at >= RETENTION_EVERY
            case Job.MODELS:
                return self.models_at is None or not timedelta(0) <= now - self.models_at < MODELS_EVERY

    def _fact_at(self, key: str) -> datetime | None:
        fact = self.store.fact(key)
        return fact[1] if fact is not None else None

    def _begin(self, job: Job, now: datetime) -> None:
        self.busy = True
        if job is Job.RETENTION:
            self.retained_at = now
        elif job is Job.MODELS:
            self.models_at = now

        def work() -> None:
            try:
                self._work[job](now)
                self.not_before.pop(job, None)
                self._note(job, None, now)
            except (ServerError, OSError, sqlite3.Error) as error:
                self.not_before[job] = now + TRY_AGAIN_AFTER
                hint = (error.hint or "") if isinstance(error, ServerError) else ""
                said = describe(error) if isinstance(error, OSError) else str(error)
                logger.warning("event=housekeeping-failed job=%s error=%r hint=%r", job, said, hint)
                self._note(job, f"{said} ({hint})" if hint else said, now)
            except Exception:
                self.not_before[job] = now + TRY_AGAIN_AFTER
                logger.exception("event=housekeeping-failed job=%s", job)
                self._note(job, "internal error: journalctl -u fleven-server", now)
            finally:
                self.busy = False

        self.executor.submit(work)

    def _note(self, job: Job, problem: str | None, now: datetime) -> None:
        """Write down for `check`, `status` and the page whether a backup failed."""
        if job not in (Job.COPY, Job.SEALED_BACKUP):
            return
        with suppress(ServerError):  # the register may be what has failed
            fact = self.store.fact(BACKUP_FAILURES_FACT)
            before = dict(fact[0]) if fact is not None else {}
            after = {name: text for name, text in before.items() if name != job}
            if problem is not None:
                after[job.value] = problem
            if after != before:
                self.store.set_fact(BACKUP_FAILURES_FACT, after, now)

    def _back_up(self, now: datetime) -> None:
        target = back_up(self.store, self.paths.backups, now, self.config.retention.backups_days)
        self.store.set_fact(BACKUP_FACT, {"file": target.name, "bytes": target.stat().st_size}, now)
        logger.info("event=backup file=%s", target)

    def _back_up_whole(self, now: datetime) -> None:
        """Make tonight's backup with keys, sealed; those that are too old go."""
        recipients = self.config.backup.recipients
        target = self.paths.backups / f"fleven-{now.astimezone(UTC):%Y-%m-%d}.age"
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
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
