"""The words that the agent and everybody who reads it share: states, severities, reasons and condition codes.

Values are written to disk, sent to the server and matched by scripts, so they never change once shipped.
Imports nothing of the agent.
"""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """What the agent is doing with SuperNode."""

    STOPPED = "stopped"  # not started, and nobody wants it
    STARTING = "starting"  # the process runs; SuperLink has not accepted it yet, or it is not yet proven stable
    RUNNING = "running"  # registered with a node id and up for `stable-seconds`
    BACKOFF = "backoff"  # it ended unasked; the next start is timed
    GATED = "gated"  # kept stopped by a gate: heat, a driving car, the operator's drain ...
    STOPPING = "stopping"  # being stopped: waiting for the current task, then TERM, then KILL
    FAILED = "failed"  # it keeps ending, or cannot be started at all; tried again at the longest delay


class Reason(StrEnum):
    """Why the agent is in its state."""

    NONE = ""
    AGENT_START = "agent-start"
    REGISTERED = "registered"
    EXITED = "exited"
    EXITED_UNASKED_ZERO = "exited-zero"
    KILLED_BY_SIGNAL = "killed-by-signal"
    SPAWN_FAILED = "spawn-failed"
    REJECTED = "rejected"
    REGISTRATION_TIMEOUT = "registration-timeout"
    EXECUTOR_DEAD = "executor-dead"
    TASK_STUCK = "task-stuck"
    HUNG = "hung"
    HEARTBEATS_ENDED = "heartbeats-ended"
    CONNECTION_DEAD = "connection-dead"
    LISTED_OFFLINE = "listed-offline"
    GATE_CLOSED = "gate-closed"
    GATE_OPENED = "gate-opened"
    RESTART_REQUESTED = "restart-requested"
    COMMAND_LINE_CHANGED = "command-line-changed"
    IDENTITY_CHANGED = "identity-changed"
    AGENT_STOP = "agent-stop"


SENTENCES: Mapping[Reason, str] = {
    Reason.NONE: "",
    Reason.AGENT_START: "the agent has started",
    Reason.REGISTERED: "the SuperLink has accepted the node",
    Reason.EXITED: "SuperNode ended by itself",
    Reason.EXITED_UNASKED_ZERO: "SuperNode ended with 0 although nobody had asked it to",
    Reason.KILLED_BY_SIGNAL: "SuperNode was killed by a signal",
    Reason.SPAWN_FAILED: "SuperNode cannot be started",
    Reason.REJECTED: "the SuperLink refused the node",
    Reason.REGISTRATION_TIMEOUT: "SuperNode did not register in time",
    Reason.EXECUTOR_DEAD: "SuperNode lost its executor",
    Reason.TASK_STUCK: "a task made no progress",
    Reason.HUNG: "SuperNode did nothing at all",
    Reason.HEARTBEATS_ENDED: "SuperNode's heartbeats ended, so that the SuperLink would think it has gone",
    Reason.CONNECTION_DEAD: "SuperNode's connection to the SuperLink is dead",
    Reason.LISTED_OFFLINE: "the SuperLink thinks that SuperNode has gone",
    Reason.GATE_CLOSED: "a gate keeps the car from training",
    Reason.GATE_OPENED: "the gate has opened",
    Reason.RESTART_REQUESTED: "somebody asked for a restart",
    Reason.COMMAND_LINE_CHANGED: "node.toml changed SuperNode's command line",
    Reason.IDENTITY_CHANGED: "the car's identity changed what SuperNode is started with",
    Reason.AGENT_STOP: "the agent was stopped",
}
"""Each reason as people read it, where nothing more exact is known."""


