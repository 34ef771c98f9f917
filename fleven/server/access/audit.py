"""The trail: who changed what, when and from where. Each entry is a row of the register and a line of the journal.

Must not import FastAPI or typer.
"""

from __future__ import annotations

import logging
import os
import pwd
import syslog
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select

from fleven.server.access.model import Action, Actor, Source
from fleven.server.database.tables import audit
from fleven_agent.common.foreign_text import printable

logger = logging.getLogger("fleven.server.audit")
LONGEST_TEXT = 500
UNSET_LOGIN = 2**32 - 1
"""What the kernel calls a process that began with no login: a service, a cron job."""
WARNINGS = frozenset({Action.LOGIN_FAILED})


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail."""

    at: datetime
    actor: str
    source: str
    address: str
    action: str
    subject: str
    detail: str


def record(
    connection: Connection, now: datetime, actor: Actor, action: Action, subject: str = "", detail: str = ""
) -> None:
    """Write an entry in the transaction of the change itself, and tell the journal.

    Args:
        connection: of the register, in a transaction that writes.
        now: the time.
        actor: who.
        action: what.
        subject: the user, token, node, schedule or run that was changed.
        detail: what else there is to say; never a secret.
    """
    values = {
        "at": now,
        "actor": actor.name[:LONGEST_TEXT],
        "source": actor.source.value,
        "address": actor.address[:LONGEST_TEXT],
        "action": action.value,
        "subject": subject[:LONGEST_TEXT],
        "detail": detail[:LONGEST_TEXT],
    }
    connection.execute(insert(audit).values(values))
    where = actor.address or "this-machine"
    line = printable(
        f"event=audit action={action.value} actor={actor.name!r} from={where} subject={subject!r} detail={detail!r}"
    )
    warning = action in WARNINGS
    if actor.source is Source.COMMAND:
        # A command has no journal of its own: this line lies beside those of the service.
        syslog.openlog("fleven-server", 0, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_WARNING if warning else syslog.LOG_NOTICE, line)
    else:
        logger.log(logging.WARNING if warning else logging.INFO, line)


def entries(connection: Connection, limit: int, *, subject: str = "", actor: str = "") -> list[Entry]:
    """Return the newest entries, newest first.

    Args:
        connection: of the register.
        limit: at most this many.
        subject: only those about this user, token, node, schedule or run; empty for all.
        actor: only those by somebody of this name; empty for all.
    """
    columns = [audit.c[name] for name in Entry.__dataclass_fields__]
    statement = select(*columns).order_by(audit.c.id.desc()).limit(limit)
    if subject:
        statement = statement.where(audit.c.subject == subject)
    if actor:
        statement = statement.where((audit.c.actor == actor) | audit.c.actor.startswith(f"{actor} as "))
    return [Entry(**row) for row in connection.execute(statement).mappings()]


def forget_old(connection: Connection, now: datetime, days: int) -> int:
    """Remove entries that are older than this many days, and return how many they were."""
    return connection.execute(delete(audit).where(audit.c.at < now - timedelta(days=days))).rowcount


def user_name(user_id: int) -> str:
    """Return the name of a local user, or the number of one without a name."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"uid {user_id}"


def login_user_id(file: Path = Path("/proc/self/loginuid")) -> int | None:
    """Return who logged in at the beginning of this session, which sudo and su do not change; None for nobody."""
    try:
        found = int(file.read_text())
    except (OSError, ValueError):
        return None
    return None if found == UNSET_LOGIN else found


def local_actor(environment: Mapping[str, str] = os.environ) -> Actor:
    """Return who runs a command on this machine: the person, and as which user when that is another.

    The kernel's word goes before SUDO_USER, which is only believed of root and of service users: anybody may set it.
    """
    effective = os.geteuid()
    runs_as = user_name(effective)
    person = runs_as
    login = login_user_id()
    if login is not None:
        person = user_name(login)
    elif environment.get("SUDO_USER") and effective < 1000:
        person = environment["SUDO_USER"]
    address = environment.get("SSH_CONNECTION", "").partition(" ")[0]
    return Actor(person if person == runs_as else f"{person} as {runs_as}", Source.COMMAND, address)
