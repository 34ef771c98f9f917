"""The report: what an agent tells the server, and what the server answers.

The server imports it too, so it imports pydantic, the enums and the readings beside it and nothing more, and a change
here or there is a change of the contract: add optional fields with defaults, never remove or rename one, and raise
``SCHEMA_VERSION`` only when an old reader would misunderstand.

Both sides ignore fields that they do not know. 64-bit ids travel as decimal strings, since JSON numbers lose
digits in some readers. All times are UTC with an offset; sizes are bytes; temperatures are degrees Celsius.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from fleven_agent.protocol.codes import ConditionCode as ConditionCode  # re-exported for the server
from fleven_agent.protocol.codes import ReportReason as ReportReason
from fleven_agent.protocol.codes import Severity as Severity
from fleven_agent.protocol.codes import State as State
from fleven_agent.protocol.codes import TaskOutcome as TaskOutcome
from fleven_agent.protocol.readings import Amount, Count, Readings

SCHEMA_VERSION = 1
REPORTS_PATH = "/v1/reports"
MAXIMUM_REPORTS_PER_BATCH = 100

Id64 = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]
"""An unsigned 64-bit id of Flower (node id, run id) in decimal digits."""
Name = Annotated[str, StringConstraints(max_length=255)]
Text = Annotated[str, StringConstraints(max_length=4_000)]
LogTail = Annotated[str, StringConstraints(max_length=20_000)]


class Wire(BaseModel):
    """Base of all that travels: frozen, and forgiving about fields of a newer version."""

    # Validation of a batch happens on a Pi and, a thousand times over, on the server; building validators is put
    # off until first use to keep the agent's start short.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Node(Wire):
    """Who reports."""

    name: Name
    partition_id: Count
    num_partitions: Count | None = None
    node_id: Id64 | None = None
    """Flower's id of the present registration; None while not registered."""
    previous_node_ids: list[Id64] = Field(default_factory=list, max_length=100)
    """Ids of earlier registrations, newest first, so that the server can retire them."""
    flower_address: Name | None = None
    """HOST:PORT of the SuperLink that this node is configured for."""


class Versions(Wire):
    """Versions of what runs on the node."""

    agent: Name = ""
    flwr: Name | None = None
    python: Name = ""
    os: Name = ""
    kernel: Name = ""


class Condition(Wire):
    """One thing that is wrong, or worth knowing, with the words for a person."""

    code: Name
    severity: Name
    since: AwareDatetime
    message: Text = ""
    hint: Text = ""


class CurrentRun(Wire):
    """The task that the node works on now."""

    run_id: Id64
    round: Count | None = None
    message_type: Name = ""
    since: AwareDatetime


class FinishedTask(Wire):
    """What one task cost. A field that could not be measured is None, never zero."""

    run_id: Id64
    round: Count | None = None
    message_type: Name = ""
    outcome: Name = TaskOutcome.SUCCEEDED
    started_at: AwareDatetime | None = None
    cpu_seconds: Amount | None = None
    peak_rss_bytes: Count | None = None
    wall_seconds: Amount | None = None
    bytes_received: Count | None = None
    """Bytes from the SuperLink while the task was fetched and run."""
    bytes_sent: Count | None = None
    maximum_temperature_celsius: float | None = None
    warm: bool | None = None
    """True when an already warm process ran the task, False when a new one did, None when unknown."""
    app_hash: Name | None = None
    """SHA-256 of the app's bundle, as the executor was told; None where the car has no cell to tell it."""
    log_tail: LogTail | None = None
    """Last lines of output of a task that failed."""


class Counters(Wire):
    """Counts since the state of this sender began; they only grow."""

    restarts: Count = 0
    tasks: Count = 0
    task_failures: Count = 0
    reports_lost: Count = 0


class DataSummary(Wire):
    """What trips the node holds, counted without reading them again."""

    trips: Count = 0
    rows: Count = 0
    newest_trip_at: AwareDatetime | None = None
    quarantined: Count = 0
    unmovable: Text = ""
    """Why a trip that cannot be used is still in its place."""
    path: str | None = None


class ModelVersion(Wire):
    """A model that the car keeps."""

    name: Name = ""
    """As the server calls it: EXPERIMENT@VERSION."""
    sha256: Name
    since: AwareDatetime | None = None
    """In use since."""


class ModelError(Wire):
    """How well the model in use predicted one new trip."""

    at: AwareDatetime
    """When the trip was recorded."""
    rmse: Amount
    """Root mean squared error, in the target's unit."""
    values: Count
    """Over how many predictions."""


class ModelState(Wire):
    """What the car predicts with, fetched from the server."""

    experiment: Name
    """Of this experiment the car wants the champion."""
    current: ModelVersion | None = None
    previous: ModelVersion | None = None
    problem: Text = ""
    """Why a model that was offered is not in use, or why one no longer is."""
    errors: list[ModelError] = Field(default_factory=list, max_length=30)
    """Of the current model on the newest trips since it is in use, oldest first."""


class ModelOffer(Wire):
    """The champion of the car's experiment, at GET /v1/model/{sha256}."""

    name: Name
    sha256: Name
    bytes: Count


class Drained(Wire):
    """Whether an operator took the node out of training, and why."""

    active: bool = False
    reason: Text = ""


