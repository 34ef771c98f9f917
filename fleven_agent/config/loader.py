"""Gets the settings from a short-lived process, so that pydantic never enters the daemon. See ``config.parser``."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fleven_agent.config.settings import Settings, rebuild
from fleven_agent.errors import AgentError, ConfigurationError

START_SECONDS = 90.0  # a Pi Zero under load takes its time to start Python
RELOAD_SECONDS = 15.0  # the loop waits meanwhile: what it does besides must not wait for ever
LOOK_SECONDS = 1.0


def load_settings(
    file: Path, *, timeout_seconds: float = START_SECONDS, while_waiting: Callable[[], None] | None = None
) -> Settings:
    """Read node.toml and its drop-ins.

    Args:
        file: node.toml.
        timeout_seconds: after which it is given up.
        while_waiting: called every second meanwhile.

    Raises:
        ConfigurationError: the configuration cannot be used.
        AgentError: it could not be read at all.
    """
    # -P: a module of the same name in the working directory must not be taken for ours.
    command = [sys.executable, "-P", "-m", "fleven_agent.config.parser", str(file)]
    try:
        exit_code, output, errors = _run(command, timeout_seconds, while_waiting)
        if exit_code:
            last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise AgentError(f"the configuration could not be read: {' '.join(last)}")
        answer = json.loads(output)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise AgentError(f"the configuration could not be read: {error}") from None
    if "problems" in answer:
        raise ConfigurationError(list(answer["problems"]))
    return rebuild(Settings, answer["settings"])


def _run(
    command: list[str], timeout_seconds: float, while_waiting: Callable[[], None] | None
) -> tuple[int, bytes, bytes]:
    """Return exit code, output and errors of a program; it is killed when it takes too long."""
    deadline = time.monotonic() + timeout_seconds
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while True:
            left = deadline - time.monotonic()
            try:
                output, errors = process.communicate(timeout=max(0.0, min(LOOK_SECONDS, left)))
            except subprocess.TimeoutExpired:
                if left <= LOOK_SECONDS:
                    process.kill()
                    raise subprocess.TimeoutExpired(command, timeout_seconds) from None
                if while_waiting is not None:
                    while_waiting()
            else:
                return process.returncode, output, errors
