"""The one-machine demonstration: a whole federation as real processes, by the commands an operator types.

Why it exists: a newcomer sees in two minutes what FLEVEn does, and CI sees that all parts work together. It starts the
same programs with the same kind of configuration files as the packages do; only the cars' trips are simulated, unless
the operator brings logs. Must not import torch, pandas or flwr: it only runs commands.
"""

import contextlib
import getpass
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from fleven.demo.files import (
    FIRST_CLIENTAPP_PORT,
    SERVER_PORTS,
    DemoError,
    Folders,
    read_result,
    write_node_configuration,
    write_server_configuration,
)
from fleven.demo.processes import DemoProcesses, port_is_free

DEFAULT_ROUNDS = 5
PAGE = f"https://127.0.0.1:{SERVER_PORTS['report API and page']}/"
START_LIMIT_SECONDS = 120.0


def say(message: str) -> None:
    """Print a line of progress to standard error."""
    print(message, file=sys.stderr, flush=True)


def run(
    *,
    data: Path | None = None,
    by: str | None = None,
    keep: bool = False,
    rounds: int | None = None,
    output: Path | None = None,
    cars: int = 3,
    as_json: bool = False,
) -> int:
    """Train one federation on this machine and show its result.

    Args:
        data: the operator's own log file or folder; None makes synthetic trips.
        by: column of ``data`` that identifies the vehicle; None lets the import find it.
        keep: leave SuperLink, server and agents running at the end.
        rounds: rounds to train; None means 5.
        output: folder for everything this demonstration writes; it must not exist. None means ``demo-output/<time>``.
        cars: number of cars, one agent each.
        as_json: print the result as JSON on standard output, and everything else on standard error.

    Returns:
        Exit code: 0 the run succeeded, 1 it did not, 2 bad arguments, 130 interrupted.
    """
    root = (output or Path("demo-output") / datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")).absolute()
    folders = Folders(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        say(f"demo: {root}: already holds something (name a new folder with --output)")
        return 2
    with interruptible(), DemoProcesses(folders.logs) as processes:
        try:
            check_ports(cars)
            root.mkdir(parents=True, exist_ok=True)
            result = federate(folders, processes, data=data, by=by, rounds=rounds, cars=cars, as_json=as_json)
        except KeyboardInterrupt:
            say("\ndemo: interrupted; stopping everything and removing what this demonstration wrote")
            processes.stop()
            shutil.rmtree(root, ignore_errors=True)
            return 130
        except DemoError as error:
            say(f"demo: {error}")
            processes.stop()
            return 1
        if as_json:
            print(json.dumps(result | {"page": PAGE, "output": str(folders.root)}, indent=2))
        if keep:
            processes.leave_running(folders.state)
            show_addresses(folders, cars)
        else:
            processes.stop()
            say("Everything that was started has been stopped. (--keep leaves it running, with its page.)")
        return 0 if result["state"] == "succeeded" else 1


def stop(root: Path | None = None) -> int:
    """Stop what a demonstration with ``--keep`` left running.

    Args:
        root: folder of that demonstration; None finds the newest below ``demo-output``.

    Returns:
        Exit code: 0 stopped, or nothing ran any more; 2 there is no such demonstration.
    """
    found = [root / "demo.json"] if root else sorted(Path("demo-output").glob("*/demo.json"))
    if not found or not found[-1].is_file():
        say("demo: nothing was left running (no demo.json in " + str(root or "demo-output/*") + ")")
        return 2
    count = DemoProcesses.stop_left_running(found[-1])
    say(f"demo: stopped {count} processes of {found[-1].parent}")
    return 0


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demonstration the same orderly way as Ctrl-C."""

    def interrupt(signal_number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def check_ports(cars: int) -> None:
    """Raise DemoError naming every port that somebody listens on already."""
    ports = dict(SERVER_PORTS) | {f"ClientAppIo API of car {car}": FIRST_CLIENTAPP_PORT + car for car in range(cars)}
    taken = [f"{port} ({name})" for name, port in ports.items() if not port_is_free(port)]
    if taken:
        raise DemoError(
            f"these ports are in use: {', '.join(taken)} "
            "(another demonstration? stop it with ./scripts/demo --stop; 'ss -ltnp' shows who listens)"
        )


def federate(
    folders: Folders,
    processes: DemoProcesses,
    *,
    data: Path | None,
    by: str | None,
    rounds: int | None,
    cars: int,
    as_json: bool,
) -> dict[str, Any]:
    """Make the data, start all processes, train one run, and return its result.json."""
    step(f"Trips for {cars} cars")
    make_data(folders, data, by, cars, as_json=as_json)
    step("SuperLink and server")
    write_server_configuration(folders)
    server_environment = {
        "FLEVEN_SERVER_CONFIG": str(folders.server_config),
        "FLEVEN_SERVER_STATE_DIR": str(folders.server),
    }
    processes.start("superlink", ["fleven-server", "superlink"], server_environment)
    wait_until(
        "the SuperLink listens",
        lambda: not port_is_free(SERVER_PORTS["Fleet API"]) and not port_is_free(SERVER_PORTS["Control API"]),
        processes,
    )
    processes.start("server", ["fleven-server", "serve"], server_environment)
    wait_until("the server answers", lambda: answers(f"{PAGE}healthz", folders), processes)
    step(f"{cars} cars join, each with its own key and node.toml")
    join_cars(folders, processes, server_environment, cars)
    for partition_id in range(cars):
        start_agent(folders, processes, partition_id)
    wait_until("all cars are ready", lambda: ready_nodes(server_environment) >= cars, processes)
    step("One run")
    settings = {"rounds": rounds or DEFAULT_ROUNDS, "min-nodes": cars}
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = ["fleven-server", "schedule", "run", *overrides]
    # With --json standard output belongs to the result alone.
    output = sys.stderr if as_json else None
    finished = processes.run_to_end(command, server_environment, output)
    return read_result(folders, finished)


def step(title: str) -> None:
    """Print the heading of a step."""
    say(f"\n== {title}")


def make_data(folders: Folders, data: Path | None, by: str | None, cars: int, *, as_json: bool) -> None:
    """Write ``client_0`` … ``client_<cars-1>`` below the data folder with ``fleven data``."""
    if data is None:
        command = [
            "fleven",
            "data",
            "synthesise",
            str(folders.data),
            "--cars",
            str(cars),
            "--trips",
            "4",
            "--seed",
            "1",
        ]
        say("  No --data given: these trips are SYNTHETIC (a vehicle model drives them, see docs/data.md).")
    else:
        command = [
            "fleven",
            "data",
            "import",
            str(data.absolute()),
            "--out",
            str(folders.data),
            "--clients",
            str(cars),
        ]
        if by:
            command += ["--by", by]
    say(f"  $ {' '.join(command)}")
    finished = subprocess.run(own_command(command), stdout=sys.stderr if as_json else None, check=False)
    if finished.returncode != 0:
        raise DemoError("the trips could not be made (the lines above say why)")
    missing = [car for car in range(cars) if not (folders.data / f"client_{car}").is_dir()]
    if missing:
        raise DemoError(f"the logs hold fewer than {cars} vehicles (use --cars {cars - len(missing)})")


def own_command(command: list[str]) -> list[str]:
    """Name the program by its full path: the one beside this Python, whatever PATH says."""
    beside = Path(sys.executable).parent / command[0]
    return [str(beside) if beside.exists() else command[0], *command[1:]]


def agent_environment(folders: Folders, partition_id: int) -> dict[str, str]:
    """Return where one car keeps its state."""
    folder = folders.car(partition_id)
    return {"FLEVEN_STATE_DIR": str(folder / "state"), "FLEVEN_RUNTIME_DIR": str(folder / "run")}


def join_cars(folders: Folders, processes: DemoProcesses, server_environment: dict[str, str], cars: int) -> None:
    """Invite all cars, and let each join: its key is made in its own folder.

    Raises:
        DemoError: one could not be invited, or did not join.
    """
    invite = ["fleven-server", "nodes", "invite", "car-0", "--count", str(cars), "--address", "127.0.0.1", "--json"]
    invited = json.loads(processes.output_of(invite, server_environment))["invitations"]
    joining = []
    for partition_id, invitation in enumerate(invited):
        config = write_node_configuration(folders, partition_id, cars)
        command = ["fleven-agent", "join", invitation["code"], "--no-start", "--config", str(config)]
        joining.append(
            (partition_id, processes.begin(f"join-{partition_id}", command, agent_environment(folders, partition_id)))
        )
    for partition_id, process in joining:
        if process.wait(START_LIMIT_SECONDS) != 0:
            said = (folders.logs / f"join-{partition_id}.log").read_text(errors="replace")
            raise DemoError(f"car {partition_id} did not join:\n{said}")
        say(f"  car-{partition_id} has joined")


def start_agent(folders: Folders, processes: DemoProcesses, partition_id: int) -> None:
    """Start one car's agent."""
    command = ["fleven-agent", "run", "--config", str(folders.car(partition_id) / "node.toml")]
    processes.start(f"agent-{partition_id}", command, agent_environment(folders, partition_id))


def ready_nodes(server_environment: dict[str, str]) -> int:
    """Count the nodes on which Flower and the agents' reports agree that they can train."""
    done = subprocess.run(
        own_command(["fleven-server", "nodes", "--json"]),
        env=os.environ | server_environment,
        capture_output=True,
        check=False,
    )
    try:
        return sum(1 for node in json.loads(done.stdout)["nodes"] if node["ready"])
    except (ValueError, KeyError):
        return 0


def answers(url: str, folders: Folders) -> bool:
    """Return whether the server answers over TLS, with a certificate of its own authority."""
    try:
        trust = ssl.create_default_context(cafile=str(folders.authority))
        # Past any proxy of the environment: the page is on this machine.
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)]
        with urllib.request.build_opener(*handlers).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def wait_until(what: str, holds: Callable[[], bool], processes: DemoProcesses) -> None:
    """Wait for a condition, and give up at once when a process that it needs has ended.

    Raises:
        DemoError: the limit of 60 s passed, or a process ended.
    """
    started = time.monotonic()
    while not holds():
        if ended := processes.first_ended():
            raise DemoError(f"{ended.name} ended with exit code {ended.exit_code}:\n{ended.last_lines()}")
        if time.monotonic() - started > START_LIMIT_SECONDS:
            raise DemoError(f"gave up after {START_LIMIT_SECONDS:.0f} s: waited until {what} (logs: {processes.logs})")
        time.sleep(0.2)
    say(f"  {what} ({time.monotonic() - started:.1f} s)")


def show_addresses(folders: Folders, cars: int) -> None:
    """Print what was left running, where it listens, and what to try with it."""
    say("\nLeft running (--keep):")
    for name, port in SERVER_PORTS.items():
        say(f"  127.0.0.1:{port}  {name}")
    for number in range(cars):
        say(f"  127.0.0.1:{FIRST_CLIENTAPP_PORT + number}  ClientAppIo API of car {number}")
    car = folders.root / "car-0"
    say("Try, in another terminal:")
    say(f"  export PATH={Path(sys.executable).parent}:$PATH FLEVEN_SERVER_CONFIG={folders.server_config}")
    say(f"  export FLEVEN_SERVER_STATE_DIR={folders.server}")
    say("  fleven-server nodes ; fleven-server schedule")
    say(f"  fleven-server users add {getpass.getuser()} --role admin     # a link to log in at {PAGE}")
    say(f"  export FLEVEN_RUNTIME_DIR={car}/run FLEVEN_STATE_DIR={car}/state     # as car 0:")
    say("  fleven-agent status")
    say("Stop it with: ./scripts/demo --stop")
