"""Roles, who asks, and what an audit entry is: plain types that decide nothing about HTTP or the register.

Values of the enums never change once released. Imports nothing but the standard library and the server's errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from fleven.server.errors import UsageError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
NAME_RULE = "1 to 32 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"


class Role(StrEnum):
    """What somebody may do; each role may all that the ones before it may."""

    METRICS = "metrics"
    """Read `/metrics`; for tokens only."""
    VIEWER = "viewer"
    """See the page, figures and plots."""
    OPERATOR = "operator"
    """Fetch models, checkpoints and single predictions as well."""
    ADMIN = "admin"
    """Look after users too."""

    @property
    def rank(self) -> int:
        """Return its place in the order of roles."""
        return list(Role).index(self)

    def covers(self, needed: Role) -> bool:
        """Return whether this role may do what `needed` may."""
        return self.rank >= needed.rank


USER_ROLES = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)


class IdentityKind(StrEnum):
    """How somebody proved who they are."""

    USER = "user"
    TOKEN = "token"  # noqa: S105 -- a word, not a secret
    OPEN = "open"
    """Nobody did: an insecure server without users, whose page is open as that of version 0.1.0 was."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        kind: how they proved it.
        name: of the user or token; empty for an open page.
        role: what they may do.
        user_id: the user's row; None unless it is a user.
        session_id: the session's row; None unless it is a user.
    """

    kind: IdentityKind
    name: str
    role: Role
    user_id: int | None = None
    session_id: int | None = None

    @property
    def label(self) -> str:
        """Return how log lines and the audit trail name them."""
        return f"token:{self.name}" if self.kind is IdentityKind.TOKEN else self.name or "anyone"


OPEN_PAGE = Identity(IdentityKind.OPEN, "", Role.OPERATOR)


class Access(StrEnum):
    """What a route asks of who calls it, before it runs."""

    PUBLIC = "public"
    """Nothing: the login page, its static files, and whether the server is healthy."""
    AGENT = "agent"
    """A car's own identity, which the route itself checks."""
    METRICS = "metrics"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def role(self) -> Role | None:
        """Return the role that is needed; None where a route has its own rule or none."""
        return None if self in (Access.PUBLIC, Access.AGENT) else Role(self.value)


class Source(StrEnum):
    """By which way somebody came."""

    PAGE = "page"
    API = "api"
    COMMAND = "command"
    SERVICE = "service"
    """The server itself, by the rule of a schedule."""


class Action(StrEnum):
    """What is written into the audit trail."""

    LOGIN = "login"
    LOGIN_FAILED = "login-failed"
    LOGOUT = "logout"
    PASSWORD_SET = "password-set"  # noqa: S105 -- a word, not a secret
    PASSWORD_CHANGED = "password-changed"  # noqa: S105 -- a word, not a secret
    SESSIONS_ENDED = "sessions-ended"
    USER_ADDED = "user-added"
    USER_ROLE = "user-role"
    USER_LINK = "user-link"
    USER_DISABLED = "user-disabled"
    USER_ENABLED = "user-enabled"
    USER_REMOVED = "user-removed"
    TOKEN_ADDED = "token-added"  # noqa: S105 -- a word, not a secret
    TOKEN_REMOVED = "token-removed"  # noqa: S105 -- a word, not a secret
    CAR_INVITED = "car-invited"
    CAR_ACCEPTED = "car-accepted"
    CAR_REJECTED = "car-rejected"
    CAR_REVOKED = "car-revoked"
    CAR_ROTATED = "car-rotated"
    DOORS_CLOSED = "doors-closed"
    NAME_ADDED = "name-added"
    CERTIFICATE_RENEWED = "certificate-renewed"
    AUTHORITY_RENEWED = "authority-renewed"
    BACKUP_MADE = "backup-made"
    BACKUP_RESTORED = "backup-restored"
    NODE_LABELLED = "node-labelled"
    NODE_DRAINED = "node-drained"
    NODE_UNDRAINED = "node-undrained"
    NODE_FORGOTTEN = "node-forgotten"
    SCHEDULE_ADDED = "schedule-added"
    SCHEDULE_EDITED = "schedule-edited"
    SCHEDULE_PAUSED = "schedule-paused"
    SCHEDULE_RESUMED = "schedule-resumed"
    SCHEDULE_REMOVED = "schedule-removed"
    SCHEDULE_IMPORTED = "schedule-imported"
    RUN_QUEUED = "run-queued"
    RUN_STOPPED = "run-stopped"
    MODEL_PROMOTED = "model-promoted"
    MODEL_ROLLED_BACK = "model-rolled-back"
    MODEL_IMPORTED = "model-imported"
    MODEL_DELETED = "model-deleted"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something, and from where.

    Attributes:
        name: the user of the page, `token:NAME`, or the local user of a command (`ana as root` under sudo).
        source: the way they came.
        address: the client's address; empty for somebody at the server itself.
    """

    name: str
    source: Source
    address: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in."""

    id: int
    name: str
    role: Role
    disabled: bool
    password_hash: str | None
    link_expires_at: datetime | None
    created_at: datetime
    created_by: str
    password_set_at: datetime | None
    last_login_at: datetime | None

    def state(self, now: datetime) -> str:
        """Return one word for lists: active, disabled, invited, or expired (a link that nobody used in time)."""
        if self.disabled:
            return "disabled"
        if self.password_hash is not None:
            return "active"
        return "invited" if self.link_expires_at is not None and now < self.link_expires_at else "expired"


@dataclass(frozen=True, slots=True)
class Session:
    """One browser in which a user is logged in."""

    id: int
    user_id: int
    created_at: datetime
    seen_at: datetime
    secure: bool
    address: str
    browser: str


@dataclass(frozen=True, slots=True)
class ApiToken:
    """What a program shows instead of a password."""

    id: int
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    used_at: datetime | None
    used_from: str


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a session lasts: without any request, and in all."""

    idle: timedelta = timedelta(hours=12)
    absolute: timedelta = timedelta(days=7)


SEEN_EVERY = timedelta(minutes=1)
"""How exactly the register knows when a session or token was last used; a write for each request would be too much."""


def session_holds(session: Session, now: datetime, limits: SessionLimits) -> bool:
    """Return whether a session is still good.

    A clock that was set back past its beginning ends it: how old it is cannot be told then.
    """
    if now < session.created_at - SEEN_EVERY:
        return False
    return now - session.created_at < limits.absolute and now - session.seen_at < limits.idle


def seen_is_stale(seen_at: datetime | None, now: datetime) -> bool:
    """Return whether the time of last use is to be written again."""
    return seen_at is None or abs(now - seen_at) >= SEEN_EVERY


def checked_name(name: str) -> str:
    """Return a name of a user or token.

    Raises:
        UsageError: it is not one.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a name", hint=NAME_RULE, code="name-invalid")
    return name


def checked_role(role: Role, allowed: tuple[Role, ...] = USER_ROLES) -> Role:
    """Return a role that may be given.

    Raises:
        UsageError: it may not.
    """
    if role not in allowed:
        raise UsageError(
            f"a user cannot have the role {role.value}", hint=f"one of {', '.join(allowed)}", code="role-invalid"
        )
    return role
