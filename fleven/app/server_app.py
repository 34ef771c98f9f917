"""Flower's entry point on the server: one run from its configuration to its result files."""

import importlib.metadata
import importlib.util
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from .. import __version__
from .columns import unit_of
from .errors import AppError, Code
from .logs import start_logging
from .server import checkpoint, flower_retries
from .server.results import RunFiles, State
from .server.rounds import Federation
from .server.scores import Score
from .settings import Settings, parse

log = logging.getLogger("fleven.app")
Plots = dict[Path, Callable[[Path], None]]
"""What is to be drawn: the file of each plot, and who draws it."""
start_logging()
flower_retries.shorten_object_retries()
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation. An operator's mistake ends it with one line and no traceback."""
    try:
        run(grid, context.run_id, dict(context.run_config))
    except AppError as error:
        log.error("event=run-failed code=%s reason=%r", error.code, error.reason)  # noqa: TRY400  # one line on purpose
        sys.tracebacklimit = 0  # Flower prints what we raise: the line is enough
        raise


def run(grid: Grid, run_id: int, run_config: dict[str, Any]) -> RunFiles:
    """Carry out one run and return its files.

    Raises AppError for everything that an operator can act on; status.json holds it by then.
    """
    started = time.monotonic()
    settings = _settings(run_id, run_config)
    files = RunFiles(settings, run_id)
    federation: Federation | None = None
    try:
        resumed = checkpoint.load(Path(settings.resume_from), settings) if settings.resume_from else None
        federation = Federation(grid, settings, files, run_id, resumed)
        federation.run()
        result, plots = finish(federation, State.SUCCEEDED, time.monotonic() - started, None)
        # The server takes a run that says this for ended: nobody waits for the plots.
        files.status(state=State.SUCCEEDED, round=settings.rounds, message=federation.history.last_word())
        draw(files, result, plots)
    except AppError as error:
        files.failed(error)
        _keep_what_there_is(federation, State.FAILED, time.monotonic() - started, error)
        raise
    except (SystemExit, KeyboardInterrupt):  # Flower ends a stopped run's ServerApp this way, from a signal handler
        files.status(state=State.STOPPED, message="stopped on request")
        _keep_what_there_is(federation, State.STOPPED, time.monotonic() - started, None)
        raise
    except Exception as error:
        internal = AppError(Code.INTERNAL, f"{type(error).__name__}: {error}", "the run's log has the traceback")
        files.failed(internal)
        _keep_what_there_is(federation, State.FAILED, time.monotonic() - started, internal)
        raise
    return files


def _settings(run_id: int, run_config: dict[str, Any]) -> Settings:
    """Check the configuration; a wrong one is reported in status.json too, if its folders are known."""
    try:
        return parse(run_config)
    except AppError as error:
        usable: dict[str, object] = {
            key: run_config[key]
            for key in ("experiment", "metrics-base-path", "results-base-path")
            if key in run_config
        }
        try:
            files = RunFiles(parse(usable), run_id)
        except AppError:  # one of these very keys is wrong: the log line must suffice
            raise error from None
        files.failed(error)
        raise


