"""Whether SuperNode's connection to the SuperLink is dead, although the SuperLink can be reached.

When the server's address changes, a car roams to another network or its VPN comes up again, nobody closes the old
connection: the kernel repeats its unacknowledged bytes for a quarter of an hour, and gRPC waits for it. A connection of
the agent's own to the same port shows that the SuperLink is there, so the old one will never come back. And where the
connection was closed, gRPC tries a new one only after a pause that grows with each failure, up to two minutes.

Where something between the two keeps the old connection alive, it acknowledges what SuperNode asks, and nothing ever
comes back; and the SuperLink itself knows: the server says so in its answers to reports, of a heartbeat that is overdue
as of a node that Flower's list calls offline.

Pure: what the kernel counts, what a probe found and what the server says come in, a verdict comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fleven_agent.system.tcp_counters import Connection

MOVED_SECONDS = 3.0
"""How long nothing may be acknowledged, when the address at one of the ends is gone."""
IDLE_SECONDS = 8.0
"""The same while no task is at work: a fresh SuperNode costs nothing."""
BUSY_SECONDS = 30.0
"""The same in a task, whose answer is lost with SuperNode: after a short outage the kernel repeats the bytes by itself,
later than the outage was long."""
UNANSWERED_SECONDS = 15.0
"""For how long what was asked and acknowledged may have no answer while no task is at work; a SuperLink that somebody
has stopped is told to go on in that time."""
QUESTION_BYTES = 300
"""A question, signed and encrypted, has over 1,000; what HTTP/2 itself sends without being answered has fewer."""
GIVEN_UP_SECONDS = 60.0
"""After such a time without a word the SuperLink has given the task up, and its answer is lost with it."""
LISTED_SECONDS = 60.0
"""For how long SuperNode must have been registered, and the SuperLink within reach, before the server's word counts:
one of SuperNode's heartbeats, and the age up to which the server tells of Flower's list."""
FRESH_SECONDS = 3.0
"""How old a probe may be while something stalls; later a share of the time for which it has, up to `RARE_SECONDS`."""
RARE_SHARE = 0.1
RARE_SECONDS = 15.0
"""A SuperLink may be away for days."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A connection on which bytes wait and nothing is acknowledged, or nothing is answered.

    Or none at all: then without addresses.
    """

    since: float
    """Monotonic moment at which that was first seen."""
    local: str = ""
    remote: str = ""
    unanswered: bool = False
    """All was acknowledged, and nothing came back."""


@dataclass(frozen=True, slots=True)
class Question:
    """What was sent on a connection since something last came back."""

    received_bytes: int
    sent_bytes: int
    """Of the look at which something had come back last."""
    since: float | None = None
    """Monotonic moment of the first look at which enough was sent since for a question."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the agent's own connections to the SuperLink's port found; moments are monotonic."""

    tried_at: float = float("-inf")
    reached_at: float = float("-inf")
    """The last that was accepted."""
    reachable_since: float = float("inf")
    """The first of those that were accepted since one last failed."""
    addresses: frozenset[str] = frozenset()
    """What the SuperLink's name means now."""
    own_addresses: frozenset[str] = frozenset()
    """Of this machine's interfaces."""


@dataclass(frozen=True, slots=True)
class OfflineList:
    """What the server said last of Flower's own list of nodes."""

    told_at: float = float("-inf")
    """Monotonic moment: with reports an hour apart it may be long ago, and says nothing of the time since."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Ids that the list calls offline, or whose heartbeat is overdue, and for how long."""


