"""The health of a node as a list of coded conditions: the one place that defines each of them.

Pure. ``evaluate`` turns facts into findings; ``Conditions`` adds when each began and keeps it from flapping. The same
list shows in systemd's status, the journal, ``fleven-agent status``, the report and the server's page.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleven_agent.config.settings import Settings
from fleven_agent.protocol.codes import ConditionCode as Code
from fleven_agent.protocol.codes import Reason, Severity, State
from fleven_agent.protocol.readings import Readings
from fleven_agent.supernode import flower
from fleven_agent.supernode.supervisor import Supervised


@dataclass(frozen=True, slots=True)
class Definition:
    """What a condition means."""

    severity: Severity
    hint: str
    raise_after_seconds: float = 0.0
    """How long it must hold before it shows."""
    clear_after_seconds: float = 0.0
    """How long it must be away before it goes."""


CATALOGUE: Mapping[Code, Definition] = {
    Code.SUPERNODE_DOWN: Definition(
        Severity.ERROR, "the agent starts it again by itself; `journalctl -u fleven-agent` shows its last words"
    ),
    Code.SUPERNODE_CRASH_LOOP: Definition(
        Severity.ERROR, "run `fleven-agent check` and read SuperNode's last lines in `journalctl -u fleven-agent`"
    ),
    Code.SUPERNODE_FROZEN: Definition(
        Severity.WARNING, "somebody stopped it with SIGSTOP; to keep a car from training use `fleven-agent drain`"
    ),
    Code.SUPERLINK_UNREACHABLE: Definition(
        Severity.ERROR,
        "check the network and the VPN of this node, and that the SuperLink runs; `fleven-agent check --only network`",
        raise_after_seconds=5,
    ),
    Code.SUPERLINK_REJECTED: Definition(
        Severity.ERROR, "check TLS settings, the node's key and the Flower versions of both sides: `fleven-agent check`"
    ),
    Code.EXECUTOR_DEAD: Definition(
        Severity.ERROR, "the agent replaces SuperNode by itself; if it comes back, look for lack of memory"
    ),
    Code.TASK_STUCK: Definition(
        Severity.WARNING, "the agent ends the ClientApp by itself; raise supervision.task-stuck-seconds for slow input"
    ),
    Code.TASK_FAILED: Definition(
        Severity.WARNING, "the last task's output is in `fleven-agent status` and on the server", clear_after_seconds=60
    ),
    Code.DISK_LOW: Definition(Severity.WARNING, "free some space, or move data-path to a larger disk", 10, 30),
    Code.MEMORY_LOW: Definition(
        Severity.WARNING, "stop other programs, add swap, or lower the app's batch-size", 10, 30
    ),
    Code.TEMPERATURE_HIGH: Definition(
        Severity.WARNING,
        "give the board air or a heat sink; training stops at gates.temperature-maximum-celsius",
        10,
        30,
    ),
    Code.UNDERVOLTAGE: Definition(
        Severity.WARNING, "use a supply that holds 5 V at 3 A, and a short thick cable", 2, 60
    ),
    Code.CLOCK_UNSYNCED: Definition(
        Severity.WARNING,
        "switch on systemd-timesyncd or chrony; without a clock TLS fails and times are wrong",
        120,
        10,
    ),
    Code.DATA_MISSING: Definition(
        Severity.ERROR, "set data-path to a folder with trips (CSV or Parquet) that user fleven may read"
    ),
    Code.DATA_INVALID: Definition(Severity.WARNING, "read the .reason files in the quarantine folder below data-path"),
    Code.DUPLICATE_PARTITION: Definition(Severity.ERROR, "give each car its own partition-id in node.toml"),
    Code.VERSION_MISMATCH: Definition(
        Severity.ERROR, "install the package of the server's version on this node, or the other way round"
    ),
    Code.SERVER_PROBLEM: Definition(Severity.WARNING, "the server says what to do; `fleven-server nodes` shows it too"),
    Code.REPORT_UNDELIVERED: Definition(
        Severity.WARNING, "check report-url and that fleven-server runs; reports are kept and sent later", 60
    ),
    Code.REPORT_REJECTED: Definition(
        Severity.ERROR,
        "set report-token to the value of web.report-token in the server's server.toml; reports are kept until then",
    ),
    Code.CONFIGURATION_INVALID: Definition(
        Severity.ERROR, "the old configuration stays in force; mend the file, then `systemctl reload fleven-agent`"
    ),
    Code.STATE_UNWRITABLE: Definition(
        Severity.WARNING, "free some space in the state folder and check its owner; counters are lost at a power cut"
    ),
    Code.GATED: Definition(
        Severity.INFO, "training goes on by itself when the reason is gone; `fleven-agent undrain` ends a drain"
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition that holds now."""

    code: Code
    message: str
    severity: Severity | None = None
    """Where it differs from the definition's."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that health rests on. Texts are empty when there is nothing to say."""

    supervised: Supervised
    settings: Settings
    readings: Readings
    recent_failures: int = 0
    """Unasked ends of SuperNode in the last ten minutes."""
    connection_lost: bool = False
    """SuperNode says that it cannot reach the SuperLink."""
    probe_problem: str = ""
    """Why a TCP connection to the SuperLink cannot be made."""
    executor_dead: str = ""
    frozen: str = ""
    task_stuck: str = ""
    task_failed: str = ""
    rejected: str = ""
    """The last refusal, until the next registration."""
    data_problem: str = ""
    quarantined: int = 0
    data_unmovable: str = ""
    own_flower_version: str | None = None
    server_flower_version: str | None = None
    server_problems: tuple[tuple[str, str, str], ...] = ()
    """(code, message, hint) that the server answered."""
    undelivered: str = ""
    reports_rejected: str = ""
    """Why the server takes no report of this node until somebody changes something."""
    configuration_problem: str = ""
    state_problem: str = ""


