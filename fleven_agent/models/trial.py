"""Has a model tried in a short process of its own, which is given up when it does not end.

The agent has neither NumPy nor safetensors in it, and a foreign file or a hanging disk of trips must hurt nobody but
that process. Imports the standard library only.
"""

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fleven_agent.models.decisions import Trial

SECONDS = 300.0
MODULE = "fleven.predict.trial"
LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Trier:
    """Starts the process, and ends it.

    Args:
        command: of the process; a test gives another.
        seconds: how long it may take.
    """

    command: tuple[str, ...] = (sys.executable, "-m", MODULE)
    seconds: float = SECONDS

    def begin(self, model: Path, trips: str | None, other: Path | None) -> subprocess.Popen[bytes]:
        """Start a trial. ``trips``: folder of the car's trips; ``other``: the model to compare with. Raises OSError."""
        arguments: Sequence[str] = [str(model), *(["--trips", trips] if trips else [])]
        if other is not None:
            arguments = [*arguments, "--other", str(other)]
        return subprocess.Popen(
            [*self.command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[bytes]) -> Trial:
        """Wait for the answer; kill a process that takes too long, and do not wait for one that cannot be killed."""
        try:
            content, _ = process.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            give_up(process)
            return Trial(False, f"it was tried for {self.seconds:.0f} s without an end")
        if process.returncode != 0 and not content.strip():
            how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
            return Trial(False, f"the process that tried it ended with {how}")
        return read(content)


def give_up(process: subprocess.Popen[bytes]) -> None:
    """Kill a process; one that hangs in the kernel is left behind."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    if process.stdout is not None:
        with contextlib.suppress(OSError):
            process.stdout.close()


def read(content: bytes) -> Trial:
    """Return what the process said."""
    try:
        said = json.loads(content)
        return Trial(
            usable=said["usable"] is True,
            reason=str(said.get("reason") or "")[:LONGEST_REASON],
            values=int(said.get("values") or 0),
            rmse=_finite(said.get("rmse")),
            other_rmse=_finite(said.get("other_rmse")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return Trial(False, "the process that tried it gave no answer")


def _finite(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good and isinstance(value, int | float) else None
