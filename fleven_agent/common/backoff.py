"""How long to wait before the next try: exponential, capped, jittered. Pure; imports nothing."""

SPREAD = 0.2
"""Each delay is drawn within this share of its middle, so that a fleet does not come back in one moment."""


def delay(attempt: int, *, initial: float, factor: float, maximum: float, chance: float) -> float:
    """Return the delay before try ``attempt`` [s].

    Args:
        attempt: failures in a row before this try, from 1; below 1 counts as 1.
        initial: delay after the first failure [s].
        factor: growth from one failure to the next.
        maximum: cap [s], reached before the jitter.
        chance: a number of [0, 1) from a random source.
    """
    exponent = min(max(attempt, 1) - 1, 64)  # 64 doublings pass any cap, and powers beyond would overflow
    middle = min(maximum, initial * factor**exponent)
    return middle * (1 - SPREAD + 2 * SPREAD * chance)