class Traffic(Wire):
    """What the agent and SuperNode have sent and received, by the car's own calendar."""

    day_bytes: Count
    month_bytes: Count
    month_limit_bytes: Count | None = None
    """At this much training stops until the next month."""
    way: list[Name] = Field(default_factory=list, max_length=8)
    """What the way to the SuperLink goes by: interfaces and names of networks, where a gate asks for them."""


class Sender(Wire):
    """Who sends a report, and not who made it: one may wait on the card over restarts and reboots."""

    boot_id: Name = ""
    process: Name = ""
    """A random word of the agent's process, new at each start and nowhere on disk: by it the server notices the copy of
    a card."""


class Report(Wire):
    """One report. (sender_id, sequence) names it for ever: the server stores each pair once."""

    schema_version: Count = SCHEMA_VERSION
    sender_id: Name
    sequence: Count
    boot_id: Name = ""
    sent_at: AwareDatetime | None = None
    """When this copy was sent, by the node's clock; filled in at each try."""
    sent_by: Sender | None = None
    """Filled in at each try."""
    created_at: AwareDatetime
    reason: Name = ReportReason.INTERVAL
    node: Node
    versions: Versions = Field(default_factory=Versions)
    board_model: Name | None = None
    state: Name
    state_since: AwareDatetime | None = None
    state_reason: Text = ""
    conditions: list[Condition] = Field(default_factory=list, max_length=100)
    current_run: CurrentRun | None = None
    finished_tasks: list[FinishedTask] = Field(default_factory=list, max_length=200)
    """Tasks that ended since the report before."""
    counters: Counters = Field(default_factory=Counters)
    resources: Readings = Field(default_factory=Readings)
    data: DataSummary | None = None
    drained: Drained = Field(default_factory=Drained)
    next_report_seconds: Amount | None = None
    """The next report follows within about this time, unless the server wants it sooner; None: as before 0.2.0."""
    heartbeat_seconds: Amount | None = None
    """After this time SuperNode's next heartbeat is due, as it tells the SuperLink; None: Flower's own interval."""
    warm: dict[str, str | int | float | bool | None] | None = None
    """State of the warm ClientApp launcher, when it is enabled."""
    model: ModelState | None = None
    """What the car predicts with; None when it fetches none."""
    traffic: Traffic | None = None
    """None of an agent that does not count."""


class ReportChange(Wire):
    """A report by what differs from one that the server has acknowledged to this car since it was started."""

    sender_id: Name
    base: Count
    """Sequence of that report."""
    patch: dict[str, Any]
    """JSON Merge Patch (RFC 7386) that makes the report of it."""


class ReportBatch(Wire):
    """Body of POST {report-url}/v1/reports, gzip-compressed JSON; reports of one sender stand in order.

    An empty batch is valid: `fleven-agent check` sends one to learn the server's time and versions.
    """

    reports: list[Report] = Field(default_factory=list, max_length=MAXIMUM_REPORTS_PER_BATCH)
    change: ReportChange | None = None
    """In place of `reports`, to a server whose answers carry `attention`."""


class AttentionAnswer(Wire):
    """Answer to GET /v1/attention: it comes when the attention is no longer the one that the car knows, or in time."""

    attention: Name
    pull_floor_seconds: Amount | None = None


class Problem(Wire):
    """Something that only the server can see, such as two nodes with one partition-id."""

    code: Name
    message: Text = ""
    hint: Text = ""


class IdentityAnswer(Wire):
    """How the identity stands that a batch was signed with: what the enrolment binds, whatever the reports say."""

    status: Name
    """One of `identity.IdentityStatus`."""
    car_id: Name
    name: Name
    partition_id: Count
    num_partitions: Count | None = None
    node_id: Id64 | None = None
    """Flower's id of the car's key; None until the SuperLink was reached."""
    superlink_transport: Name = "tls"
    """tls or plain: what the SuperLink speaks."""
    rotate: bool = False
    """An operator wants a new key and a new secret."""
    report_again: bool = False
    """Another agent has reported with this identity since: report at once, so that the server knows whether both are
    alive."""
    ca_certificates: Annotated[str, StringConstraints(max_length=32_768)] | None = None
    """The server's authorities in PEM, when they are others than those of the request's `Fleven-Authorities`."""


class ReportAnswer(Wire):
    """What the server says to a batch."""

    acknowledged: dict[str, Count] = Field(default_factory=dict)
    """Highest sequence ever stored, for each sender in the batch: the agent forgets what it sent up to it.

    One that is ahead of the agent tells it that its state is an old copy: it goes on from there.
    """
    server_time: AwareDatetime | None = None
    server_version: Name | None = None
    flwr_version: Name | None = None
    drain: Drained | None = None
    """The server's wish about draining; None means that it has none."""
    problems: list[Problem] = Field(default_factory=list, max_length=20)
    flower_offline: dict[Id64, Amount] = Field(default_factory=dict)
    """Flower's ids among those of the batch that Flower's own list calls offline, or whose heartbeat is overdue there,
    and for how long [s]."""
    attention: Name | None = None
    """How closely the server wants to follow the car (`codes.Attention`); a server that says so keeps questions about
    it open (GET /v1/attention) and takes `change`."""
    pull_floor_seconds: Amount | None = None
    """No car is to ask the SuperLink more often than this, however near a run is: all of them ask the same one."""
    wants_whole_report: bool = False
    """The base of a `change` is not known here any more: send the report as a whole."""
    identity: IdentityAnswer | None = None
    """None when the batch came without an identity."""
    model: ModelOffer | None = None
    """The model that an enrolled car should have; None when it has it, wants none, or there is none."""
