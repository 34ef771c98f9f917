"""The newest report of each car as it came, and what it was told, so that both need say only what has changed.

In memory only: after a restart each car sends one report as a whole. Bounded in number and in bytes; the one used
longest ago goes first, and one that is larger than a car's report is not kept. Must not import FastAPI or the register.
Not safe for use from several threads: the event loop owns it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass

from fleven_agent.protocol import patch
from fleven_agent.protocol.report import IdentityAnswer, Report, ReportChange

LARGEST_BYTES = 64_000
"""A report takes some 10 kB as JSON; what a failed task has printed comes once, and changes need it no more."""
STRANGERS_BYTES = 16_000_000
"""All those that nobody has signed."""


@dataclass(frozen=True, slots=True)
class Told:
    """What passed with the last report of a car with an identity.

    Attributes:
        authorities: fingerprints of the certificates that the car trusts, as it said last.
        identity: how its identity stands, as it was told last.
    """

    authorities: str = ""
    identity: IdentityAnswer | None = None


NOTHING = Told()


class OtherReportError(ValueError):
    """A change that makes a report which it may not make."""


@dataclass(frozen=True, slots=True)
class _Kept:
    sender_id: str
    sequence: int
    document: bytes
    told: Told


class NewestReports:
    """Keeps reports as JSON: one of each car with an identity, and some of those that nobody has signed.

    Args:
        maximum: how many cars.
        strangers_bytes: how much those without an identity may take together.
    """

    def __init__(self, maximum: int, strangers_bytes: int = STRANGERS_BYTES) -> None:
        self._maximum = maximum
        self._strangers_bytes = strangers_bytes
        self._signed: OrderedDict[str, _Kept] = OrderedDict()
        self._unsigned: OrderedDict[str, _Kept] = OrderedDict()
        self._unsigned_bytes = 0

    def keep(self, signer: str, report: Report, told: Told = NOTHING) -> None:
        """Remember a report that is stored.

        Args:
            signer: who has signed it; empty for nobody.
            report: as it came.
            told: what passed with it.
        """
        kept = _Kept(report.sender_id, report.sequence, report.model_dump_json(exclude_none=True).encode(), told)
        small = len(kept.document) <= LARGEST_BYTES
        if signer:
            _put(self._signed, signer, kept if small else None)
            if len(self._signed) > self._maximum:
                self._signed.popitem(last=False)
            return
        self._unsigned_bytes += _put(self._unsigned, report.sender_id, kept if small else None)
        while len(self._unsigned) > self._maximum or self._unsigned_bytes > self._strangers_bytes:
            self._unsigned_bytes -= len(self._unsigned.popitem(last=False)[1].document)

    def told(self, signer: str) -> Told:
        """Return what passed with a car's last report; nothing for one that is not known here, or has no identity."""
        kept = self._signed.get(signer)
        return NOTHING if kept is None else kept.told

    def whole(self, signer: str, change: ReportChange) -> Report | None:
        """Return the report that a change stands for; None when what it changes is not known here.

        Raises:
            ValidationError: with the change it is no report.
            OtherReportError: it would be one of another sender, or none that follows.
        """
        base = self._signed.get(signer) if signer else self._unsigned.get(change.sender_id)
        if base is None or (base.sender_id, base.sequence) != (change.sender_id, change.base):
            return None
        report = Report.model_validate(patch.applied(json.loads(base.document), change.patch))
        if report.sender_id != change.sender_id or report.sequence <= change.base:
            raise OtherReportError(f"it makes report {report.sequence} of {report.sender_id}")
        return report


def _put(reports: OrderedDict[str, _Kept], key: str, kept: _Kept | None) -> int:
    """Put a report in place of the one before, as the newest; None takes it away. Returns by how much they grew."""
    before = reports.pop(key, None)
    if kept is not None:
        reports[key] = kept
    return (0 if kept is None else len(kept.document)) - (0 if before is None else len(before.document))
