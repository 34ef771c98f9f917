"""`fleven-server trust enforce`: ending the open mode of a server between two runs.

The server is stopped before the SuperLink, so that no run begins in between; a run that began just before is waited
for. Only the file that an upgrade wrote is removed: what an operator has written, the operator changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fleven.server.config.loader import Loaded, load
from fleven.server.errors import ConfigurationError, ServerError, UsageError, permission_hint
from fleven.server.schemas.trust import CarTrustAnswer, shut_out
from fleven_agent.common.foreign_text import parse_toml

if TYPE_CHECKING:
    from fleven.server.cli.common import Opened

OPEN_FILE = "00-open-fleet.toml"
"""Name of the drop-in that an upgrade from a version before 0.2.0 writes."""
SERVER_UNIT, SUPERLINK_UNIT = "fleven-server.service", "fleven-superlink.service"
POLL_SECONDS = 2.0
SYSTEMCTL_SECONDS = 180


def enforce(
    server: Opened, config: Path | None, cars: Sequence[CarTrustAnswer], *, force: bool, wait: bool
) -> dict[str, Any]:
    """End the open mode and return what was done.

    Args:
        server: configuration and register.
        config: the value of `--config`.
        cars: each car with its stage.
        force: also when cars would be shut out.
        wait: wait for the end of open runs.

    Raises:
        UsageError: cars would be shut out, a run is open, or an operator's own line keeps the open mode.
        ConfigurationError: without the line the configuration is not valid.
        ServerError: a unit could not be restarted, or this user may not remove the file.
    """
    if not server.config.insecure:
        return {"changed": False, "message": "the open mode has ended already: only enrolled cars get in, over TLS"}
    file = open_file(config)
    if (left := shut_out(cars)) and not force:
        names = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        hint = f"fleven-server nodes invite {left[0]}; or --force"
        raise UsageError(f"{names} would be shut out: not enrolled", hint=hint, code="cars-not-enrolled")
    check_without(file, config)
    wait_for_runs(lambda: open_run_ids(server), wait=wait)
    managed = unit_is_active(SUPERLINK_UNIT) or unit_is_active(SERVER_UNIT)
    if managed:
        systemctl("stop", SERVER_UNIT)
    try:
        if managed and open_run_ids(server):
            raise ServerError("a run began meanwhile", hint="try again", code="run-open")
        remove(file)
        if managed:
            systemctl("restart", SUPERLINK_UNIT)
    finally:
        if managed:
            systemctl("start", SERVER_UNIT)
    then = "" if managed else "; now start SuperLink and server again: no unit of them runs here"
    return {"changed": True, "message": f"removed {file}: only enrolled cars get in, over TLS{then}"}


def open_file(config: Path | None) -> Path:
    """Return the file of the upgrade that keeps the open mode.

    Raises:
        UsageError: another file does.
    """
    files = insecure_files(load(config))
    if not files or Path(files[-1]).name != OPEN_FILE or len(files) > 1:
        where = next((file for file in files if Path(file).name != OPEN_FILE), "server.toml")
        hint = "remove the line, then: systemctl restart fleven-superlink fleven-server"
        raise UsageError(
            f"{where} says insecure = true, and an operator wrote that", hint=hint, code="insecure-by-hand"
        )
    return Path(files[-1])


def insecure_files(loaded: Loaded) -> list[str]:
    """Return the files that set `insecure`, in the order in which they are read."""
    return [str(file) for file in loaded.files if "insecure" in parse_toml(file.read_bytes())]


def check_without(file: Path, config: Path | None) -> None:
    """Make sure that the configuration is valid without a file.

    Raises:
        ConfigurationError: it is not; nothing was changed.
    """
    try:
        load(config, without=file)
    except ConfigurationError as error:
        raise ConfigurationError(
            "without insecure = true the configuration has problems; nothing was changed", problems=error.problems
        ) from error


def open_run_ids(server: Opened) -> list[int]:
    """Return the runs that the SuperLink has."""
    from fleven.server.runs import store as run_store

    with server.store.read() as connection:
        return [run.id for run in run_store.open_runs(connection) if run.state.active]


def wait_for_runs(
    open_ids: Callable[[], list[int]], *, wait: bool, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Return when no run is open.

    Raises:
        UsageError: one is, and nobody wants to wait.
    """
    told = False
    while found := open_ids():
        if not wait:
            raise UsageError(f"run {found[0]} is open", hint="try again after its end", code="run-open")
        if not told:
            typer.echo(f"waiting for the end of run {found[0]} (Ctrl-C to give up; nothing was changed)", err=True)
            told = True
        sleep(POLL_SECONDS)


def remove(file: Path) -> None:
    """Remove the file.

    Raises:
        ServerError: this user may not.
    """
    try:
        file.unlink()
    except PermissionError as error:
        raise ServerError(f"{file}: no permission", hint=permission_hint(), code="no-permission") from error


def unit_is_active(unit: str) -> bool:
    """Return whether systemd runs a unit."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return False
    return subprocess.run(["systemctl", "--quiet", "is-active", unit], timeout=20, check=False).returncode == 0


def systemctl(verb: str, unit: str) -> None:
    """Let systemd start, stop or restart a unit.

    Raises:
        ServerError: it did not.
    """
    if os.geteuid() != 0:
        raise ServerError(f"{verb} {unit}: only root may", hint="use sudo", code="no-permission")
    done = subprocess.run(["systemctl", verb, unit], timeout=SYSTEMCTL_SECONDS, check=False)
    if done.returncode != 0:
        raise ServerError(f"systemctl {verb} {unit} failed", hint=f"systemctl status {unit}", code="unit-failed")
