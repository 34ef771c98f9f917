"""The newest report of each car as it came, so that its next one may say only what has changed.

In memory only: after a restart each car sends one report as a whole. Bounded; the one used longest ago goes first.
Must not import FastAPI or the register. Not safe for use from several threads: the event loop owns it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from fleven_agent.protocol import patch
from fleven_agent.protocol.report import Report, ReportChange

Key = tuple[str, str]
"""Who has signed (empty for nobody), and the sender id that the report carries: nobody changes another car's."""


class OtherReportError(ValueError):
    """A change that makes a report which it may not make."""


class NewestReports:
    """Keeps reports as JSON values.

    Args:
        maximum: how many cars.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._kept: OrderedDict[Key, dict[str, Any]] = OrderedDict()

    def keep(self, signer: str, report: Report) -> None:
        """Remember a report that is stored."""
        key = (signer, report.sender_id)
        self._kept[key] = report.model_dump(mode="json", exclude_none=True)
        self._kept.move_to_end(key)
        if len(self._kept) > self._maximum:
            self._kept.popitem(last=False)

    def whole(self, signer: str, change: ReportChange) -> Report | None:
        """Return the report that a change stands for; None when what it changes is not known here.

        Raises:
            ValidationError: with the change it is no report.
            OtherReportError: it would be one of another sender, or none that follows.
        """
        base = self._kept.get((signer, change.sender_id))
        if base is None or base["sequence"] != change.base:
            return None
        report = Report.model_validate(patch.applied(base, change.patch))
        if report.sender_id != change.sender_id or report.sequence <= change.base:
            raise OtherReportError(f"it makes report {report.sequence} of {report.sender_id}")
        return report
