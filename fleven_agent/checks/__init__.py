"""Diagnostics of `fleven-agent check`: one module a group, a stable id each, a hint with each that is not well.

Ids are ``group.name`` and never change once shipped, so that scripts and the server can name them. These run in the
command's own process, never in the daemon: they may block for seconds and load what they need.
"""

from fleven_agent.checks import certificates, clock, configuration, data, flower, machine, network, permissions, server
from fleven_agent.checks.base import Check, Context, Result, Status, run_checks

ALL: tuple[Check, ...] = (
    *configuration.CHECKS,
    *permissions.CHECKS,
    *flower.CHECKS,
    *machine.CHECKS,
    *clock.CHECKS,
    *network.CHECKS,
    *certificates.CHECKS,
    *data.CHECKS,
    *server.CHECKS,
)

__all__ = ["ALL", "Check", "Context", "Result", "Status", "run_checks"]
