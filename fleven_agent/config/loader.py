"""Gets the settings from a short-lived process, so that pydantic never enters the daemon. See ``config.parser``."""

import json
import subprocess
import sys
from pathlib import Path

from fleven_agent.config.settings import Settings, rebuild
from fleven_agent.errors import AgentError, ConfigurationError

START_SECONDS = 90.0  # a Pi Zero under load takes its time to start Python
RELOAD_SECONDS = 15.0  # the loop waits meanwhile, and systemd's watchdog does not wait for ever


def load_settings(file: Path, *, timeout_seconds: float = START_SECONDS) -> Settings:
    """Read node.toml and its drop-ins.

    Raises:
        ConfigurationError: the configuration cannot be used.
        AgentError: it could not be read at all.
    """
    # -P: a module of the same name in the working directory must not be taken for ours.
    command = [sys.executable, "-P", "-m", "fleven_agent.config.parser", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_seconds, check=True)
        answer = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise AgentError(f"the configuration could not be read: {' '.join(last)}") from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise AgentError(f"the configuration could not be read: {error}") from None
    if "problems" in answer:
        raise ConfigurationError(list(answer["problems"]))
    return rebuild(Settings, answer["settings"])