def evaluate(facts: Facts, active: frozenset[Code]) -> list[Finding]:
    """Return what holds now.

    Args:
        facts: readings and decisions of this moment.
        active: codes that hold already: their limits are wider, so that a value at the limit does not flap.
    """
    found = [*_supernode(facts), *_superlink(facts), *_machine(facts, active), *_rest(facts)]
    return sorted(found, key=lambda one: (_ORDER[severity_of(one)], list(Code).index(one.code)))


_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def severity_of(finding: Finding) -> Severity:
    """Return the severity of a finding."""
    return finding.severity or CATALOGUE[finding.code].severity


def _supernode(facts: Facts) -> Iterable[Finding]:
    was = facts.supervised
    if was.state in {State.BACKOFF, State.FAILED} and was.reason is not Reason.REJECTED:
        yield Finding(Code.SUPERNODE_DOWN, was.detail or "SuperNode is not running")
    crash_loop = facts.settings.supervision.crash_loop_count
    if was.attempt >= crash_loop:
        yield Finding(Code.SUPERNODE_CRASH_LOOP, f"SuperNode ended {was.attempt} times in a row: {was.detail}")
    elif facts.recent_failures >= crash_loop:
        message = f"SuperNode ended {facts.recent_failures} times in ten minutes"
        yield Finding(Code.SUPERNODE_CRASH_LOOP, message, Severity.WARNING)
    if facts.frozen:
        yield Finding(Code.SUPERNODE_FROZEN, facts.frozen)
    if facts.executor_dead:
        yield Finding(Code.EXECUTOR_DEAD, facts.executor_dead)
    if facts.task_stuck:
        yield Finding(Code.TASK_STUCK, facts.task_stuck)
    if facts.task_failed:
        yield Finding(Code.TASK_FAILED, facts.task_failed)
    if was.gates:
        yield Finding(Code.GATED, "; ".join(was.gates))


def _superlink(facts: Facts) -> Iterable[Finding]:
    address = facts.settings.superlink
    if facts.rejected:
        yield Finding(Code.SUPERLINK_REJECTED, facts.rejected, hint=flower.refusal_hint(facts.rejected))
    elif facts.probe_problem:
        yield Finding(Code.SUPERLINK_UNREACHABLE, f"no connection to the SuperLink at {address}: {facts.probe_problem}")
    elif facts.connection_lost:
        yield Finding(Code.SUPERLINK_UNREACHABLE, f"SuperNode cannot reach the SuperLink at {address}")
    own, theirs = facts.own_flower_version, facts.server_flower_version
    if own and theirs and own.split(".")[:2] != theirs.split(".")[:2]:
        yield Finding(Code.VERSION_MISMATCH, f"this node has Flower {own}, the SuperLink has Flower {theirs}")


