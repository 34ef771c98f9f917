"""Runs and changes of keys keep out of each other's way: a run names its cars by Flower's ids, and those hang on keys.

While a run is under way no car is asked for a new key; between two runs the next one waits a little for those who are
asked. Pure; must not import the register or a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

LONGEST_WAIT = timedelta(seconds=60)
"""A car has its new key at work after about 15 s; one that does not manage keeps no run waiting for longer."""


class KeyChanges:
    """Since when runs wait for a car's new key."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def hold(self, changing: Iterable[str], now: datetime) -> bool:
        """Return whether no run is to begin now. Each wish for a key is waited for once.

        Args:
            changing: names of the cars that can hear the server and are to change their key.
            now: the moment.
        """
        self._since = {name: self._since.get(name, now) for name in changing}
        return any(timedelta(0) <= now - since < LONGEST_WAIT for since in self._since.values())
