"""What this car sends and receives in a day and in a month, for whoever pays for it.

Counted is all that the agent and SuperNode say to the server over their connections: bytes inside TCP, repeated ones
included, and 52 bytes of headers for each segment (72 with IPv6), as the kernel counts both. Not counted are DNS,
other programs, a tunnel's own headers, and what a connection carries in the last seconds before it is closed. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

CLOCK_IS_SET = date(2024, 1, 1)
"""An earlier date is that of a board whose clock has not been set yet."""
CLOCK_WAS_WRONG = timedelta(days=31)
WARNING_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of one day and of its month; day: ISO 8601, local time, "" before the first count."""

    day: str = ""
    day_bytes: int = 0
    month_bytes: int = 0

    def after(self, grown_bytes: int, today: date) -> "Usage":
        """Return the usage after some more bytes.

        A clock that is not set yet, or went back, counts on in the day before; after one that was far ahead the
        count begins again.
        """
        known = date.fromisoformat(self.day) if self.day else None
        behind = known is not None and today <= known and known - today <= CLOCK_WAS_WRONG
        if known is not None and (behind or today < CLOCK_IS_SET):
            return Usage(self.day, self.day_bytes + grown_bytes, self.month_bytes + grown_bytes)
        same_month = known is not None and (known.year, known.month) == (today.year, today.month)
        return Usage(today.isoformat(), grown_bytes, (self.month_bytes if same_month else 0) + grown_bytes)


def usage_from(day: str, day_bytes: int, month_bytes: int) -> Usage:
    """Return the usage that was kept; none where its day is no date."""
    try:
        date.fromisoformat(day)
    except ValueError:
        return Usage()
    return Usage(day, day_bytes, month_bytes)


class Meter:
    """Sums up what connections carry while they come and go."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def grown(self, carried: Mapping[int, int]) -> int:
        """Return how many bytes were carried since the look before.

        Args:
            carried: bytes since each connection began, by its socket's inode.
        """
        total = 0
        for inode, now in carried.items():
            before = self._seen.get(inode, 0)
            total += now - before if now >= before else now  # another connection under the same number
        self._seen = dict(carried)
        return total


def near_limit(month_bytes: int, limit_megabytes: int | None) -> str:
    """Return the words for a month's limit that is nearly used up, or is; empty while it is not."""
    if limit_megabytes is None or month_bytes < WARNING_SHARE * limit_megabytes * 1e6:
        return ""
    return f"{month_bytes / 1e6:.1f} MB of {limit_megabytes} MB are used this month"
