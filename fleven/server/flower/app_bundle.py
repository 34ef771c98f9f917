"""Apps as Flower takes them: reading their config keys, and a marked copy of one for each submission.

The mark is how a submission is found again. Flower lists the version of every bundle that it was given, so each
submission goes out as a copy of the app whose version carries a token of its own (`0.1.0+fleven.42.1.9f8e7d6c`). After
a crash the list of runs answers whether the submission happened, for any app, whatever else was submitted meanwhile.
Nothing here calls Flower; what belongs into a bundle, `line` knows.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from fleven.server.errors import ServerError
from fleven.server.flower.line import installed_line
from fleven_agent.common.errors import EXIT_USAGE
from fleven_agent.common.files import write_atomically
from fleven_agent.common.foreign_text import parse_toml

CONFIG_FILE = "pyproject.toml"
MAXIMUM_CONFIG_BYTES = 1_000_000
"""Of that file, unpacked."""
MAXIMUM_BYTES = 64_000_000
MARK = re.compile(r"fleven\.(\d+)\.(\d+)\.([0-9a-f]{16})$")
CHECKER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
STAGED = re.compile(r"\.?run-(\d+)-\d+(?:\.partial)?")
"""Name of a marked copy, complete or not."""


class AppUnusableError(ServerError):
    """The app of a schedule is missing or is not a Flower app."""

    code = "app-unusable"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class App:
    """A Flower app: where it is, and what it can be configured with.

    Attributes:
        path: folder or `.fab` file.
        name: `publisher/name`.
        version: as in its pyproject.toml.
        config: its own run config, nested keys joined by dots.
        checker: `module:function` in it that says what is wrong with a run config, or "" when it names none.
    """

    path: Path
    name: str
    version: str
    config: Mapping[str, bool | int | float | str]
    checker: str = ""


def read_document(path: Path) -> dict[str, Any]:
    """Return the pyproject.toml of an app folder or of a FAB.

    Raises:
        AppUnusableError: there is none, or it is not TOML.
    """
    try:
        if path.is_dir():
            content = (path / CONFIG_FILE).read_bytes()
        else:
            with zipfile.ZipFile(path) as bundle, bundle.open(CONFIG_FILE) as file:
                content = file.read(MAXIMUM_CONFIG_BYTES + 1)
        if len(content) > MAXIMUM_CONFIG_BYTES:
            raise AppUnusableError(f"{path}: its {CONFIG_FILE} is larger than {MAXIMUM_CONFIG_BYTES} bytes")
        return parse_toml(content)
    except FileNotFoundError as error:
        raise AppUnusableError(
            f"{path}: no Flower app here", hint="name a folder with pyproject.toml, or a .fab"
        ) from error
    except (OSError, KeyError, zipfile.BadZipFile, ValueError) as error:
        raise AppUnusableError(f"{path}: cannot be read as a Flower app: {error}") from error


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return a nested table with dotted keys, as Flower names run-config keys."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_app(path: Path) -> App:
    """Read what a Flower app says about itself.

    Raises:
        AppUnusableError: it is not a Flower app.
    """
    document, line = read_document(path), installed_line()
    try:
        tool = document
        for key in line.app_table:
            tool = tool[key]
        name = f"{tool['publisher']}/{document['project']['name']}"
        version = str(document["project"]["version"])
        components = tool["components"]
        missing = [part for part in line.app_components if part not in components]
    except (KeyError, TypeError) as error:
        raise AppUnusableError(
            f"{path}: its {CONFIG_FILE} has no {error} for Flower ([{'.'.join(line.app_table)}])"
        ) from error
    if missing:
        raise AppUnusableError(f"{path}: its {CONFIG_FILE} names no {' and no '.join(missing)}")
    checker = document["tool"].get("fleven", {}).get("check-run-config", "")
    if not (isinstance(checker, str) and (not checker or CHECKER.fullmatch(checker))):
        raise AppUnusableError(f"{path}: its {CONFIG_FILE}: tool.fleven.check-run-config is not module:function")
    return App(path, name, version, flattened(tool.get("config", {})), checker)


def override_problems(app: App, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with overrides, by key: keys that the app does not have, values of another type."""
    import difflib

    problems: dict[str, str] = {}
    for key, value in overrides.items():
        if key not in app.config:
            close = difflib.get_close_matches(key, app.config, n=1)
            hint = f"did you mean {close[0]}?" if close else f"its keys: {', '.join(sorted(app.config)) or 'none'}"
            problems[key] = f"the app {app.name} has no such config key ({hint})"
            continue
        wanted, given = type(app.config[key]), type(value)
        if wanted is not given and not (wanted is float and given is int):
            names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
            problems[key] = f"{value!r} is not {names[wanted]} (the default is {app.config[key]!r})"
    return problems


