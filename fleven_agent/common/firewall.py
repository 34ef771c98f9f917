"""Whether the table of nftables that a package brings is there: it says who may reach Flower's ports on this machine.

Pure decisions over what ``look`` found. Standard library only.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fleven_agent.common.files import program_on_path

ASK_SECONDS = 10.0
NFT = "/usr/sbin/nft"
UNIT_FOLDERS = ("/usr/lib/systemd/system", "/lib/systemd/system")


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a table; None: it could not be asked."""

    installed: bool
    """The package's unit is there."""
    nft: bool
    active: bool | None
    table: bool | None
    """Only root may ask."""


def look(unit: str, table: str) -> Found:
    """Ask systemd and, as root, the kernel."""
    installed = any((Path(folder) / unit).exists() for folder in UNIT_FOLDERS)
    nft = os.access(NFT, os.X_OK)
    active = _succeeds(["systemctl", "is-active", "--quiet", unit]) if Path("/run/systemd/system").is_dir() else None
    listed = _succeeds([NFT, "list", "table", "inet", table]) if nft and os.geteuid() == 0 else None
    return Found(installed, nft, active if installed else None, listed)


def problem(found: Found, unit: str, ports: str) -> tuple[str, str] | None:
    """Return what is wrong and what to do; None when nothing is."""
    open_to_all = f"every user of this machine reaches {ports}"
    if not found.nft:
        return f"nftables is not installed: {open_to_all}", f"apt install nftables, then systemctl restart {unit}"
    if found.active is False:
        return f"{unit} is not active: {open_to_all}", f"systemctl restart {unit}; journalctl -u {unit}"
    if found.table is False:
        return f"the table of {unit} is gone: {open_to_all}", f"systemctl restart {unit}"
    return None


def _succeeds(command: list[str]) -> bool | None:
    if program_on_path(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, timeout=ASK_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return None
