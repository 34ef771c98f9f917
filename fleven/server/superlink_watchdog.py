"""Telling systemd, for the SuperLink, that the SuperLink answers.

flower-superlink tells systemd nothing, and a SuperLink that is stopped or stuck still has its port: connections are
accepted by the kernel. So a small process beside it asks for the first bytes that only a living server sends, and only
then feeds the watchdog of the unit. It looks at no certificate: whether the SuperLink is the right one is not its
question. Standard library and sdnotify only.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable

import sdnotify

from fleven.server.config import local_address, split_address

log = logging.getLogger(__name__)
# RFC 9113, section 3.4: a client begins with these bytes and a SETTINGS frame (here an empty one); so does the server.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
ANSWER_SECONDS = 10.0


def start_beside(process_id: int, address: str, *, tls: bool) -> None:
    """Start the watchdog of the process ``process_id``; nothing without systemd's watchdog.

    Args:
        process_id: this process, which is about to become the SuperLink.
        address: its Fleet API, `host:port`; a wildcard host is asked on the loopback address.
        tls: whether it speaks TLS.
    """
    if "NOTIFY_SOCKET" not in os.environ or "WATCHDOG_USEC" not in os.environ:
        return
    # -I: the working folder holds what ServerApps write, and must not be searched for modules.
    command = [sys.executable, "-I", "-m", __name__, "--parent-pid", str(process_id), "--address", address]
    subprocess.Popen([*command, "--tls"] if tls else command, stdin=subprocess.DEVNULL)


def answers(address: str, *, tls: bool, timeout_seconds: float = ANSWER_SECONDS) -> bool:
    """Return whether a server at ``address`` (`host:port`) says something of its own within the time."""
    try:
        with socket.create_connection(split_address(local_address(address)), timeout_seconds) as connection:
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                context.set_alpn_protocols(["h2"])
                with context.wrap_socket(connection):
                    return True
            connection.sendall(HTTP2_PREFACE)
            return bool(connection.recv(1))
    except OSError:
        return False


def watch(
    alive: Callable[[], bool], asked: Callable[[], bool], feed: Callable[[], None], wait: Callable[[], None]
) -> None:
    """Feed the watchdog after each answer, until the process that is watched has gone."""
    silent = True  # while it starts, silence is no news
    while alive():
        if asked():
            feed()
            silent = False
        elif not silent:
            log.warning("superlink=silent hint=%r", "systemd replaces it when this lasts as long as WatchdogSec")
            silent = True
        wait()


def main() -> int:
    """Watch one SuperLink; return 0 when it has gone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    notifier = sdnotify.SystemdNotifier()
    every_seconds = int(os.environ["WATCHDOG_USEC"]) / 1_000_000 / 4
    watch(
        alive=lambda: os.getppid() == options.parent_pid,
        asked=lambda: answers(options.address, tls=options.tls),
        feed=lambda: notifier.notify("WATCHDOG=1"),
        wait=lambda: time.sleep(every_seconds),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
