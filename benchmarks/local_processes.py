"""Ports and processes of the real servers that the benchmarks start on this machine."""

import contextlib
import signal
import socket
import subprocess

import psutil


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(process_id: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(process_id)
        return [process, *process.children(recursive=True)]
    return []


def end_process(process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """End a process and what it started; kill what is left after so many seconds."""
    members = family(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.kill()
