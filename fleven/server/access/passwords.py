"""Passwords: which are accepted, and how they are kept (Argon2id, by argon2-cffi).

A check takes about 64 MB and a fifth of a second on purpose; only a few run at a time, so that a flood of logins costs
neither the memory nor the threads that the page needs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from fleven.server.errors import ServerError

SHORTEST, LONGEST = 12, 200
"""Length rather than rules about characters, as NIST SP 800-63B advises."""
AT_A_TIME = 2
WAITING = 6
WAIT_SECONDS = 5.0


class PasswordsBusyError(ServerError):
    """Too many passwords are being checked at this moment."""

    code = "login-busy"


def password_problem(password: str, name: str) -> str | None:
    """Return why a password is not taken, or None when it is.

    Args:
        password: as it was typed.
        name: of its user.
    """
    if len(password) < SHORTEST:
        return f"it needs at least {SHORTEST} characters; several words are easy to remember"
    if len(password) > LONGEST:
        return f"it may have at most {LONGEST} characters"
    if len(set(password)) < 5:
        return "it repeats a few characters"
    if name and name in password.lower() and len(password) < SHORTEST + len(name):
        return "it consists of the user's name"
    return None


class Passwords:
    """Hashes and verifies passwords, a few at a time. Safe to use from several threads."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._running = threading.BoundedSemaphore(AT_A_TIME)
        self._admitted = threading.BoundedSemaphore(AT_A_TIME + WAITING)
        self._nobody: str | None = None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._admitted.acquire(blocking=False):
            raise PasswordsBusyError("too many people log in at this moment", hint="try again in a few seconds")
        try:
            if not self._running.acquire(timeout=WAIT_SECONDS):
                raise PasswordsBusyError("too many people log in at this moment", hint="try again in a few seconds")
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._admitted.release()

    def hash(self, password: str) -> str:
        """Return what the register keeps of a password.

        Raises:
            PasswordsBusyError: too many are being worked on.
        """
        with self._turn():
            return self._hasher.hash(password)

    def verify(self, kept: str | None, password: str) -> bool:
        """Return whether a password is the one that was kept.

        Args:
            kept: its hash; None for a user who does not exist or may not log in: that takes the same time, so that
                nobody learns who exists.
            password: as it was typed.

        Raises:
            PasswordsBusyError: too many are being worked on.
        """
        with self._turn():
            if self._nobody is None:
                self._nobody = self._hasher.hash("a password that nobody has")
            try:
                return self._hasher.verify(kept or self._nobody, password[: LONGEST + 1]) and kept is not None
            except (VerificationError, InvalidHashError):
                return False

    def is_outdated(self, kept: str) -> bool:
        """Return whether a hash was made with older parameters."""
        return self._hasher.check_needs_rehash(kept)