def finish(
    federation: Federation, state: State, seconds: float, error: AppError | None
) -> tuple[dict[str, Any], Plots]:
    """Write the model bundle and result.json; return the result, and the plots that it names, to be drawn.

    error: why the run failed.
    """
    settings, files, history = federation.settings, federation.files, federation.history
    if history.unscored is not None:
        history.rounds.append(history.unscored)
        history.unscored = None
        files.rounds(history.rounds)
    score = Score()
    for answer in sorted(federation.final.values(), key=lambda answer: answer.partition_id or 0):
        score = score.merge(Score.of(answer.numbers))
    cars = history.cars(federation.final, federation.fleet.cars)
    personal = history.personal(federation.final, settings)
    overall = score.row() | {"windows": score.windows, "rows": sum(car["rows"] or 0 for car in cars)}
    model_path = None
    if federation.scaler is not None and any(history.contributions.values()):
        from .server import bundle  # brings torch, which the cars' first task need not wait for

        model_path = files.results / "model.safetensors"
        bundle.save(
            model_path,
            federation.state.weights,
            federation.scaler,
            settings,
            {
                "run_id": str(federation.run_id),
                "experiment": settings.experiment,
                "rounds": federation.finished_rounds,
                "cars": [car["partition_id"] for car in cars],
                "global": overall,
                "personal": personal,
                "fleven": __version__,
                "flwr": importlib.metadata.version("flwr"),
            },
        )
    plots, notes = _plots(federation, cars)
    result = {
        "run_id": str(federation.run_id),
        "experiment": settings.experiment,
        "state": state,
        "error": error.plain() if error else None,
        "target": settings.target_column,
        "unit": unit_of(settings.target_column),
        "features": list(settings.feature_columns),
        "config": settings.as_config(),
        "rounds": federation.finished_rounds,
        "global": overall,
        "personal": personal,
        "champion": _champion(federation),
        "cars": cars,
        "excluded": history.excluded(),
        "warnings": history.warnings,
        "contributions": {str(number): ids for number, ids in history.contributions.items()},
        "seconds": seconds,
        "model_path": str(model_path) if model_path else None,
        "plots": [str(path) for path in plots],
        "notes": notes,
    }
    files.result(result)
    return result, plots


def _champion(federation: Federation) -> dict[str, Any] | None:
    """Return what the comparison with the model in use came to; None where none was asked for."""
    if federation.opponent is None:
        return None
    return federation.opponent.plain() | (federation.history.champion(federation.final) or Score().row() | {"cars": 0})


def _plots(federation: Federation, cars: list[dict[str, Any]]) -> tuple[Plots, list[str]]:
    """Return what can be drawn, and notes on what cannot."""
    settings, files, history = federation.settings, federation.files, federation.history
    target, unit = settings.target_column, unit_of(settings.target_column)
    plots: Plots = {}
    notes: list[str] = []
    pairs = {
        answer.partition_id: answer.predictions
        for answer in federation.final.values()
        if answer.partition_id is not None and answer.predictions is not None and len(answer.predictions[0])
    }
    own = {
        answer.partition_id: (answer.predictions[0], answer.personal_predictions)
        for answer in federation.final.values()
        if answer.partition_id in pairs and answer.predictions and answer.personal_predictions is not None
    }
    if not pairs:
        notes.append("no plot of predicted against true values: the cars shared none (share-predictions)")
    if importlib.util.find_spec("matplotlib") is None:
        return {}, [*notes, "no plots: matplotlib is not installed on the server"]
    from .server import plots as plotting

    plots[files.results / "error-by-round.png"] = lambda path: plotting.error_by_round(
        path, history.rounds, history.clients, target, unit
    )
    if pairs:
        plots[files.results / "predicted-against-true.png"] = lambda path: plotting.predicted_against_true(
            path, pairs, target, unit, own
        )
    if any(row["personal_rmse"] is not None for row in cars):
        plots[files.results / "personal-by-car.png"] = lambda path: plotting.personal_by_car(path, cars, target, unit)
    return plots, notes


def draw(files: RunFiles, result: dict[str, Any], plots: Plots) -> None:
    """Draw the plots that a result names; one that cannot be drawn becomes a note in it, never a failed run."""
    for path, draw_one in plots.items():
        try:
            draw_one(path)
        except Exception as error:
            log.exception("event=plot-failed")
            result["plots"].remove(str(path))
            result["notes"].append(f"a plot could not be drawn: {type(error).__name__}: {error}")
            files.result(result)


def _keep_what_there_is(federation: Federation | None, state: State, seconds: float, error: AppError | None) -> None:
    """After an early end, leave the tables, and the model of the rounds that were finished."""
    if federation is None:
        return
    try:
        federation.files.clients(federation.history.clients)
        draw(federation.files, *finish(federation, state, seconds, error))
    except Exception:  # the reason why the run ended matters more than this
        log.exception("event=result-not-written")
