"""A clock that stands still until the test moves it."""


class HandClock:
    """Monotonic seconds in the test's hands."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the seconds that the test has set."""
        return self.now