class Severity(StrEnum):
    """How bad a condition is: information, a warning, or an error that keeps the node out of training."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class ConditionCode(StrEnum):
    """Everything that can be wrong with a node; `monitoring.conditions` holds severity and rule of each."""

    SUPERNODE_DOWN = "supernode-down"
    SUPERNODE_CRASH_LOOP = "supernode-crash-loop"
    SUPERNODE_FROZEN = "supernode-frozen"
    SUPERLINK_UNREACHABLE = "superlink-unreachable"
    SUPERLINK_REJECTED = "superlink-rejected"
    EXECUTOR_DEAD = "executor-dead"
    TASK_STUCK = "task-stuck"
    TASK_FAILED = "task-failed"
    DISK_LOW = "disk-low"
    MEMORY_LOW = "memory-low"
    TEMPERATURE_HIGH = "temperature-high"
    UNDERVOLTAGE = "undervoltage"
    TRAFFIC_HIGH = "traffic-high"
    CLOCK_UNSYNCED = "clock-unsynced"
    DATA_MISSING = "data-missing"
    DATA_INVALID = "data-invalid"
    DATA_REFUSED = "data-refused"
    DATA_STUCK = "data-stuck"
    DUPLICATE_PARTITION = "duplicate-partition"
    VERSION_MISMATCH = "version-mismatch"
    SERVER_PROBLEM = "server-problem"
    ENROLMENT_PENDING = "enrolment-pending"
    ENROLMENT_REFUSED = "enrolment-refused"
    IDENTITY_HELD = "identity-held"
    SERVER_CHANGED = "server-changed"
    TRANSPORT_INSECURE = "transport-insecure"
    REPORT_UNDELIVERED = "report-undelivered"
    REPORT_REJECTED = "report-rejected"
    CONFIGURATION_INVALID = "configuration-invalid"
    STATE_UNWRITABLE = "state-unwritable"
    GATED = "gated"


HINTS: Mapping[ConditionCode, str] = {
    ConditionCode.SUPERNODE_DOWN: (
        "the agent starts it again by itself; `journalctl -u fleven-agent` shows its last lines"
    ),
    ConditionCode.SUPERNODE_CRASH_LOOP: (
        "run `fleven-agent check` and read SuperNode's last lines in `journalctl -u fleven-agent`"
    ),
    ConditionCode.SUPERNODE_FROZEN: (
        "somebody stopped it with SIGSTOP; to keep a car from training use `fleven-agent drain`"
    ),
    ConditionCode.SUPERLINK_UNREACHABLE: (
        "check the network and the VPN of this node, and that the SuperLink runs; `fleven-agent check --only network`"
    ),
    ConditionCode.SUPERLINK_REJECTED: (
        "check TLS settings, the node's key and the Flower versions of both sides: `fleven-agent check`"
    ),
    ConditionCode.EXECUTOR_DEAD: (
        "the agent replaces SuperNode by itself; if it comes back, check for a lack of memory"
    ),
    ConditionCode.TASK_STUCK: (
        "the agent ends the ClientApp by itself; raise supervision.task-stuck-seconds for slow input"
    ),
    ConditionCode.TASK_FAILED: "the last task's output is in `fleven-agent status` and on the server",
    ConditionCode.DISK_LOW: "free some space, or move data-path to a larger disk",
    ConditionCode.MEMORY_LOW: "stop other programs, add swap, or lower the app's batch-size",
    ConditionCode.TEMPERATURE_HIGH: (
        "give the board airflow or a heat sink; training stops at gates.temperature-maximum-celsius"
    ),
    ConditionCode.UNDERVOLTAGE: "use a supply that holds 5 V at 3 A, and a short thick cable",
    ConditionCode.TRAFFIC_HIGH: (
        "at gates.monthly-megabytes training stops until the next month; raise it, or set metered = true"
    ),
    ConditionCode.CLOCK_UNSYNCED: (
        "switch on systemd-timesyncd or chrony; without a clock TLS fails and times are wrong"
    ),
    ConditionCode.DATA_MISSING: (
        "put trips (CSV or Parquet) there that user fleven may read, or set data-path; for apps without "
        "trips set data.required = false"
    ),
    ConditionCode.DATA_INVALID: "read the .reason files in the quarantine folder below data-path",
    ConditionCode.DATA_REFUSED: (
        "change the trips, or the app's settings; the condition ends by itself when the trips change or "
        "the agent restarts"
    ),
    ConditionCode.DATA_STUCK: (
        "look at the disk or share that holds the trips, with `dmesg` too; a hung USB disk has to be plugged in again"
    ),
    ConditionCode.DUPLICATE_PARTITION: "give each car its own partition-id in node.toml",
    ConditionCode.VERSION_MISMATCH: (
        "install the package of the server's version on this node, or the other way round"
    ),
    ConditionCode.SERVER_PROBLEM: "the server says what to do; `fleven-server nodes` shows it too",
    ConditionCode.ENROLMENT_PENDING: (
        "on the server compare both fingerprints and run `fleven-server nodes accept CAR`, or bring an "
        "invitation: `fleven-agent join CODE`"
    ),
    ConditionCode.ENROLMENT_REFUSED: (
        "print a new invitation with `fleven-server nodes invite CAR`, and run `fleven-agent join CODE` here"
    ),
    ConditionCode.IDENTITY_HELD: (
        "find the copy of this car's card; then revoke the car on the server and invite it again"
    ),
    ConditionCode.SERVER_CHANGED: (
        "if the server was newly set up, join it with a new invitation: `fleven-agent join CODE`; "
        "otherwise somebody pretends to be the server"
    ),
    ConditionCode.TRANSPORT_INSECURE: (
        "join the server (`fleven-agent join CODE`) and remove insecure = true from node.toml and its drop-ins"
    ),
    ConditionCode.REPORT_UNDELIVERED: "check report-url and that fleven-server runs; reports are kept and sent later",
    ConditionCode.REPORT_REJECTED: (
        "set report-token to the value of web.report-token in the server's server.toml; reports are kept until then"
    ),
    ConditionCode.CONFIGURATION_INVALID: (
        "the old configuration stays in force; correct the file, then `systemctl reload fleven-agent`"
    ),
    ConditionCode.STATE_UNWRITABLE: (
        "free space in the state folder, check its owner, and its card with `dmesg`; tasks fail until it can be written"
    ),
    ConditionCode.GATED: "training goes on by itself when the reason is gone; `fleven-agent undrain` ends a drain",
}
"""What to do about each. What a car says of it is its word: the server shows this instead, by the code."""


class TaskOutcome(StrEnum):
    """How a task of a round ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the ClientApp ended with an error, or an error reply was sent
    ABORTED = "aborted"  # SuperNode ended before a reply was sent


