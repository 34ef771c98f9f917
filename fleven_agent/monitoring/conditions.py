"""The catalogue of conditions: each has its code, its severity and the rule by which it holds in one block.

Pure. A rule turns facts into a message; ``evaluate`` applies them all. A new condition is a code with its hint in
``protocol.codes``, a block here and its row in docs/agent.md. ``condition_tracker`` decides when a condition shows and
when it goes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fleven_agent.common import addresses, flower_versions
from fleven_agent.config.settings import FLEET_PORT, OTHER_PORTS, Settings
from fleven_agent.identity.decisions import Standings
from fleven_agent.identity.secure_http import TlsFailure, TlsProblem
from fleven_agent.monitoring.traffic import near_limit
from fleven_agent.protocol.codes import HINTS, Reason, Severity, State
from fleven_agent.protocol.codes import ConditionCode as Code
from fleven_agent.protocol.readings import Readings
from fleven_agent.supernode.flower import line_for
from fleven_agent.supernode.supervisor import Supervised


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
    tls_failure: TlsFailure | None = None
    """Why a TCP connection to the SuperLink cannot be made."""
    executor_dead: str = ""
    frozen: str = ""
    task_stuck: str = ""
    task_failed: str = ""
    rejected: str = ""
    """The last refusal, until the next registration."""
    month_bytes: int = 0
    """What the car has sent and received this month."""
    data_problem: str = ""
    quarantined: int = 0
    data_unmovable: str = ""
    data_refused: str = ""
    """Why the app refused this car's last tasks."""
    data_stuck: str = ""
    """Why nothing can be known of the trips: their disk does not answer."""
    own_flower_version: str | None = None
    server_flower_version: str | None = None
    server_problems: tuple[tuple[str, str, str], ...] = ()
    """(code, message, hint) that the server answered."""
    undelivered: str = ""
    reports_rejected: str = ""
    """Why the server takes no report of this node until somebody changes something."""
    configuration_problem: str = ""
    state_problem: str = ""
    standings: Standings = field(default_factory=Standings)
    """What there is to say of the car's identity."""


@dataclass(frozen=True, slots=True)
class Holds:
    """A condition holds: its words, where they differ from the catalogue's with severity and hint."""

    message: str
    severity: Severity | None = None
    hint: str = ""


Rule = Callable[[Facts, bool], Holds | str]
"""Takes the facts and whether the condition is shown already: then limits are wider, so that a value at the limit does
not flap. Returns its message, or an empty text while it does not hold."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One entry of the catalogue."""

    code: Code
    severity: Severity
    hint: str
    rule: Rule
    raise_after_seconds: float
    """How long it must hold before it shows."""
    clear_after_seconds: float
    """How long it must be away before it goes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition that holds now."""

    code: Code
    message: str
    severity: Severity
    hint: str


_ENTRIES: dict[Code, Definition] = {}
CATALOGUE: Mapping[Code, Definition] = _ENTRIES


def _condition(
    code: Code, severity: Severity, *, raise_after_seconds: float = 0.0, clear_after_seconds: float = 0.0
) -> Callable[[Rule], Rule]:
    """Enter a rule into the catalogue."""

    def enter(rule: Rule) -> Rule:
        if code in _ENTRIES:
            raise ValueError(f"{code} has two rules")
        _ENTRIES[code] = Definition(code, severity, HINTS[code], rule, raise_after_seconds, clear_after_seconds)
        return rule

    return enter


# -- SuperNode and its tasks


@_condition(Code.SUPERNODE_DOWN, Severity.ERROR)
def _supernode_down(facts: Facts, _shown: bool) -> str:
    was = facts.supervised
    down = was.state in {State.BACKOFF, State.FAILED} and was.reason is not Reason.REJECTED
    return (was.detail or "SuperNode is not running") if down else ""


@_condition(Code.SUPERNODE_CRASH_LOOP, Severity.ERROR)
def _supernode_crash_loop(facts: Facts, _shown: bool) -> Holds | str:
    was, many = facts.supervised, facts.settings.supervision.crash_loop_count
    if was.attempt >= many:
        return f"SuperNode ended {was.attempt} times in a row: {was.detail}"
    if facts.recent_failures >= many:
        return Holds(f"SuperNode ended {facts.recent_failures} times in ten minutes", Severity.WARNING)
    return ""


@_condition(Code.SUPERNODE_FROZEN, Severity.WARNING)
def _supernode_frozen(facts: Facts, _shown: bool) -> str:
    return facts.frozen


def _out_of_date(facts: Facts) -> bool:
    """Whether the SuperLink's certificate has expired, or is not valid yet: said so, whatever SuperNode made of it."""
    failure = facts.tls_failure
    return failure is not None and failure.problem in (TlsProblem.EXPIRED, TlsProblem.NOT_YET_VALID)


