"""Facts that the server's processes write down for each other in the register: heartbeat, SuperLink, backup."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from fleven.server.database import Store


class BackupJob(StrEnum):
    """What is made each night."""

    COPY = "register-copy"
    SEALED = "sealed-backup"


def backup_failures(store: Store, *, sealed: bool) -> list[str]:
    """Return why the nightly backups failed at their last try; nothing when they did not.

    Args:
        store: the register.
        sealed: whether a backup with keys is wanted each night.
    """
    fact = store.fact(BACKUP_FAILURES_FACT)
    found = fact[0] if fact is not None else {}
    wanted = (BackupJob.COPY, BackupJob.SEALED) if sealed else (BackupJob.COPY,)
    return [f"{NAMES[job]} failed: {found[job]}" for job in wanted if job in found]


def service_alive(store: Store, now: datetime) -> bool:
    """Return whether the service has written its heartbeat lately."""
    fact = store.fact(SERVICE_FACT)
    # A heartbeat from the future means that the clock was set back: the service writes a new one within 10 s.
    return fact is not None and now - fact[1] <= HEARTBEAT_VALID


def service_process_id(store: Store, now: datetime) -> int | None:
    """Return the process of the running service, or None when it does not run."""
    fact = store.fact(SERVICE_FACT)
    if fact is None or not service_alive(store, now):
        return None
    pid = fact[0].get("pid")
    return pid if isinstance(pid, int) else None


SERVICE_FACT = "service"
SUPERLINK_FACT = "superlink"
ATTENTION_FACT = "attention"
"""Since when the fleet, or single cars, are followed more closely than calmly (`nodes.attention.Attended`)."""
LOOKS_FACT = "looks"
"""Names of the cars that somebody looks at, and when that was said last [s since 1970]."""
BACKUP_FACT = "backup"
KEYS_BACKUP_FACT = "keys-backup"
"""The last backup that holds the keys, whoever made it."""
BACKUP_FAILURES_FACT = "backup-failures"
"""Which nightly backups failed at their last try, and why, by `BackupJob`."""
NAMES = {BackupJob.COPY: "the nightly copy of the register", BackupJob.SEALED: "the nightly backup with keys"}
TRUST_FACT = "trust"
"""When certificates and the VPN's key end, as the service saw it last."""
HEARTBEATS_FACT = "missed-heartbeats"
"""Flower's ids of nodes whose heartbeat is overdue, and since when [s since 1970]."""
HEARTBEAT_VALID = timedelta(seconds=45)
"""The service writes its heartbeat every 10 s."""
