"""What the routes of API and page share: the register, the configuration, the limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from fleven.server.config import Paths, ServerConfig
from fleven.server.database import Store
from fleven.server.enrolment.registrar import Registrar
from fleven.server.http.rate_limit import RateLimiter
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.nodes.report_writer import ReportWriter

LARGEST_ID = 2**63 - 1
"""The largest of SQLite's integers."""


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
    now: Callable[[], datetime]