@_condition(Code.SUPERLINK_UNREACHABLE, Severity.ERROR, raise_after_seconds=5)
def _superlink_unreachable(facts: Facts, _shown: bool) -> Holds | str:
    address = facts.settings.superlink
    if facts.rejected and not _out_of_date(facts):  # it is there, and says no
        return ""
    if facts.probe_problem:
        return _with_port_hint(f"no connection to the SuperLink at {address}: {facts.probe_problem}", address)
    if facts.tls_failure is not None:
        message = f"no connection to the SuperLink at {address}: {facts.tls_failure.sentence}"
        return Holds(message, hint=_TLS_HINTS.get(facts.tls_failure.problem, ""))
    if facts.connection_lost:
        return _with_port_hint(f"SuperNode cannot reach the SuperLink at {address}", address)
    return ""


_TLS_HINTS = {
    TlsProblem.EXPIRED: "renew it on the server (`fleven-server trust status`), or set this car's clock: `timedatectl`",
    TlsProblem.NOT_YET_VALID: "set this car's clock: `timedatectl`",
    TlsProblem.OTHER_NAME: "add the name on the server: `fleven-server trust add-name NAME`",
    TlsProblem.OTHER_AUTHORITY: "compare `fleven-server trust status` on the server with `fleven-agent status` here",
}


def _with_port_hint(message: str, address: str) -> Holds | str:
    """Return the condition with what a port usually is, where it is not the one that cars connect to."""
    host, port = addresses.split(address)
    if port not in OTHER_PORTS:
        return message
    usual = addresses.join(host, FLEET_PORT)
    return Holds(message, hint=f'{port} is by default {OTHER_PORTS[port]}; for example superlink = "{usual}"')


@_condition(Code.SUPERLINK_REJECTED, Severity.ERROR)
def _superlink_rejected(facts: Facts, _shown: bool) -> Holds | str:
    if not facts.rejected or _out_of_date(facts):
        return ""
    return Holds(facts.rejected, hint=line_for(facts.own_flower_version).refusal_hint(facts.rejected))


@_condition(Code.EXECUTOR_DEAD, Severity.ERROR)
def _executor_dead(facts: Facts, _shown: bool) -> str:
    return facts.executor_dead


@_condition(Code.TASK_STUCK, Severity.WARNING)
def _task_stuck(facts: Facts, _shown: bool) -> str:
    return facts.task_stuck


@_condition(Code.TASK_FAILED, Severity.WARNING, clear_after_seconds=60)
def _task_failed(facts: Facts, _shown: bool) -> str:
    return facts.task_failed


# -- the machine


@_condition(Code.DISK_LOW, Severity.WARNING, raise_after_seconds=10, clear_after_seconds=30)
def _disk_low(facts: Facts, shown: bool) -> str:
    limit = facts.settings.health.disk_warning_megabytes * (1.1 if shown else 1.0)
    for disk in facts.readings.disks:
        if disk.free_bytes < limit * 1e6:
            return f"{disk.free_bytes / 1e6:.0f} MB free at {disk.path}"
    return ""


@_condition(Code.MEMORY_LOW, Severity.WARNING, raise_after_seconds=10, clear_after_seconds=30)
def _memory_low(facts: Facts, shown: bool) -> str:
    available = facts.readings.memory_available_bytes
    limit = facts.settings.health.memory_warning_megabytes * (1.25 if shown else 1.0)
    low = available is not None and available < limit * 1e6
    return f"{available / 1e6:.0f} MB of memory available" if available is not None and low else ""


@_condition(Code.TEMPERATURE_HIGH, Severity.WARNING, raise_after_seconds=10, clear_after_seconds=30)
def _temperature_high(facts: Facts, shown: bool) -> str:
    celsius = facts.readings.temperature_celsius
    limit = facts.settings.health.temperature_warning_celsius - (5.0 if shown else 0.0)
    return f"the processor has {celsius:.0f} °C" if celsius is not None and celsius >= limit else ""


@_condition(Code.UNDERVOLTAGE, Severity.WARNING, raise_after_seconds=2, clear_after_seconds=60)
def _undervoltage(facts: Facts, _shown: bool) -> str:
    throttling = facts.readings.throttling
    return "the supply voltage is too low" if throttling is not None and throttling.undervoltage else ""


@_condition(Code.TRAFFIC_HIGH, Severity.WARNING)
def _traffic_high(facts: Facts, _shown: bool) -> str:
    return near_limit(facts.month_bytes, facts.settings.gates.monthly_megabytes)


@_condition(Code.CLOCK_UNSYNCED, Severity.WARNING, raise_after_seconds=120, clear_after_seconds=10)
def _clock_unsynced(facts: Facts, _shown: bool) -> str:
    if facts.readings.clock_synchronised is not False:
        return ""
    offset = facts.readings.clock_offset_seconds
    beside = f"; it differs from the server's by {-offset:+.0f} s" if offset is not None and abs(offset) > 2 else ""
    return f"the clock is not synchronised{beside}"


# -- the trips


@_condition(Code.DATA_MISSING, Severity.ERROR)
def _data_missing(facts: Facts, _shown: bool) -> str:
    return facts.data_problem


