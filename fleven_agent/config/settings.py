"""The agent's settings as plain frozen dataclasses: what may be set, within which bounds, with which default.

One definition serves all: ``config.parser`` hands these classes to pydantic for validation, and the daemon rebuilds
them from the validated JSON without loading pydantic, which alone would take half of its memory budget.
Imports neither pydantic nor anything else of the agent.

In node.toml a key is the field's name with dashes for underscores; a nested class is a table.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

DEFAULT_REPORT_PORT = 9190
FLEET_PORT = 9092
OTHER_PORTS = {
    9091: "the port of the ServerAppIo API, which only the server itself uses",
    9093: "the port of the Control API, which only administrators use",
    9094: "the port of a car's own ClientAppIo API",
    DEFAULT_REPORT_PORT: "the port of the server's page and of reports",
}
"""What stands behind a port by default, where it is not the Fleet API that cars connect to."""


def kebab(name: str) -> str:
    """Return a field's name as it is written in node.toml."""
    return name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a value, in the protocol of annotated-types, which pydantic reads.

    The package itself is imported only when pydantic asks: the daemon, which validates nothing, does not pay for it.
    """

    ge: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None

    __is_annotated_types_grouped_metadata__: ClassVar[Literal[True]] = True

    def __iter__(self) -> Iterator[Any]:
        """Return the limits as annotated-types knows them."""
        import annotated_types

        if self.ge is not None:
            yield annotated_types.Ge(self.ge)
        if self.le is not None:
            yield annotated_types.Le(self.le)
        if self.min_length is not None:
            yield annotated_types.MinLen(self.min_length)
        if self.max_length is not None:
            yield annotated_types.MaxLen(self.max_length)


# pydantic reads this attribute of a dataclass; a plain dict keeps pydantic out of the daemon.
_RULES: dict[str, Any] = {"alias_generator": kebab, "extra": "forbid"}

Seconds = Annotated[float, Bounds(ge=0.1, le=86_400 * 7)]
Megabytes = Annotated[int, Bounds(ge=0, le=10_000_000)]
Celsius = Annotated[float, Bounds(ge=0, le=150)]
Line = Annotated[str, Bounds(min_length=1, max_length=1_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """[supervision]: how SuperNode is watched, stopped and started again."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    stable_seconds: Seconds = 3.0
    registration_timeout_seconds: Seconds = 180.0
    stop_grace_seconds: Seconds = 10.0
    repair_grace_seconds: Seconds = 2.0
    task_deadline_seconds: Seconds = 900.0
    stop_task_seconds: Annotated[float, Bounds(ge=0, le=86_400)] = 60.0
    task_stuck_seconds: Seconds = 600.0
    hang_seconds: Seconds = 120.0
    executor_start_seconds: Seconds = 30.0
    backoff_initial_seconds: Seconds = 1.0
    backoff_factor: Annotated[float, Bounds(ge=1.0, le=10.0)] = 2.0
    backoff_maximum_seconds: Seconds = 120.0
    crash_loop_count: Annotated[int, Bounds(ge=2, le=1_000)] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """[reports]: what is sent to the server, and what is kept while it is away."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    enabled: bool = True
    interval_seconds: Annotated[float, Bounds(ge=1.0, le=3_600.0)] = 15.0
    idle_interval_seconds: Annotated[float, Bounds(ge=1.0, le=3_600.0)] = 180.0
    timeout_seconds: Seconds = 10.0
    root_certificates: Line | None = None
    spool_maximum_reports: Annotated[int, Bounds(ge=1, le=100_000)] = 2_000
    spool_maximum_megabytes: Annotated[int, Bounds(ge=1, le=10_000)] = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """[gates]: when the car must not train."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    temperature_maximum_celsius: Celsius | None = 82.0
    memory_minimum_megabytes: Megabytes = 100
    disk_minimum_megabytes: Megabytes = 200
    undervoltage: bool = True
    allowed_hours: tuple[Line, ...] = ()
    time_zone: Line | None = None
    inhibit_files: bool = True
    networks: tuple[Line, ...] = ()
    monthly_megabytes: Annotated[int, Bounds(ge=1, le=10_000_000)] | None = None
    close_after_seconds: Annotated[float, Bounds(ge=0, le=86_400)] = 20.0
    open_after_seconds: Annotated[float, Bounds(ge=0, le=86_400)] = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """[health]: from which readings on a condition is shown."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    temperature_warning_celsius: Celsius = 78.0
    memory_warning_megabytes: Megabytes = 200
    disk_warning_megabytes: Megabytes = 1_000
    reading_interval_seconds: Annotated[float, Bounds(ge=1.0, le=600.0)] = 5.0
    superlink_probe_seconds: Annotated[float, Bounds(ge=5.0, le=3_600.0)] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """[data]: the watch over the trips in data-path."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    scan_interval_seconds: Annotated[float, Bounds(ge=1.0, le=86_400.0)] = 60.0
    settle_seconds: Annotated[float, Bounds(ge=0.0, le=86_400.0)] = 30.0
    quarantine: bool = True
    required: bool | None = None
    minimum_rows: Annotated[int, Bounds(ge=1, le=1_000_000_000)] = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """[warm]: a process that has already imported what ClientApps need, so that a task starts at once."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    mode: Literal["auto", "on", "off"] = "auto"
    idle_seconds: Annotated[float, Bounds(ge=1.0, le=86_400.0 * 7)] = 900.0
    minimum_available_megabytes: Megabytes = 200
    maximum_memory_megabytes: Megabytes = 335
    modules: tuple[Line, ...] = ()
    short_polling: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """[cell]: whether what a run brings must work isolated from the machine, as another user."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    mode: Literal["required", "off"] = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """[model]: the model that the car predicts with, which the server sends."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    deliver: bool = True
    experiment: Annotated[str, Bounds(min_length=1, max_length=100)] = "Fleven-Deploy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """[log]: what goes to the journal."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    level: Literal["debug", "info", "warning", "error"] = "info"
    supernode_lines: bool = True
    supernode_lines_per_second: Annotated[int, Bounds(ge=1, le=100_000)] = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of node.toml. Fields whose default is None may be filled in by ``config.parser``.

    ``partition_id`` stays None for a car that was invited with ``join`` and has not joined yet.

    ``insecure`` is None only until ``parser.complete`` has filled it in: TLS, unless node.toml says otherwise.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _RULES

    partition_id: Annotated[int, Bounds(ge=0, le=2**31 - 1)] | None
    superlink: Line
    join: Annotated[str, Bounds(min_length=1, max_length=4_096)] | None = field(default=None, repr=False)
    node_name: Annotated[str, Bounds(min_length=1, max_length=255)] | None = None
    num_partitions: Annotated[int, Bounds(ge=1, le=2**31 - 1)] | None = None
    insecure: bool | None = None
    root_certificates: Line | None = None
    auth_private_key: Line | None = None
    clientapp_address: Line = "127.0.0.1:9094"
    data_path: Line | None = None
    report_url: Line | None = None
    metered: bool = False
    report_token: Annotated[str, Bounds(min_length=16, max_length=256)] | None = field(default=None, repr=False)
    supervision: Supervision = field(default_factory=Supervision)
    reports: Reports = field(default_factory=Reports)
    gates: Gates = field(default_factory=Gates)
    health: Health = field(default_factory=Health)
    data: Data = field(default_factory=Data)
    warm: Warm = field(default_factory=Warm)
    cell: Cell = field(default_factory=Cell)
    model: Model = field(default_factory=Model)
    log: Log = field(default_factory=Log)


SECRETS = frozenset({"join", "report-token"})
"""Keys whose values are never shown, not even in a message about what is wrong with them."""

Dataclass = TypeVar("Dataclass")


def rebuild(cls: type[Dataclass], values: dict[str, Any]) -> Dataclass:
    """Build settings from values that ``config.parser`` has validated (names with underscores, arrays for tuples)."""
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]  # callers pass the dataclasses of this module
        if item.name not in values:
            continue
        value = values[item.name]
        kind = hints[item.name]
        if is_dataclass(kind):
            value = rebuild(kind, value)  # type: ignore[arg-type]  # kind is a class, as annotated
        elif isinstance(value, list):
            value = tuple(value)
        arguments[item.name] = value
    return cls(**arguments)


def keys(cls: type[Any] = Settings, prefix: str = "") -> list[str]:
    """Return all keys as written in node.toml, tables dotted: ``partition-id``, ``gates.undervoltage`` ..."""
    hints = get_type_hints(cls)
    found: list[str] = []
    for item in fields(cls):
        name = prefix + kebab(item.name)
        kind = hints[item.name]
        found += keys(kind, f"{name}.") if isinstance(kind, type) and is_dataclass(kind) else [name]
    return found
