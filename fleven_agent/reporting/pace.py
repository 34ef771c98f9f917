"""How often a car speaks: reports, questions to the SuperLink, heartbeats, tries of its port. Pure.

An idle car's bytes are nearly all of these, each the same as the last. They are stretched only while the server has
said that it follows the car no closer, and will say so when that changes; a server that does not know how (0.1.0), or
that cannot be reached, leaves everything as it was. Imports the settings and the codes.
"""

from dataclasses import dataclass

from fleven_agent.config.settings import Settings
from fleven_agent.protocol.codes import Attention


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals [s]. None means: as Flower has it."""

    report_seconds: float
    probe_seconds: float
    pull_seconds: float | None = None
    heartbeat_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Stretched:
    """What is stretched while nothing is wanted [s].

    A car that dies is missed after two and a half intervals of reports, so within ten minutes up to 240 s. A heartbeat
    counts for two of its intervals with Flower, which takes up to 1,800 s. On the wire a pull costs 1.25 kB, a
    heartbeat as much, a report 1.35 kB (``benchmarks/idle_cost.py``).
    """

    pull_seconds: float
    heartbeat_seconds: float
    probe_seconds: float
    report_seconds: float = 0.0
    """The shortest; node.toml may ask for a longer one."""


USUAL = Stretched(pull_seconds=120.0, heartbeat_seconds=300.0, probe_seconds=300.0)
METERED = Stretched(pull_seconds=600.0, heartbeat_seconds=1_200.0, probe_seconds=1_800.0, report_seconds=215.0)
RUN_HEARTBEAT_SECONDS = 15.0
"""In a run, where the others wait for a car that has died until two of these are missing; Flower's own is 30 s."""
KEEPALIVE_SECONDS = 60.0
METERED_KEEPALIVE_SECONDS = 240.0


def pace(settings: Settings, attention: Attention | None, *, busy: bool) -> Pace:
    """Return the intervals of now.

    Args:
        settings: of the agent.
        attention: how closely the server follows this car; None when it has not said, or cannot be asked.
        busy: a task is at work.
    """
    report, probe = settings.reports.interval_seconds, settings.health.superlink_probe_seconds
    if attention in {None, Attention.RUN} or busy:
        close = attention is not None and not settings.metered
        return Pace(report, probe, heartbeat_seconds=RUN_HEARTBEAT_SECONDS if close else None)
    stretched = METERED if settings.metered else USUAL
    if attention is Attention.WATCHED:
        return Pace(report, probe, pull_seconds=stretched.pull_seconds)
    return Pace(
        max(report, settings.reports.idle_interval_seconds, stretched.report_seconds),
        max(probe, stretched.probe_seconds),
        stretched.pull_seconds,
        stretched.heartbeat_seconds,
    )


def keepalive_seconds(settings: Settings) -> float:
    """Return after which silence the kernel asks whether the server is still there."""
    return METERED_KEEPALIVE_SECONDS if settings.metered else KEEPALIVE_SECONDS
