"""Whether a warm process may run on a board."""

import pytest

from fleven_agent.warm.settings import MEBIBYTE, WarmMode, WarmReason, WarmSettings, decide

# What Linux shows of boards sold with this much memory, the firmware's share taken off.
BOARD_1_GB = 906 * MEBIBYTE
BOARD_2_GB = 1845 * MEBIBYTE


@pytest.mark.parametrize(
    ("mode", "memory", "pidfd", "reason"),
    [
        (WarmMode.AUTO, BOARD_1_GB, True, WarmReason.MEMORY_TOO_SMALL),
        (WarmMode.AUTO, BOARD_2_GB, True, WarmReason.ENABLED),
        (WarmMode.ON, BOARD_1_GB, True, WarmReason.ENABLED),
        (WarmMode.OFF, BOARD_2_GB, True, WarmReason.SWITCHED_OFF),
        (WarmMode.ON, BOARD_2_GB, False, WarmReason.KERNEL_TOO_OLD),
        (WarmMode.OFF, BOARD_1_GB, False, WarmReason.SWITCHED_OFF),
    ],
)
def test_decision(mode: WarmMode, memory: int, pidfd: bool, reason: WarmReason) -> None:
    decision = decide(WarmSettings(mode=mode), total_memory_bytes=memory, kernel_has_pidfd=pidfd)
    assert decision.reason is reason
    assert decision.enabled is (reason is WarmReason.ENABLED)
    assert decision.message


def test_a_small_board_is_told_how_much_it_has_and_needs() -> None:
    decision = decide(WarmSettings(), total_memory_bytes=BOARD_1_GB)
    assert "906 MiB" in decision.message
    assert "1280 MiB" in decision.message
