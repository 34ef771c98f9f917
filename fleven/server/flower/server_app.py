"""The program that stands for a ServerApp: hands it to a cell, carries its connections, and takes its files.

It has the name of Flower's own program. The executor starts one for each run, and it ends as the ServerApp ends. Where
the cell does not take the task, the task is not run at all. When this process goes, its end of the connection closes,
and systemd kills all of the cell. A ServerApp that goes on after its run has ended is ended from here.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from fleven.server.flower import app_cell
from fleven.server.flower.line import installed_line
from fleven.server.flower.run_app import signed
from fleven.server.flower.run_files import RunFiles, TooMuchError, given, write_end
from fleven.server.flower.task_cells import CONNECTION_VARIABLE, READS_VARIABLE, RUN_VARIABLE
from fleven_agent.common.cell import messages
from fleven_agent.common.cell.asking import end_as, next_program, token_of
from fleven_agent.common.cell.relay import Relay
from fleven_agent.common.cell.stand_in import numeric_address

READY_SECONDS = 60.0
LOOK_SECONDS = 5.0
"""Between two looks whether the run has ended."""
AFTER_SECONDS = 120.0
"""A ServerApp may go on so long after the end of its run: one that was stopped writes its results then."""
REFUSED = 1


def main(name: str, own_folder: str, cell_socket: str, state: str) -> NoReturn:
    """Run the task of this command line in a cell, and end as it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    program = next_program(name, own_folder, os.environ.get("PATH", os.defpath))
    run_id = os.environ.get(RUN_VARIABLE, "")
    try:
        connection, listener, address = hand_over(name, program, Path(cell_socket), Path(state))
    except (OSError, ValueError) as error:
        say(
            "WARNING",
            f"run={run_id} event=not-run reason={str(error)!r} hint='fleven-server check --only machine.cell'",
        )
        os._exit(REFUSED)
    # What was given for its standard streams is the task's now; a reader must see its end.
    os.close(0)
    stand_in = StandIn(connection, Relay(listener, *address), RunFiles(Path(state), run_id), Path(state))
    status = stand_in.stand()
    end_as(REFUSED if status is None else status)


def say(level: str, text: str) -> None:
    """Say something among the SuperLink's lines, in their form."""
    with contextlib.suppress(OSError):
        os.write(2, f"{level}: {text}\n".encode())


def hand_over(name: str, program: str, cell_socket: Path, state: Path) -> tuple[socket.socket, int, tuple[str, int]]:
    """Have a cell take the task; return the connection, the listening socket of the cell's side and the real address.

    Raises:
        OSError: the cell does not answer, or refuses; the text says why.
        ValueError: the command line has no address.
    """
    if not os.environ.get(RUN_VARIABLE):
        raise ValueError("the executor has not said of which run it is")
    arguments = token_of(sys.argv[1:])
    address = numeric_address(arguments, installed_line().task_programs[name])
    inherited = os.environ.pop(CONNECTION_VARIABLE, "")
    connection = socket.socket(fileno=int(inherited)) if inherited else app_cell.connect(cell_socket)
    connection.settimeout(READY_SECONDS)
    for named in json.loads(os.environ.get(READS_VARIABLE) or "[]"):
        for inside, file in given(state, named):
            with file.open("rb") as stream:
                messages.send(connection, {"file": inside}, [stream.fileno()])
    asked = {"program": program, "arguments": arguments, "environment": dict(os.environ)}
    with open(os.devnull, "r+b", buffering=0) as nothing:  # noqa: PTH123 - not a file in a folder
        messages.send(connection, {"run": asked}, [nothing.fileno()] * 3)
    received = messages.receive(connection)
    if received is None:
        raise OSError("the cell went away")
    message, descriptors = received
    if "ready" not in message or len(descriptors) != 1:
        raise OSError(str(message.get("refused", "the cell gave an unknown answer")))
    connection.settimeout(None)
    return connection, descriptors[0], address


class StandIn:
    """This process while the task is at work.

    Args:
        connection: to the cell.
        relay: carries the task's connections.
        files: takes what it writes.
        state: the server's state folder.
    """

    def __init__(self, connection: socket.socket, relay: Relay, files: RunFiles, state: Path) -> None:
        self._connection = connection
        self._relay = relay
        self._files = files
        self._database = state / "superlink.db"
        self._queue: queue.SimpleQueue[tuple[dict[str, Any], list[int]] | None] = queue.SimpleQueue()
        self._ended_at: float | None = None
        self._failed = False

    def stand(self) -> int | None:
        """Carry and take until the task has ended; return its exit status, None when the cell went away."""
        taking = threading.Thread(target=self._take_all, name="files", daemon=True)
        taking.start()
        status = self._carry()
        self._queue.put(None)
        taking.join()
        return status

    def _carry(self) -> int | None:
        own = self._connection.fileno()
        self._relay.poll.register(own, select.POLLIN)
        look_at = time.monotonic() + LOOK_SECONDS
        while True:
            for descriptor, events in self._relay.poll.poll(LOOK_SECONDS * 1000):
                if self._relay.handle(descriptor, events) or descriptor != own:
                    continue
                try:
                    received = messages.receive(self._connection)
                except OSError:
                    return None
                if received is None:
                    return None
                if "ended" in received[0]:
                    return int(received[0]["ended"])
                self._queue.put(received)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_SECONDS
                if self._failed:
                    return None
                if self._is_over():
                    say("WARNING", f"run={self._files.run_id} event=server-app-ended reason='it went on after its run'")
                    return None

    def _is_over(self) -> bool:
        """Whether the run has ended long enough ago for its ServerApp to be ended."""
        if self._ended_at is None and run_has_ended(self._database, self._files.run_id):
            self._ended_at = time.monotonic()
        return self._ended_at is not None and time.monotonic() - self._ended_at > AFTER_SECONDS

    def _take_all(self) -> None:
        while (received := self._queue.get()) is not None:
            message, descriptors = received
            try:
                self._take(message, descriptors)
            except TooMuchError as error:
                say("ERROR", f"run={self._files.run_id} event=server-app-ended reason={str(error)!r}")
                self._failed = True
                with contextlib.suppress(OSError):
                    write_end(self._files.state, self._files.run_id, str(error))
            except OSError as error:
                say("WARNING", f"run={self._files.run_id} event=file-not-taken error={str(error)!r}")
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            with contextlib.suppress(OSError):
                messages.send(self._connection, {"taken": True})

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message:
            case {"file": str(name)} if len(descriptors) == 1:
                if not self._failed:
                    self._files.take(name, descriptors[0])
            case {"gone": str(name)}:
                self._files.remove(name)


def run_has_ended(database: Path, run_id: str) -> bool:
    """Return whether the SuperLink says that a run has ended; False when it says nothing."""
    try:
        uri = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as connection:
            return connection.execute(installed_line().run_ended, (signed(run_id),)).fetchone() is not None
    except sqlite3.Error:
        return False
