"""server.toml and its drop-ins, read from the disk: the one parser of every command.

What `fleven-server config check` accepts is what the daemons run. All problems are reported at once, as
`file: key: problem (hint)`. Must not import the database.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fleven.server.config.settings import ServerConfig
from fleven.server.errors import ConfigurationError
from fleven_agent.common.foreign_text import parse_toml, printable

DEFAULT_CONFIG_FILE = Path("/etc/fleven/server.toml")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with the files that it was read from."""

    config: ServerConfig
    files: tuple[Path, ...]


def config_file(option: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[Path, bool]:
    """Return the configuration file to read, and whether it was named by the operator (and so must exist)."""
    if option is not None:
        return option, True
    if named := environment.get("FLEVEN_SERVER_CONFIG"):
        return Path(named), True
    return DEFAULT_CONFIG_FILE, False


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` applied to it; tables are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def problem_lines(error: ValidationError, locate: Mapping[str, str], default: str) -> list[str]:
    """Return one line `file: key: problem` for each problem of a validation.

    Args:
        error: pydantic's error.
        locate: dotted key → the file that set it last.
        default: the file to name when no file set the key.
    """
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        message = printable(problem["msg"].removeprefix("Value error, "))
        if problem["type"] == "extra_forbidden":
            message = "unknown key (see `fleven-server config show` for all keys)"
        file = next((locate[k] for k in (key, key.partition(".")[0]) if k in locate), default)
        lines.append(f"{file}: {key}: {message}" if key else f"{file}: {message}")
    return lines


def load(
    option: Path | None = None, environment: Mapping[str, str] = os.environ, *, without: Path | None = None
) -> Loaded:
    """Read server.toml and the drop-ins of server.toml.d in the order of their names.

    Args:
        option: the value of `--config`.
        environment: may name the file.
        without: a file that is passed over, to see what would hold without it.

    Raises:
        ConfigurationError: a file cannot be read, is not TOML, or holds wrong or unknown keys; all problems at once.
    """
    first, named = config_file(option, environment)
    files = [first, *sorted(Path(f"{first}.d").glob("*.toml"))]
    problems: list[str] = []
    merged: dict[str, Any] = {}
    read: list[Path] = []
    locate: dict[str, str] = {}
    for file in files:
        if file == without or (file == first and not named and not file.exists()):
            continue
        try:
            content = parse_toml(file.read_bytes())
        except OSError as error:
            problems.append(f"{file}: {error.strerror or error}")
        except ValueError as error:
            problems.append(f"{file}: {error}")
        else:
            read.append(file)
            merged = merge(merged, content)
            for key, value in content.items():
                locate[key] = str(file)
                if isinstance(value, dict):
                    locate.update({f"{key}.{inner}": str(file) for inner in value})
    config = ServerConfig()
    if not problems:
        try:
            config = ServerConfig.model_validate(merged)
        except ValidationError as error:
            problems.extend(problem_lines(error, locate, str(first)))
    if problems:
        raise ConfigurationError("the configuration has problems", problems=problems)
    return Loaded(config, tuple(read))
