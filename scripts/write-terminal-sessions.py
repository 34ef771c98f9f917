#!/usr/bin/env python3
"""Writes docs/terminal.md: what each command prints in a terminal of 80 columns, from a demo that really runs.

    scripts/write-terminal-sessions.py            # two to three minutes; needs .venv (scripts/setup)

Three cars train on synthetic trips on this machine, as with `fleven demo --keep`; then every command is called in turn.
Takes the demo's ports, and stops everything at the end.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "terminal.md"
BIN = ROOT / ".venv" / "bin"
COLUMNS = 80

INTRODUCTION = """\
# In a terminal

<!-- Written by scripts/write-terminal-sessions.py from a demo that really ran; edit that script, not this page. -->

Every command, on one small fleet: three cars with synthetic trips on one machine, as `fleven demo --keep` leaves it.
The terminal has 80 columns; only paths, errors and log lines are never broken. `--json` prints the same for programs,
and `--help` lists every option. Commands that occupy the terminal until they are stopped are not shown:
`fleven-server serve`, `fleven-server superlink`, `fleven-server runs watch`, `fleven-agent run`.
"""

SERVER = """
# The server
fleven-server status
fleven-server check
fleven-server config check
fleven-server config show
# Nodes
fleven-server nodes
fleven-server nodes list --help
fleven-server nodes label car-0 place=Recife
fleven-server nodes show car-0
fleven-server nodes history car-0
fleven-server nodes drain car-2 --reason "at the workshop"
fleven-server nodes
fleven-server nodes undrain car-2
fleven-server nodes forget car-9
# Joining and leaving
fleven-server nodes invite car-7 --address 192.168.1.5
fleven-server trust add-name fleet.example.org
fleven-server trust renew
fleven-server trust show-ca
fleven-server trust enforce
fleven-server trust status
fleven-server nodes pending
fleven-server nodes accept car-9
fleven-server nodes reject car-9
fleven-server nodes rotate car-9
fleven-server nodes revoke car-9
fleven-server nodes accept-key lab.pub lab
# Schedules
fleven-server schedule add nightly --cron "0 2 * * *" --timezone America/Sao_Paulo --min-nodes 3 --set rounds=20
fleven-server schedule add report --after nightly --min-nodes 1
fleven-server schedule add broken --cron "0 25 * * *" --set roundz=3
fleven-server schedule
fleven-server schedule show nightly
fleven-server schedule preview nightly -n 5
fleven-server schedule why nightly
fleven-server schedule edit nightly --min-nodes 2
fleven-server schedule pause nightly --reason "cars are at the workshop"
fleven-server schedule resume nightly
fleven-server schedule export nightly
fleven-server schedule import missing.toml
fleven-server schedule run --set rounds=1
fleven-server schedule remove report nightly
# Runs
fleven-server runs
fleven-server runs list --help
fleven-server runs show 1
fleven-server runs results 1
fleven-server runs compare 1 2
fleven-server runs logs 1
fleven-server runs retry 1
fleven-server runs stop 3 --reason "only to show it"
# Models
fleven-server models
fleven-server models list --experiment Fleven-Deploy
fleven-server models show Fleven-Deploy@1
fleven-server models compare Fleven-Deploy@1 Fleven-Deploy@2
fleven-server models promote Fleven-Deploy@1 --reason "first of the fleet"
fleven-server models promote Fleven-Deploy@2 --reason "one more round"
fleven-server models rollback Fleven-Deploy
fleven-server models export Fleven-Deploy@2 --out demo/exported
fleven-server models import demo/exported/model.safetensors --experiment night
fleven-server models mlflow night@1 --tracking-uri sqlite:///demo/mlflow.db
fleven-server models delete night@1
# Users
fleven-server users
fleven-server users add ana --role operator
fleven-server users role ana admin
fleven-server users
fleven-server users list --help
fleven-server users link ana --expires 1h
fleven-server users token add prometheus --role metrics
fleven-server users token list
fleven-server users token remove prometheus
fleven-server users disable ana
fleven-server users enable ana
fleven-server users logout ana
fleven-server users remove ana
fleven-server users log
# Backup
fleven-server backup demo/fleet.age --recipient age1qtu7gsggccuhwvy2wkpg7sz3d4reh8t002n2r6e6hemu428phfhq9rtdpm
fleven-server restore demo/fleet.age
"""

CAR = """
# A car
fleven-agent status
fleven-agent check --config demo/car-0/node.toml
fleven-agent check --list
fleven-agent config check --config demo/car-0/node.toml
fleven-agent config show --config demo/car-0/node.toml
fleven-agent drain --reason "battery is low"
fleven-agent undrain
# Trips
fleven data describe demo/data
"""


def main() -> int:
    """Run the demo and every command, and write the page."""
    folder = Path(tempfile.mkdtemp(prefix="f")) / "demo"
    say("starting the demo: three cars train for two rounds")
    demo = [str(BIN / "fleven"), "demo", "--output", str(folder)]
    subprocess.run([*demo, "--rounds", "2", "--keep"], check=True, stdout=subprocess.DEVNULL)
    try:
        places = {str(folder): "demo", f"{BIN}/": "", str(ROOT): "."}
        sections = [*sessions(SERVER, server_environment(folder), places)]
        sections += sessions(CAR, car_environment(folder / "car-0"), places)
    finally:
        subprocess.run([*demo, "--stop"], check=True, stdout=subprocess.DEVNULL)
    PAGE.write_text(INTRODUCTION + "".join(sections), encoding="utf-8")
    say(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def server_environment(folder: Path) -> dict[str, str]:
    """Return where the demo's server keeps its files, as `fleven demo --keep` prints it."""
    server = folder / "server"
    config = next(folder.rglob("server.toml"))
    return {
        "FLEVEN_SERVER_CONFIG": str(config),
        "FLEVEN_SERVER_STATE_DIR": str(server),
    }


