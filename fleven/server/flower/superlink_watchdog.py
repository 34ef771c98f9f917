"""Looking after the SuperLink under systemd, from a small process beside it.

flower-superlink tells systemd nothing, and a SuperLink that is stopped or stuck still has its port: connections are
accepted by the kernel. So this process asks for the first bytes that only a living server sends, and only then feeds
the watchdog of the unit. It looks at no certificate: whether the SuperLink is the right one is not checked here.

flower-superlink also starts one flower-superexec, which launches the ServerApps, and never looks at it again: without
it every later run would wait for ever. One that has died is started again as it was; one that is stopped is ended
first. The ServerApps of a dead one go on. The SuperLink's lines go through this process as well, where `superlink_log`
makes of them what the journal should have.

A SuperLink reads its certificate once. When the service has renewed it and no run is open, it leaves a file that names
the process: this process ends it, and systemd starts it again. Standard library, psutil and sdnotify only.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import sdnotify

from fleven.server.config.settings import local_address, split_address
from fleven.server.flower.line import installed_line
from fleven.server.flower.superlink_log import pump

log = logging.getLogger(__name__)
ANSWER_SECONDS = 10.0
LAST_LINES_SECONDS = 1.0
"""How long the last lines of a SuperLink that has gone are waited for; its ServerApps may hold their end for ever."""
LOOK_SECONDS = 5.0
SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
CONTINUE_AT_LOOK = 2
STOPPED_LOOKS = 3
"""A process may be stopped for a moment, by a debugger or a suspended machine."""


def wanted() -> bool:
    """Return whether systemd watches this unit: only then is there a process beside the SuperLink."""
    return "NOTIFY_SOCKET" in os.environ and "WATCHDOG_USEC" in os.environ


def start_beside(
    process_id: int, address: str, environment: Mapping[str, str], restart_file: Path, *, tls: bool
) -> None:
    """Start the watchdog of the process ``process_id``; nothing without systemd's watchdog.

    Args:
        process_id: this process, which is about to become the SuperLink.
        address: its Fleet API, `host:port`; a wildcard host is asked on the loopback address.
        environment: the SuperLink's, for an executor that is started again.
        restart_file: asks for a restart when it holds the process id.
        tls: whether it speaks TLS.
    """
    if not wanted():
        return
    # -I: the working folder holds what ServerApps write, and must not be searched for modules.
    command = [sys.executable, "-I", "-m", __name__, "--parent-pid", str(process_id), "--address", address]
    command += ["--restart-file", str(restart_file)]
    told = {key: os.environ[key] for key in SYSTEMD_VARIABLES if key in os.environ}
    reading, writing = os.pipe()
    subprocess.Popen([*command, "--tls"] if tls else command, stdin=reading, env={**environment, **told})
    os.close(reading)
    # From here on the SuperLink's lines go through that process. Should it die, nobody feeds the watchdog, and systemd
    # replaces both.
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(writing)


def answers(address: str, *, tls: bool, timeout_seconds: float = ANSWER_SECONDS) -> bool:
    """Return whether a server at ``address`` (`host:port`) says something of its own within the time."""
    line = installed_line()
    try:
        with socket.create_connection(split_address(local_address(address)), timeout_seconds) as connection:
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                context.set_alpn_protocols(list(line.application_protocols))
                with context.wrap_socket(connection):
                    return True
            connection.sendall(line.greeting)
            return bool(connection.recv(1))
    except OSError:
        return False


class ExecutorCare:
    """Keeps the executor of one SuperLink alive.

    Args:
        superlink_process_id: whose child the first executor is.
        start: starts a command again and returns the process; may raise OSError.

    Attributes:
        process: the present executor; None while none has been seen.
    """

    def __init__(self, superlink_process_id: int, start: Callable[[list[str]], psutil.Process]) -> None:
        self._superlink_process_id = superlink_process_id
        self._start = start
        self.process: psutil.Process | None = None
        self._command: list[str] = []
        self._stopped_looks = 0
        self._dead: list[psutil.Process] = []
        """Executors that died while a ServerApp of theirs was at work, and that nobody has waited for since.

        In flwr 1.34 a ServerApp interrupts itself when its executor's process id is gone, which costs the run an
        attempt, and hangs for ever when it was about to end by itself. A zombie still has its process id.
        """

    def look(self) -> None:
        """Look once; start the executor again when it is dead, and end it first when it stays stopped."""
        if self.process is None:
            self.process = self._first()
            return
        self._bury()
        try:
            status = self.process.status()
        except psutil.NoSuchProcess:
            # Flower's executor makes itself private: where /proc hides such processes, it only looks gone.
            if exists(self.process.pid):
                return
            status = psutil.STATUS_DEAD
        self._stopped_looks = self._stopped_looks + 1 if status == psutil.STATUS_STOPPED else 0
        if self._stopped_looks == STOPPED_LOOKS:
            log.warning("executor=stopped pid=%d action=end", self.process.pid)
            self.process.kill()
        elif status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            dead = self.process
            try:
                self.process = self._start(self._command)
            except OSError as error:  # no memory or no process left: the next look tries again
                log.warning("executor=died pid=%d action=start-again error=%r", dead.pid, str(error))
                return
            log.warning("executor=died pid=%d action=start-again new_pid=%d", dead.pid, self.process.pid)
            self._dead.append(dead)

    def _bury(self) -> None:
        """Wait for the dead executors whose ServerApps have all ended; the first one was the SuperLink's child."""
        for dead in list(self._dead):
            if not any_server_app_of(dead.pid):
                self._dead.remove(dead)
                if isinstance(dead, psutil.Popen):
                    dead.wait()

    def _first(self) -> psutil.Process | None:
        """The executor that the SuperLink has started; None until it has, or where Flower starts none."""
        try:
            for child in psutil.Process(self._superlink_process_id).children():
                command = child.cmdline()
                if any(Path(word).name == installed_line().executor_program for word in command):
                    self._command = command
                    return child
        except psutil.NoSuchProcess:
            pass
        return None


