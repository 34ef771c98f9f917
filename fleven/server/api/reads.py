"""What may be asked: nodes, runs, schedules, status, metrics, health. Nothing here changes anything.

The functions are plain ones: FastAPI runs them on worker threads, each with its own view of the register.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from fleven import __version__
from fleven.server.access.routes import file_role
from fleven.server.api.metrics import metrics_text
from fleven.server.errors import NotFoundError, StoreError
from fleven.server.http.access_guard import known_identity, needs
from fleven.server.http.context import LARGEST_ID
from fleven.server.http.shared_answer import SharedAnswer, parts
from fleven.server.models import registry
from fleven.server.nodes import history
from fleven.server.nodes.model import NodeHealth
from fleven.server.runs import store as run_store
from fleven.server.runs.model import RunState
from fleven.server.runs.plans import read_plans
from fleven.server.runs.results import DOWNLOADS, RunFolders, download
from fleven.server.schemas.models import ModelsAnswer, model_answer
from fleven.server.schemas.nodes import (
    ErrorAnswer,
    HealthAnswer,
    HistoryAnswer,
    NodeDetailAnswer,
    NodesAnswer,
    WhoAnswer,
    node_answer,
    node_detail_answer,
)
from fleven.server.schemas.runs import (
    RunDetailAnswer,
    RunsAnswer,
    SchedulesAnswer,
    planned_answer,
    run_answer,
    run_detail,
)
from fleven.server.schemas.status import StatusAnswer, server_status, service_answer

if TYPE_CHECKING:
    from fleven.server.http.context import ApiContext


ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "No login, and no token of this server."},
    403: {"model": ErrorAnswer, "description": "The role does not allow this."},
    421: {"model": ErrorAnswer, "description": "The Host header names another server."},
    422: {"model": ErrorAnswer, "description": "A parameter is not valid."},
    429: {"model": ErrorAnswer, "description": "Too many requests from one address."},
    503: {"model": ErrorAnswer, "description": "The register cannot be read at the moment."},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "It does not exist."}}
NodeName = Annotated[str, Path(min_length=1, max_length=255, description="Name of a node")]
RunId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="Number of a run, as `fleven-server runs` shows it")]


def read_routes(context: ApiContext) -> APIRouter:
    """All routes that read."""
    router = APIRouter(responses=ERRORS)
    add_node_routes(router, context)
    add_run_routes(router, context)
    add_server_routes(router, context)
    return router


def add_node_routes(router: APIRouter, context: ApiContext) -> None:
    """The fleet."""
    store, register, now = context.store, context.register, context.now

    @router.get("/v1/nodes", summary="All nodes with their verdicts", tags=["nodes"])
    def get_nodes(
        label: Annotated[str | None, Query(max_length=64, description="Only nodes with this label")] = None,
        health: Annotated[NodeHealth | None, Query(description="Only nodes with this verdict")] = None,
    ) -> NodesAnswer:
        """A node counts as ready only when its own report and Flower's list agree."""
        at = now()
        nodes = [
            node_answer(record)
            for record in register.records(at)
            if (label is None or label in record.node.labels) and (health is None or record.node.health is health)
        ]
        return NodesAnswer(server_time=at, flower_list_read_at=register.flower_list_read_at(), nodes=nodes)

    @router.get("/v1/nodes/{name}", summary="One node with its newest report", responses=NOT_FOUND, tags=["nodes"])
    def get_node(name: NodeName) -> NodeDetailAnswer:
        return node_detail_answer(register.record(name, now()))

    @router.get("/v1/nodes/{name}/history", summary="A node's past", responses=NOT_FOUND, tags=["nodes"])
    def get_history(
        name: NodeName,
        hours: Annotated[float, Query(gt=0, le=24 * 366, description="How far back, in hours")] = 24.0,
        events: Annotated[int, Query(ge=0, le=5000, description="At most this many events and tasks")] = 500,
    ) -> HistoryAnswer:
        """Raw samples while they are kept, hourly means with maxima before that; events and finished tasks."""
        at = now()
        register.record(name, at)
        since = at - timedelta(hours=hours)
        return HistoryAnswer(
            name=name,
            since=since,
            samples=history.history(store, name, since),
            events=history.events(store, name, since, events),
            tasks=[t for t in history.tasks(store, name=name, limit=events) if t["reported_at"] >= since],
        )


