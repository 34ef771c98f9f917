"""What the services' user may read; root, who checks the configuration, may read everything."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleven.server.config.loader import Loaded, load
from fleven.server.config.paths import Paths
from fleven.server.errors import ConfigurationError

SECONDS = 10


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine, as processes are started with it."""

    name: str
    user_id: int
    group_id: int
    groups: tuple[int, ...]

    def options(self) -> dict[str, Any]:
        """Return the arguments with which `subprocess` starts a process as this user."""
        return {"user": self.user_id, "group": self.group_id, "extra_groups": list(self.groups)}


def service_account(paths: Paths) -> Account | None:
    """Return the services' user, the owner of the state folder, when root asks on its behalf; else None."""
    try:
        owner = pwd.getpwuid(paths.state.stat().st_uid)
    except (OSError, KeyError):
        return None
    if os.geteuid() != 0 or owner.pw_uid == 0:
        return None
    groups = os.getgrouplist(owner.pw_name, owner.pw_gid)
    return Account(owner.pw_name, owner.pw_uid, owner.pw_gid, tuple(groups))


def is_hidden_from(process_id: int, path: Path) -> bool:
    """Return whether a process of this machine has no such path, as a unit with ProtectHome or PrivateTmp has not.

    False also when this user may not look.
    """
    root = Path(f"/proc/{process_id}/root")
    try:
        (root / ".").stat()
    except OSError:
        return False
    try:
        (root / path.relative_to("/")).stat()
    except OSError:
        return True
    return False


def load_for_service(option: Path | None, paths: Paths) -> Loaded:
    """Read the configuration as `load` does, and try its files as the services' user.

    Raises:
        ConfigurationError: it has problems, or that user cannot read a file of it; all problems at once.
    """
    loaded = load(option)
    if problems := unreadable_for_service(loaded, paths):
        raise ConfigurationError("the configuration has problems", problems=problems)
    return loaded


def unreadable_for_service(loaded: Loaded, paths: Paths) -> list[str]:
    """Return one line for each file of the configuration that the services' user cannot read.

    The user is the owner of the state folder. Nothing is found unless root asks: another user sees it by loading.

    Args:
        loaded: the configuration, which this process could read.
        paths: the server's folders.
    """
    account = service_account(paths)
    if account is None:
        return []
    superlink, web = loaded.config.superlink, loaded.config.web
    named = {
        "superlink.certificate": superlink.certificate,
        "superlink.private-key": superlink.private_key,
        "superlink.root-certificates": superlink.root_certificates,
        "web.certificate": web.certificate,
        "web.private-key": web.private_key,
        "app-path": loaded.config.app_path,
    }
    files = {str(file): file for file in loaded.files} | {key: file for key, file in named.items() if file is not None}
    problems = []
    for key, file in files.items():
        done = subprocess.run(["/usr/bin/test", "-r", str(file)], timeout=SECONDS, check=False, **account.options())
        if done.returncode != 0:
            place = "" if key == str(file) else f"{key}: "
            hint = f"sudo chgrp {account.name} {file} ; sudo chmod g+r {file}"
            problems.append(f"{place}{file} is not readable by the service's user {account.name} ({hint})")
    return problems
