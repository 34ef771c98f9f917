"""The way back to an older release, which can read neither this one's register nor its configuration.

The package calls this before it is replaced by an older one: the register that was kept at the upgrade takes its place
again, and what this release has recorded since is set aside, never removed. Must not start or stop services.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

from fleven.server.backup.contents import BackupError
from fleven.server.backup.making import digest
from fleven.server.backup.restoring import DATABASE_COMPANIONS, SECRET, Placement, put
from fleven.server.config.loader import DEFAULT_CONFIG_FILE
from fleven.server.config.paths import Paths
from fleven.server.database.engine import kept_copy, revision_of

KNOWN_REVISIONS = {"0.1.0": "0004"}
"""The newest revision of the register that an older release can read."""
OPEN_FLEET = "00-open-fleet.toml"
"""Written by the upgrade from a release that does not know its key; the next upgrade writes it again."""
UNDO = "--undo"


def go_back(release: str, paths: Paths, config_file: Path, now: datetime) -> str:
    """Make a server that does not run ready for an older release; return one line that says what was done.

    Args:
        release: the version that comes, with or without what a distribution puts behind it.
        paths: the server's folders.
        config_file: server.toml.
        now: the current moment.

    Returns:
        The line; empty when nothing had to be done.

    Raises:
        OSError: a file cannot be moved or written; all is back in its place.
        BackupError: a file was not written as it was read; the same.
        sqlite3.DatabaseError: the register cannot be read.
    """
    known = KNOWN_REVISIONS.get(release.partition("+")[0].partition("~")[0].partition("-")[0])
    if known is None:
        return ""
    away = [path for path in (Path(f"{config_file}.d") / OPEN_FLEET,) if path.exists()]
    current = revision_of(paths.register) if paths.register.exists() else None
    newer, kept = current is not None and current > known, kept_copy(paths.register, known)
    placements = [Placement(kept, paths.register, SECRET, paths.state)] if newer and kept.exists() else []
    if newer:
        away += [path for end in ("", *DATABASE_COMPANIONS) if (path := Path(f"{paths.register}{end}")).exists()]
    if not away:
        return ""
    aside = paths.state / f"before-downgrade-{now:%Y%m%dT%H%M%SZ}"
    put(placements, paths, config_file, aside, without=away)
    if not newer:
        return ""
    began = "an empty register, since none of that release is kept"
    if placements:
        at = datetime.fromtimestamp(kept.stat().st_mtime, UTC)
        began = f"the register of before the upgrade ({at:%Y-%m-%d %H:%M} UTC)"
    return f"{release} begins with {began}; what was recorded since is kept in {aside}"


def undo(paths: Paths, config_file: Path) -> None:
    """Put back what the last ``go_back`` has set aside, when the older release did not come after all.

    Nothing is put over a register that somebody has written to since.

    Raises:
        OSError: a file cannot be moved.
    """
    aside = max(paths.state.glob("before-downgrade-*"), default=None)
    copies = [digest(kept_copy(paths.register, known)) for known in KNOWN_REVISIONS.values() if _kept(paths, known)]
    if aside is None or (paths.register.exists() and digest(paths.register) not in copies):
        return
    if (aside / paths.register.name).exists():
        for end in ("", *DATABASE_COMPANIONS):
            Path(f"{paths.register}{end}").unlink(missing_ok=True)
        for file in aside.glob(f"{paths.register.name}*"):
            shutil.move(file, paths.state / file.name)
    for file in aside.glob(f"config/{config_file.name}.d/*"):
        shutil.move(file, Path(f"{config_file}.d") / file.name)
    shutil.rmtree(aside)


def _kept(paths: Paths, known: str) -> bool:
    return kept_copy(paths.register, known).exists()


def main(arguments: list[str], paths: Paths, config_file: Path) -> int:
    """Go back to the release that is named, or undo that."""
    try:
        if arguments == [UNDO]:
            undo(paths, config_file)
        elif line := go_back(arguments[0], paths, config_file, datetime.now(UTC)):
            print(f"fleven-server: {line}", file=sys.stderr)
    except (OSError, BackupError, sqlite3.DatabaseError) as error:
        print(f"fleven-server: the register stays as it is: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Paths.from_environment(), DEFAULT_CONFIG_FILE))
