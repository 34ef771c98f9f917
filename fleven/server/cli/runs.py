"""`fleven-server runs`: what ran and how it ended; logs, watch, stop, retry, compare. Thin: parses, calls, prints."""

import sys
from typing import Annotated, Any

import typer

from fleven.server.access.model import Action
from fleven.server.cli.common import ConfigOption, JsonOption, console, note, now, opened, print_json
from fleven.server.errors import ServerError, UsageError

app = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Runs: list, show, logs, watch, stop, retry, compare, results.",
)

RunArgument = Annotated[int, typer.Argument(metavar="RUN", min=1, help="Number of the run, as `runs` lists it.")]
LimitOption = Annotated[int, typer.Option("-n", "--limit", min=1, max=100_000, help="How many, newest first.")]
ScheduleOption = Annotated[str, typer.Option("--schedule", metavar="NAME", help="Only runs of this schedule.")]
StateOption = Annotated[
    list[str] | None, typer.Option("--state", metavar="STATE", help="Only runs in this state (repeatable).")
]


@app.callback()
def runs_command(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Runs: list, show, logs, watch, stop, retry, compare, results.

    Example: fleven-server runs

    Example: fleven-server runs show 12
    """
    if context.invoked_subcommand is None:
        list_runs("", None, 20, config, as_json=as_json)


@app.command("list")
def list_command(
    schedule: ScheduleOption = "",
    state: StateOption = None,
    limit: LimitOption = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first.

    Example: fleven-server runs list --schedule nightly --state failed -n 5
    """
    list_runs(schedule, state, limit, config, as_json=as_json)


def list_runs(schedule: str, state: list[str] | None, limit: int, config: Any, *, as_json: bool) -> None:
    """Print runs, newest first."""
    from fleven.server.cli.run_tables import runs_table
    from fleven.server.runs import store as run_store
    from fleven.server.runs.model import RunState
    from fleven.server.schemas.runs import run_answer

    known = [member.value for member in RunState]
    unknown = [word for word in state or [] if word not in known]
    if unknown:
        raise UsageError(f"--state: '{unknown[0]}' is not a state", hint=f"one of {', '.join(known)}")
    with opened(config) as server, server.store.read() as connection:
        states = [RunState(word) for word in state or []]
        found = run_store.newest(connection, limit, schedule=schedule, states=states)
    at = now()
    if as_json:
        print_json([run_answer(run, at) for run in found])
    elif found:
        console().print(runs_table(found, at))
    else:
        typer.echo("no run" + (" like this" if schedule or state else " yet: fleven-server schedule run"))


@app.command("show")
def show_command(run: RunArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one run: each step with its time and reason, its attempts, which cars contributed to which round.

    Example: fleven-server runs show 12
    """
    from fleven.server.cli.run_tables import print_model, print_run
    from fleven.server.models import registry
    from fleven.server.nodes.names import car_names
    from fleven.server.runs import store as run_store
    from fleven.server.runs.results import RunFolders
    from fleven.server.schemas.runs import apps_of_others, run_detail

    with opened(config) as server:
        if as_json:
            print_json(run_detail(server.store, server.paths, run, now()))
            return
        with server.store.read() as connection:
            found = run_store.get(connection, run)
            steps = run_store.steps(connection, run)
            attempts = run_store.all_attempts(connection, run)
            names = car_names(connection)
            others = apps_of_others(connection, found)
            model = registry.of_run(connection, run)
    print_run(found, steps, attempts, RunFolders.of(found, server.paths), names, others, now())
    if model is not None:
        print_model(model)


@app.command("results")
def results_command(run: RunArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print a run's result: error of each car and overall, rows used, where model and plots are.

    Example: fleven-server runs results 12
    """
    from fleven.server.cli.run_tables import print_result
    from fleven.server.nodes.names import car_names
    from fleven.server.runs import store as run_store
    from fleven.server.runs.results import result_of

    with opened(config) as server, server.store.read() as connection:
        found = run_store.get(connection, run)
        names = car_names(connection)
    result = result_of(found, server.paths, names)
    if as_json:
        print_json(result)
    else:
        print_result(result)


@app.command("compare")
def compare_command(
    first: RunArgument, second: RunArgument, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Compare two runs: what was configured differently, and how the results differ.

    Example: fleven-server runs compare 12 13
    """
    from fleven.server.cli.run_tables import print_comparison
    from fleven.server.runs import store as run_store
    from fleven.server.runs.results import comparison, result_of

    with opened(config) as server, server.store.read() as connection:
        pair = [run_store.get(connection, first), run_store.get(connection, second)]
    compared = comparison(*((run, result_of(run, server.paths)) for run in pair))
    if as_json:
        print_json(compared)
    else:
        print_comparison(compared)


@app.command("watch")
def watch_command(run: RunArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Draw a run's rounds and cars live until it ends. Ctrl-C leaves the run going.

    Exit codes: 0 succeeded, 1 failed, 3 timed out, 4 cancelled, 5 skipped.

    Example: fleven-server runs watch 12
    """
    from fleven.server.cli.follow import follow_to_end

    with opened(config) as server:
        follow_to_end(server, run, as_json=as_json, drawn=True)


@app.command("stop")
def stop_command(
    runs: Annotated[list[int], typer.Argument(metavar="RUN…", min=1, help="Numbers of the runs.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the run's history.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop runs: a waiting one never starts, a running one is stopped in Flower. It is not retried.

    Example: fleven-server runs stop 12 --reason "wrong data"
    """
    from fleven.server.database.facts import service_alive
    from fleven.server.runs import store as run_store
    from fleven.server.runs.model import Reason

    with opened(config) as server:
        with server.store.write() as connection:
            found = [run_store.get(connection, run) for run in runs]
            open_ids = [run.id for run in found if not run.state.terminal]
            text = f"stopped by the operator{': ' + reason if reason else ''}"
            run_store.request_stop(connection, open_ids, Reason.OPERATOR, text)
            for run_id in open_ids:
                note(connection, Action.RUN_STOPPED, f"run {run_id}", reason)
        alive = service_alive(server.store, now())
    ended = [run.id for run in found if run.state.terminal]
    if as_json:
        print_json({"stopping": open_ids, "ended_already": ended, "server_running": alive})
        return
    for run in found:
        typer.echo(f"run {run.id} had ended: {run.state.value}" if run.state.terminal else f"stopping run {run.id}")
    if open_ids and not alive:
        sys.stderr.write("fleven-server: the server is not running: the stop takes effect when it is\n")


@app.command("retry")
def retry_command(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Follow the new run until it ends.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="From round 1, not from the last checkpoint.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run an ended run again with the same settings, from its last checkpoint if its app can do that.

    Example: fleven-server runs retry 12 --no-follow
    """
    from fleven.server.cli.follow import hand_back
    from fleven.server.runs import firing
    from fleven.server.runs import store as run_store
    from fleven.server.runs.runner import retried_spec

    with opened(config) as server:
        with server.store.read() as connection:
            old = run_store.get(connection, run)
            attempts = run_store.all_attempts(connection, run)
        if not old.state.terminal:
            raise ServerError(
                f"run {run} is {old.state.value}", hint=f"fleven-server runs watch {run}", code="run-open"
            )
        spec = retried_spec(server.config, server.paths, old, attempts, fresh=fresh)
        with server.store.write() as connection:
            run_id = firing.run_now(connection, old.schedule_name, spec, now())
            note(connection, Action.RUN_QUEUED, f"run {run_id}", f"retries run {run}")
        hand_back(server, run_id, follow=follow, as_json=as_json)


@app.command("logs")
def logs_command(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing until the run ends.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the ServerApp's log and the last lines of ClientApps that failed, as their cars reported them.

    Example: fleven-server runs logs 12 -f
    """
    from fleven.server.cli.run_tables import print_tails
    from fleven.server.flower.flwr_command import flower_for, server_log
    from fleven.server.nodes.history import client_tails
    from fleven.server.runs import store as run_store

    with opened(config) as server:
        with server.store.read() as connection:
            found = run_store.get(connection, run)
            flower_run_id = found.attempt.flower_run_id if found.attempt is not None else None
            tails = client_tails(connection, flower_run_id) if flower_run_id else []
        flower = flower_for(server.config, server.paths)
        if as_json:
            log = server_log(flower, flower_run_id) if flower_run_id else ""
            print_json({"run": run, "flower_run_id": flower_run_id, "server_app": log, "client_apps": tails})
            return
        if flower_run_id is None:
            typer.echo(f"run {run} has no log: it was not submitted ({found.state.value}: {found.message})")
            return
        server_log(flower, flower_run_id, follow=follow and not found.state.terminal, echo=True)
        with server.store.read() as connection:
            tails = client_tails(connection, flower_run_id)
        print_tails(tails)