def parse_value(app: App | None, key: str, text: str) -> bool | int | float | str:
    """Return the value of `key=text`, in the type of the app's own default where there is one."""
    default = app.config.get(key) if app is not None else None
    if isinstance(default, str):
        return text.strip("\"'") if text[:1] in "\"'" and text[:1] == text[-1:] else text
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, bool | int | float | str) else text


def marked_version(version: str, mark: str) -> str:
    """Return a version that carries a mark in its local part (PEP 440), beside one that it may have."""
    return f"{version}.{mark}" if "+" in version else f"{version}+{mark}"


def files_of(folder: Path) -> list[Path]:
    """Return the files, relative to the folder, that Flower could take into a bundle.

    Folders that begin with a dot, virtual environments and symbolic links are left out.
    """
    found: list[Path] = []
    line = installed_line()
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != "__pycache__" and not (here / name / "pyvenv.cfg").exists()
        )
        found += [
            (here / name).relative_to(folder)
            for name in sorted(names)
            if (Path(name).suffix in line.bundle_suffixes or name in line.bundle_files)
            and not (here / name).is_symlink()
        ]
    return found


def stage(app: Path, target: Path, mark: str) -> Path:
    """Copy an app to `target` with a mark in its version; an older copy there is replaced.

    Args:
        app: folder or `.fab`.
        target: the folder to make.
        mark: ends up as the local part of the version.

    Raises:
        AppUnusableError: it cannot be read, or is far too large for a bundle.
    """
    document = read_document(app)
    read_app(app)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if app.is_dir():
        files = files_of(app)
        if sum((app / file).stat().st_size for file in files) > MAXIMUM_BYTES:
            hint = "name its files in fab-include, or move data and environments out of it"
            raise AppUnusableError(f"{app}: is too large for an app", hint=hint)
        for file in files:
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(app / file, partial / file)
    else:
        with zipfile.ZipFile(app) as bundle:
            own = installed_line().bundle_own_folder
            members = [name for name in bundle.namelist() if not name.startswith((own, "/")) and ".." not in name]
            if sum(bundle.getinfo(name).file_size for name in members) > MAXIMUM_BYTES:
                raise AppUnusableError(f"{app}: is too large for an app")
            bundle.extractall(partial, members)  # names were checked above
    document["project"]["version"] = marked_version(str(document["project"]["version"]), mark)
    write_atomically(partial / CONFIG_FILE, tomli_w.dumps(document).encode())
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def sweep_staged(apps: Path, open_run_ids: set[int]) -> None:
    """Remove the copies of runs that have ended: those that a crash kept from being removed.

    Args:
        apps: the folder of all copies, `run-N-M` of run N and attempt M.
        open_run_ids: runs whose copies stay.
    """
    for folder in apps.glob("*run-*"):
        match = STAGED.fullmatch(folder.name)
        if match is not None and int(match[1]) not in open_run_ids:
            shutil.rmtree(folder, ignore_errors=True)


def remove_staged(target: Path, flwr_home: Path, mark: str) -> None:
    """Remove a finished attempt's copy, and what Flower unpacked of it on this machine."""
    shutil.rmtree(target, ignore_errors=True)
    for installed in (flwr_home / installed_line().unpacked_apps).glob(f"*{mark}*"):
        shutil.rmtree(installed, ignore_errors=True)