def _machine(facts: Facts, active: frozenset[Code]) -> Iterable[Finding]:
    limits, now = facts.settings.health, facts.readings
    for disk in now.disks:
        limit = limits.disk_warning_megabytes * (1.1 if Code.DISK_LOW in active else 1.0)
        if disk.free_bytes < limit * 1e6:
            yield Finding(Code.DISK_LOW, f"{disk.free_bytes / 1e6:.0f} MB free at {disk.path}")
            break
    if now.memory_available_bytes is not None:
        limit = limits.memory_warning_megabytes * (1.25 if Code.MEMORY_LOW in active else 1.0)
        if now.memory_available_bytes < limit * 1e6:
            yield Finding(Code.MEMORY_LOW, f"{now.memory_available_bytes / 1e6:.0f} MB of memory available")
    if now.temperature_celsius is not None:
        limit = limits.temperature_warning_celsius - (5.0 if Code.TEMPERATURE_HIGH in active else 0.0)
        if now.temperature_celsius >= limit:
            yield Finding(Code.TEMPERATURE_HIGH, f"the processor has {now.temperature_celsius:.0f} °C")
    if now.throttling is not None and now.throttling.undervoltage:
        yield Finding(Code.UNDERVOLTAGE, "the supply voltage is too low")
    if now.clock_synchronised is False:
        offset = now.clock_offset_seconds
        beside = f"; it differs from the server's by {-offset:+.0f} s" if offset is not None and abs(offset) > 2 else ""
        yield Finding(Code.CLOCK_UNSYNCED, f"the clock is not synchronised{beside}")


def _rest(facts: Facts) -> Iterable[Finding]:
    if facts.data_problem:
        yield Finding(Code.DATA_MISSING, facts.data_problem)
    if facts.data_unmovable:
        hint = "give user fleven the right to read the trips below data-path and to move them, or remove those named"
        yield Finding(Code.DATA_INVALID, facts.data_unmovable, hint=hint)
    elif facts.quarantined:
        plural = "trip is" if facts.quarantined == 1 else "trips are"
        yield Finding(Code.DATA_INVALID, f"{facts.quarantined} unreadable {plural} set aside in quarantine/")
    for code, message, hint in facts.server_problems:
        if code in set(Code):
            yield Finding(Code(code), message, hint=hint)
        else:  # of a newer server, or one that has no condition of its own here
            yield Finding(Code.SERVER_PROBLEM, f"{code}: {message}", hint=hint)
    if facts.reports_rejected:
        yield Finding(Code.REPORT_REJECTED, facts.reports_rejected)
    if facts.undelivered:
        yield Finding(Code.REPORT_UNDELIVERED, facts.undelivered)
    if facts.configuration_problem:
        yield Finding(Code.CONFIGURATION_INVALID, facts.configuration_problem)
    if facts.state_problem:
        yield Finding(Code.STATE_UNWRITABLE, facts.state_problem)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as it is shown; the fields of ``report.Condition``."""

    code: Code
    severity: Severity
    since: float
    """Wall-clock moment at which it began [s since the epoch]."""
    message: str
    hint: str


class Conditions:
    """The conditions that are shown: each begins and ends only after it, or its absence, has lasted."""

    def __init__(self) -> None:
        self.shown: tuple[Condition, ...] = ()
        self._pending: dict[Code, float] = {}
        self._absent: dict[Code, float] = {}

    @property
    def codes(self) -> frozenset[Code]:
        """Codes that are shown."""
        return frozenset(condition.code for condition in self.shown)

    def update(self, findings: Iterable[Finding], now: float, wall: float) -> bool:
        """Take what holds at a monotonic and a wall-clock moment. Return whether the set of codes changed."""
        before = {condition.code: condition for condition in self.shown}
        shown: dict[Code, Condition] = {}
        holding: set[Code] = set()
        for finding in findings:
            code, definition = finding.code, CATALOGUE[finding.code]
            if code in holding:
                continue
            holding.add(code)
            self._absent.pop(code, None)
            begun = self._pending.setdefault(code, now)
            if code not in before and now - begun < definition.raise_after_seconds:
                continue
            since = before[code].since if code in before else wall - (now - begun)
            shown[code] = Condition(code, severity_of(finding), since, finding.message, finding.hint or definition.hint)
        for code, condition in before.items():
            gone_at = self._absent.setdefault(code, now) if code not in holding else now
            if code not in holding and now - gone_at < CATALOGUE[code].clear_after_seconds:
                shown[code] = condition
        for code in [code for code in self._pending if code not in holding and code not in shown]:
            del self._pending[code]
        changed = set(shown) != set(before)
        self.shown = tuple(sorted(shown.values(), key=lambda one: (_ORDER[one.severity], list(Code).index(one.code))))
        return changed
