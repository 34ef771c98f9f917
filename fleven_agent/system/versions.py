"""Versions of what runs here, without importing any of it and without ``importlib.metadata``, which costs 2 MB."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from fleven_agent import __version__


@dataclass(frozen=True, slots=True)
class Versions:
    """The fields of ``report.Versions``."""

    agent: str
    flwr: str | None
    python: str
    os: str
    kernel: str


def installed_version(distribution: str, path: list[str] | None = None) -> str | None:
    """Return the version of an installed distribution, from the name of its folder of metadata."""
    for entry in sys.path if path is None else path:
        for folder in Path(entry or ".").glob(f"{distribution}-*.dist-info"):
            return folder.name.removesuffix(".dist-info").partition("-")[2]
    return None


def operating_system(file: Path = Path("/etc/os-release")) -> str:
    """Return the name of the distribution, such as "Debian GNU/Linux 12 (bookworm)"."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    found = next((line for line in lines if line.startswith("PRETTY_NAME=")), "")
    return found.partition("=")[2].strip('"')


def collect() -> Versions:
    """Return all versions."""
    return Versions(
        agent=__version__,
        flwr=installed_version("flwr"),
        python=".".join(map(str, sys.version_info[:3])),
        os=operating_system(),
        kernel=os.uname().release,
    )
