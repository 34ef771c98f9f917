"""Folders and files: whether the agent may write where it must, and read what it is given."""

import os
import stat
from pathlib import Path

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning


def _folder(path: Path, name: str) -> Result:
    if not path.exists():
        parent = next(one for one in path.parents if one.exists())
        if os.access(parent, os.W_OK):
            return ok(f"{path} does not exist yet and can be created")
        return error(f"{path} does not exist, and {parent} is not writable", f"create it, or set {name}")
    if not os.access(path, os.W_OK | os.X_OK):
        return error(f"{path} is not writable by this user", "run the check as root or as user fleven")
    return ok(f"{path} is writable")


def state(context: Context) -> Result:
    """The state folder."""
    return _folder(context.state_directory, "FLEVEN_STATE_DIR")


def runtime(context: Context) -> Result:
    """The runtime folder."""
    return _folder(context.runtime_directory, "FLEVEN_RUNTIME_DIR")


def key(context: Context) -> Result:
    """Nobody but the agent may read the node's private key."""
    path = settings_of(context).auth_private_key
    if path is None:
        return skipped("no auth-private-key is set")
    mode = Path(path).stat().st_mode
    if mode & (stat.S_IRWXO | stat.S_IWGRP):  # its group may be fleven, for which root keeps it readable
        hint = f"chmod g-w,o= {path}; user fleven must still be able to read it: chgrp fleven {path}"
        return warning(f"{path} is open to others (mode {stat.S_IMODE(mode):04o})", hint)
    return ok(f"{path} is private")


def token(context: Context) -> Result:
    """Nobody but the agent may read the file with the report token."""
    if settings_of(context).report_token is None or context.loaded is None:
        return skipped("no report-token is set")
    path = context.loaded.sources["report-token"]
    mode = Path(path).stat().st_mode
    if mode & stat.S_IRWXO:
        hint = f"chmod o= {path}; user fleven must still be able to read it: chgrp fleven {path}"
        return warning(f"{path} holds report-token and is open to everybody (mode {stat.S_IMODE(mode):04o})", hint)
    return ok(f"{path}, which holds report-token, is closed to others")


CHECKS = (
    Check("permissions.state", "state folder", state),
    Check("permissions.runtime", "runtime folder", runtime),
    Check("permissions.key", "private key of the node", configured(key)),
    Check("permissions.token", "file with the report token", configured(token)),
)
