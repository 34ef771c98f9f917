"""What Flower answers, in the server's own terms, whatever line of Flower said it (`line`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

REFUSED = "flower-refused"
"""Code of the error of a submission that will be refused again, however often it is tried."""


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
    """What Flower says of the end, for people."""
    process_lost: bool = False
    """Whether the ServerApp's process went away without a word of its own."""
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
    public_key: bytes = b""
    """PEM of its SubjectPublicKeyInfo; empty where the command was asked, which does not tell it."""
