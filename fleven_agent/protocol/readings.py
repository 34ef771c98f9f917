"""What can be read of a machine, as plain frozen values. None means: not available on this machine, never zero.

The classes are the agent's readings and the report's ``resources`` alike: the server has pydantic check them by their
annotations. A field is a field of the report: optional, with a default, and never renamed or removed. Imports nothing
of the agent, and no pydantic, which is too large for the daemon.
"""

from dataclasses import dataclass
from typing import Annotated, Any


class NotNegative:
    """What pydantic is to hold a number to: at least zero, and finite."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        """Add the bounds to pydantic's schema of the number."""
        schema: dict[str, Any] = handler(source)
        schema["ge"] = 0
        if schema["type"] == "float":
            schema["allow_inf_nan"] = False
        return schema


class AtMost:
    """What pydantic is to hold a list to: so many entries at most."""

    def __init__(self, entries: int) -> None:
        self._entries = entries

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        """Add the bound to pydantic's schema of the list."""
        schema: dict[str, Any] = handler(source)
        schema["max_length"] = self._entries
        return schema


Count = Annotated[int, NotNegative()]
Amount = Annotated[float, NotNegative()]


@dataclass(frozen=True, slots=True)
class Disk:
    """Space of the file system that holds a path [bytes]."""

    path: str
    total_bytes: Count
    free_bytes: Count


@dataclass(frozen=True, slots=True)
class Pressure:
    """Share of the last ten seconds in which some task waited for a resource (Linux PSI, avg10) [percent]."""

    cpu_percent: Amount | None = None
    memory_percent: Amount | None = None
    io_percent: Amount | None = None


@dataclass(frozen=True, slots=True)
class Throttling:
    """What the firmware of a Raspberry Pi says about its supply and heat; bits of `get_throttled`."""

    undervoltage: bool = False
    frequency_capped: bool = False
    throttled: bool = False
    soft_temperature_limit: bool = False
    undervoltage_occurred: bool = False
    throttled_occurred: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """Sums over all interfaces but loopback since boot."""

    received_bytes: Count = 0
    sent_bytes: Count = 0
    receive_errors: Count = 0
    send_errors: Count = 0


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process with all its descendants."""

    processes: Count = 0
    rss_bytes: Count = 0
    cpu_seconds: Amount = 0.0
    cpu_percent: Amount | None = None
    """Share of one core since the reading before."""


@dataclass(frozen=True, slots=True)
class AgentUse:
    """What the agent itself costs."""

    rss_bytes: Count = 0
    cpu_seconds: Amount = 0.0
    threads: Count = 0
    file_descriptors: Count = 0


@dataclass(frozen=True, slots=True)
class Readings:
    """All readings of one moment."""

    cpu_count: Count | None = None
    cpu_percent: Amount | None = None
    load_1m: Amount | None = None
    load_5m: Amount | None = None
    load_15m: Amount | None = None
    memory_total_bytes: Count | None = None
    memory_available_bytes: Count | None = None
    swap_total_bytes: Count | None = None
    swap_used_bytes: Count | None = None
    pressure: Pressure | None = None
    disks: Annotated[tuple[Disk, ...], AtMost(16)] = ()
    temperature_celsius: float | None = None
    throttling: Throttling | None = None
    network: Network | None = None
    clock_synchronised: bool | None = None
    clock_offset_seconds: float | None = None
    """Server's clock minus this machine's, from the last answer, without the travel time."""
    uptime_seconds: Amount | None = None
    supernode: ProcessTree | None = None
    task: ProcessTree | None = None
    agent: AgentUse | None = None
