"""`fleven-agent`: reads the command line and runs the command. The one place where the agent's errors are caught.

Imports little at the top, so that `run` stays small: what a command needs is imported by its own function.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fleven_agent.cli.places import DEFAULT_CONFIG, runtime_directory, state_directory
from fleven_agent.common.errors import EXIT_FAILURE, EXIT_STOPPED, describe
from fleven_agent.errors import AgentError

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    match words:
        # As systemd starts it: argparse brings shutil, bz2 and lzma, which an idle car would keep for nothing.
        case ["run"]:
            return _caught(lambda: _run(DEFAULT_CONFIG), as_json=False)
        case ["run", "--config", file] if not file.startswith("-"):
            return _caught(lambda: _run(Path(file)), as_json=False)
    from fleven_agent.cli.arguments import parser

    arguments = parser().parse_args(words)
    return _caught(lambda: _dispatch(arguments), as_json=getattr(arguments, "json", False))


def _caught(command: Callable[[], int], *, as_json: bool) -> int:
    """Run a command; turn what goes wrong into lines for the operator and an exit code."""
    try:
        return command()
    except AgentError as error:
        if as_json:
            lines = error.lines()
            print(json.dumps({"error": {"code": error.code, "problems": lines}}, indent=2))
        for line in error.lines():
            print(f"fleven-agent: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:  # a right, a file or space that is missing is the operator's matter: no traceback
        hint = " (run it as root or as user fleven: use sudo)" if isinstance(error, PermissionError) else ""
        print(f"fleven-agent: {describe(error)}{hint}", file=sys.stderr)
        return EXIT_FAILURE


def _run(config_file: Path) -> int:
    from fleven_agent import daemon
    from fleven_agent.system import log

    log.set_up("info")
    return daemon.run(config_file.absolute(), state_directory(), runtime_directory())


def _dispatch(arguments: "argparse.Namespace") -> int:
    match arguments.command:
        case "run":
            return _run(arguments.config)
        case "join":
            from fleven_agent.cli.join import join

            return join(arguments, state_directory(), runtime_directory())
        case "check":
            from fleven_agent.cli.check import check

            return check(arguments, state_directory(), runtime_directory())
        case "config":
            from fleven_agent.cli.config import config

            return config(arguments)
        case "collect":
            from fleven_agent.cli.collect import collect

            return collect(arguments, state_directory(), runtime_directory())
        case "completion":
            from fleven_agent.cli.arguments import parser
            from fleven_agent.cli.completion import script

            print(script(parser(), arguments.shell), end="")
            return EXIT_STOPPED
        case _:
            from fleven_agent.cli import control

            return control.command(arguments, state_directory(), runtime_directory())
