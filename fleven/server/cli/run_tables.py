"""Tables of the commands `schedule` and `runs`, 80 columns wide. Takes plain values and prints; decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fleven.server.cli.common import console, table
from fleven.server.formatting import ago, joined, local
from fleven.server.models.model import ModelVersion, promotion_text
from fleven.server.runs.lifecycle import run_seconds
from fleven.server.runs.model import Attempt, Reason, Run, RunState
from fleven.server.runs.plans import Planned, Plans, Would
from fleven.server.runs.policy import Requirement
from fleven.server.runs.results import RunFolders, car_label, rows
from fleven.server.runs.store import StepRow
from fleven.server.schedules.spec import trigger_text
from fleven_agent.common.formatting import span

if TYPE_CHECKING:
    from rich.text import Text


STYLES = {
    RunState.SUCCEEDED: "green",
    RunState.FAILED: "red",
    RunState.TIMED_OUT: "red",
    RunState.CANCELLED: "yellow",
    RunState.SKIPPED: "yellow",
    RunState.RUNNING: "cyan",
    RunState.SUBMITTED: "cyan",
}
CONDITIONS = {
    Reason.OVERLAP: "earlier run",
    Reason.BLACKOUT: "blackout",
    Reason.SUPERLINK_UNREACHABLE: "SuperLink",
    Reason.NODE_LIST_UNREADABLE: "node list",
    Reason.TOO_FEW_NODES: "nodes",
    Reason.NODE_MISSING: "required nodes",
    Reason.NODE_CONDITION: "no errors",
    Reason.DATA_NOT_FRESH: "fresh data",
    Reason.NO_DRIFT: "drift",
    Reason.CONCURRENCY: "free place",
}
"""What each condition is called in a table; its code says why it is not met."""


def styled(text: str, style: str) -> Text:
    """Return a text that rich does not read for markup."""
    from rich.text import Text

    return Text(text, style=style)


def state_text(run: Run) -> Text:
    """Return a run's state in its colour."""
    return styled(run.state.value, STYLES.get(run.state, ""))


def planned_text(planned: Planned) -> Text:
    """Return whether a schedule would start if it fired now."""
    schedule, would = planned.schedule, planned.would
    if would is Would.NOTHING:
        return styled(f"{would.words}{': ' + schedule.pause_reason if schedule.pause_reason else ''}", "yellow")
    why = "; ".join(check.message for check in planned.why_not)
    return styled(f"{would.words}: {why}" if why else would.words, "yellow" if why else "green")


def print_plans(seen: Plans) -> None:
    """Print what runs next, what is open and why, and what ran last."""
    out = console()
    if not seen.server_running:
        out.print(styled("The server is not running: nothing fires. systemctl start fleven-server", "bold red"))
    elif not seen.superlink_reachable:
        out.print(styled("The SuperLink does not answer. systemctl status fleven-superlink", "bold red"))
    out.print(styled(f"{seen.readiness} nodes ready", "dim"))
    next_table = table("next|fixed", "schedule", "trigger", "now", title="NEXT")
    for planned in seen.planned:
        moment = planned.schedule.next_fire_at
        when = "-" if planned.schedule.paused or moment is None else f"{local(moment)}\n{ago(moment, seen.at)}"
        next_table.add_row(
            when,
            styled(planned.schedule.name, ""),
            styled(trigger_text(planned.schedule.spec), ""),
            planned_text(planned),
        )
    if seen.planned:
        out.print(next_table)
    else:
        out.print("No schedule yet: fleven-server schedule add nightly --cron '0 2 * * *'")
    if seen.open_runs:
        open_table = table("run|right", "schedule", "for|fixed", "state", title="\nOPEN")
        for run in seen.open_runs:
            open_table.add_row(
                str(run.id),
                styled(run.schedule_name, ""),
                span((seen.at - run.since).total_seconds()),
                styled(step_text(run, seen.at), ""),
            )
        out.print(open_table)
    if seen.last_runs:
        out.print(runs_table(seen.last_runs, seen.at, title="\nLAST"))


def runs_table(runs: Sequence[Run], at: datetime, title: str = "") -> Any:
    """Return a table of runs."""
    made = table("run|right", "schedule", "ended|fixed", "took|right", "state|fixed", "why", title=title)
    for run in runs:
        seconds = run_seconds(run, at)
        ended = local(run.ended_at) if run.ended_at else "-"
        took = span(seconds) if seconds is not None else "-"
        text = run.message if run.state.terminal else step_text(run, at)
        made.add_row(str(run.id), styled(run.schedule_name, ""), ended, took, state_text(run), styled(text, ""))
    return made


