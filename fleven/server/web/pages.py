"""The web page: fleet, runs, schedules, as HTML made on the server; a small script fetches it again every few seconds.

Of the fleet nothing here changes anything; nothing is loaded from another host, no build step is needed. Must not
import the scheduler or the runner.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleven import __version__
from fleven.server.database.readings import READINGS
from fleven.server.errors import NotFoundError
from fleven.server.http.access_guard import identity_of, known_identity
from fleven.server.http.context import LARGEST_ID
from fleven.server.models import registry
from fleven.server.models.model import Reference
from fleven.server.nodes import history
from fleven.server.nodes.model import NodeHealth
from fleven.server.runs import store as run_store
from fleven.server.runs.model import RunState
from fleven.server.runs.plans import read_plans
from fleven.server.schemas.models import model_answer
from fleven.server.schemas.nodes import node_answer, node_detail_answer
from fleven.server.schemas.runs import run_answer, run_detail
from fleven.server.schemas.status import server_status
from fleven.server.web import filters, run_view
from fleven.server.web.forms import Render, form_token_of
from fleven.server.web.login import add_account_pages, add_login_pages
from fleven_agent.protocol.codes import ATTENTION_PATH, REPORTS_PATH

if TYPE_CHECKING:
    from fleven.server.http.context import ApiContext

FOLDER = FilePath(__file__).resolve().parent
SPARKLINE_SAMPLES = 240
"""One hour of reports every 15 s."""
SPARKLINE_NODES = 100
"""Above so many nodes the fleet page leaves the lines out, to stay small and quick."""
RUNS_SHOWN = 100
MODELS_SHOWN = 50
"""Of each experiment, the newest."""
FILES_SHOWN, PLOTS_SHOWN = 100, 24
"""On a run's page: an app may write thousands, and a browser would fetch every plot."""
AGENT_PATHS = frozenset({REPORTS_PATH, ATTENTION_PATH})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Other sites learn nothing; with `no-referrer` a browser would hide from this server, too, which page a form is of.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """Forbids, with every answer, that a page loads or runs anything from elsewhere. Plain ASGI: costs little."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to the start of an answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in AGENT_PATHS:  # no browser asks for them, and each byte costs a car
            await self._app(scope, receive, send)
            return
        uncached = not scope["path"].startswith("/static/")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if uncached:
                    headers.setdefault("Cache-Control", "no-store")
                message["headers"] = headers.raw
            await send(message)

        await self._app(scope, receive, send_with_headers)


def environment() -> Environment:
    """The templates, with everything escaped and every unknown name an error."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters.FILTERS
    made.globals |= {
        "version": __version__,
        "FILES_SHOWN": FILES_SHOWN,
        "PLOTS_SHOWN": PLOTS_SHOWN,
        "MODELS_SHOWN": MODELS_SHOWN,
    }
    made.globals["kept_readings"] = READINGS
    return made


def page_routes(app: FastAPI, context: ApiContext) -> None:
    """Add the pages and their static files."""
    templates = environment()

    router = APIRouter(include_in_schema=False)

    def render(request: Request, template: str, **values: Any) -> HTMLResponse:
        shown = {"now": context.now(), "identity": identity_of(request), "form_token": form_token_of(request)}
        return HTMLResponse(templates.get_template(template).render(**(shown | values)))

    add_login_pages(router, context, render)
    add_account_pages(router, context, render)
    add_fleet_pages(router, context, render)
    add_run_pages(router, context, render)
    add_model_pages(router, context, render)
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")


