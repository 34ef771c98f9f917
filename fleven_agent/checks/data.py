"""The trips: whether they can be read, and are enough for one window of the app."""

from pathlib import Path
from typing import Any

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common.checks import Check, Result, SkippedError, error, ok, warning
from fleven_agent.monitoring.conditions import CATALOGUE
from fleven_agent.monitoring.trip_folder import QUARANTINE, Summary
from fleven_agent.monitoring.trip_watch import APP_DATA, folder_of
from fleven_agent.protocol.codes import ConditionCode


def _path(context: Context) -> str:
    """Return the folder of trips.

    Raises:
        SkippedError: this car needs none, or has none of its own and none of the default app.
    """
    folder = folder_of(settings_of(context))
    if folder is None:
        raise SkippedError("this car needs no trips: data.required is false")
    if context.trips is not None and context.trips.summary is not None and context.trips.summary.absent:
        raise SkippedError(f"no data-path is set, and there is no {APP_DATA}")
    return folder.path


def _look(context: Context) -> Summary:
    """Return what this user sees.

    Raises:
        SkippedError: nothing can be seen; ``readable`` says why.
    """
    look = context.trips
    if look is None or look.summary is None:
        raise SkippedError((look.stuck if look else "") or "the trips could not be looked at")
    return look.summary


def _agent_sees(context: Context) -> dict[str, Any] | None:
    """What the running agent sees in the same folder; None when none runs, or with another folder."""
    seen = (context.status or {}).get("data")
    return seen if isinstance(seen, dict) and seen.get("path") == _path(context) else None


def readable(context: Context) -> Result:
    """The folder of trips holds trips that can be read: by the service, whose sandbox hides what this user may see."""
    path = _path(context)
    if context.trips is not None and context.trips.stuck:
        return error(context.trips.stuck, CATALOGUE[ConditionCode.DATA_STUCK].hint)
    own, agent = _look(context), _agent_sees(context)
    hint = "put trips there, and give the agent a minute; `fleven-agent config allow-data PATH` lets it read a folder"
    if agent is not None and not agent["trips"]:
        here = "" if own.problem else f", where this user finds {own.trips}"
        return error(f"the running agent sees no trip in {path}{here}", hint)
    if agent is None and own.problem:
        return error(own.problem, hint)
    trips, rows, faults = (
        (own.trips, own.rows, own.unmovable)
        if agent is None
        else (agent["trips"], agent["rows"], agent.get("unmovable", ""))
    )
    message = f"{trips} trips with {rows} rows in {path}"
    return warning(f"{message}; {faults}", "repair or remove them") if faults else ok(message)


def enough(context: Context) -> Result:
    """There are enough rows for the app's windows."""
    settings = settings_of(context)
    _path(context)  # there is a folder to look at
    agent = _agent_sees(context)
    rows = _look(context).rows if agent is None else agent["rows"]
    needed = settings.data.minimum_rows
    message = f"{rows} rows, one window of the app needs {needed}"
    if rows < needed:
        return error(message, "record longer trips, or lower data.minimum-rows with the app's sequence-length")
    return ok(message)


def quarantined(context: Context) -> Result:
    """No trip was set aside."""
    path = _path(context)
    _look(context)  # the folder answers
    reasons = sorted((Path(path) / QUARANTINE).glob("*.reason"))
    if reasons:
        first = reasons[0].read_text(encoding="utf-8", errors="replace").strip()
        return warning(
            f"{len(reasons)} trips in quarantine, first: {reasons[0].stem}: {first}", "repair them and move them back"
        )
    return ok("no trip in quarantine")


CHECKS = (
    Check("data.readable", "trips", configured(readable)),
    Check("data.enough", "rows for the app's windows", configured(enough)),
    Check("data.quarantine", "trips set aside", configured(quarantined)),
)
