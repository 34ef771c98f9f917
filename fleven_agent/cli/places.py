"""Where the commands find configuration, state and sockets. Imports the standard library only."""

import os
from pathlib import Path

DEFAULT_CONFIG = Path("/etc/fleven/node.toml")


def state_directory() -> Path:
    """Return the state folder."""
    return Path(os.environ.get("FLEVEN_STATE_DIR") or "/var/lib/fleven").absolute()


def runtime_directory() -> Path:
    """Return the runtime folder."""
    return Path(os.environ.get("FLEVEN_RUNTIME_DIR") or "/run/fleven").absolute()
