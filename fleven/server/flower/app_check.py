"""Asking an app what it says of a run config, before anything is stored: in a short-lived process of its own.

The server loads no code of an app. The app names a function (`check-run-config` in its pyproject.toml), and a process
with the rights of the services' user, who will run the app anyway, calls it; the same process looks whether that user
can read the app's files. Decides nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleven.server.errors import FlowerError
from fleven.server.flower.app_bundle import App, AppUnusableError, files_of, override_problems
from fleven.server.flower.line import toml_value
from fleven.server.service_user import Account

TIMEOUT_SECONDS = 30.0
FILES_NAMED = 3
PROGRAM = """
import importlib, json, os, sys
asked = json.load(sys.stdin)
unreadable = [file for file in asked["files"] if not os.access(file, os.R_OK)]
problems = []
if asked["checker"] and not unreadable:
    sys.path.insert(0, asked["path"])
    module, _, function = asked["checker"].partition(":")
    problems = [str(line) for line in getattr(importlib.import_module(module), function)(asked["config"])]
json.dump({"unreadable": unreadable, "problems": problems}, sys.stdout)
"""


def run_config_problems(app: App, overrides: Mapping[str, Any], account: Account | None) -> list[tuple[str, str]]:
    """Return what is wrong with an app's run config as (key, problem): by its keys and types, and in its own words.

    Args:
        app: the app.
        overrides: what is laid on its own config.
        account: who will run it, when that is not the present user.

    Raises:
        AppUnusableError: that user cannot read the app, or its own check cannot be made.
    """
    found = override_problems(app, overrides)
    for key, value in overrides.items():
        if key not in found and isinstance(value, str):
            try:
                toml_value(value)
            except FlowerError as error:
                found[key] = error.message
    # Of a value that is of no use anyway, the app's own default takes the place: one mistake is told once.
    config = {**app.config, **{key: value for key, value in overrides.items() if key not in found}}
    named = [split_problem(line, config) for line in app_words(app, config, account)]
    return [*found.items(), *named]


def split_problem(line: str, config: Mapping[str, Any]) -> tuple[str, str]:
    """Return `key: problem` as its two parts; a line about no single key has "" for a key."""
    key, separator, problem = line.partition(": ")
    return (key, problem) if separator and key in config else ("", line)


def app_words(app: App, config: Mapping[str, Any], account: Account | None) -> list[str]:
    """Return what an app's own check says of a whole run config.

    Raises:
        AppUnusableError: the user cannot read the app's files, or the check itself fails.
    """
    files = [app.path / file for file in files_of(app.path)] if app.path.is_dir() else [app.path]
    if account is None:
        if unreadable := [file for file in files if not os.access(file, os.R_OK)]:
            raise unreadable_error(app, unreadable, None)
        if not app.checker:
            return []
    asked = {
        "path": str(app.path.absolute()),
        "checker": app.checker,
        "files": [str(file.absolute()) for file in files],
        "config": dict(config),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-c", PROGRAM],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            check=False,
            **(account.options() if account is not None else {}),
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except subprocess.TimeoutExpired as error:
        text = f"{app.path}: its check {app.checker} took longer than {TIMEOUT_SECONDS:.0f} s"
        raise AppUnusableError(text) from error
    except OSError as error:
        text = f"{app.path}: cannot be checked as the service's user: {sys.executable}: {error.strerror}"
        raise AppUnusableError(text) from error
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise AppUnusableError(
            f"{app.path}: its check of the run config failed: {said[-1][:300]}",
            hint=f"tool.fleven.check-run-config in its pyproject.toml names {app.checker}",
        )
    if unreadable := [Path(file) for file in answer["unreadable"]]:
        raise unreadable_error(app, unreadable, account)
    return [str(line) for line in answer["problems"]]


def unreadable_error(app: App, files: list[Path], account: Account | None) -> AppUnusableError:
    """Return the error for an app of which a user cannot read some files."""
    shown = ", ".join(str(file.relative_to(app.path) if app.path.is_dir() else file) for file in files[:FILES_NAMED])
    more = f" and {len(files) - FILES_NAMED} more" if len(files) > FILES_NAMED else ""
    user = f"the service's user {account.name}" if account is not None else "this user"
    hint = f"chmod -R a+rX {app.path}, and a+x the folders above it"
    return AppUnusableError(f"{app.path}: {user} cannot read {shown}{more}", hint=hint)