def add_run_routes(router: APIRouter, context: ApiContext) -> None:
    """Runs and schedules."""
    store, paths, now = context.store, context.paths, context.now

    @router.get("/v1/runs", summary="Runs, newest first", tags=["runs"])
    def get_runs(
        limit: Annotated[int, Query(ge=1, le=1000, description="At most this many")] = 50,
        schedule: Annotated[str, Query(max_length=64, description="Only runs of this schedule")] = "",
        state: Annotated[list[RunState] | None, Query(description="Only runs in these states")] = None,
    ) -> RunsAnswer:
        with store.read() as connection:
            found = run_store.newest(connection, limit, schedule=schedule, states=state or ())
        at = now()
        return RunsAnswer(server_time=at, runs=[run_answer(run, at) for run in found])

    @router.get("/v1/runs/{run_id}", summary="One run with all that is known of it", responses=NOT_FOUND, tags=["runs"])
    def get_run(run_id: RunId) -> RunDetailAnswer:
        """Steps, attempts, rounds, what each car contributed, and the files that can be fetched."""
        return run_detail(store, paths, run_id, now())

    @router.get(
        "/v1/runs/{run_id}/files/{name}",
        summary="One file of a run",
        response_class=FileResponse,
        responses=NOT_FOUND,
        tags=["runs"],
    )
    def get_run_file(request: Request, run_id: RunId, name: Annotated[str, Path(max_length=255)]) -> FileResponse:
        """Metrics as JSON and CSV, plots as PNG, the trained model; the run itself lists them under `files`.

        Models, checkpoints and single predictions need the role operator.
        """
        needs(known_identity(request), file_role(name), name)
        with store.read() as connection:
            run = run_store.get(connection, run_id)
        file = download(RunFolders.of(run, paths), name)
        if file is None:
            raise NotFoundError(f"run {run_id} has no such file", hint=f"GET /v1/runs/{run_id} lists them")
        inline = file.suffix in (".png", ".json")
        return FileResponse(
            file,
            media_type=DOWNLOADS[file.suffix],
            filename=f"run-{run_id}-{file.name}",
            content_disposition_type="inline" if inline else "attachment",
        )

    @router.get("/v1/schedules", summary="All schedules, the next to fire first", tags=["runs"])
    def get_schedules() -> SchedulesAnswer:
        at = now()
        planned = read_plans(store, context.config, at, last=0).planned
        return SchedulesAnswer(server_time=at, schedules=[planned_answer(plan) for plan in planned])

    @router.get("/v1/models", summary="The versions of models, by experiment, the newest first", tags=["runs"])
    def get_models(experiment: Annotated[str, Query(max_length=100)] = "") -> ModelsAnswer:
        with store.read() as connection:
            found = registry.versions(connection, experiment)
        return ModelsAnswer(server_time=now(), models=[model_answer(model) for model in found])


def add_server_routes(router: APIRouter, context: ApiContext) -> None:
    """The server itself."""

    @router.get("/v1/status", summary="The server in one answer", tags=["server"])
    def get_status() -> StatusAnswer:
        return server_status(context.store, context.register, context.config, context.paths, context.now())

    @router.get("/v1/whoami", summary="Who asks, and what they may do", tags=["server"])
    def get_identity(request: Request) -> WhoAnswer:
        identity = known_identity(request)
        return WhoAnswer(kind=identity.kind.value, name=identity.name, role=identity.role.value)

    shared_metrics = SharedAnswer(
        lambda: metrics_text(context.store, context.register, context.paths, context.now(), context.writer.written)
    )

    @router.get("/metrics", summary="All metrics for Prometheus", tags=["server"], response_class=Response)
    def get_metrics() -> Response:
        answer = shared_metrics.get()
        length = {"content-length": str(len(answer))}
        return StreamingResponse(parts(answer), headers=length, media_type=CONTENT_TYPE_LATEST)

    @router.get(
        "/healthz",
        summary="Whether the server does its work",
        response_model=HealthAnswer,
        responses={503: {"model": HealthAnswer, "description": "It does not; `problems` says what is wrong."}},
        tags=["server"],
    )
    def get_health() -> JSONResponse:
        """200 only while the register can be read, reports are being written and the scheduler's loop runs."""
        problems: list[str] = []
        if not context.writer.alive:
            problems.append("reports are not being written")
        try:
            if not service_answer(context.store, context.now()).running:
                problems.append("the scheduler's loop is not running")
        except StoreError as error:
            problems.append(f"the register cannot be read: {error.message}")
        answer = HealthAnswer(ok=not problems, version=__version__, problems=problems)
        return JSONResponse(answer.model_dump(), 200 if answer.ok else 503)
