"""The command line: commands, options and their help. Imports ``argparse``, which `run` does without."""

import argparse
from pathlib import Path

from fleven_agent import __version__
from fleven_agent.cli.places import DEFAULT_CONFIG

_DESCRIPTION = "Keeps a car in the federation: runs flower-supernode, watches it, and reports to the server."
_EXAMPLES = """examples:
  sudo fleven-agent join fleven1.W1s…   join the server that invited this car
  fleven-agent check                    find out what is wrong, with a hint for each problem
  fleven-agent status --watch           follow what the agent does
  fleven-agent drain --reason service   keep the car out of training until `undrain`
  fleven-agent run --config node.toml   run in a terminal, without systemd

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no agent runs, 75 try again, 78 node.toml cannot be used.
FLEVEN_STATE_DIR and FLEVEN_RUNTIME_DIR name folders to use instead of /var/lib/fleven and /run/fleven."""


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = _new(argparse.ArgumentParser, prog="fleven-agent", description=_DESCRIPTION, epilog=_EXAMPLES)
    top.add_argument("--version", action="version", version=f"fleven-agent {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = _add(commands, "run", "run the agent until it is stopped", "fleven-agent run --config ./node.toml")
    _config(run)

    status = _add(
        commands,
        "status",
        "show what the agent does; the last known state when none runs",
        "fleven-agent status\nfleven-agent status --watch\nfleven-agent status --json | jq .state",
    )
    _json(status)
    status.add_argument("--watch", action="store_true", help="keep showing it until Ctrl-C")
    status.add_argument(
        "--interval-seconds", type=_positive, default=2.0, help="time between two updates of --watch (default 2)"
    )

    join = _add(
        commands,
        "join",
        "join the server that invited this car, and wait until the car is ready",
        "sudo fleven-agent join fleven1.W1siMTAw...\nsudo fleven-agent join --file /boot/firmware/invitation\n"
        "fleven-server nodes invite car-3 --code | ssh car-3 sudo fleven-agent join -",
    )
    join.add_argument("code", nargs="?", help="what `fleven-server nodes invite` printed; - reads it from stdin")
    join.add_argument("--file", type=Path, metavar="FILE", help="read the code from a file")
    join.add_argument("--replace", action="store_true", help="give up the identity that this car already has")
    join.add_argument("--no-start", action="store_true", help="do not start the service, and do not wait")
    join.add_argument(
        "--timeout-seconds", type=_positive, default=60.0, help="how long to wait until the car is ready (default 60)"
    )
    join.add_argument(
        "--step-seconds", type=_positive, default=10.0, help="limit for each wait for the server (default 10)"
    )
    _config(join)
    _json(join)

    check = _add(
        commands,
        "check",
        "run all diagnostics, each with a hint; exit code 1 when one is an error",
        "fleven-agent check\nfleven-agent check --only network\nfleven-agent check --only clock.server --json",
    )
    _config(check)
    _json(check)
    check.add_argument("--list", action="store_true", help="list the ids of all checks and run none")
    check.add_argument("--only", action="append", default=[], metavar="ID", help="a check or a group; may be repeated")
    check.add_argument(
        "--timeout-seconds", type=_positive, default=5.0, help="limit for each network check (default 5)"
    )

    config = _add(commands, "config", "check or show node.toml, or open a folder of trips to the service", "")
    config_commands = config.add_subparsers(dest="config_command", required=True, metavar="COMMAND")
    config_check = _add(
        config_commands, "check", "report everything that is wrong with node.toml; exit code 78 if anything is", ""
    )
    _config(config_check)
    _json(config_check)
    show = _add(
        config_commands, "show", "print the values in force and where each comes from", "fleven-agent config show"
    )
    _config(show)
    _json(show)
    allow = _add(
        config_commands,
        "allow-data",
        "let the service read a folder of trips, wherever it is, and quarantine bad files in it",
        "sudo fleven-agent config allow-data /home/pi/trips",
    )
    allow.add_argument("path", type=Path, help="folder of trips")
    allow.add_argument("--unit-directory", type=Path, default=Path("/etc/systemd/system"), help=argparse.SUPPRESS)
    _config(allow)
    _json(allow)

    collect = _add(
        commands,
        "collect",
        "write a support bundle: state, checks, configuration, journal, versions; secrets are blanked",
        "fleven-agent collect\nfleven-agent collect --output /tmp/car-3.tar.gz",
    )
    _config(collect)
    _json(collect)
    collect.add_argument("--output", type=Path, help="file to write (default: fleven-NODE-TIME.tar.gz in this folder)")
    collect.add_argument("--journal-lines", type=int, default=2_000, help="lines of the unit's journal (default 2000)")

    drain = _add(
        commands,
        "drain",
        "keep the car out of training, even after reboots, until undrain",
        'fleven-agent drain --reason "brake inspection"\nfleven-agent drain --wait',
    )
    drain.add_argument("--reason", default="", help="shown here and on the server")
    drain.add_argument(
        "--until-restart", action="store_true", help="only until the agent is started again, as by an upgrade"
    )
    drain.add_argument("--wait", action="store_true", help="return only when the current task has ended")
    drain.add_argument("--timeout-seconds", type=_positive, default=900.0, help="limit of --wait (default 900)")
    _json(drain)

    _json(_add(commands, "undrain", "let the car train again", "fleven-agent undrain"))

    restart = _add(commands, "restart", "restart SuperNode, after the current task", "fleven-agent restart --now")
    restart.add_argument("--now", action="store_true", help="do not wait for the current task")
    _json(restart)

    completion = _add(
        commands,
        "completion",
        "print a shell's completion script",
        "fleven-agent completion bash > ~/.local/share/bash-completion/completions/fleven-agent",
    )
    completion.add_argument("shell", choices=["bash", "zsh"])
    return top


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _new(make: type[argparse.ArgumentParser], **arguments: str) -> argparse.ArgumentParser:
    return make(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **arguments)  # type: ignore[arg-type]


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    lines = "".join(f"\n  {line}" for line in examples.splitlines())
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[:1].upper()}{summary[1:]}.",
        epilog=f"examples:{lines}" if lines else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help=f"configuration file, with drop-ins in FILE.d/ (default {DEFAULT_CONFIG})",
    )


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")
