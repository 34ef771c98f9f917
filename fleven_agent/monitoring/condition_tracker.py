"""When a condition shows and when it goes: each begins and ends only after it, or its absence, has lasted.

Pure: findings and clocks come in. The same list shows in systemd's status, the journal, ``fleven-agent status``, the
report and the server's page. What a condition is, is defined in ``conditions``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fleven_agent.monitoring.conditions import CATALOGUE, Finding, order
from fleven_agent.protocol.codes import ConditionCode as Code

CLOCK_SET_SECONDS = 5.0
"""When the wall clock has moved by so much against the other, it was set: what began before gets a new date."""


@dataclass(frozen=True, slots=True)
class Condition(Finding):
    """A condition as it is shown; the fields of ``report.Condition``."""

    since: float
    """Wall-clock moment at which it began [s since the epoch]."""


class ConditionTracker:
    """The conditions that are shown."""

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
            code = finding.code
            holding.add(code)
            self._absent.pop(code, None)
            begun = self._pending.setdefault(code, now)
            if code not in before and now - begun < CATALOGUE[code].raise_after_seconds:
                continue
            since = wall - (now - begun)
            if code in before and abs(since - before[code].since) < CLOCK_SET_SECONDS:
                since = before[code].since
            shown[code] = Condition(code, finding.message, finding.severity, finding.hint, since)
        for code, condition in before.items():
            gone_at = self._absent.setdefault(code, now) if code not in holding else now
            if code not in holding and now - gone_at < CATALOGUE[code].clear_after_seconds:
                shown[code] = condition
        for code in [code for code in self._pending if code not in holding and code not in shown]:
            del self._pending[code]
        changed = set(shown) != set(before)
        self.shown = tuple(sorted(shown.values(), key=order))
        return changed
