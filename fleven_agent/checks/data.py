"""The trips: readable, and enough of them for one window of the app?"""

from pathlib import Path

from fleven_agent.checks.base import Check, Context, Result, error, ok, settings_of, skipped, warning
from fleven_agent.intake import QUARANTINE, Intake


def readable(context: Context) -> Result:
    """data-path holds trips that can be read."""
    settings = settings_of(context)
    if settings.data_path is None:
        return skipped("no data-path is set: the app looks below its own data-base-path")
    if not Path(settings.data_path).is_dir():
        return error(f"{settings.data_path} is not a folder", "make it, or set data-path")
    # A look, not an intake: a check moves nothing.
    summary = Intake(settings.data_path, settle_seconds=0, quarantine=False, minimum_rows=1).scan()
    if summary.problem:
        return error(summary.problem, "`fleven-agent config allow-data PATH` lets the service read a folder")
    message = f"{summary.trips} trips with {summary.rows} rows in {settings.data_path}"
    return warning(f"{message}; {summary.unmovable}", "mend or remove them") if summary.unmovable else ok(message)


def enough(context: Context) -> Result:
    """There are rows enough for the app's windows."""
    settings = settings_of(context)
    if settings.data_path is None:
        return skipped("no data-path is set")
    summary = Intake(settings.data_path, settle_seconds=0, quarantine=False, minimum_rows=1).scan()
    needed = settings.data.minimum_rows
    message = f"{summary.rows} rows, one window of the app needs {needed}"
    if summary.rows < needed:
        return error(message, "record longer trips, or lower data.minimum-rows with the app's sequence-length")
    return ok(message)


def quarantined(context: Context) -> Result:
    """Nothing was set aside."""
    settings = settings_of(context)
    if settings.data_path is None:
        return skipped("no data-path is set")
    reasons = sorted((Path(settings.data_path) / QUARANTINE).glob("*.reason"))
    if reasons:
        first = reasons[0].read_text(encoding="utf-8", errors="replace").strip()
        return warning(
            f"{len(reasons)} trips in quarantine, first: {reasons[0].stem}: {first}", "mend them and move back"
        )
    return ok("no trip in quarantine")


CHECKS = (
    Check("data.readable", "trips", readable),
    Check("data.enough", "rows for the app's windows", enough),
    Check("data.quarantine", "trips set aside", quarantined),
)
