"""How many wrong passwords may be tried: few from one address, few against one account. Plain arithmetic over a clock.

An account that is attacked from elsewhere still takes its user's own browser: where somebody has logged in before, only
that address's own tries count. Imports the standard library only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FOR_ACCOUNT_AT_ADDRESS, FOR_ADDRESS, FOR_ACCOUNT = 10.0, 20.0, 30.0
"""So many wrong passwords are free."""
REFILL_SECONDS = 60.0
"""One more is free after this time."""
MAXIMUM_KEYS = 20_000


@dataclass(slots=True)
class _Failures:
    count: float
    at: float


class LoginAttempts:
    """Failures of the last minutes by address, by account, and by both. Not safe for several threads without a lock.

    Args:
        monotonic: seconds that only grow.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def _keys(self, account: str, address: str, *, known: bool) -> list[tuple[tuple[str, str], float]]:
        # A space is in no name and in no address.
        keys = [((account or " ", address), FOR_ACCOUNT_AT_ADDRESS), (("", address), FOR_ADDRESS)]
        if not known:
            keys.append(((account or " ", ""), FOR_ACCOUNT))
        return keys

    def _count(self, key: tuple[str, str], now: float) -> float:
        found = self._failures.get(key)
        return 0.0 if found is None else max(0.0, found.count - (now - found.at) / REFILL_SECONDS)

    def wait_seconds(self, account: str, address: str, *, known: bool) -> float:
        """Return 0.0 when a password may be tried, else the seconds until one may.

        Args:
            account: the name that was typed, whether it exists or not.
            address: where the request comes from.
            known: whether this account was logged in from this address before.
        """
        now = self._monotonic()
        over = max(self._count(key, now) + 1.0 - most for key, most in self._keys(account, address, known=known))
        return max(0.0, over * REFILL_SECONDS)

    def failed(self, account: str, address: str, *, known: bool) -> None:
        """Note a wrong password."""
        now = self._monotonic()
        for key, _ in self._keys(account, address, known=known):
            self._failures[key] = _Failures(self._count(key, now) + 1.0, now)
            self._failures.move_to_end(key)
        while len(self._failures) > MAXIMUM_KEYS:
            # The one noted longest ago is forgotten first.
            self._failures.popitem(last=False)

    def succeeded(self, account: str, address: str, *, known: bool) -> None:
        """Take back the failure that was noted before the check, and forget those of the account at this address."""
        now = self._monotonic()
        for key, _ in self._keys(account, address, known=known):
            self._failures[key] = _Failures(max(0.0, self._count(key, now) - 1.0), now)
        self._failures.pop((account or " ", address), None)
