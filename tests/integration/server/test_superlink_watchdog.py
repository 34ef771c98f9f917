"""The watchdog beside the SuperLink: a real SuperLink, stopped and continued, and systemd's socket."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from agent_harness import wait_for
from certificates import write_certificates

from fleven.server.flower.superlink_watchdog import ExecutorCare, StoppedCare, answers, start_executor, watch

BIN = Path(sys.executable).parent


@pytest.fixture
def superlink(
    tmp_path: Path, free_port: Callable[[], int]
) -> Iterator[tuple[subprocess.Popen[bytes], str, socket.socket]]:
    """Yield `fleven-server superlink` as systemd starts it, its address, and the socket that hears its messages."""
    ports = [free_port() for _ in range(3)]
    config = tmp_path / "server.toml"
    config.write_text(
        f'[superlink]\nserver-app-cell = "off"\nfleet-address = "127.0.0.1:{ports[0]}"\n'
        f'control-address = "127.0.0.1:{ports[1]}"\n'
        f'serverappio-address = "127.0.0.1:{ports[2]}"\n'
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(60)
        environment = {
            **os.environ,
            "FLEVEN_SERVER_STATE_DIR": str(tmp_path / "state"),
            "FLEVEN_SERVER_CONFIG": str(config),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "1000000",
        }
        with subprocess.Popen([BIN / "fleven-server", "superlink"], env=environment, start_new_session=True) as process:
            yield process, f"127.0.0.1:{ports[0]}", notify
            process.send_signal(signal.SIGCONT)
            os.killpg(process.pid, signal.SIGKILL)


def test_it_is_fed_while_the_superlink_answers_and_a_stopped_one_is_continued(
    superlink: tuple[subprocess.Popen[bytes], str, socket.socket],
) -> None:
    process, address, notify = superlink
    assert notify.recv(100) == b"WATCHDOG=1"
    assert answers(address, tls=True)
    process.send_signal(signal.SIGSTOP)
    # A thread of it may still answer until the signal has reached them all.
    wait_for("it has stopped", lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, 5)
    # At the second look it is told to go on; the same process answers, and nothing it held is lost.
    wait_for("an answer", lambda: answers(address, tls=True, timeout_seconds=1), 30)
    assert psutil.Process(process.pid).status() != psutil.STATUS_STOPPED
    assert process.poll() is None
    notify.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while notify.recv(100):
            pass
    notify.settimeout(60)
    assert notify.recv(100) == b"WATCHDOG=1"


def test_it_is_not_fed_while_the_superlink_is_silent_or_stopped() -> None:
    turns = iter(["answers", "silent", "stopped", "stopped", "answers", "gone"])
    state = next(turns)
    told: list[str] = []

    def wait() -> None:
        nonlocal state
        state = next(turns)

    watch(
        alive=lambda: state != "gone",
        stopped=lambda: state == "stopped",
        asked=lambda: told.append(f"asked {state}") or state == "answers",
        feed=lambda: told.append("fed"),
        care=lambda: None,
        wait=wait,
    )
    assert told == ["asked answers", "fed", "asked silent", "asked answers", "fed"]


def test_a_process_that_is_stopped_again_and_again_is_ended() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        seen = psutil.Process(process.pid)
        looks = StoppedCare(seen)
        assert not looks.look()
        for _ in range(4):
            process.send_signal(signal.SIGSTOP)
            wait_for("the stop", lambda: seen.status() == psutil.STATUS_STOPPED, 10)
            assert looks.look()
        assert process.wait(10) == -signal.SIGKILL
        assert not looks.look()


def test_it_ends_with_the_superlink(superlink: tuple[subprocess.Popen[bytes], str, socket.socket]) -> None:
    process, _, notify = superlink
    assert notify.recv(100) == b"WATCHDOG=1"
    watchdogs = children(process.pid, "fleven.server.flower.superlink_watchdog")
    assert len(watchdogs) == 1
    process.kill()
    process.wait(30)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{watchdogs[0]}/cmdline").exists() and Path(f"/proc/{watchdogs[0]}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_executor_that_died_or_stays_stopped_is_started_again(
    superlink: tuple[subprocess.Popen[bytes], str, socket.socket], number: signal.Signals
) -> None:
    process, _, notify = superlink
    assert notify.recv(100) == b"WATCHDOG=1"
    [watchdog] = children(process.pid, "fleven.server.flower.superlink_watchdog")
    [first] = wait_for("an executor", lambda: children(process.pid, "flower-superexec"), 60)
    command = Path(f"/proc/{first}/cmdline").read_bytes()
    # It is known only once the watchdog has looked; each look is told by a message.
    for _ in range(2):
        notify.recv(100)
    os.kill(first, number)
    for _ in range(2):  # the second time it is the watchdog's own child
        [again] = wait_for("another executor", lambda: children(watchdog, "flower-superexec"), 60)
        assert Path(f"/proc/{again}/cmdline").read_bytes() == command
        environment = Path(f"/proc/{again}/environ").read_bytes()
        assert b"FLWR_HOME=" in environment
        assert b"NOTIFY_SOCKET=" not in environment
        os.kill(again, number)
        wait_for("its end", lambda again=again: again not in children(watchdog, "flower-superexec"), 60)
    assert process.poll() is None


class Hidden:
    """A process that /proc does not show."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def status(self) -> str:
        raise psutil.NoSuchProcess(self.pid)


