"""One run with all that is known of it: from the register, from its ServerApp's files, from the cars' reports."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote

from fleven.server import node_history, run_files
from fleven.server.config import Paths
from fleven.server.run_answers import RunDetailAnswer, RunFile, attempt_answer, run_fields, step_answer
from fleven.server.run_files import RunFolders
from fleven.server.store import Store
from fleven.server.store import runs as run_queries

TASKS_SHOWN = 2_000


def run_detail(store: Store, paths: Paths, run_id: int, now: datetime) -> RunDetailAnswer:
    """Gather a run.

    Raises NotFoundError when there is none with this number.
    """
    with store.read() as connection:
        run = run_queries.get(connection, run_id)
        steps = run_queries.steps(connection, run_id)
        attempts = run_queries.all_attempts(connection, run_id)
    folders = RunFolders.of(run, paths)
    flower_run_id = run.attempt.flower_run_id if run.attempt else None
    files = [
        RunFile(name=name, bytes=file.stat().st_size, href=f"/v1/runs/{run_id}/files/{quote(name)}")
        for name, file in run_files.downloads(folders).items()
    ]
    return RunDetailAnswer(
        **run_fields(run, now),
        steps=[step_answer(step) for step in steps],
        attempts_made=[attempt_answer(attempt) for attempt in attempts],
        rounds=run_files.rows(folders, "rounds.json"),
        clients=run_files.rows(folders, "clients.json"),
        result=run_files.result(folders),
        tasks=node_history.tasks(store, flower_run_id=flower_run_id, limit=TASKS_SHOWN) if flower_run_id else [],
        files=files,
    )
