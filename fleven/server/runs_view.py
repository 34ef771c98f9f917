"""One run in detail: steps, attempts, logs, comparison with another. For the commands of `runs`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from fleven.server.cli_common import console, joined, local, table
from fleven.server.config import Paths
from fleven.server.errors import FlowerError, ServerError
from fleven.server.flower import Flower, environment, flower_for
from fleven.server.flower_answers import decoded_failure
from fleven.server.follow import end_text, step_text
from fleven.server.lifecycle import run_seconds
from fleven.server.model import Attempt, Run, RunState
from fleven.server.node_tables import node_tasks, nodes
from fleven.server.printing import number, styled
from fleven.server.run_files import RunFolders, result, rows
from fleven.server.runner import Runner
from fleven.server.schedule_spec import ScheduleSpec
from fleven.server.store.runs import StepRow

if TYPE_CHECKING:
    from fleven.server.cli_common import Opened

LOG_TIMEOUT_SECONDS = 30
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def print_run(
    run: Run, steps: Sequence[StepRow], attempts: Sequence[Attempt], folders: RunFolders, at: datetime
) -> None:
    """Print everything that is known of a run."""
    out = console()
    head = end_text(run, at) if run.state.terminal else f"run {run.id} {step_text(run, at)}"
    out.print(styled(head, "bold"))
    out.print(styled(f"schedule {run.schedule_name}, {run.trigger.value}, due {local(run.due_at)}", "dim"))
    overrides = ", ".join(f"{key}={value}" for key, value in sorted(run.spec.run_config.items()))
    if overrides:
        out.print(styled(f"run config: {overrides}", ""))
    made = table("time|fixed", "try|right", "state|fixed", "reason|fixed", "")
    for step in steps:
        text = styled(step.message, "")
        moment = f"{step.at.astimezone():%d %b %H:%M:%S}"
        made.add_row(moment, str(step.attempt or ""), step.state.value, step.reason.value, text)
    out.print(made)
    for attempt in attempts:
        if attempt.flower_run_id:
            resumed = f", from {attempt.resume_from}" if attempt.resume_from else ""
            out.print(
                styled(f"attempt {attempt.number}: Flower run {attempt.flower_run_id}{resumed}", ""), soft_wrap=True
            )
    print_rounds(folders)
    for name, folder in (("metrics", folders.metrics), ("results", folders.results)):
        if folder is not None and folder.is_dir():
            out.print(styled(f"{name}: {folder}", ""), soft_wrap=True)


def print_rounds(folders: RunFolders) -> None:
    """Print a run's rounds with the cars that contributed."""
    rounds = rows(folders, "rounds.json")
    if not rounds:
        return
    by_round: dict[Any, list[str]] = {}
    for row in rows(folders, "clients.json"):
        if row.get("ok"):
            who = str(row.get("node_name") or row.get("partition_id"))
            cars = by_round.setdefault(row.get("round"), [])
            if who not in cars:
                cars.append(who)
    made = table("round|right", "RMSE|right", "MAE|right", "R²|right", "seconds|right", "cars")
    for row in rounds[-20:]:
        made.add_row(
            number(row.get("round")),
            number(row.get("rmse")),
            number(row.get("mae")),
            number(row.get("r2"), 3),
            number(row.get("seconds"), 1),
            styled(joined(sorted(by_round.get(row.get("round"), []))) or number(row.get("nodes")), ""),
        )
    console().print(made)


def result_of(run: Run, paths: Paths) -> dict[str, Any]:
    """Return a run's result.

    Raises:
        ServerError: it has none; says why.
    """
    folders = RunFolders.of(run, paths)
    found = result(folders)
    if found is not None:
        return found
    if folders.metrics is None:
        why = "its app writes none" if run.attempt is not None and run.attempt.flower_run_id else "it never started"
        raise ServerError(f"run {run.id} has no result: {why}", code="no-result")
    hint = f"see: fleven-server runs logs {run.id}" if run.state.terminal else "it is still under way"
    raise ServerError(f"run {run.id} has written no result", hint=hint, code="no-result")


