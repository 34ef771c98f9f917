"""Diagnostics of `fleven-agent check`: one module for each group; each check has a stable id and, on failure, a hint.

Ids are ``group.name`` and never change once shipped, so that scripts and the server can name them. These run in the
command's own process, never in the daemon: they may block for seconds and load what they need.
"""

from fleven_agent.checks import (
    certificates,
    clock,
    configuration,
    data,
    flower,
    identity,
    machine,
    network,
    permissions,
    server,
)
from fleven_agent.checks.context import Context
from fleven_agent.common.checks import Check

ALL: tuple[Check[Context], ...] = (
    *configuration.CHECKS,
    *permissions.CHECKS,
    *identity.CHECKS,
    *flower.CHECKS,
    *machine.CHECKS,
    *clock.CHECKS,
    *network.CHECKS,
    *certificates.CHECKS,
    *data.CHECKS,
    *server.CHECKS,
)

HINT_FOR_A_DEFECT = "send the output of `fleven-agent collect` to the maintainers"

__all__ = ["ALL", "HINT_FOR_A_DEFECT", "Context"]
