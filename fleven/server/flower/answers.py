"""What the command `flwr` answers: its JSON documents, and errors, classified by their text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fleven.server.errors import FlowerError, SuperLinkUnreachableError

if TYPE_CHECKING:
    pass


UNREACHABLE = "Connection to the SuperLink is unavailable"
RUN_NOT_FOUND = re.compile(r"run.{0,40}(not found|invalid|does not exist)|invalid run", re.IGNORECASE)
ALREADY_FINISHED = re.compile(r"already finished|finished", re.IGNORECASE)
REFUSED = "flower-refused"
"""Code of the error of a `flwr run` that will be refused again, however often it is tried."""
FINAL = re.compile(
    r"Invalid run configuration|FAB size exceeds|Invalid Flower App|Failed to load Flower App|Flower App directory name"
    r"|not a valid path to a Flower app|fab-(include|exclude)|Property \"name\" missing|configuration string is in an",
)
"""What Flower says about an app that it cannot build or accept.

Anything else, such as `Internal server error.` (any error of the SuperLink's own, a full disk among them), may go
differently next time."""
NOISE = re.compile(r"Using SuperLink:|Stopping run|Displaying information|Listing all")
"""Lines of progress that stand before the message of an error."""
EXIT_CODE_LINE = re.compile(r"Exit Code: (\d+)")
EXIT_CODES: Mapping[int, str] = {
    101: "the Flower licence is not valid",
    102: "the Flower licence is missing",
    104: "the SuperLink refused its arguments",
    105: "the database was written by another line of Flower",
    200: "a precondition of the strategy did not hold",
    201: "the ServerApp ended with an exception",
    202: "the strategy could not aggregate",
    203: "the SuperLink refused to start the run",
    600: "an address is not valid",
    602: "TLS is not supported here",
    603: "the root certificates do not fit",
    604: "a path is not valid",
    605: "the server certificates are not valid",
    606: "client and SuperLink run different lines of Flower",
    607: "the app could not be imported",
    608: "the app's dependencies could not be installed",
    800: "an exception in a task process",
}
"""Meaning of the `Exit Code: N` lines that Flower logs (flwr/supercore/exit/exit_code.py of Flower 1.34)."""


def moment(text: str | None) -> datetime | None:
    """Return a time as `flwr` prints it (`2026-11-24 04:33:06Z`), or None for `N/A`."""
    if not text or text == "N/A":
        return None
    return datetime.fromisoformat(text.replace(" ", "T").replace("Z", "+00:00")).astimezone(UTC)


def parse_answer(name: str, status: int, stdout: str, stderr: str) -> dict[str, Any]:
    """Return the JSON document that `flwr` printed.

    Raises:
        FlowerError: it reports a failure, or printed no document.
    """
    start = stdout.find("{")
    try:
        answer = json.loads(stdout[start:]) if start >= 0 else None
    except ValueError:
        answer = None
    if isinstance(answer, dict) and answer.get("success") and status == 0:
        return answer
    said = str(answer.get("error-message", "")) if isinstance(answer, dict) else ""
    raise decoded_failure(name, status, said or stderr or stdout)


def decoded_failure(name: str, status: int, said: str) -> FlowerError:
    """Return the coded error for what a failed `flwr` call said."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not NOISE.match(line.strip())]
    if UNREACHABLE in said:
        return SuperLinkUnreachableError("the SuperLink does not answer", hint="systemctl status fleven-superlink")
    # Flower breaks its messages into lines at any word.
    whole = " ".join(lines)
    text = whole[:500] or f"ended with status {status}"
    if match := EXIT_CODE_LINE.search(said):
        text = EXIT_CODES.get(int(match.group(1)), f"Flower's exit code {match.group(1)}")
    if FINAL.search(whole):
        return FlowerError(f"`{name}`: {text}", code=REFUSED)
    if RUN_NOT_FOUND.search(text):
        return FlowerError(f"`{name}`: {text}", code="run-unknown")
    if "stop" in name and ALREADY_FINISHED.search(text):
        return FlowerError(f"`{name}`: {text}", code="run-finished")
    return FlowerError(f"`{name}`: {text}")


def flower_run(row: Mapping[str, Any]) -> FlowerRun:
    """Return one row of `flwr ls --format json`."""
    status, _, sub_status = str(row["status"]).partition(":")
    details = str(row.get("status-details") or "")
    return FlowerRun(
        run_id=str(row["run-id"]),
        version=str(row.get("fab-version", "")),
        status=status,
        sub_status=sub_status,
        details="" if details == "N/A" else details,
        pending_at=moment(row.get("pending-at")),
        running_at=moment(row.get("running-at")),
        finished_at=moment(row.get("finished-at")),
    )


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """One row of `flwr ls`."""

    run_id: str
    version: str
    status: str
    """`pending`, `starting`, `running` or `finished`."""
    sub_status: str = ""
    """`completed`, `failed` or `stopped` when finished."""
    details: str = ""
    pending_at: datetime | None = None
    running_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FlowerNode:
    """One row of `flwr supernode list`."""

    node_id: str
    status: str
    """`registered`, `online`, `offline` or `unregistered`."""
    online_since: datetime | None = None
    offline_since: datetime | None = None
