"""Becoming the SuperLink: preflight, then exec. Flower's own command line is built in `line`.

Nothing is left half-done when the preflight fails: it only looks. Exit 78 tells systemd not to try again,
75 that the obstacle may go away by itself.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import socket
import sys
from datetime import UTC, datetime

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig, split_address, superlink_in_force
from fleven.server.errors import ConfigurationError, Obstacle, address_obstacle, cannot_start, permission_hint
from fleven.server.flower import app_cell, executor_process, flwr_command, line, superlink_process, superlink_watchdog
from fleven.server.flower.executor_process import is_python_program
from fleven.server.flower.line import installed_line
from fleven.server.flower.superlink_database import bring_up_to_date, database_obstacles
from fleven_agent.common import flower_versions
from fleven_agent.common.files import write_atomically

NEEDED_FREE_BYTES = 200_000_000


def address_obstacles(config: ServerConfig) -> list[Obstacle]:
    """Return one obstacle for each SuperLink address that cannot be bound."""
    obstacles = []
    table = config.superlink
    for key in installed_line().addresses:
        address = getattr(table, key)
        host, port = split_address(address)
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            obstacles.append(address_obstacle(f"superlink.{key.replace('_', '-')}", address, error))
    return obstacles


def machine_obstacles(paths: Paths) -> list[Obstacle]:
    """Return what is wrong with the folders, the disk and the installed Flower."""
    try:
        paths.state.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        problem = f"{paths.state}: {(error.strerror or str(error)).lower()} ({permission_hint()})"
        return [Obstacle(problem, passing=error.errno == errno.ENOSPC)]
    obstacles = []
    if not os.access(paths.state, os.W_OK | os.X_OK):
        obstacles.append(Obstacle(f"{paths.state}: no permission to write ({permission_hint()})"))
    free_bytes = shutil.disk_usage(paths.state).free
    if free_bytes < NEEDED_FREE_BYTES:
        text = f"{paths.state}: only {free_bytes // 1_000_000} MB free, 200 MB are needed (free some space)"
        obstacles.append(Obstacle(text, passing=True))
    version = line.installed_version()
    if not version:
        obstacles.append(Obstacle(f"flwr: is not installed ({flower_versions.INSTALL_HINT})"))
    elif not flower_versions.is_supported(version):
        obstacles.append(
            Obstacle(f"flwr: version {version} is installed (this server knows {flower_versions.RANGE_TEXT})")
        )
    return obstacles


def cell_obstacles(config: ServerConfig) -> list[Obstacle]:
    """Return what keeps ServerApps from working apart from the server, where they must."""
    path = app_cell.socket_path()
    if config.superlink.server_app_cell == "off" or path.is_socket():
        return []
    hint = (
        'systemctl start fleven-app.socket; or superlink.server-app-cell = "off" lets apps do all that the server can'
    )
    return [Obstacle(f"{path}: there is no cell for ServerApps ({hint})", passing=True)]


def preflight(config: ServerConfig, paths: Paths) -> None:
    """Look at everything that the SuperLink needs.

    Raises:
        ConfigurationError: something is missing that only the operator can provide; all problems at once.
        TemporaryError: the obstacle may go away by itself: an address, the disk, a lock.
    """
    obstacles = [*machine_obstacles(paths), *database_obstacles(paths), *address_obstacles(config)]
    obstacles += cell_obstacles(config)
    if obstacles:
        raise cannot_start("the SuperLink cannot start", obstacles, code="superlink-preflight")


def become_superlink(config: ServerConfig, paths: Paths, certificate: str | None, *, dry_run: bool = False) -> None:
    """Write FLWR_HOME, and replace this process by `flower-superlink`; it does not return. Comes after `preflight`.

    Args:
        config: server.toml.
        certificate: fingerprint of the certificate in force, None without TLS: it is read now and never again, so
            whoever renews it must know which one is in use.
        paths: the server's folders; the state folder becomes the working directory, so that relative paths in an
            app's run config (`metrics-base-path`) land there.
        dry_run: only print the command line.

    Raises:
        ConfigurationError: the database cannot be brought to this Flower's form.
        TemporaryError: it cannot for a reason that may pass by itself.
    """
    table = superlink_in_force(config, paths)
    arguments = installed_line().superlink_arguments(table, paths.superlink_database)
    environment = flwr_command.environment(paths) | {executor_process.SUBMITTED_VARIABLE: str(paths.submitted)}
    if dry_run:
        sys.stdout.write(shlex.join(arguments) + "\n")
        return
    program = shutil.which(arguments[0], path=environment["PATH"])
    if program is None:
        raise ConfigurationError(f"`{arguments[0]}` is not on PATH", hint=flower_versions.INSTALL_HINT)
    bring_up_to_date(paths)
    flwr_command.write_connection(table, paths)
    record = {
        "pid": os.getpid(),
        "started_at": datetime.now(UTC).isoformat(),
        "flwr": line.installed_version(),
        "certificate": certificate,
        "watched": superlink_watchdog.wanted(),
    }
    write_atomically(paths.superlink_record, json.dumps(record).encode())
    if table.server_app_cell == "required":
        programs = app_cell.write_programs(paths.programs, paths.state, app_cell.socket_path())
        environment[executor_process.CELL_VARIABLE] = str(app_cell.socket_path())
        environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    else:
        sys.stderr.write("WARNING: cell=off hint='ServerApps run as this user and can do all that it can'\n")
    os.chdir(paths.state)
    # Nobody else may read what the SuperLink writes (bundles, run folders).
    os.umask(0o027)
    superlink_watchdog.start_beside(
        os.getpid(), table.fleet_address, environment, paths.superlink_restart, tls=not table.insecure
    )
    if is_python_program(program):
        # -I: the working folder holds what ServerApps write, and must not be searched for modules.
        arguments = [sys.executable, "-Iu", "-m", superlink_process.__name__, program, *arguments[1:]]
        program = sys.executable
    os.execve(program, arguments, environment)  # noqa: S606 -- replacing this process is the purpose
