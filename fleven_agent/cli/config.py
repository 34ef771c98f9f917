"""`fleven-agent config`: check, show, and allow-data."""

import argparse
import contextlib
import grp
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from fleven_agent.common.errors import EXIT_STOPPED
from fleven_agent.common.files import write_atomically
from fleven_agent.config.parser import doubts, effective, load
from fleven_agent.errors import ConfigurationError, NotAllowedError, UsageError

RESOLVE_SECONDS = 3.0
UNIT = "fleven-agent.service"
TASK_UNIT = "fleven-task.service"


def config(arguments: argparse.Namespace) -> int:
    """Run a command of `config`; return the exit code.

    Raises:
        AgentError: when it cannot be done; the message says why.
    """
    match arguments.config_command:
        case "check":
            return _check(arguments)
        case "show":
            return _show(arguments)
        case _:
            return _allow_data(arguments)


def _check(arguments: argparse.Namespace) -> int:
    try:
        loaded = load(arguments.config.absolute())
    except ConfigurationError as error:
        if arguments.json:
            print(json.dumps({"valid": False, "problems": error.problems}, indent=2))
            return error.exit_code
        raise
    warnings = [f"{loaded.sources[key]}: {key}: {doubt} ({hint})" for key, doubt, hint in doubts(loaded.settings)]
    if arguments.json:
        print(json.dumps({"valid": True, "files": loaded.files, "problems": [], "warnings": warnings}, indent=2))
        return EXIT_STOPPED
    print(f"{', '.join(loaded.files)}: valid")
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    return EXIT_STOPPED


def _show(arguments: argparse.Namespace) -> int:
    rows = effective(load(arguments.config.absolute()))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return EXIT_STOPPED
    shown = {key: "" if row["value"] is None else json.dumps(row["value"]) for key, row in rows.items()}
    key_width, value_width = max(map(len, rows)), min(24, max(map(len, shown.values())))
    for key, row in rows.items():
        print(f"{key:{key_width}}  {shown[key] or '(not set)':{value_width}}  {row['source']}")
    return EXIT_STOPPED


def drop_in_name(path: Path) -> str:
    """Return the name of the drop-in for a folder, the same one each time."""
    return f"fleven-data-{str(path).strip('/').replace('/', '-') or 'root'}.conf"


def drop_in(path: Path, group: str | None) -> str:
    """Return the drop-in that opens a folder to the service and nothing around it.

    Args:
        path: the folder.
        group: of the folder, when it is the group that may read it.
    """
    lines = [f"# Written by `fleven-agent config allow-data {path}`; remove this file to undo that.", "[Service]"]
    if path.parts[1:2] in (("home",), ("root",)) or path.parts[1:3] == ("run", "user"):
        # Home folders are hidden from the service; with tmpfs in their place, this one folder can be put in.
        lines.append("ProtectHome=tmpfs")
        lines.append(f'BindPaths="-{path}"')
    lines.append(f'ReadWritePaths="-{path}"')
    if group is not None:
        lines.append(f"SupplementaryGroups={group}")
    return "\n".join(lines) + "\n"


def cell_drop_in(path: Path, group: str | None) -> str:
    """Return the drop-in that lets tasks read the same folder, and write nothing in it."""
    lines = [f"# Written by `fleven-agent config allow-data {path}`; remove this file to undo that.", "[Service]"]
    if path.parts[1:2] in (("home",), ("root",)):
        lines.append("ProtectHome=tmpfs")
    lines.append(f'BindReadOnlyPaths="-{path}"')
    if group is not None:
        lines.append(f"SupplementaryGroups={group}")
    return "\n".join(lines) + "\n"


def _allow_data(arguments: argparse.Namespace) -> int:
    path = Path(os.path.abspath(arguments.path))  # noqa: PTH100  # resolve() would replace links that the operator named on purpose
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder", hint="create it first")
    if path == Path("/") or any(character in str(path) for character in '"\\\n%'):
        raise UsageError(f"{path} cannot be opened to the service", hint="name the folder of trips itself")
    group, advice = _group(path)
    target = arguments.unit_directory / f"{UNIT}.d" / drop_in_name(path)
    in_cell = arguments.unit_directory / f"{TASK_UNIT}.d" / drop_in_name(path)
    for file, text in ((target, drop_in(path, group)), (in_cell, cell_drop_in(path, group))):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, text.encode(), mode=0o644)
        except PermissionError:
            raise NotAllowedError(f"{file}: permission denied", hint="use sudo") from None
    steps = [*advice, *_data_path_step(arguments.config, path)]
    reloaded = _daemon_reload() if arguments.unit_directory == Path("/etc/systemd/system") else False
    steps += [] if reloaded else ["systemctl daemon-reload"]
    steps.append(f"systemctl restart {UNIT}")
    if arguments.json:
        print(json.dumps({"file": str(target), "next_steps": steps}, indent=2))
    else:
        print(f"wrote {target}", *(f"next: {step}" for step in steps), sep="\n")
    return EXIT_STOPPED


def _group(path: Path) -> tuple[str | None, list[str]]:
    """Return the group that lets the service use the folder, and the steps still to be done for it."""
    status = path.stat()
    if status.st_mode & (stat.S_IROTH | stat.S_IXOTH) == stat.S_IROTH | stat.S_IXOTH:
        return None, []
    with contextlib.suppress(KeyError):
        name = grp.getgrgid(status.st_gid).gr_name
        wanted = stat.S_IRGRP | stat.S_IXGRP
        return name, [] if status.st_mode & wanted == wanted else [f"chmod g+rx {path}"]
    return None, [f"chmod o+rx {path}"]


def _data_path_step(config_file: Path, path: Path) -> list[str]:
    with contextlib.suppress(ConfigurationError):
        if load(config_file.absolute()).settings.data_path == str(path):
            return []
    return [f'set data-path = "{path}" in {config_file}']


def _daemon_reload() -> bool:
    if not Path("/run/systemd/system").is_dir():
        return False
    return subprocess.run(["systemctl", "daemon-reload"], capture_output=True, check=False).returncode == 0
