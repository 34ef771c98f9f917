"""`fleven-agent`: parses the command line, calls, prints. The one place where the agent's errors are caught."""

import argparse
import os
import sys
from pathlib import Path

from fleven_agent import __version__
from fleven_agent.errors import AgentError


def state_directory() -> Path:
    return Path(os.environ.get("FLEVEN_STATE_DIR") or "/var/lib/fleven").absolute()


def runtime_directory() -> Path:
    return Path(os.environ.get("FLEVEN_RUNTIME_DIR") or "/run/fleven").absolute()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fleven-agent")
    parser.add_argument("--version", action="version", version=f"fleven-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--config", type=Path, default=Path("/etc/fleven/node.toml"))
    status = commands.add_parser("status")
    status.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "run":
            from fleven_agent import daemon, journal

            journal.set_up("info")
            return daemon.run(arguments.config, state_directory(), runtime_directory())
        import json

        from fleven_agent.control import request

        print(json.dumps(request(runtime_directory(), "status")["status"], indent=1))
        return 0
    except AgentError as error:
        for line in error.lines():
            print(f"fleven-agent: {line}", file=sys.stderr)
        return error.exit_code