def print_checks(checks: Sequence[Requirement]) -> None:
    """Print conditions, met or not."""
    made = table("met|fixed", "condition|fixed", "now")
    for check in checks:
        mark = styled("yes", "green") if check.met else styled("no", "red")
        made.add_row(mark, CONDITIONS.get(check.code, check.code.value), styled(check.message, ""))
    console().print(made)


def number(value: Any, digits: int = 2) -> str:
    """Return a number for a table, `-` for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def rounds_done(count: Any) -> str:
    """Return `1 round`, `5 rounds`, or `- rounds` when nobody knows."""
    return f"{number(count)} round" + ("" if count == 1 else "s")


def print_result(result: Mapping[str, Any]) -> None:
    """Print a run's result: each car, the whole fleet, who was left out, where the files are."""
    # In brackets rich would take the unit for markup.
    unit = f" {result['unit']}" if result.get("unit") else ""
    personal = result.get("personal") if isinstance(result.get("personal"), dict) else None
    names = ["car", f"RMSE{unit}|right", f"MAE{unit}|right", "R²|right", "rows|right", "rounds|right", "seconds|right"]
    made = table(*names, *(["own RMSE|right", "own R²|right"] if personal else []))
    for car in result.get("cars") or []:
        made.add_row(
            styled(car_label(car), ""),
            number(car.get("rmse")),
            number(car.get("mae")),
            number(car.get("r2"), 3),
            number(car.get("rows")),
            number(car.get("rounds_contributed")),
            number(car.get("seconds"), 1),
            *_own_figures(car.get("personal_rmse"), car.get("personal_r2"), shown=personal is not None),
        )
    whole = result.get("global") or {}
    made.add_row(
        styled("all", "bold"),
        number(whole.get("rmse")),
        number(whole.get("mae")),
        number(whole.get("r2"), 3),
        number(whole.get("rows")),
        number(result.get("rounds")),
        number(result.get("seconds"), 1),
        *_own_figures((personal or {}).get("rmse"), (personal or {}).get("r2"), shown=personal is not None),
    )
    out = console()
    title = f"{result.get('target', 'target')} on held-out windows, after {rounds_done(result.get('rounds'))}"
    out.print(styled(title, "bold"))
    out.print(made)
    other = result.get("champion")
    if isinstance(other, Mapping) and other.get("rmse") is not None:
        figures = f"RMSE {number(other.get('rmse'))}, R² {number(other.get('r2'), 3)}"
        out.print(styled(f"champion on the same windows: {figures}", ""))
    if personal:
        out.print(styled(own_models(personal), ""))
    for car in result.get("excluded") or []:
        text = f"left out: {car_label(car)}: {car.get('error_code')}: {car.get('reason')}"
        out.print(styled(text, "yellow"))
    for car in result.get("warnings") or []:
        text = f"treated with caution: {car_label(car)}: {car.get('code')}: {car.get('reason')}"
        out.print(styled(text, "yellow"))
    paths = [("results", result.get("result_path")), ("model", result.get("model_path"))]
    for name, path in [*paths, *(("plot", plot) for plot in result.get("plots") or [])]:
        if path:
            out.print(styled(f"{name}: {path}", ""), soft_wrap=True)


def _own_figures(rmse: Any, r2: Any, *, shown: bool) -> tuple[str, ...]:
    return (number(rmse), number(r2, 3)) if shown else ()


def own_models(personal: Mapping[str, Any]) -> str:
    """Return how many cars kept a model of their own, in one line."""
    if personal.get("kind") == "head":
        return f"own: the output layers of {number(personal.get('cars'))} cars are their own"
    return f"own: {number(personal.get('kept'))} of {number(personal.get('cars'))} cars kept a model of their own"


def step_text(run: Run, at: datetime) -> str:
    """Return where a run stands, in one phrase."""
    if run.state is RunState.RUNNING and run.progress is not None and run.progress.rounds:
        progress = run.progress
        replied = f", {progress.nodes_replied} of {progress.nodes_expected} nodes" if progress.nodes_expected else ""
        return f"running, round {progress.round} of {progress.rounds}{replied}"
    if run.reason is Reason.ACCEPTED:
        return f"submitted, {run.message}"
    if run.state is RunState.WAITING and run.retry_at is not None:
        return f"waiting ({run.reason.value}): tries again {ago(run.retry_at, at)}"
    return f"{run.state.value} ({run.reason.value}){': ' + run.message if run.message else ''}"


