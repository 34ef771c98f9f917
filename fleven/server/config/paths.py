"""The server's folders and files, below one state directory.

Names only: nothing here looks at the disk. Must not import the settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STATE_DIRECTORY = Path("/var/lib/fleven-server")


@dataclass(frozen=True, slots=True)
class Paths:
    """The server's folders and files."""

    state: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Paths:
        """Return the folders below the one that FLEVEN_SERVER_STATE_DIR names, or below the default one."""
        return cls(Path(environment.get("FLEVEN_SERVER_STATE_DIR") or DEFAULT_STATE_DIRECTORY).absolute())

    @property
    def register(self) -> Path:
        """The register: schedules, runs, nodes."""
        return self.state / "register.db"

    @property
    def superlink_database(self) -> Path:
        """Flower's own database."""
        return self.state / "superlink.db"

    @property
    def flwr_home(self) -> Path:
        """FLWR_HOME of the SuperLink and of every `flwr` call."""
        return self.state / "flwr"

    @property
    def trust(self) -> Path:
        """The server's own authority, its certificate and their keys."""
        return self.state / "trust"

    @property
    def backups(self) -> Path:
        """Nightly copies of the register."""
        return self.state / "backups"

    @property
    def apps(self) -> Path:
        """Staged copies of the apps that runs are made from."""
        return self.state / "apps"

    @property
    def programs(self) -> Path:
        """Programs that stand before Flower's on the SuperLink's PATH."""
        return self.state / "programs"

    @property
    def submit_lock(self) -> Path:
        """Held while a `flwr run` is under way, by the call itself: it outlives a killed server."""
        return self.state / "submit.lock"

    @property
    def submitted(self) -> Path:
        """Changed when a run is submitted: the SuperLink's executor looks at once."""
        return self.state / "submitted"

    @property
    def superlink_record(self) -> Path:
        """Written by `fleven-server superlink` at its start: process id and time."""
        return self.state / "superlink.json"

    @property
    def superlink_restart(self) -> Path:
        """Asks the process beside the SuperLink to end it, so that systemd starts it again: holds its process id."""
        return self.state / "superlink-restart"
