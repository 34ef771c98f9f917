"""Who a sender of reports is, when no identity of the enrolment says so: decided from facts that the register has.

Pure. Must not import SQLAlchemy nor read a clock: `ingest` finds the facts and writes what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Sender(StrEnum):
    """Who a sender is."""

    KNOWN = "known"
    """The present sender of its node."""
    NEW = "new"
    """A node that was never seen."""
    TAKES_OVER = "takes-over"
    """A node that was seen under another sender id: its state folder is new."""
    NAMESAKE = "namesake"
    """Another live node has this name already."""


def identify(
    *,
    sender_is_current: bool,
    sender_known: bool,
    holder_alive: bool | None,
    same_machine: bool,
    enrolled: bool = False,
) -> Sender:
    """Decide who a sender without an identity of the enrolment is.

    Args:
        sender_is_current: the sender reported last for the node that it belongs to.
        sender_known: the sender has reported before.
        holder_alive: whether the node of that name (or the one that this sender once was) reports under another sender
            id just now; None when there is no such node.
        same_machine: the holder's newest report came from the same boot and for the same partition-id.
        enrolled: the holder has reported with an identity: nobody takes its place without one.
    """
    if sender_is_current:
        return Sender.KNOWN
    if holder_alive is None:
        return Sender.NEW
    if enrolled:
        return Sender.NAMESAKE
    # A sender that comes back while its successor lives is a second agent, whatever its machine is.
    if not holder_alive or (same_machine and not sender_known):
        return Sender.TAKES_OVER
    return Sender.NAMESAKE


def free_name(wanted: str, taken: Callable[[str], bool]) -> str:
    """The name itself, or the first of name-2, name-3 … that is not taken."""
    if not taken(wanted):
        return wanted
    number = 2
    while taken(f"{wanted}-{number}"):
        number += 1
    return f"{wanted}-{number}"