class ConnectionWatch:
    """The connections of one SuperNode to the SuperLink."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[int, float]] = {}
        """By inode: bytes acknowledged, and since when no more."""
        self._asked: dict[int, Question] = {}
        """By inode."""
        self._without_since: float | None = None

    def look(self, connections: Sequence[Connection], now: float) -> Stall | None:
        """Return the stall when all connections stall, or when there is none; None while one is well."""
        if not connections:
            self._waiting = {}
            self._without_since = now if self._without_since is None else self._without_since
            return Stall(self._without_since)
        self._without_since = None
        waiting: dict[int, tuple[int, float]] = {}
        for one in connections:
            if one.waiting_bytes:
                acknowledged, since = self._waiting.get(one.inode, (one.sent_bytes, now))
                waiting[one.inode] = (one.sent_bytes, since if acknowledged == one.sent_bytes else now)
        self._waiting = waiting
        self._asked = {one.inode: _asked(self._asked.get(one.inode), one, now) for one in connections}
        if not waiting or len(waiting) < len(connections):
            return self._unanswered(connections)
        youngest = max(connections, key=lambda one: waiting[one.inode][1])
        return Stall(waiting[youngest.inode][1], youngest.local, youngest.remote)

    def _unanswered(self, connections: Sequence[Connection]) -> Stall | None:
        """Return the stall when on each connection something was asked and nothing came back."""
        moments = {one.inode: self._asked[one.inode].since for one in connections}
        known = [(moment, one) for one in connections if (moment := moments[one.inode]) is not None]
        if len(known) < len(connections):
            return None
        since, youngest = max(known, key=lambda pair: pair[0])
        return Stall(since, youngest.local, youngest.remote, unanswered=True)


def _asked(before: Question | None, seen: Connection, now: float) -> Question:
    if before is None or seen.received_bytes != before.received_bytes:
        return Question(seen.received_bytes, seen.sent_bytes)
    if before.since is None and seen.sent_bytes - before.sent_bytes >= QUESTION_BYTES:
        return replace(before, since=now)
    return before


def wants_probe(stall: Stall | None, reach: Reach, now: float) -> bool:
    """Tell whether it is time to try a connection of the agent's own."""
    if stall is None or now - stall.since < 1.0:
        return False
    pause = min(RARE_SECONDS, max(FRESH_SECONDS, RARE_SHARE * (now - stall.since)))
    return now - reach.tried_at >= pause


def dead(stall: Stall | None, reach: Reach, now: float, *, busy: bool) -> str:
    """Return why the connection is dead; empty while it may come back, or while nobody reaches the SuperLink."""
    if stall is None or reach.reached_at < stall.since or reach.reachable_since > reach.reached_at:
        return ""
    connected = bool(stall.remote)
    moved = connected and bool(reach.addresses) and stall.remote not in reach.addresses
    left = connected and bool(reach.own_addresses) and stall.local not in reach.own_addresses
    seconds = now - max(stall.since, reach.reachable_since)
    busy = busy and now - stall.since < GIVEN_UP_SECONDS
    idle_seconds = UNANSWERED_SECONDS if stall.unanswered else IDLE_SECONDS
    if seconds < (MOVED_SECONDS if moved or left else BUSY_SECONDS if busy else idle_seconds):
        return ""
    if not connected:
        return f"SuperNode has had no connection to the SuperLink for {now - stall.since:.0f} s, though one is accepted"
    silent = f"nothing was {'answered' if stall.unanswered else 'acknowledged'} for {now - stall.since:.0f} s"
    if moved:
        return f"the SuperLink is no longer at {stall.remote}: {silent}"
    if left:
        return f"this node no longer has the address {stall.local}: {silent}"
    return f"the connection to the SuperLink is dead: {silent}, though a new one is accepted"


def listed_offline(node_id: str, registered_at: float, reach: Reach, offline: OfflineList) -> str:
    """Return why SuperNode is lost for the SuperLink although it runs here; empty while it may only be late.

    Args:
        node_id: of SuperNode; a key keeps it the same over all restarts.
        registered_at: monotonic moment at which SuperNode got it.
        reach: what the agent's own connections found.
        offline: what the server said.
    """
    offline_seconds = offline.seconds.get(node_id)
    well_for = offline.told_at - max(registered_at, reach.reachable_since)
    if offline_seconds is None or well_for < LISTED_SECONDS:
        return ""
    return f"no heartbeat has reached Flower for {offline_seconds:.0f} s more than it should, though SuperNode runs"
