"""What Tailscale says of this machine, where it can be asked: its name, and when its own key ends.

A key that ends takes the machine out of the tailnet, and looks like a broken network. Must not change anything.
Imports the standard library only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime
from typing import Any

SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TailscaleStatus:
    """This machine in its tailnet.

    Attributes:
        name: its DNS name, without the last dot; empty when it has none.
        key_ends: when its key ends; None when it does not end.
    """

    name: str
    key_ends: datetime | None


def tailscale_status() -> TailscaleStatus | None:
    """Ask `tailscale status --json`; None when it is not installed, does not run, or may not be asked."""
    program = shutil.which("tailscale")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "status", "--json", "--peers=false"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        return read_status(json.loads(done.stdout)) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def read_status(document: Any) -> TailscaleStatus | None:
    """Return what a document of `tailscale status --json` says of the machine itself; None when it does not run."""
    own = document.get("Self") if isinstance(document, dict) else None
    if not isinstance(own, dict) or document.get("BackendState") != "Running":
        return None
    ends = own.get("KeyExpiry")
    try:
        key_ends = datetime.fromisoformat(ends) if isinstance(ends, str) else None
    except ValueError:
        key_ends = None
    if key_ends is not None and key_ends.tzinfo is None:
        key_ends = None
    name = own.get("DNSName")
    return TailscaleStatus(name.rstrip(".").lower() if isinstance(name, str) else "", key_ends)
