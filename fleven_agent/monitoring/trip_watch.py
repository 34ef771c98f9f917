"""Asks the process that touches trips, and gives it up when its disk does not answer.

Runs on a worker thread of the agent, which waits with a deadline. A process that hangs in the kernel may not even be
killable: then it is left behind, and the next one starts only when it is gone, so that they do not pile up. Opens
nothing below data-path itself.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fleven_agent
from fleven_agent.config.settings import Settings
from fleven_agent.monitoring.trip_folder import Summary
from fleven_agent.protocol.readings import Disk
from fleven_agent.system.log import LOGGER, event

STUCK_SECONDS = 15.0
"""No call into a folder takes longer, on a disk that is well but busy: a slow card in a Pi under load needs 2 s."""
START_SECONDS = 60.0
"""Until the first answer the process has to start Python, on a board that may be at its limit."""


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """What is to be watched; the arguments of ``TripFolder``."""

    path: str
    settle_seconds: float
    quarantine: bool
    minimum_rows: int
    optional: bool = False


APP_DATA = "/var/lib/fleven/data"
"""Where the default app looks for trips: its `data-base-path`, fleven.app.settings."""


def folder_of(settings: Settings) -> FolderSettings | None:
    """Return the folder of trips: data-path, else the default app's own; None when node.toml needs none."""
    if settings.data_path is None and settings.data.required is False:
        return None
    if settings.data_path is None and settings.partition_id is None:
        return None
    return FolderSettings(
        settings.data_path or f"{APP_DATA}/client_{settings.partition_id}",
        settle_seconds=settings.data.settle_seconds,
        quarantine=settings.data.quarantine,
        minimum_rows=settings.data.minimum_rows,
        optional=settings.data_path is None and settings.data.required is None,
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What is known after one look: ``summary`` is None when nothing was scanned, or it hangs."""

    disk: Disk | None = None
    summary: Summary | None = None
    stuck: str = ""
    """Why nothing can be known: empty while calls return."""


class TripWatch:
    """The one process of an agent that touches trips.

    Args:
        command: of the process; a test gives one that never answers.
        stuck_seconds: how long it may show no sign of life.
        start_seconds: the same for a process that has not answered yet.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        stuck_seconds: float = STUCK_SECONDS,
        start_seconds: float = START_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = list(command or worker_command())
        self._stuck_seconds, self._start_seconds = stuck_seconds, start_seconds
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up: subprocess.Popen[bytes] | None = None
        self._answered = False
        self._stuck_since: float | None = None
        self._stopped = False

    def look(self, folder: FolderSettings, *, scan: bool) -> Look:
        """Look at a folder; ``scan``: at its trips too. Never takes longer than its deadline without a sign of life."""
        began = self._clock()
        if self._given_up is not None and self._given_up.poll() is None:
            return self._stuck(folder, began)
        self._given_up = None
        request = {
            "folder": {
                "path": folder.path,
                "settle_seconds": folder.settle_seconds,
                "quarantine": folder.quarantine,
                "minimum_rows": folder.minimum_rows,
                "optional": folder.optional,
            },
            "scan": scan,
        }
        try:
            answer = self._ask(json.dumps(request).encode() + b"\n")
        except TimeoutError:
            self._give_up()
            return self._stuck(folder, began)
        except (OSError, ValueError) as error:  # it has ended: out of memory, or somebody's kill
            self._give_up()
            if not self._stopped:
                LOGGER.warning(event("no look at the trips", folder=folder.path, detail=error), extra={"repeats": True})
            return Look() if self._stuck_since is None else self._stuck(folder, began)
        self._stuck_since = None
        self._answered = True
        disk, summary = answer["disk"], answer["summary"]
        return Look(Disk(folder.path, *disk) if disk else None, Summary(**summary) if summary else None)

    def stop(self) -> None:
        """End the process, and do not wait for one that hangs; called from another thread."""
        self._stopped = True
        self._give_up()

    def _ask(self, request: bytes) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            TimeoutError: no sign of life in time.
            OSError, ValueError: the process has ended, or could not be started.
        """
        process = self._process or self._start()
        if process.stdin is None or process.stdout is None:  # PIPE was asked for
            raise OSError("no pipe to the process")
        os.write(process.stdin.fileno(), request)
        patience = self._stuck_seconds if self._answered else max(self._start_seconds, self._stuck_seconds)
        content = b""
        while True:
            ready, _, _ = select.select([process.stdout.fileno()], [], [], patience)
            if not ready:
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 65_536)
            if not chunk:
                raise OSError("the process has ended")
            content = (content + chunk).lstrip(b"\n")
            patience = self._stuck_seconds
            if content.endswith(b"\n"):
                found = json.loads(content)
                if not isinstance(found, dict):
                    raise ValueError("not an answer")
                return found

    def _start(self) -> subprocess.Popen[bytes]:
        if self._stopped:
            raise OSError("the agent stops")
        self._answered = False
        # Not in SuperNode's session, and without a folder of its own: it must hold up nobody.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        return self._process

    def _give_up(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        self._given_up = process

    def _stuck(self, folder: FolderSettings, began: float) -> Look:
        if self._stuck_since is None:
            self._stuck_since = began
        seconds = self._clock() - self._stuck_since
        return Look(stuck=f"{folder.path} does not answer: a look at it has not returned for {seconds:.0f} s")


def worker_command() -> list[str]:
    """Return the command line of the process: isolated, and without site-packages."""
    packages = str(Path(fleven_agent.__file__).parent.parent)
    code = f"import sys; sys.path.append({packages!r}); from fleven_agent.monitoring.trip_worker import main; main()"
    return [sys.executable, "-IS", "-c", code]
