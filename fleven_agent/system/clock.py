"""Moments that outlive a change of the wall clock: a board without a battery-backed clock begins in 1970.

A stamp taken before the time service has set the clock would make every age since then half a century long. So a moment
is kept as seconds since the boot, which nothing sets, and becomes a wall-clock stamp when it is told. Standard library
only.
"""

import time

APART_SECONDS = 2.0
"""Clocks that differ by no more count as one: Flower takes a signature that is up to 5 s ahead."""
MOVED_SECONDS = 1.0


def since_boot() -> float:
    """Return now as seconds since the boot, the time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_stamp(moment_since_boot: float) -> float:
    """Return a moment as the wall clock would show it now [s since the epoch], to the tenth of a second."""
    return round(time.time() - (since_boot() - moment_since_boot), 1)


def server_time_at_boot(
    offset_seconds: float | None, known_seconds: float | None, *, wall_seconds: float, since_boot_seconds: float
) -> float | None:
    """Return what the server's clock showed when this machine booted [s since the epoch].

    Args:
        offset_seconds: the server's clock minus this one's; None from a server that does not say.
        known_seconds: what this returned the time before; it stands while it is right to a second.
        wall_seconds: this machine's clock now [s since the epoch].
        since_boot_seconds: the same moment since the boot.

    Returns:
        None while the clocks agree: what this machine's says is right then, and goes on with the time service.
    """
    if offset_seconds is None:
        return known_seconds
    if abs(offset_seconds) <= APART_SECONDS:
        return None
    found = wall_seconds + offset_seconds - since_boot_seconds
    return known_seconds if known_seconds is not None and abs(found - known_seconds) < MOVED_SECONDS else found
