"""Two boards under one identity: how the copy of a card shows itself, and why an honest car never looks like one.

A car's reports are numbered, and the numbers of one board only grow. Each batch names the boot and the process that
sends it; a process that has ended never sends again, and neither does a boot. So a **new** number from a process or a
boot that was superseded can only come from a second board that is alive as well. What is late, doubled or retried on
the way bears a number that is known already, and says nothing. It is the process that **sends** that counts, and not
the one that made a report: a report may have waited on the card over restarts, reboots and a card put back from a
backup.

The boot alone would not do: boards whose agents see one boot id (containers, machines on one kernel) would look like
one. A process alone would not either: an agent without that word, of another version, is told by its boot.
Pure: no clock, no SQL. Must not import the decisions about joining.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from fleven.server.enrolment.model import Identity, Speaker

MAXIMUM_EARLIER = 64
"""Boots, and processes, of a car that are remembered: a copy shows itself by the newest of them."""
COPIED = "two boards use its identity: one that was superseded reports again"


@dataclass(frozen=True, slots=True)
class Heard:
    """What a batch says of who sends it.

    Attributes:
        car: the car as it then is.
        copied: two boards use its identity.
        again: it comes from one that was superseded, with numbers that are known: it may have been late on the way. If
            its sender is alive, it is asked to report again, with a new number.
    """

    car: Identity
    copied: bool = False
    again: bool = False


def superseded(car: Identity, speaker: Speaker) -> bool:
    """Return whether another has spoken for the car since this one did."""
    gone = speaker.boot_id != car.boot_id and speaker.boot_id in car.earlier_boot_ids
    return gone or (speaker.process != car.process and speaker.process in car.earlier_processes)


def hear(car: Identity, speaker: Speaker, now: datetime, *, is_new: bool) -> Heard:
    """Follow who speaks for a car.

    Args:
        car: an accepted car.
        speaker: who sends the batch; empty words tell nothing.
        now: the moment.
        is_new: the highest number of the batch is above all that are known.
    """
    if superseded(car, speaker):
        return Heard(car, copied=is_new, again=not is_new)
    if not is_new:
        return Heard(car)
    following = car
    if speaker.boot_id and speaker.boot_id != car.boot_id:
        earlier = _with(car.earlier_boot_ids, car.boot_id)
        following = replace(following, boot_id=speaker.boot_id, earlier_boot_ids=earlier)
    if speaker.process and speaker.process != car.process:
        earlier = _with(car.earlier_processes, car.process)
        following = replace(following, process=speaker.process, process_since=now, earlier_processes=earlier)
    return Heard(following)


def _with(earlier: tuple[str, ...], one: str) -> tuple[str, ...]:
    """Return what was superseded with one more at its end."""
    return (*earlier, one)[-MAXIMUM_EARLIER:] if one else earlier
