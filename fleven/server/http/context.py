"""What the routes of API and page share: the register, the configuration, the limits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from fleven.server.access.attempts import LoginAttempts
from fleven.server.access.model import SessionLimits
from fleven.server.access.passwords import Passwords
from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store
from fleven.server.enrolment.registrar import Registrar
from fleven.server.http.rate_limit import RateLimiter
from fleven.server.http.server_names import ServerNames
from fleven.server.models.offers import Offers
from fleven.server.nodes.attention import AttentionBoard
from fleven.server.nodes.newest_reports import NewestReports
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.nodes.report_writer import ReportWriter

LARGEST_ID = 2**63 - 1
"""The largest of SQLite's integers."""


def session_limits(config: ServerConfig) -> SessionLimits:
    """Return how long a session lasts by server.toml."""
    web = config.web
    return SessionLimits(idle=timedelta(hours=web.session_idle_hours), absolute=timedelta(days=web.session_days))


@dataclass(frozen=True, slots=True)
class AccessContext:
    """What decides who may come in.

    Attributes:
        limits: how long a session lasts.
        passwords: hashes and verifies them, a few at a time.
        attempts: how many wrong ones there were; to be used under `attempts_lock`.
        attempts_lock: the login runs on several threads.
        names: what this server is called, for the Host header.
        may_be_open: whether the page is open while nobody has ever been added as a user.
    """

    limits: SessionLimits
    passwords: Passwords
    attempts: LoginAttempts
    attempts_lock: threading.Lock
    names: ServerNames
    may_be_open: bool


@dataclass(frozen=True, slots=True)
class ApiContext:
    """What the routes share."""

    store: Store
    config: ServerConfig
    paths: Paths
    register: NodeRegistry
    writer: ReportWriter
    by_sender: RateLimiter
    bytes_by_sender: RateLimiter
    by_address: RateLimiter
    by_joining: RateLimiter
    registrar: Registrar
    access: AccessContext
    attention: AttentionBoard
    newest: NewestReports
    offers: Offers
    now: Callable[[], datetime]