@_condition(Code.DATA_INVALID, Severity.WARNING)
def _data_invalid(facts: Facts, _shown: bool) -> Holds | str:
    if facts.data_unmovable:
        hint = "give user fleven the right to read the trips below data-path and to move them, or remove those named"
        return Holds(facts.data_unmovable, hint=hint)
    if not facts.quarantined:
        return ""
    plural = "trip is" if facts.quarantined == 1 else "trips are"
    return f"{facts.quarantined} unreadable {plural} set aside in quarantine/"


@_condition(Code.DATA_REFUSED, Severity.ERROR)
def _data_refused(facts: Facts, _shown: bool) -> str:
    return facts.data_refused


@_condition(Code.DATA_STUCK, Severity.ERROR)
def _data_stuck(facts: Facts, _shown: bool) -> str:
    return facts.data_stuck


# -- the server, and the agent itself


@_condition(Code.DUPLICATE_PARTITION, Severity.ERROR)
def _duplicate_partition(_facts: Facts, _shown: bool) -> str:
    return ""  # only the server can know it, and says so by this code


@_condition(Code.VERSION_MISMATCH, Severity.WARNING)
def _version_mismatch(facts: Facts, _shown: bool) -> Holds | str:
    own, theirs = facts.own_flower_version, facts.server_flower_version
    if not own or not theirs or not flower_versions.differ(own, theirs):
        return ""
    # Flower refuses no other minor version: what FLEVEn knows trains together.
    severity = None if flower_versions.train_together(own, theirs) else Severity.ERROR
    return Holds(f"this node has Flower {own}, the SuperLink has Flower {theirs}", severity)


@_condition(Code.SERVER_PROBLEM, Severity.WARNING)
def _server_problem(facts: Facts, _shown: bool) -> Holds | str:
    # Of a newer server, or one that has no condition of its own here.
    foreign = (problem for problem in facts.server_problems if problem[0] not in set(Code))
    return next((Holds(f"{code}: {message}", hint=hint) for code, message, hint in foreign), "")


@_condition(Code.ENROLMENT_PENDING, Severity.WARNING)
def _enrolment_pending(facts: Facts, _shown: bool) -> str:
    return facts.standings.pending


@_condition(Code.ENROLMENT_REFUSED, Severity.ERROR)
def _enrolment_refused(facts: Facts, _shown: bool) -> Holds | str:
    said = facts.standings
    return Holds(said.refused, hint=said.refused_hint) if said.refused else ""


@_condition(Code.IDENTITY_HELD, Severity.ERROR)
def _identity_held(facts: Facts, _shown: bool) -> str:
    return facts.standings.held


@_condition(Code.SERVER_CHANGED, Severity.ERROR)
def _server_changed(facts: Facts, _shown: bool) -> str:
    return facts.standings.changed


@_condition(Code.TRANSPORT_INSECURE, Severity.INFO)
def _transport_insecure(facts: Facts, _shown: bool) -> Holds | str:
    said = facts.standings
    if not said.plain_refused:
        return said.plain
    hint = "end the open mode on the server, `fleven-server trust enforce`, or set insecure = true here"
    return Holds(said.plain, Severity.ERROR, hint)


@_condition(Code.REPORT_UNDELIVERED, Severity.WARNING, raise_after_seconds=60)
def _report_undelivered(facts: Facts, _shown: bool) -> str:
    return facts.undelivered


@_condition(Code.REPORT_REJECTED, Severity.ERROR)
def _report_rejected(facts: Facts, _shown: bool) -> str:
    return facts.reports_rejected


@_condition(Code.CONFIGURATION_INVALID, Severity.ERROR)
def _configuration_invalid(facts: Facts, _shown: bool) -> str:
    return facts.configuration_problem


@_condition(Code.STATE_UNWRITABLE, Severity.ERROR)
def _state_unwritable(facts: Facts, _shown: bool) -> str:
    return facts.state_problem


@_condition(Code.GATED, Severity.INFO)
def _gated(facts: Facts, _shown: bool) -> str:
    return "; ".join(facts.supervised.gates)


def evaluate(facts: Facts, active: frozenset[Code]) -> list[Finding]:
    """Return what holds now, the worst first.

    Args:
        facts: readings and decisions of this moment.
        active: codes that are shown already.
    """
    found = []
    for code, entry in CATALOGUE.items():
        holds = entry.rule(facts, code in active) or _told(facts.server_problems, code)
        if holds:
            words = holds if isinstance(holds, Holds) else Holds(holds)
            found.append(Finding(code, words.message, words.severity or entry.severity, words.hint or entry.hint))
    return sorted(found, key=order)


def _told(problems: Iterable[tuple[str, str, str]], code: Code) -> Holds | None:
    """Return what the server says under a code of the catalogue."""
    return next((Holds(message, hint=hint) for told, message, hint in problems if told == code), None)


_WORST_FIRST = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
_PLACE = {code: place for place, code in enumerate(Code)}


def order(one: Finding) -> tuple[int, int]:
    """Return the key by which conditions are sorted: the worst first, then as the catalogue has them."""
    return _WORST_FIRST[one.severity], _PLACE[one.code]