def end_text(run: Run, at: datetime) -> str:
    """Return how a run ended, in one line."""
    seconds = run_seconds(run, at)
    took = f" after {span(seconds)}" if seconds is not None else ""
    tries = f", attempt {run.attempts}" if run.attempts > 1 else ""
    return f"run {run.id} {run.state.value}{took}{tries}: {run.message or run.reason.value}"


APP_HASH_SHOWN = 12
"""Hexadecimal digits: enough to compare by eye; --json has all."""


def print_run(
    run: Run,
    steps: Sequence[StepRow],
    attempts: Sequence[Attempt],
    folders: RunFolders,
    names: Mapping[str, str],
    others: Mapping[str, str],
    at: datetime,
) -> None:
    """Print everything that is known about a run."""
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
            app = f", app {attempt.app_hash[:APP_HASH_SHOWN]}" if attempt.app_hash else ""
            made_from = f"attempt {attempt.number}: Flower run {attempt.flower_run_id}{app}{resumed}"
            out.print(styled(made_from, ""), soft_wrap=True)
    for name, app_hash in others.items():
        out.print(styled(f"{name} says it ran another app: {app_hash[:APP_HASH_SHOWN]}", "red"), soft_wrap=True)
    print_rounds(folders, names)
    for name, folder in (("metrics", folders.metrics), ("results", folders.results)):
        if folder is not None and folder.is_dir():
            out.print(styled(f"{name}: {folder}", ""), soft_wrap=True)


def print_model(model: ModelVersion) -> None:
    """Print what became of a run's model."""
    decided = promotion_text(model)
    out = console()
    out.print(styled(f"model: {model.name}, {model.standing}", ""))
    if decided:
        out.print(styled(decided, ""), soft_wrap=True)


def print_rounds(folders: RunFolders, names: Mapping[str, str]) -> None:
    """Print a run's rounds with the cars that contributed."""
    rounds = rows(folders, "rounds.json")
    if not rounds:
        return
    by_round: dict[Any, list[str]] = {}
    for row in rows(folders, "clients.json", names):
        if row.get("ok"):
            who = car_label(row)
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


def print_tails(tails: Sequence[dict[str, Any]]) -> None:
    """Print the ClientApps' last lines, each under its car."""
    for tail in tails:
        place = f"round {tail['round']}, " if tail["round"] is not None else ""
        sys.stdout.write(
            f"\n--- {tail['node']}: {place}{tail['message_type']}, {tail['outcome']}\n{tail['log_tail']}\n"
        )


def difference(pair: Sequence[Any], digits: int) -> str:
    """Return the second number minus the first, with its sign."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in pair):
        return ""
    return f"{pair[1] - pair[0]:+.{digits}f}"


def print_comparison(compared: dict[str, Any]) -> None:
    """Print a comparison of two runs."""
    figures = [("state", compared["states"], 0)]
    figures += [(key, compared[key], 0) for key in ("rounds", "seconds")]
    overall = (("rmse", 2), ("mae", 2), ("r2", 3), ("rows", 0))
    figures += [(f"all: {key}", compared["global"][key], digits) for key, digits in overall]
    figures += [(f"partition {name}: rmse", measures["rmse"], 2) for name, measures in compared["cars"].items()]
    print_pairs([f"run {run}" for run in compared["runs"]], figures, compared["config"])


def print_pairs(
    names: Sequence[str], figures: Iterable[tuple[str, Sequence[Any], int]], config: Mapping[str, Sequence[Any]]
) -> None:
    """Print the figures of two, and below them the settings that differ, which may be long.

    figures: what each is, its two values, and its digits.
    """
    made = table("|fixed", *(f"{name}|right" for name in names), "change|right")
    for label, pair, digits in figures:
        cells = [value if isinstance(value, str) else number(value, digits) for value in pair]
        made.add_row(styled(label, ""), *cells, difference(pair, digits))
    console().print(made)
    if config:
        made = table("setting|fixed", *names)
        for key, pair in config.items():
            made.add_row(styled(key, ""), *(styled("-" if value is None else str(value), "") for value in pair))
        console().print()
        console().print(made)