def server_log(flower: Flower, flower_run_id: str, *, follow: bool = False, echo: bool = False) -> str:
    """Return or print a run's ServerApp log.

    Raises:
        FlowerError: Flower could not be asked.
    """
    arguments = flower.log_arguments(flower_run_id, follow=follow)
    limit = None if follow else LOG_TIMEOUT_SECONDS
    try:
        done = subprocess.run(
            arguments,
            env=environment(flower.paths),
            stdin=subprocess.DEVNULL,
            stdout=None if echo and follow else subprocess.PIPE,
            stderr=None if echo and follow else subprocess.PIPE,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FlowerError("`flwr log` did not answer", code="flower-timeout") from error
    except KeyboardInterrupt:
        return ""
    if done.returncode != 0:
        raise decoded_failure("flwr log", done.returncode, (done.stderr or b"").decode(errors="replace"))
    text = COLOURS.sub("", (done.stdout or b"").decode(errors="replace")).strip("\n")
    if echo and text:
        sys.stdout.write(text + "\n")
    return text


def client_tails(connection: Connection, run: Run) -> list[dict[str, Any]]:
    """Return the last lines of ClientApps that failed in a run's newest attempt, as their cars reported them."""
    if run.attempt is None or run.attempt.flower_run_id is None:
        return []
    columns = node_tasks.c
    statement = (
        select(
            nodes.c.name, columns.round, columns.message_type, columns.outcome, columns.reported_at, columns.log_tail
        )
        .select_from(node_tasks.join(nodes, nodes.c.id == columns.node_id))
        .where(
            columns.flower_run_id == run.attempt.flower_run_id, columns.log_tail.is_not(None), columns.log_tail != ""
        )
        .order_by(columns.reported_at)
    )
    return [
        {
            "node": row.name,
            "round": row.round,
            "message_type": row.message_type,
            "outcome": row.outcome,
            "at": row.reported_at,
            "log_tail": row.log_tail,
        }
        for row in connection.execute(statement)
    ]


def print_tails(tails: Sequence[dict[str, Any]]) -> None:
    """Print the ClientApps' last lines, each under its car."""
    for tail in tails:
        place = f"round {tail['round']}, " if tail["round"] is not None else ""
        sys.stdout.write(
            f"\n--- {tail['node']}: {place}{tail['message_type']}, {tail['outcome']}\n{tail['log_tail']}\n"
        )


def retried_spec(server: Opened, run: Run, attempts: Sequence[Attempt], *, fresh: bool) -> ScheduleSpec:
    """Return a run's settings for another try, with the checkpoint to go on from unless a fresh start is wanted."""
    runner = Runner(flower_for(server.config, server.paths), server.paths, server.config.app())
    point = None if fresh or run.state is RunState.SUCCEEDED else runner.resume_point(run, attempts)
    kept = {key: value for key, value in run.spec.run_config.items() if key != "resume-from"}
    config = {**kept, "resume-from": point} if point is not None else kept
    return run.spec.model_copy(update={"run_config": config})


def comparison(first: tuple[Run, Any], second: tuple[Run, Any]) -> dict[str, Any]:
    """Return what two runs differ in: configuration, measures over all cars and of each car."""
    pair = (first, second)
    configs = [{**(result.get("config") or {}), **run.spec.run_config} for run, result in pair]
    keys = sorted(set(configs[0]) | set(configs[1]))
    cars: dict[str, list[dict[str, Any]]] = {}
    for index, (_, ended) in enumerate(pair):
        for car in ended.get("cars") or []:
            cars.setdefault(str(car.get("partition_id")), [{}, {}])[index] = car
    return {
        "runs": [run.id for run, _ in pair],
        "states": [run.state.value for run, _ in pair],
        "config": {key: [c.get(key) for c in configs] for key in keys if configs[0].get(key) != configs[1].get(key)},
        "global": {
            key: [(result.get("global") or {}).get(key) for _, result in pair] for key in ("rmse", "mae", "r2", "rows")
        },
        "rounds": [result.get("rounds") for _, result in pair],
        "seconds": [run_seconds(run, run.since) for run, _ in pair],
        "cars": {
            name: {key: [car.get(key) for car in both] for key in ("rmse", "mae", "r2")}
            for name, both in sorted(cars.items(), key=lambda item: (len(item[0]), item[0]))
        },
    }


def difference(pair: Sequence[Any], digits: int) -> str:
    """Return the second number minus the first, with its sign."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in pair):
        return ""
    return f"{pair[1] - pair[0]:+.{digits}f}"


def print_comparison(compared: dict[str, Any]) -> None:
    """Print a comparison of two runs."""
    first, second = (f"run {run}" for run in compared["runs"])
    made = table("", f"{first}|right", f"{second}|right", "change|right")
    made.add_row("state", *compared["states"], "")
    for key, pair in compared["config"].items():
        made.add_row(styled(f"config: {key}", ""), *(str(value) if value is not None else "-" for value in pair), "")
    for key, digits in (("rounds", 0), ("seconds", 0)):
        made.add_row(key, *(number(value, digits) for value in compared[key]), difference(compared[key], digits))
    for key, digits in (("rmse", 2), ("mae", 2), ("r2", 3), ("rows", 0)):
        pair = compared["global"][key]
        made.add_row(f"all: {key}", *(number(value, digits) for value in pair), difference(pair, digits))
    for name, measures in compared["cars"].items():
        pair = measures["rmse"]
        made.add_row(f"partition {name}: rmse", *(number(value) for value in pair), difference(pair, 2))
    console().print(made)
