"""Flower: whether it is installed, in a version that the agent knows, and runs."""

import os
import shutil
import sys
from pathlib import Path

from fleven_agent.checks.context import Context
from fleven_agent.common import flower_versions
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.supernode.flower import line_for
from fleven_agent.system.versions import installed_version


def programs(_context: Context) -> Result:
    """SuperNode, its executor and the ClientApp's launcher are found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    line = line_for(installed_version("flwr"))
    names = (line.supernode, line.executor, line.clientapp)
    missing = [name for name in names if shutil.which(name, path=path) is None]
    if missing:
        return error(
            f"not found: {', '.join(missing)}", f"install Flower beside the agent: {flower_versions.INSTALL_HINT}"
        )
    return ok(f"{shutil.which(line.supernode, path=path)}")


def version(_context: Context) -> Result:
    """The version is one whose command line and log lines the agent knows."""
    found = installed_version("flwr")
    if found is None:
        return error("Flower is not installed in the agent's environment", flower_versions.INSTALL_HINT)
    if flower_versions.release_line(found) is None:
        return warning(f"Flower {found}: not a version this agent knows", f"use flwr {flower_versions.RANGE_TEXT}")
    if not flower_versions.is_supported(found):
        return error(f"Flower {found} is not {flower_versions.RANGE_TEXT}", flower_versions.INSTALL_HINT)
    return ok(f"Flower {found}")


def running(context: Context) -> Result:
    """The agent's SuperNode is registered."""
    status = context.status
    if status is None:
        return skipped("no agent runs")
    node = status.get("node", {}).get("node_id")
    if status.get("state") == "running":
        return ok(f"running as node {node}")
    hint = "see `fleven-agent status` and `journalctl -u fleven-agent`"
    return warning(f"{status.get('state')}: {status.get('state_reason')}", hint)


CHECKS = (
    Check("flower.programs", "Flower's programs", programs),
    Check("flower.version", "Flower's version", version),
    Check("flower.running", "SuperNode", running),
)
