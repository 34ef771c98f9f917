"""Flower: is it here, in a version that the agent knows, and does it run?"""

import os
import shutil
import sys
from pathlib import Path

from fleven_agent import flower
from fleven_agent.checks.base import Check, Context, Result, error, ok, skipped, warning
from fleven_agent.versions import installed_version

LOWEST, BELOW = (1, 31), (1, 35)


def programs(_context: Context) -> Result:
    """SuperNode, its executor and the ClientApp's launcher are found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    names = (flower.SUPERNODE, flower.EXECUTOR, "flwr-clientapp")
    missing = [name for name in names if shutil.which(name, path=path) is None]
    if missing:
        return error(
            f"not found: {', '.join(missing)}", "install Flower beside the agent: pip install 'flwr>=1.31,<1.35'"
        )
    return ok(f"{shutil.which(flower.SUPERNODE, path=path)}")


def version(_context: Context) -> Result:
    """The version is one whose command line and log lines the agent knows."""
    found = installed_version("flwr")
    if found is None:
        return error("Flower is not installed in the agent's environment", "pip install 'flwr>=1.31,<1.35'")
    try:
        numbers = tuple(int(part) for part in found.split(".")[:2])
    except ValueError:
        return warning(f"Flower {found}: not a version this agent knows", "use flwr 1.31 to 1.34")
    if not LOWEST <= numbers < BELOW:
        return error(f"Flower {found} is not 1.31 to 1.34", "pip install 'flwr>=1.31,<1.35'")
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
    Check("flower.programs", "Flower's programs", programs, needs_configuration=False),
    Check("flower.version", "Flower's version", version, needs_configuration=False),
    Check("flower.running", "SuperNode", running, needs_configuration=False),
)
