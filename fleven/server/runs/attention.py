"""How closely the runs ask for the fleet to be followed: not at all until ten minutes before one is due. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from fleven.server.runs.model import Reason, Run, RunState
from fleven_agent.protocol.codes import Attention

DUE_SOON = timedelta(minutes=10)
PROMOTION_TOLD = timedelta(minutes=1)
"""So long all cars are asked to report after a promotion: an idle one would hear of it minutes later."""


def fleet_attention(
    open_runs: Iterable[Run], due_at: datetime | None, now: datetime, promoted_at: datetime | None = None
) -> Attention:
    """Return how closely the whole fleet is to be followed.

    Args:
        open_runs: runs that have not ended.
        due_at: when the next schedule fires.
        now: the current time.
        promoted_at: when a model became champion last: the cars hear of it by the answers to their reports.
    """
    if promoted_at is not None and timedelta(0) <= now - promoted_at < PROMOTION_TOLD:
        due_at = now
    due = due_at is not None and due_at - now <= DUE_SOON
    for run in open_runs:
        if run.state.active or run.state is RunState.PENDING:
            return Attention.RUN
        later = run.retry_at is not None and run.retry_at - now > DUE_SOON
        due = due or not (later or run.reason is Reason.BLACKOUT)
    return Attention.WATCHED if due else Attention.CALM
