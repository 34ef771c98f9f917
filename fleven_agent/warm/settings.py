"""What node.toml says about the warm launcher, and whether it may run on this board. Pure; standard library only."""

import os
from dataclasses import dataclass

from fleven_agent.warm.reasons import WarmMode, WarmReason

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
    """Say whether tasks may be handed to a warm process on a board with this much memory."""
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
