"""What node.toml says about the warm launcher, whether it may run on this board, and the words for why not.

Values of the enums are written to files, reports and logs, so they never change once shipped. Pure; standard library
only.
"""

import os
from dataclasses import dataclass
from enum import StrEnum


class WarmMode(StrEnum):
    """What node.toml asks for."""

    AUTO = "auto"  # on where the board has the memory for it
    ON = "on"
    OFF = "off"


class WarmState(StrEnum):
    """What there is at the moment."""

    OFF = "off"  # switched off, or the board is too small; tasks start as Flower starts them
    ABSENT = "absent"  # left after idling or under memory pressure; comes back with the next task
    WARMING = "warming"  # importing; tasks that come now wait for it
    READY = "ready"  # tasks are handed to it
    BACKOFF = "backoff"  # it ended unasked; the next start is timed


class WarmReason(StrEnum):
    """Why the warm process is, or is not, there."""

    ENABLED = "enabled"
    SWITCHED_OFF = "switched-off"
    MEMORY_TOO_SMALL = "memory-too-small"
    KERNEL_TOO_OLD = "kernel-too-old"
    FLOWER_NOT_FOUND = "flower-not-found"
    FOLDER_UNUSABLE = "folder-unusable"
    IDLE = "idle"
    MEMORY_PRESSURE = "memory-pressure"
    PARENT_GONE = "parent-gone"
    STOPPED = "stopped"
    CRASHED = "crashed"


class Fallback(StrEnum):
    """Why a task was started by Flower's own ``flwr-clientapp`` although the launcher was asked."""

    ABSENT = "absent"  # no warm process listens: it left, or it was never started
    TIMEOUT = "timeout"  # it did not take the task in time
    ENDED = "ended"  # it, or the forked task, went away before the task began
    FOREIGN = "foreign"  # the socket belongs to another user
    ENVIRONMENT = "environment-differs"  # a variable, limit or interpreter that matters at import differs
    MEMORY = "memory-pressure"  # too little memory for a fork with comfort
    THREADS = "threads"  # the warm process has more than one thread, so a fork would not be safe
    MODULES = "app-modules"  # an app's module was found loaded, so a fork could run old code
    SETUP = "setup-failed"  # the forked task could not take over descriptors, folder or environment
    ERROR = "error"  # anything else


MEBIBYTE = 1 << 20
# A board sold as "1 GB" shows less than this to Linux, one sold as "2 GB" more. The warm process takes about 200 MiB
# and a training task as much again, which leaves a 1 GB board nothing to train with.
SMALLEST_BOARD_BYTES = 1280 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class WarmSettings:
    """The ``[warm]`` table of node.toml."""

    mode: WarmMode = WarmMode.AUTO
    idle_seconds: float = 900.0
    """The warm process leaves after this long without a task."""
    minimum_available_bytes: int = 192 * MEBIBYTE
    """It leaves, and takes no task, while Linux has less memory than this to give."""
    maximum_memory_bytes: int = 320 * MEBIBYTE
    """It imports no further module once it holds this much (proportional set size)."""
    modules: tuple[str, ...] = ()
    """Imported besides Flower's client side and what the last task imported."""
    short_polling: bool = True
    """Shorter waits in SuperNode and its executor while a run is active."""


@dataclass(frozen=True, slots=True)
class WarmDecision:
    """Whether a warm process may run here, and why."""

    enabled: bool
    reason: WarmReason
    message: str


def decide(
    settings: WarmSettings, *, total_memory_bytes: int, kernel_has_pidfd: bool = hasattr(os, "pidfd_open")
) -> WarmDecision:
    """Return whether tasks may be handed to a warm process on a board with this much memory."""
    if settings.mode is WarmMode.OFF:
        return WarmDecision(False, WarmReason.SWITCHED_OFF, "switched off in node.toml")
    if not kernel_has_pidfd:
        return WarmDecision(False, WarmReason.KERNEL_TOO_OLD, "needs Linux 5.3 or newer")
    if settings.mode is WarmMode.AUTO and total_memory_bytes < SMALLEST_BOARD_BYTES:
        return WarmDecision(
            False,
            WarmReason.MEMORY_TOO_SMALL,
            f"{total_memory_bytes // MEBIBYTE} MiB of memory; auto wants {SMALLEST_BOARD_BYTES // MEBIBYTE} MiB",
        )
    return WarmDecision(True, WarmReason.ENABLED, "tasks are handed to a warm process")