def test_an_executor_that_proc_hides_is_not_started_a_second_time() -> None:
    started: list[list[str]] = []

    def start(command: list[str]) -> Any:
        started.append(command)
        if len(started) == 1:
            raise OSError(errno.EAGAIN, "no process left")
        return Hidden(os.getpid())

    with subprocess.Popen(["true"]) as gone:
        pass
    care = ExecutorCare(os.getpid(), start)
    care.process = Hidden(os.getpid())  # type: ignore[assignment]  # it exists
    care.look()
    assert started == []
    care.process = Hidden(gone.pid)  # type: ignore[assignment]
    for _ in range(3):  # the first start fails, the second does not, and then it is alive
        care.look()
    assert len(started) == 2


# flwr's own monitor, with which each of its apps looks for the executor that has started it.
MONITORED = (
    "import sys, time; from flwr.supercore.app_utils import start_parent_process_monitor; "
    "start_parent_process_monitor(int(sys.argv[-1])); print('monitored', flush=True); time.sleep(600)"
)


def test_the_serverapp_of_a_dead_executor_goes_on_and_the_executor_is_waited_for_after_it() -> None:
    """By an executor that the watchdog itself has started; the first one is the SuperLink's child, and a zombie too."""
    care = ExecutorCare(os.getpid(), lambda _: start_executor(["sleep", "600"]))
    executor = care.process = start_executor(["sleep", "600"])
    command = [sys.executable, "-c", MONITORED, "flwr-serverapp", "--parent-pid", str(executor.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as app:
        assert app.stdout is not None
        assert app.stdout.readline() == b"monitored\n"
        executor.kill()
        wait_for("the executor's end", lambda: executor.status() == psutil.STATUS_ZOMBIE, 30)
        care.look()
        assert care.process.pid != executor.pid
        for _ in range(3):
            care.look()
        with pytest.raises(subprocess.TimeoutExpired):  # the monitor looks five times a second
            app.wait(2)
        app.kill()
        app.wait(30)
    care.look()
    assert not psutil.pid_exists(executor.pid)
    care.process.kill()
    care.process.wait(30)


def test_tls_is_asked_for_its_handshake(tmp_path: Path) -> None:
    folder = write_certificates(tmp_path / "certificates")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        # Nobody accepts: the kernel takes the connection, as it does for a stopped SuperLink.
        assert not answers(address, tls=True, timeout_seconds=0.5)
        listener.accept()[0].close()

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True):
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        assert answers(address, tls=True)
        thread.join(30)
    assert not answers(address, tls=True)


def children(process_id: int, word: str) -> list[int]:
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(child) for child in text.split() if word in Path(f"/proc/{child}/cmdline").read_text()]
