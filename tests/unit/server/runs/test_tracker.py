"""How loudly the journal tells of a run's steps."""

import logging

import pytest

from fleven.server.runs.model import Reason, RunState
from fleven.server.runs.tracker import level_of


@pytest.mark.parametrize(
    ("state", "reason", "level"),
    [
        (RunState.FAILED, Reason.APP_FAILED, logging.ERROR),
        (RunState.TIMED_OUT, Reason.MAX_DURATION, logging.ERROR),
        (RunState.SKIPPED, Reason.MISSED, logging.WARNING),
        (RunState.WAITING, Reason.RETRY_BACKOFF, logging.WARNING),
        (RunState.WAITING, Reason.TOO_FEW_NODES, logging.INFO),
        (RunState.SUCCEEDED, Reason.COMPLETED, logging.INFO),
    ],
)
def test_what_failed_is_louder_than_what_goes_on(state: RunState, reason: Reason, level: int) -> None:
    assert level_of(state, reason) == level
