"""What the services' own user may read: root, who checks the configuration, may read everything."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from fleven.server.config import Loaded, Paths, load
from fleven.server.errors import ConfigurationError

SECONDS = 10


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
    try:
        owner = pwd.getpwuid(paths.state.stat().st_uid)
    except (OSError, KeyError):
        return []
    if os.geteuid() != 0 or owner.pw_uid == 0:
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
    groups = os.getgrouplist(owner.pw_name, owner.pw_gid)
    problems = []
    for key, file in files.items():
        done = subprocess.run(
            ["/usr/bin/test", "-r", str(file)],
            user=owner.pw_uid, group=owner.pw_gid, extra_groups=groups, timeout=SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            place = "" if key == str(file) else f"{key}: "
            hint = f"sudo chgrp {owner.pw_name} {file} ; sudo chmod g+r {file}"
            problems.append(f"{place}{file} is not readable for the service's user {owner.pw_name} ({hint})")
    return problems
