"""Every route of the server with what it asks of who calls it: the one place where this is said.

A path that is not listed here asks for the role viewer, whether something is there or not: a stranger does not even
learn which paths exist. A test compares the table with the routes of the application. Must not import FastAPI.
"""

from __future__ import annotations

import re
from functools import cache

from fleven.server.access.model import Access, Role

LOGIN_PATH = "/login"
PASSWORD_PATH = "/password/{link}"  # noqa: S105 -- a path, not a secret

ROUTES: dict[str, Access] = {
    # Without login: what a browser needs to log in, and what a watchdog asks.
    LOGIN_PATH: Access.PUBLIC,
    PASSWORD_PATH: Access.PUBLIC,
    "/static/{path:path}": Access.PUBLIC,
    "/healthz": Access.PUBLIC,
    # The cars have identities of their own, which these routes check.
    "/v1/reports": Access.AGENT,
    "/v1/attention": Access.AGENT,
    "/v1/model/{sha256}": Access.AGENT,
    "/v1/trust": Access.AGENT,
    "/v1/enrol": Access.AGENT,
    "/v1/rotate": Access.AGENT,
    # The page.
    "/": Access.VIEWER,
    "/nodes/{name}": Access.VIEWER,
    "/runs": Access.VIEWER,
    "/runs/{run_id}": Access.VIEWER,
    "/schedules": Access.VIEWER,
    "/models": Access.VIEWER,
    "/models/{name}": Access.VIEWER,
    "/v1/models": Access.VIEWER,
    "/account": Access.VIEWER,
    "/account/password": Access.VIEWER,
    "/account/sessions": Access.VIEWER,
    "/logout": Access.VIEWER,
    # Programs.
    "/v1/nodes": Access.VIEWER,
    "/v1/nodes/{name}": Access.VIEWER,
    "/v1/nodes/{name}/history": Access.VIEWER,
    "/v1/runs": Access.VIEWER,
    "/v1/runs/{run_id}": Access.VIEWER,
    # The file itself may need more: see `file_role`.
    "/v1/runs/{run_id}/files/{name}": Access.VIEWER,
    "/v1/schedules": Access.VIEWER,
    "/v1/status": Access.VIEWER,
    "/v1/whoami": Access.VIEWER,
    "/openapi.json": Access.VIEWER,
    "/metrics": Access.METRICS,
}

_FIGURES = re.compile(r"(rounds|clients|result|status)\.(json|csv)|(?!predict).*\.png")
"""What a viewer may fetch. A file of another name may hold a model or single values of a car."""


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Access], ...]:
    return tuple(
        (re.compile("".join(_part(piece) for piece in re.split(r"(\{[^}]*\})", template))), access)
        for template, access in ROUTES.items()
        if "{" in template
    )


def _part(piece: str) -> str:
    if not piece.startswith("{"):
        return re.escape(piece)
    return ".*" if piece.endswith(":path}") else "[^/]+"


def access_of(path: str) -> Access:
    """Return what a path asks for."""
    exact = ROUTES.get(path)
    if exact is not None:
        return exact
    return next((access for pattern, access in _patterns() if pattern.fullmatch(path)), Access.VIEWER)


def file_role(name: str) -> Role:
    """Return the role that may fetch a file of a run.

    A viewer sees figures and plots. A model, a checkpoint, or the true and predicted speeds of cars (as numbers or as
    a plot of them) needs an operator.
    """
    return Role.VIEWER if _FIGURES.fullmatch(name) else Role.OPERATOR