class ReportReason(StrEnum):
    """What made the agent write a report."""

    INTERVAL = "interval"
    CHANGE = "change"
    START = "start"
    STOP = "stop"


class GateCode(StrEnum):
    """What can keep a car from training."""

    TEMPERATURE = "temperature"
    MEMORY = "memory"
    DISK = "disk"
    UNDERVOLTAGE = "undervoltage"
    HOURS = "hours"
    INHIBIT = "inhibit"
    DRAIN = "drain"
    ADDRESS = "address"  # told by agents before 0.2, to which an address could make TLS needless
    IDENTITY = "identity"
    CELL = "cell"
    NETWORK = "network"
    TRAFFIC = "traffic"


class Attention(StrEnum):
    """How closely the server wants to follow a car now, said in answers; a value that is not known is the closest."""

    CALM = "calm"  # nothing is under way, and nothing due within ten minutes
    WATCHED = "watched"  # a run is due soon, or somebody looks at the car
    RUN = "run"  # a run is under way, or about to be submitted


SCHEMA_VERSION = 1
MAXIMUM_TEXT_CHARACTERS = 4_000
"""``report.Text``: the server refuses a report with a longer one, and the whole batch with it."""
REPORTS_PATH = "/v1/reports"
ATTENTION_PATH = "/v1/attention"
MODEL_PATH = "/v1/model"
LONGEST_ATTENTION_SECONDS = 1_800.0
"""For how long the server keeps a question about its attention open at most."""
