"""Who is it that reports: a new car, the same car after a new installation, or a second car of the same name?

Pure: the register asks, and acts on the answer. Must not import SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Identity(StrEnum):
    """Who a sender is."""

    KNOWN = "known"
    """The present sender of its node."""
    NEW = "new"
    """A node that was never seen."""
    TAKES_OVER = "takes-over"
    """A node that was seen under another sender id: its state folder is new."""
    NAMESAKE = "namesake"
    """Another live node has this name already."""


def identify(*, sender_is_current: bool, sender_known: bool, holder_alive: bool | None, same_machine: bool) -> Identity:
    """Tell who a sender is.

    Args:
        sender_is_current: the sender reported last for the node that it belongs to.
        sender_known: the sender has reported before.
        holder_alive: whether the node of that name (or the one that this sender once was) reports under another sender
            id just now; None when there is no such node.
        same_machine: the holder's newest report came from the same boot and for the same partition-id.
    """
    if sender_is_current:
        return Identity.KNOWN
    if holder_alive is None:
        return Identity.NEW
    # A sender that comes back while its successor lives is a second agent, whatever its machine is.
    if not holder_alive or (same_machine and not sender_known):
        return Identity.TAKES_OVER
    return Identity.NAMESAKE


def free_name(wanted: str, taken: Callable[[str], bool]) -> str:
    """The name itself, or the first of name-2, name-3 … that is not taken."""
    if not taken(wanted):
        return wanted
    number = 2
    while taken(f"{wanted}-{number}"):
        number += 1
    return f"{wanted}-{number}"
