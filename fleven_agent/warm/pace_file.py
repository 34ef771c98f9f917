"""How often SuperNode may ask the SuperLink, and by which clock, told by the agent in a small file that it looks at.

A file in `/run`, replaced as a whole: a look costs microseconds and no card, needs no right but to read, and whatever
process SuperNode has become finds it by a variable of its environment. Without a file, or with one that cannot be
understood, everything waits as it would without an agent. Imports the standard library only.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "FLEVEN_PACE_FILE"
"""Names the file in SuperNode's environment."""
FILE_NAME = "pace.json"
LOOK_SECONDS = 0.2
"""Between two looks at the file during a wait: how late a wait learns that it is to end."""
DEFAULT_FLOOR_SECONDS = 0.05
"""Between two questions to the SuperLink just after something happened, where the server says nothing else."""
LONGEST_SECONDS = 1_800.0
"""The longest interval between two heartbeats that Flower takes."""
LATEST_SECONDS = 2.0**36
"""Beyond any clock [s since the epoch]."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the agent wants of SuperNode's waits. None means: as Flower has it."""

    pull_seconds: float | None = None
    heartbeat_seconds: float | None = None
    floor_seconds: float = DEFAULT_FLOOR_SECONDS
    server_time_at_boot_seconds: float | None = None
    """What the server's clock showed when this machine booted [s since the epoch]; None while both clocks agree."""


def read(content: bytes) -> Wanted:
    """Return what a file says; what cannot be understood says nothing."""
    try:
        values = json.loads(content)
        floor = _seconds(values.get("floor_seconds"))
        at_boot = values.get("server_time_at_boot_seconds")
        return Wanted(
            _seconds(values.get("pull_seconds")),
            _seconds(values.get("heartbeat_seconds")),
            DEFAULT_FLOOR_SECONDS if floor is None else floor,
            _number(at_boot, -LATEST_SECONDS, LATEST_SECONDS),
        )
    except (ValueError, AttributeError, RecursionError):
        return Wanted()


def _seconds(value: object) -> float | None:
    return _number(value, 0.0, LONGEST_SECONDS)


def _number(value: object, above: float, highest: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= highest:
        return None
    return float(value)


def write(file: Path, wanted: Wanted) -> None:
    """Replace the file; readers see the old content or the new one. Raises ``OSError`` when it cannot be written."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(json.dumps(asdict(wanted)), encoding="utf-8")
    temporary.chmod(0o644)
    temporary.replace(file)


class PaceFile:
    """The file as SuperNode sees it; one for each thread."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._wanted = Wanted()

    @property
    def wanted(self) -> Wanted:
        """What the file says now."""
        if self._path is None:
            return self._wanted
        try:
            status = os.stat(self._path)  # noqa: PTH116 - several times a second
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                self._wanted, self._seen = read(Path(self._path).read_bytes()), seen
        except OSError:
            self._wanted, self._seen = Wanted(), None
        return self._wanted


def wait(
    due: Callable[[float], float],
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    look_seconds: float = LOOK_SECONDS,
) -> None:
    """Sleep until the moment that ``due`` names, asking it again and again: it may move while one waits.

    Args:
        due: from the moment at which the wait began to the one at which it is to end.
        sleep: a true result ends the wait.
        clock: monotonic.
        look_seconds: between two questions.
    """
    began = clock()
    while (left := due(began) - clock()) > 0:
        if sleep(min(left, look_seconds)):
            return
