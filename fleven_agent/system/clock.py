"""Moments that outlive a change of the wall clock: a board without a battery-backed clock begins in 1970.

A stamp taken before the time service has set the clock would make every age since then half a century long. So a moment
is kept as seconds since the boot, which nothing sets, and becomes a wall-clock stamp when it is told. Standard library
only.
"""

import time


def since_boot() -> float:
    """Return now as seconds since the boot, the time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_stamp(moment_since_boot: float) -> float:
    """Return a moment as the wall clock would show it now [s since the epoch], to the tenth of a second."""
    return round(time.time() - (since_boot() - moment_since_boot), 1)
