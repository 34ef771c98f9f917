"""The packages of the release before, built from this repository's history while other machines are tested.

Imports nothing of fleven.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .shell import HostCommandError

PROJECT = Path(__file__).resolve().parents[3]
RELEASE = "0.1.0"
LONGEST_SECONDS = 900


def commit_of(release: str) -> str:
    """The newest commit whose changelog of Debian still begins with a release; empty when history does not reach it."""
    changelog = "packaging/debian/changelog"
    listed = subprocess.run(
        ["git", "-C", PROJECT, "log", "--format=%H", "--", changelog], capture_output=True, text=True, check=False
    )
    for commit in listed.stdout.split():
        shown = subprocess.run(
            ["git", "-C", PROJECT, "show", f"{commit}:{changelog}"], capture_output=True, text=True, check=False
        )
        if shown.stdout.startswith(f"fleven ({release})"):
            # All commits from here up to the one that names the next release belong to this one.
            following = subprocess.run(
                ["git", "-C", PROJECT, "log", "--format=%H", "--reverse", f"{commit}..HEAD", "--", changelog],
                capture_output=True, text=True, check=True,
            ).stdout.split()  # fmt: skip
            return f"{following[0]}^" if following else "HEAD"
    return ""


@dataclass
class Build:
    """A build under way."""

    process: subprocess.Popen[bytes]
    packages: Path
    log: Path

    def wait(self) -> Path:
        """Return the folder with the packages.

        Raises:
            HostCommandError: they could not be built, with the end of what was said.
        """
        if self.process.wait(LONGEST_SECONDS):
            said = self.log.read_text(errors="replace")[-2000:]
            raise HostCommandError(f"build of release {RELEASE}: exit {self.process.returncode}: {said}")
        return self.packages

    def end(self) -> None:
        """End it when nobody has waited for it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()


def start(commit: str, suite: str, folder: Path) -> Build:
    """Begin to build a commit's packages below a folder."""
    tree, packages, log = folder / "tree", folder / "previous-debs", folder / "build.log"
    tree.mkdir()
    archive = subprocess.run(["git", "-C", PROJECT, "archive", commit], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)
    command = [
        "nice",
        "-n",
        "10",
        tree / "packaging/build-deb.sh",
        "--suite",
        suite,
        "--fast",
        "--output",
        packages,
        "all",
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    return Build(process, packages, log)
