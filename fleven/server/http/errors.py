"""One form for every error of the API, with a stable code; nothing internal leaks out."""

from __future__ import annotations

import html
import logging
import math
import time
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from fleven.server.access.passwords import PasswordsBusyError
from fleven.server.enrolment.model import EnrolmentError
from fleven.server.errors import NotFoundError, ServerError, StoreError, UsageError
from fleven.server.http.request_body import RequestError
from fleven.server.nodes.report_writer import ReportsBusyError
from fleven.server.schemas.nodes import ErrorAnswer
from fleven_agent.protocol.codes import REPORTS_PATH
from fleven_agent.protocol.identity import ENROL_PATH, ROTATE_PATH, Refusal

logger = logging.getLogger("fleven.server.fleet_api")

REFUSAL_STATUS = {
    Refusal.IDENTITY_REQUIRED: 401,
    Refusal.IDENTITY_UNKNOWN: 401,
    Refusal.IDENTITY_WRONG: 401,
    Refusal.NAME_TAKEN: 409,
    Refusal.PARTITION_TAKEN: 409,
    Refusal.PENDING_FULL: 429,
    Refusal.RATE_LIMITED: 429,
}
"""All others are 403: the server has understood, and will not."""
REPORTED_PATHS = frozenset({REPORTS_PATH, ENROL_PATH, ROTATE_PATH})
"""A refusal there is worth a line in the journal: some car does not come in."""
RETRY_SECONDS = {429: 60.0, 503: 5.0}
STATUS_CODES = {400: "request-malformed", 404: "not-found", 405: "method-not-allowed"}


def status_of(error: ServerError) -> int:
    """The HTTP status of a coded error."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, EnrolmentError):
        return REFUSAL_STATUS.get(error.refusal, 403)
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, UsageError):
        return 422
    if isinstance(error, StoreError | ReportsBusyError | PasswordsBusyError):
        return 503
    return 500


def coded_response(request: Request, error: ServerError, headers: dict[str, str] | None = None) -> Response:
    """Return the answer to a coded error, with what the journal should know written there."""
    status = status_of(error)
    headers = dict(headers or {})
    retry_seconds = error.retry_seconds if isinstance(error, RequestError) else RETRY_SECONDS.get(status, 0.0)
    if retry_seconds:
        headers["Retry-After"] = str(math.ceil(retry_seconds))
    if status >= 500:
        logger.error("event=request-failed path=%s code=%s error=%r", request.url.path, error.code, str(error))
    if status in (400, 408, 413):
        # The rest of the body was not read: the connection cannot be used again.
        headers["Connection"] = "close"
    answer = ErrorAnswer(code=error.code, message=error.message, hint=error.hint, problems=list(error.problems))
    return error_response(request, status, answer, headers)


def error_response(request: Request, status: int, answer: ErrorAnswer, headers: dict[str, str]) -> Response:
    """The error as JSON, or as a small page for a browser that asked for one."""
    if request.scope["path"].startswith(("/v1/", "/metrics", "/healthz", "/openapi.json")) or request.method not in (
        "GET",
        "HEAD",
    ):
        return JSONResponse(answer.model_dump(), status, headers)
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>FLEVEn</title>'
        '<link rel="stylesheet" href="/static/style.css"><main class="error-page">'
        f"<h1>{status}</h1><p>{html.escape(answer.message)}</p>"
        f'<p class="hint">{html.escape(answer.hint)}</p><p><a href="/">To the fleet</a></p></main></html>'
    )
    return HTMLResponse(text, status, headers)


REFUSALS_EVERY_SECONDS = 600.0
MAXIMUM_REFUSALS = 1_000


class Refusals:
    """Which refusals the journal has been told of lately: a car tries again every minute, for days."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def is_news(self, what: str) -> bool:
        """Return whether this has not been told for a while, and note that it is told now."""
        now = self._clock()
        if now - self._told.get(what, float("-inf")) < REFUSALS_EVERY_SECONDS:
            return False
        if len(self._told) >= MAXIMUM_REFUSALS:
            self._told.clear()
        self._told[what] = now
        return True


def add_error_handlers(app: FastAPI) -> None:
    """Catch every error once, here."""
    refused = Refusals()

    @app.exception_handler(ServerError)
    async def _coded(request: Request, error: ServerError) -> Response:
        if request.scope["path"] in REPORTED_PATHS and status_of(error) < 500:
            peer = request.client.host if request.client else ""
            if refused.is_news(f"{peer} {error.code}"):
                event = "report-refused" if request.scope["path"] == REPORTS_PATH else "car-refused"
                logger.warning("event=%s address=%s code=%s error=%r", event, peer, error.code, str(error))
        return coded_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [f"{'.'.join(str(part) for part in p['loc'])}: {p['msg']}" for p in error.errors()[:20]]
        answer = ErrorAnswer(code="request-invalid", message="the request is not valid", problems=problems)
        return error_response(request, 422, answer, {})

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = STATUS_CODES.get(error.status_code, "request-refused")
        message = "there is nothing at this address" if error.status_code == 404 else str(error.detail)
        return error_response(
            request, error.status_code, ErrorAnswer(code=code, message=message), dict(error.headers or {})
        )

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> Response:
        logger.exception("event=request-crashed path=%s", request.url.path, exc_info=error)
        answer = ErrorAnswer(code="internal", message="an error in the server; its journal has the details")
        return error_response(request, 500, answer, {})