def car_environment(folder: Path) -> dict[str, str]:
    """Return where a car of the demo keeps its files."""
    return {
        "FLEVEN_STATE_DIR": str(folder / "state"),
        "FLEVEN_RUNTIME_DIR": str(folder / "run"),
    }


def sessions(commands: str, environment: Mapping[str, str], places: Mapping[str, str]) -> Iterator[str]:
    """Yield the page's text of each command."""
    base = {**os.environ, **environment, "COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    base["PATH"] = f"{BIN}{os.pathsep}{base['PATH']}"
    folder = Path(next(place for place, name in places.items() if name == "demo")).parent
    for line in commands.strip().splitlines():
        if line.startswith("# "):
            yield f"\n## {line[2:]}\n"
            continue
        say(line)
        done = subprocess.run(
            shlex.split(line), env=base, cwd=folder, text=True, timeout=300, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if "Traceback" in done.stdout:
            raise RuntimeError(f"{line}: {done.stdout}")
        yield "\n" + "\n".join(f"    {row}".rstrip() for row in [*wrapped(line), *rows(done, places)]) + "\n"


def wrapped(line: str) -> list[str]:
    """Return the command with its prompt, broken as a person would in 80 columns."""
    lines, current = [], "$"
    for word in re.findall(r'"[^"]*"|\S+', line):
        if len(current) + len(word) + 3 > COLUMNS:
            lines.append(current + " \\")
            current = "     "
        current += f" {word}"
    return [*lines, current]


def rows(done: subprocess.CompletedProcess[str], places: Mapping[str, str]) -> list[str]:
    """Return what was printed, with this machine's folders and kernel shortened, and a failing exit code."""
    release = platform.release()
    text = done.stdout.replace(release, release.split("-")[0])
    for place, name in places.items():
        text = text.replace(place, name)
    printed = [row.rstrip() for row in text.strip("\n").splitlines()]
    return [*printed, f"(exit code {done.returncode})"] if done.returncode else printed


def say(line: str) -> None:
    """Tell what goes on."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
