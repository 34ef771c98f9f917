"""What the SuperLink writes, as the journal should have it: with priorities, without colours and without each request.

Three idle cars make the SuperLink write a line a second. Those lines are counted and summed up now and then; all others
are passed on, warnings and errors with their priority (sd-daemon(3)). Pure but for ``pump``.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import BinaryIO

from fleven.server.flower.line import installed_line
from fleven_agent.common.foreign_text import printable

MAXIMUM_LINE_BYTES = 16_384
"""A longer line is passed on in pieces: a ServerApp's progress bar may never end its line."""
SUMMARY_SECONDS = 600.0
"""Between two summaries of requests."""
PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Digest:
    """Turns the lines of one SuperLink into lines for the journal.

    Args:
        now: monotonic moment at which it begins.
    """

    def __init__(self, now: float) -> None:
        self._requests: Counter[str] = Counter()
        self._since = now
        self._priority = PRIORITIES["INFO"]
        self._line = installed_line()

    def line(self, raw: str, now: float) -> list[str]:
        """Return what a line of the SuperLink's at a monotonic moment gives: none, itself, or a summary before it."""
        text = _COLOURS.sub("", raw).rstrip()
        found = self._line.log_line.match(text)
        out = self.summary(now) if now - self._since >= SUMMARY_SECONDS else []
        if found:
            self._priority, text = PRIORITIES[found[1]], found[2]
        request = self._line.request_line.match(text) if found and self._priority >= PRIORITIES["INFO"] else None
        if request:
            self._requests[request[1]] += 1
        elif text:  # a line without a level goes on with the one before, as a traceback does
            out.append(f"<{self._priority}>{printable(text)}")
        return out

    def summary(self, now: float) -> list[str]:
        """Return one line about the requests since the last summary; none when there were none."""
        minutes, self._since = (now - self._since) / 60, now
        counted, self._requests = self._requests, Counter()
        if not counted:
            return []
        names = " ".join(f"{name}={number}" for name, number in counted.most_common())
        return [f"<{PRIORITIES['INFO']}>event=superlink-requests minutes={minutes:.0f} {names}"]


def pump(source: BinaryIO, target: BinaryIO, clock: Callable[[], float] = time.monotonic) -> None:
    """Pass lines on until the source ends; a target that takes none is no reason to stop reading."""
    digest = Digest(clock())
    while raw := source.readline(MAXIMUM_LINE_BYTES):
        _write(target, digest.line(raw.decode("utf-8", "replace"), clock()))
    _write(target, digest.summary(clock()))


def _write(target: BinaryIO, lines: list[str]) -> None:
    try:
        for line in lines:
            target.write(f"{line}\n".encode())
        target.flush()
    except OSError:  # the journal restarts: the SuperLink must not stand still for it
        return