class StoppedCare:
    """Lets a SuperLink that was stopped (SIGSTOP) go on: it has lost nothing, and its runs go on with it.

    Args:
        process: the SuperLink.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._stopped_looks = 0

    def look(self) -> bool:
        """Return whether it is stopped. It is told to go on at the second look, and ended when that does not help."""
        try:
            if self._process.status() != psutil.STATUS_STOPPED:
                self._stopped_looks = 0
                return False
            self._stopped_looks += 1
            if self._stopped_looks in (CONTINUE_AT_LOOK, CONTINUE_AT_LOOK + 1):
                log.warning("superlink=stopped pid=%d action=continue", self._process.pid)
                self._process.resume()
            elif self._stopped_looks > CONTINUE_AT_LOOK + 1:
                log.warning("superlink=stopped pid=%d action=end", self._process.pid)
                self._process.kill()
        except psutil.NoSuchProcess:
            return False
        return True


def end_when_asked(process_id: int, restart_file: Path) -> bool:
    """End the SuperLink in order when the file names it; return whether it did. Of a file for another, nothing is left.

    Args:
        process_id: the SuperLink.
        restart_file: holds a process id, or is not there.
    """
    try:
        named = restart_file.read_text(encoding="ascii", errors="replace").strip()
        restart_file.unlink()
    except OSError:
        return False
    if named != str(process_id):
        return False
    log.warning("superlink=restart pid=%d reason=%r", process_id, "its certificate was renewed, and no run is open")
    os.kill(process_id, signal.SIGTERM)
    return True


def any_server_app_of(executor_process_id: int) -> bool:
    """Return whether a ServerApp runs that this executor has started, by what it told it."""
    line = installed_line()
    told = [line.executor_option, str(executor_process_id)]
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        named = any(Path(word).name == line.server_app_program for word in command)
        if named and any(command[index : index + 2] == told for index in range(len(command))):
            return True
    return False


def exists(process_id: int) -> bool:
    """Return whether there is such a process, whatever /proc shows; one that nobody has waited for still is."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def start_executor(command: list[str]) -> psutil.Popen:
    """Start an executor with this process's environment, without what only systemd's own child may have."""
    environment = {key: value for key, value in os.environ.items() if key not in SYSTEMD_VARIABLES}
    return psutil.Popen(command, stdin=subprocess.DEVNULL, env=environment)


def watch(
    alive: Callable[[], bool],
    stopped: Callable[[], bool],
    asked: Callable[[], bool],
    feed: Callable[[], None],
    care: Callable[[], None],
    wait: Callable[[], None],
) -> None:
    """Feed the watchdog after each answer, and look after the executor, until the process that is watched has gone.

    A SuperLink that is stopped is not asked: the answer would only be waited for.
    """
    silent = True  # while it starts, silence is normal
    while alive():
        if stopped():
            wait()
            continue
        if asked():
            feed()
            silent = False
        elif not silent:
            log.warning("superlink=silent hint=%r", "systemd replaces it when this lasts as long as WatchdogSec")
            silent = True
        care()
        wait()


def main() -> int:
    """Watch one SuperLink; return 0 when it has gone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--restart-file", type=Path, required=True)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="<4>%(message)s")
    log_lines = threading.Thread(target=pump, args=(sys.stdin.buffer, sys.stdout.buffer), name="log", daemon=True)
    log_lines.start()
    notifier = sdnotify.SystemdNotifier()
    every_seconds = min(LOOK_SECONDS, int(os.environ["WATCHDOG_USEC"]) / 1_000_000 / 4)
    executor = ExecutorCare(options.parent_pid, start_executor)

    def care() -> None:
        if not end_when_asked(options.parent_pid, options.restart_file):
            executor.look()

    watch(
        alive=lambda: os.getppid() == options.parent_pid,
        stopped=StoppedCare(psutil.Process(options.parent_pid)).look,
        asked=lambda: answers(options.address, tls=options.tls),
        feed=lambda: notifier.notify("WATCHDOG=1"),
        care=care,
        wait=lambda: time.sleep(every_seconds),
    )
    log_lines.join(LAST_LINES_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
