"""Gates keep a car from training when it must not. Pure decisions over readings; only ``inhibit_files`` reads a folder.

A gate on a reading closes only after the reading has been bad for a while, and opens only after it has been good for
a while and by a margin, so that SuperNode does not start and stop over and over at a limit. An operator's drain works
at once.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fleven_agent.config import allowed_hours
from fleven_agent.config.settings import Gates as Settings
from fleven_agent.monitoring.traffic import near_limit
from fleven_agent.protocol.codes import GateCode
from fleven_agent.protocol.readings import Readings
from fleven_agent.system.way import Way

INHIBIT_FOLDER = "inhibit.d"
MAXIMUM_REASON_CHARACTERS = 200
TEMPERATURE_MARGIN_CELSIUS = 5.0
SPACE_MARGIN = 1.2

OPENS_SOON_SECONDS = {GateCode.DISK: 10.0}
"""Space comes back only when somebody frees it, and does not go again by itself as heat and memory do."""
_OPENS_AT_ONCE = {GateCode.DRAIN, GateCode.HOURS, GateCode.IDENTITY, GateCode.CELL, GateCode.TRAFFIC}
_AT_ONCE = {*_OPENS_AT_ONCE, GateCode.INHIBIT, GateCode.NETWORK}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the gates look at."""

    readings: Readings
    inhibitors: tuple[str, ...] = ()
    """Reasons of the files in inhibit.d."""
    drain: str | None = None
    """The reason of a drain; None when the node is not drained."""
    moment: datetime | None = None
    """Local time in the time zone of the allowed hours."""
    identity: str = ""
    """Why the server does not let this car in, or no longer."""
    cell: str = ""
    """Why tasks cannot be isolated from the machine, when node.toml wants that."""
    way: Way | None = None
    """By which network the SuperLink is reached; None while that is not known, or does not matter."""
    month_bytes: int = 0
    """What the car has sent and received this month."""


def wanted(settings: Settings, inputs: Inputs, closed: frozenset[GateCode]) -> dict[GateCode, str]:
    """Return the gates that this moment's readings close, each with its reason.

    Args:
        settings: the [gates] table.
        inputs: readings of this moment.
        closed: gates that are closed already, for which the limits have a margin.
    """
    found: dict[GateCode, str] = {}
    now = inputs.readings
    if inputs.drain is not None:
        found[GateCode.DRAIN] = f"drained: {inputs.drain}" if inputs.drain else "drained by the operator"
    if inputs.inhibitors and settings.inhibit_files:
        found[GateCode.INHIBIT] = "inhibited: " + ", ".join(inputs.inhibitors)
    if inputs.moment is not None and not allowed_hours.allowed(settings.allowed_hours, inputs.moment):
        spans = ", ".join(settings.allowed_hours)
        found[GateCode.HOURS] = f"{inputs.moment:%H:%M} is outside the allowed hours ({spans})"
    limit = settings.temperature_maximum_celsius
    if limit is not None and now.temperature_celsius is not None:
        limit -= TEMPERATURE_MARGIN_CELSIUS if GateCode.TEMPERATURE in closed else 0
        if now.temperature_celsius >= limit:
            found[GateCode.TEMPERATURE] = f"the processor has {now.temperature_celsius:.0f} °C"
    space = settings.memory_minimum_megabytes * (SPACE_MARGIN if GateCode.MEMORY in closed else 1)
    if now.memory_available_bytes is not None and now.memory_available_bytes < space * 1e6:
        found[GateCode.MEMORY] = f"{now.memory_available_bytes / 1e6:.0f} MB of memory available"
    space = settings.disk_minimum_megabytes * (SPACE_MARGIN if GateCode.DISK in closed else 1)
    for disk in now.disks:
        if disk.free_bytes < space * 1e6:
            found[GateCode.DISK] = f"{disk.free_bytes / 1e6:.0f} MB free at {disk.path}"
            break
    if settings.undervoltage and now.throttling is not None and now.throttling.undervoltage:
        found[GateCode.UNDERVOLTAGE] = "the supply voltage is too low"
    if network := _wrong_network(settings, inputs.way, closed=GateCode.NETWORK in closed):
        found[GateCode.NETWORK] = network
    if settings.monthly_megabytes is not None and inputs.month_bytes >= settings.monthly_megabytes * 1e6:
        found[GateCode.TRAFFIC] = near_limit(inputs.month_bytes, settings.monthly_megabytes)
    if inputs.identity:
        found[GateCode.IDENTITY] = inputs.identity
    if inputs.cell:
        found[GateCode.CELL] = (
            f"tasks cannot be isolated from this machine: {inputs.cell}"
            ' (install the package fleven-node, or let them run as the agent with [cell] mode = "off")'
        )
    return found


def _wrong_network(settings: Settings, way: Way | None, *, closed: bool) -> str:
    """Return why the way to the SuperLink is none for training; empty when it is one.

    While there is no way at all, the gate stays as it is: a network that comes back in a moment changes nothing.
    """
    if not settings.networks or way is None:
        return ""
    if not way.names:
        return "no network leads to the SuperLink" if closed else ""
    if set(settings.networks) & set(way.names):
        return ""
    return f"the way to the SuperLink goes through {', '.join(way.names)}, not through {' or '.join(settings.networks)}"


class Gates:
    """The debounced gates."""

    def __init__(self) -> None:
        self.closed: dict[GateCode, str] = {}
        self._since: dict[GateCode, float] = {}

    def update(self, settings: Settings, inputs: Inputs, now: float) -> tuple[str, ...]:
        """Take a moment's readings (monotonic time); return the reasons of all closed gates."""
        ought = wanted(settings, inputs, frozenset(self.closed))
        for code in GateCode:
            if (code in ought) == (code in self.closed):
                self._since.pop(code, None)
            else:
                begun = self._since.setdefault(code, now)
                closing = code in ought
                at_once = code in (_AT_ONCE if closing else _OPENS_AT_ONCE)
                wait = settings.close_after_seconds if closing else opens_after(settings, code)
                if at_once or now - begun >= wait:
                    self._since.pop(code, None)
                    if closing:
                        self.closed[code] = ought[code]
                    else:
                        del self.closed[code]
            if code in ought and code in self.closed:
                self.closed[code] = ought[code]
        return tuple(self.closed[code] for code in GateCode if code in self.closed)


def opens_after(settings: Settings, code: GateCode) -> float:
    """Return how long a reading must have been good before its gate opens [s]."""
    return min(settings.open_after_seconds, OPENS_SOON_SECONDS.get(code, settings.open_after_seconds))


def local_moment(settings: Settings, wall: float) -> datetime | None:
    """Return the local time that the allowed hours refer to; None when all hours are allowed."""
    if not settings.allowed_hours:
        return None
    return datetime.fromtimestamp(wall, tz=UTC).astimezone(allowed_hours.zone(settings.time_zone))


def inhibit_files(folder: Path) -> tuple[str, ...]:
    """Return the reason of each file in the folder: its first line, or its name when it holds none."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    except OSError:
        return ()
    return tuple(_reason(folder / name) for name in names[:20])


def _reason(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(1_000).decode("utf-8", "replace")
    except OSError:
        return path.name
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    clean = "".join(character for character in first if character.isprintable())
    return clean[:MAXIMUM_REASON_CHARACTERS] or path.name
