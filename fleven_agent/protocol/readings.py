"""What can be read of a machine, as plain frozen values. None means: not available on this machine, never zero.

The classes carry the field names of ``report.Resources``, which a test holds together; the report's own classes would
bring pydantic into the daemon. Imports nothing of the agent.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Disk:
    """Space of the file system that holds a path [bytes]."""

    path: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """PSI some avg10 [percent]."""

    cpu_percent: float | None
    memory_percent: float | None
    io_percent: float | None


@dataclass(frozen=True, slots=True)
class Throttling:
    """Bits of a Raspberry Pi's firmware."""

    undervoltage: bool = False
    frequency_capped: bool = False
    throttled: bool = False
    soft_temperature_limit: bool = False
    undervoltage_occurred: bool = False
    throttled_occurred: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """Sums over all interfaces but loopback since boot."""

    received_bytes: int
    sent_bytes: int
    receive_errors: int
    send_errors: int


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process with all its descendants."""

    processes: int
    rss_bytes: int
    cpu_seconds: float
    cpu_percent: float | None = None


@dataclass(frozen=True, slots=True)
class AgentUse:
    """What the agent itself costs."""

    rss_bytes: int
    cpu_seconds: float
    threads: int
    file_descriptors: int


@dataclass(frozen=True, slots=True)
class Readings:
    """All readings of one moment."""

    cpu_count: int | None = None
    cpu_percent: float | None = None
    load_1m: float | None = None
    load_5m: float | None = None
    load_15m: float | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    pressure: Pressure | None = None
    disks: tuple[Disk, ...] = ()
    temperature_celsius: float | None = None
    throttling: Throttling | None = None
    network: Network | None = None
    clock_synchronised: bool | None = None
    clock_offset_seconds: float | None = None
    uptime_seconds: float | None = None
    supernode: ProcessTree | None = None
    task: ProcessTree | None = None
    agent: AgentUse | None = None
