"""Users, sessions, links and tokens in the register: every read and change of them, each in the caller's transaction.

What is decided lies in `model`; this module reads and writes. Must not import FastAPI or typer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import IntegrityError

from fleven.server.access.model import (
    ApiToken,
    Identity,
    IdentityKind,
    Role,
    Session,
    SessionLimits,
    User,
    checked_name,
    checked_role,
    seen_is_stale,
    session_holds,
)
from fleven.server.access.secrets import digest, matches, new_api_token, new_secret
from fleven.server.database.tables import api_tokens, facts, sessions, users
from fleven.server.errors import NotFoundError, UsageError

LOGINS_FACT = "logins"
"""Written with the first user, and never removed."""
SESSIONS_KEPT = timedelta(days=90)
"""An ended session tells for so long from where its user has logged in before."""
LONGEST_BROWSER = 120


def _user(row: RowMapping) -> User:
    return User(
        id=row["id"],
        name=row["name"],
        role=Role(row["role"]),
        disabled=row["disabled"],
        password_hash=row["password_hash"],
        link_expires_at=row["link_expires_at"] if row["link_hash"] is not None else None,
        created_at=row["created_at"],
        created_by=row["created_by"],
        password_set_at=row["password_set_at"],
        last_login_at=row["last_login_at"],
    )


def all_users(connection: Connection) -> list[User]:
    """Return all users by name."""
    return [_user(row) for row in connection.execute(select(users).order_by(users.c.name)).mappings()]


def find_user(connection: Connection, name: str) -> User | None:
    """Return a user, or None when there is none of that name."""
    row = connection.execute(select(users).where(users.c.name == name)).mappings().one_or_none()
    return None if row is None else _user(row)


def get_user(connection: Connection, name: str) -> User:
    """Return a user.

    Raises:
        NotFoundError: there is none of that name.
    """
    found = find_user(connection, name)
    if found is None:
        known = ", ".join(user.name for user in all_users(connection)) or "nobody yet"
        raise NotFoundError(f"no user is named {name}", hint=f"users: {known}", code="user-unknown")
    return found


def somebody_may_log_in(connection: Connection) -> bool:
    """Return whether there is, or ever was, a user: from the first one on, the page is never open again."""
    return connection.execute(select(facts.c.key).where(facts.c.key == LOGINS_FACT)).one_or_none() is not None


def add_user(connection: Connection, name: str, role: Role, created_by: str, now: datetime) -> User:
    """Add a user, who cannot log in before a link was made and used.

    Raises:
        UsageError: the name or role cannot be given, or somebody has the name.
    """
    values = {
        "name": checked_name(name),
        "role": checked_role(role).value,
        "disabled": False,
        "created_at": now,
        "created_by": created_by,
    }
    try:
        connection.execute(insert(users).values(values))
    except IntegrityError as error:
        hint = f"a new link for the same user: fleven-server users link {name}"
        raise UsageError(f"there is a user {name} already", hint=hint, code="user-exists") from error
    connection.execute(sqlite_insert(facts).values(key=LOGINS_FACT, value={}, at=now).on_conflict_do_nothing())
    return get_user(connection, name)


def make_link(connection: Connection, user: User, expires_at: datetime) -> str:
    """Make a one-time link for a user and return its secret; an earlier link of the user is void."""
    secret = new_secret()
    connection.execute(
        update(users).where(users.c.id == user.id).values(link_hash=digest(secret), link_expires_at=expires_at)
    )
    return secret


def user_of_link(connection: Connection, secret: str, now: datetime) -> User | None:
    """Return whose link this is; None when it is unknown, used, too old, or its user is disabled."""
    row = connection.execute(select(users).where(users.c.link_hash == digest(secret))).mappings().one_or_none()
    if row is None or row["disabled"] or row["link_expires_at"] is None or now >= row["link_expires_at"]:
        return None
    return _user(row)


def set_password(
    connection: Connection, user: User, password_hash: str, now: datetime, *, but: int | None = None
) -> None:
    """Give a user a password: a link and sessions that there are end, but the session `but` in which it was changed."""
    connection.execute(
        update(users)
        .where(users.c.id == user.id)
        .values(password_hash=password_hash, password_set_at=now, link_hash=None, link_expires_at=None)
    )
    end_sessions(connection, user.id, now, but=but)


def improve_hash(connection: Connection, user: User, password_hash: str) -> None:
    """Replace the hash of an unchanged password by one with newer parameters."""
    connection.execute(
        update(users)
        .where(users.c.id == user.id, users.c.password_hash == user.password_hash)
        .values(password_hash=password_hash)
    )


def set_role(connection: Connection, user: User, role: Role) -> None:
    """Change what a user may do, from the next request on.

    Raises:
        UsageError: a user cannot have this role.
    """
    connection.execute(update(users).where(users.c.id == user.id).values(role=checked_role(role).value))


def set_disabled(connection: Connection, user: User, disabled: bool, now: datetime) -> None:
    """Shut a user out, with all sessions and links, or let the user in again."""
    values: dict[str, Any] = {"disabled": disabled}
    if disabled:
        values |= {"link_hash": None, "link_expires_at": None}
        end_sessions(connection, user.id, now)
    connection.execute(update(users).where(users.c.id == user.id).values(values))


def remove_user(connection: Connection, user: User) -> None:
    """Remove a user with all sessions."""
    connection.execute(delete(users).where(users.c.id == user.id))


def begin_session(
    connection: Connection, user: User, now: datetime, *, secure: bool, address: str, browser: str
) -> str:
    """Begin a session and return the secret for its cookie."""
    secret = new_secret()
    connection.execute(
        insert(sessions).values(
            user_id=user.id,
            token_hash=digest(secret),
            secure=secure,
            created_at=now,
            seen_at=now,
            address=address,
            browser=browser[:LONGEST_BROWSER],
        )
    )
    connection.execute(update(users).where(users.c.id == user.id).values(last_login_at=now))
    return secret


def end_session(connection: Connection, session_id: int, now: datetime) -> None:
    """End one session."""
    connection.execute(
        update(sessions).where(sessions.c.id == session_id, sessions.c.ended_at.is_(None)).values(ended_at=now)
    )


def end_sessions(connection: Connection, user_id: int, now: datetime, *, but: int | None = None) -> int:
    """End all sessions of a user, but one if it is named, and return how many they were."""
    statement = update(sessions).where(sessions.c.user_id == user_id, sessions.c.ended_at.is_(None))
    if but is not None:
        statement = statement.where(sessions.c.id != but)
    return connection.execute(statement.values(ended_at=now)).rowcount


def _session(row: RowMapping) -> Session:
    return Session(**{name: row[name] for name in Session.__dataclass_fields__})


def open_sessions(connection: Connection, user_id: int, now: datetime, limits: SessionLimits) -> list[Session]:
    """Return the sessions of a user that hold, the one used last first."""
    rows = connection.execute(
        select(sessions)
        .where(sessions.c.user_id == user_id, sessions.c.ended_at.is_(None))
        .order_by(sessions.c.seen_at.desc())
    ).mappings()
    return [session for session in map(_session, rows) if session_holds(session, now, limits)]


def session_counts(connection: Connection) -> dict[int, int]:
    """Return how many sessions of each user have not ended."""
    rows = connection.execute(
        select(sessions.c.user_id, func.count()).where(sessions.c.ended_at.is_(None)).group_by(sessions.c.user_id)
    )
    return {user_id: count for user_id, count in rows}  # noqa: C416  (rows are no pairs for mypy)


def was_logged_in_from(connection: Connection, name: str, address: str) -> bool:
    """Return whether a user has had a session from an address."""
    joined = sessions.join(users, users.c.id == sessions.c.user_id)
    found = select(sessions.c.id).select_from(joined).where(users.c.name == name, sessions.c.address == address)
    return connection.execute(found.limit(1)).one_or_none() is not None


def identity_of_session(
    connection: Connection, secret: str, now: datetime, limits: SessionLimits, *, secure: bool
) -> tuple[Identity, bool] | None:
    """Return who has a session's cookie, and whether its time of last use is to be written.

    None when there is no such session, it has ended or run out, was begun on the other transport, or its user is shut
    out.
    """
    joined = sessions.join(users, users.c.id == sessions.c.user_id)
    row = (
        connection.execute(
            select(sessions, users.c.name, users.c.role, users.c.disabled)
            .select_from(joined)
            .where(sessions.c.token_hash == digest(secret), sessions.c.ended_at.is_(None))
        )
        .mappings()
        .one_or_none()
    )
    if row is None or row["disabled"] or row["secure"] is not secure:
        return None
    session = _session(row)
    if not session_holds(session, now, limits):
        return None
    identity = Identity(IdentityKind.USER, row["name"], Role(row["role"]), row["user_id"], session.id)
    return identity, seen_is_stale(session.seen_at, now)


def session_was_seen(connection: Connection, session_id: int, now: datetime) -> None:
    """Write down that a session was used."""
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(seen_at=now))


def add_token(
    connection: Connection, name: str, role: Role, created_by: str, now: datetime, expires_at: datetime | None
) -> str:
    """Make a token for a program and return its text, which cannot be had a second time.

    Raises:
        UsageError: the name cannot be given, or another token has it.
    """
    made = new_api_token()
    values = {
        "name": checked_name(name),
        "key": made.key,
        "secret_hash": digest(made.secret),
        "role": role.value,
        "created_at": now,
        "created_by": created_by,
        "expires_at": expires_at,
        "used_from": "",
    }
    try:
        connection.execute(insert(api_tokens).values(values))
    except IntegrityError as error:
        hint = f"remove it first: fleven-server users token remove {name}"
        raise UsageError(f"there is a token {name} already", hint=hint, code="token-exists") from error
    return made.text


def all_tokens(connection: Connection) -> list[ApiToken]:
    """Return all tokens by name."""
    rows = connection.execute(select(api_tokens).order_by(api_tokens.c.name)).mappings()
    return [_token(row) for row in rows]


def _token(row: RowMapping) -> ApiToken:
    values = {name: row[name] for name in ApiToken.__dataclass_fields__}
    return ApiToken(**values | {"role": Role(row["role"])})


def remove_token(connection: Connection, name: str) -> None:
    """Remove a token: it is refused from the next request on.

    Raises:
        NotFoundError: there is none of that name.
    """
    if not connection.execute(delete(api_tokens).where(api_tokens.c.name == name)).rowcount:
        known = ", ".join(token.name for token in all_tokens(connection)) or "none yet"
        raise NotFoundError(f"no token is named {name}", hint=f"tokens: {known}", code="token-unknown")


def identity_of_token(
    connection: Connection, key: str, secret: str, now: datetime
) -> tuple[Identity, int, bool] | None:
    """Return who shows a token, its row, and whether its time of last use is to be written; None for a wrong one."""
    row = connection.execute(select(api_tokens).where(api_tokens.c.key == key)).mappings().one_or_none()
    if row is None or not matches(secret, row["secret_hash"]):
        return None
    if row["expires_at"] is not None and now >= row["expires_at"]:
        return None
    identity = Identity(IdentityKind.TOKEN, row["name"], Role(row["role"]))
    return identity, row["id"], seen_is_stale(row["used_at"], now)


def token_was_used(connection: Connection, token_id: int, now: datetime, address: str) -> None:
    """Write down that a token was used."""
    connection.execute(update(api_tokens).where(api_tokens.c.id == token_id).values(used_at=now, used_from=address))


def forget_old_sessions(connection: Connection, now: datetime, limits: SessionLimits) -> int:
    """Close sessions that ran out, remove those that ended long ago, and return how many were removed."""
    ran_out = (sessions.c.seen_at < now - limits.idle) | (sessions.c.created_at < now - limits.absolute)
    connection.execute(update(sessions).where(sessions.c.ended_at.is_(None), ran_out).values(ended_at=now))
    return connection.execute(delete(sessions).where(sessions.c.ended_at < now - SESSIONS_KEPT)).rowcount
