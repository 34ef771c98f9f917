"""The fleet API: reports in, fleet, runs and schedules out, metrics and health; and the web page beside it.

`create_app` builds it for the service; all it needs is the register. Reads run on a few worker threads, reports go
through one writer thread: neither can hold up the scheduler. Must not import the scheduler or the runner.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI

from fleven import __version__
from fleven.server.access.attempts import LoginAttempts
from fleven.server.access.passwords import Passwords
from fleven.server.api.attention import attention_routes
from fleven.server.api.enrolment import enrolment_routes, request_schemas
from fleven.server.api.models import model_routes
from fleven.server.api.reads import read_routes
from fleven.server.api.reports import batch_schemas, report_routes
from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store
from fleven.server.enrolment.registrar import Registrar
from fleven.server.http.access_guard import AccessGuard
from fleven.server.http.context import AccessContext, ApiContext, session_limits
from fleven.server.http.errors import add_error_handlers
from fleven.server.http.rate_limit import RateLimiter
from fleven.server.http.server_names import ServerNames
from fleven.server.models.offers import Offers
from fleven.server.nodes.attention import AttentionBoard
from fleven.server.nodes.newest_reports import NewestReports
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.nodes.report_writer import ReportWriter
from fleven.server.web.pages import SecurityHeaders, page_routes

logger = logging.getLogger("fleven.server.fleet_api")
REQUESTS_PER_ADDRESS_PER_SECOND = 100.0
"""From one address may come a page with its parts, or the reports of a thousand cars behind one router."""
JOINING_PER_MINUTE = 60.0
"""From one address; each costs a signature's check and a transaction. A car that waits asks six times a minute."""
REPORT_BYTES_PER_SECOND = 1_000_000 / 60
"""Of one sender, unpacked. A report of a car takes some 10 kB, and comes four times a minute or seldomer."""
REPORT_BYTES_AT_ONCE = 40_000_000
"""What a car has kept of two weeks without a connection comes at once ([reports] spool-maximum-megabytes)."""
DESCRIPTION = """
What the agents report, and what the page, the commands and your own programs may ask.
Times are ISO 8601 in UTC, sizes are bytes, 64-bit ids are decimal strings. Every error has one form, with a stable
`code`. Unknown fields in reports are ignored; new fields may appear in answers.
"""


def utc_now() -> datetime:
    """The current time in UTC: the only clock of the API."""
    return datetime.now(UTC)


def create_app(
    store: Store,
    config: ServerConfig,
    paths: Paths,
    *,
    attention: AttentionBoard | None = None,
    now: Callable[[], datetime] = utc_now,
) -> FastAPI:
    """Build the application.

    Args:
        store: the open register.
        config: server.toml.
        paths: the server's folders.
        attention: how closely the scheduler has the cars followed; without one nothing is wanted of them.
        now: the clock; tests give their own.
    """
    register = NodeRegistry.from_config(store, config)
    context = ApiContext(
        store=store,
        config=config,
        paths=paths,
        register=register,
        writer=ReportWriter(register),
        by_sender=RateLimiter(
            per_second=config.web.requests_per_minute / 60,
            burst=config.web.requests_per_minute,
            monotonic=time.monotonic,
        ),
        bytes_by_sender=RateLimiter(
            per_second=REPORT_BYTES_PER_SECOND, burst=REPORT_BYTES_AT_ONCE, monotonic=time.monotonic
        ),
        by_address=RateLimiter(
            per_second=REQUESTS_PER_ADDRESS_PER_SECOND,
            burst=int(10 * REQUESTS_PER_ADDRESS_PER_SECOND),
            monotonic=time.monotonic,
        ),
        by_joining=RateLimiter(
            per_second=JOINING_PER_MINUTE / 60, burst=int(JOINING_PER_MINUTE), monotonic=time.monotonic
        ),
        registrar=Registrar.of(store, register.directory, config, paths),
        access=AccessContext(
            limits=session_limits(config),
            passwords=Passwords(),
            attempts=LoginAttempts(time.monotonic),
            attempts_lock=threading.Lock(),
            names=ServerNames(config.web.certificate or paths.trust / "server.crt"),
            may_be_open=config.insecure,
        ),
        attention=attention or AttentionBoard(),
        newest=NewestReports(config.fleet.maximum_nodes),
        offers=Offers(store, paths),
        now=now,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        context.writer.start()
        try:
            yield
        finally:
            context.writer.stop()

    app = FastAPI(
        title="FLEVEn fleet API",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # The pages of FastAPI load scripts from other hosts: the schema itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    add_error_handlers(app)
    app.add_middleware(AccessGuard, context=context)
    # Outside of the guard: its refusals bear these headers, too.
    app.add_middleware(SecurityHeaders)
    app.include_router(report_routes(context))
    app.include_router(attention_routes(context))
    app.include_router(model_routes(context))
    app.include_router(enrolment_routes(context))
    app.include_router(read_routes(context))
    page_routes(app, context)
    describe_reports(app)
    return app


def describe_reports(app: FastAPI) -> None:
    """Add the models of the reports to the OpenAPI schema: FastAPI does not see them, since it does not read them."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        for name, model in (batch_schemas() | request_schemas()).items():
            components.setdefault(name, model)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