def add_fleet_pages(router: APIRouter, context: ApiContext, render: Render) -> None:
    """The fleet and its nodes."""
    store, register, now = context.store, context.register, context.now

    @router.get("/")
    def fleet_page(
        request: Request,
        health: Annotated[NodeHealth | None, Query()] = None,
        search: Annotated[str, Query(max_length=64)] = "",
    ) -> HTMLResponse:
        at = now()
        status = server_status(store, register, context.config, context.paths, at)
        wanted = search.strip().lower()
        nodes = [
            node_answer(record)
            for record in register.records(at)
            if (health is None or record.node.health is health)
            and (not wanted or wanted in record.node.name.lower() or wanted in record.node.labels)
        ]
        current = {str(node.current_run["run_id"]) for node in nodes if node.current_run}
        with store.read() as connection:
            run_ids = run_store.run_ids(connection, current)
        names = [node.name for node in nodes] if len(nodes) <= SPARKLINE_NODES else []
        readings = history.recent_readings(store, names, SPARKLINE_SAMPLES, at - timedelta(hours=1))
        shown = {"status": status, "nodes": nodes, "readings": readings, "run_ids": run_ids}
        return render(request, "fleet.html", **shown, health=health, search=search)

    @router.get("/nodes/{name}")
    def node_page(
        request: Request,
        name: Annotated[str, Path(max_length=255)],
        hours: Annotated[int, Query(ge=1, le=24 * 90)] = 24,
    ) -> HTMLResponse:
        at = now()
        record = register.record(name, at)
        if record.row is None:
            raise NotFoundError(f"no agent reports {name}: all that is known about it is in the list of nodes")
        register.note_look(record.node.name, at)
        since = at - timedelta(hours=hours)
        tasks = history.tasks(store, name=name, limit=50)
        with store.read() as connection:
            run_ids = run_store.run_ids(connection, {task["flower_run_id"] for task in tasks})
        return render(
            request,
            "node.html",
            node=node_detail_answer(record),
            hours=hours,
            samples=history.history(store, name, since),
            events=history.events(store, name, at - timedelta(days=30), 100)[::-1],
            tasks=tasks[::-1],
            run_ids=run_ids,
        )


def add_run_pages(router: APIRouter, context: ApiContext, render: Render) -> None:
    """Runs and schedules."""
    store = context.store

    @router.get("/runs")
    def runs_page(
        request: Request,
        schedule: Annotated[str, Query(max_length=64)] = "",
        state: Annotated[RunState | None, Query()] = None,
    ) -> HTMLResponse:
        with store.read() as connection:
            states = [state] if state else ()
            found = run_store.newest(connection, RUNS_SHOWN, schedule=schedule, states=states)
        runs = [run_answer(run, context.now()) for run in found]
        return render(request, "runs.html", runs=runs, schedule=schedule, state=state)

    @router.get("/runs/{run_id}")
    def run_page(request: Request, run_id: Annotated[int, Path(ge=1, le=LARGEST_ID)]) -> HTMLResponse:
        run = run_detail(store, context.paths, run_id, context.now())
        role = known_identity(request).role
        return render(request, "run.html", run=run, view=run_view.view(run, role))

    @router.get("/schedules")
    def schedules_page(request: Request) -> HTMLResponse:
        plans = read_plans(store, context.config, context.now())
        with store.read() as connection:
            last = {
                planned.schedule.name: next(iter(run_store.newest(connection, 1, schedule=planned.schedule.name)), None)
                for planned in plans.planned
            }
        return render(request, "schedules.html", planned=plans.planned, last=last)


def add_model_pages(router: APIRouter, context: ApiContext, render: Render) -> None:
    """The versions of models, and which of them is used where."""

    @router.get("/models")
    def models_page(request: Request) -> HTMLResponse:
        with context.store.read() as connection:
            found = [model_answer(model) for model in registry.versions(connection)]
        experiments = [(name, list(group)) for name, group in groupby(found, key=lambda model: model.experiment)]
        return render(request, "models.html", experiments=experiments, using=context.register.models_in_use())

    @router.get("/models/{name}")
    def model_page(request: Request, name: Annotated[str, Path(max_length=255)]) -> HTMLResponse:
        with context.store.read() as connection:
            model = model_answer(registry.find(connection, Reference.parse(name)))
        users = context.register.models_in_use().get(model.sha256, [])
        return render(request, "model.html", model=model, users=users)
