"""The end of Tailscale's key of a board: told 30 days ahead, as that of certificates."""

import pytest

from fleven_agent.checks.certificates import judge_tailscale
from fleven_agent.common.checks import Status

DAY = 86_400.0


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (90.0, Status.OK, "valid for 90 days"),
        (30.0, Status.OK, "valid for 30 days"),
        (29.9, Status.WARNING, "expires in 30 days"),
        (0.5, Status.WARNING, "expires in 0 days"),
        (-2.0, Status.ERROR, "expired 2 days ago"),
    ],
)
def test_the_end_is_told_thirty_days_ahead(days: float, status: Status, words: str) -> None:
    found = judge_tailscale(days * DAY)
    assert (found.status, words in found.message) == (status, True), found
