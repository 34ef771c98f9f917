"""How SuperLink's executor hands tasks to cells: run and app named, token hidden, in a cell that waits.

A cell that waits has imported Flower and torch already, so that a run starts without that wait. Imports Flower in
functions only.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import select
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleven.server.flower import app_cell
from fleven.server.flower.line import installed_line
from fleven_agent.common.cell import messages
from fleven_agent.common.cell.hidden_tokens import HiddenTokens
from fleven_agent.common.cell.stand_in import APP_VARIABLE

log = logging.getLogger(__name__)
RUN_VARIABLE = "FLEVEN_RUN"
"""Flower's id of the run that a ServerApp is of."""
READS_VARIABLE = "FLEVEN_READS"
"""The checkpoints and models that its configuration names, as a JSON list."""
CONNECTION_VARIABLE = "FLEVEN_CELL_CONNECTION"
"""Descriptor of the connection to a cell that waits."""
NEXT_SECONDS = 15.0
"""After a run has begun, the next cell is made ready: its imports would take the run's start a processor."""


class Spare:
    """The connection to one cell that has imported what a ServerApp needs, and waits."""

    def __init__(self, path: Path, modules: Sequence[str]) -> None:
        self._path = path
        self._modules = list(modules)
        self._lock = threading.Lock()
        self._connection: Any = None

    def make(self) -> None:
        """Have one cell wait; where there is none, a run finds out and says so."""
        with self._lock:
            if self._connection is not None:
                return
            try:
                self._connection = app_cell.connect(self._path)
                prepared = {"environment": dict(os.environ), "modules": self._modules}
                messages.send(self._connection, {"prepare": prepared})
            except OSError as error:
                log.warning("cell=absent error=%r", str(error))
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None

    def take(self) -> Any:
        """Return the connection, now the caller's, or None; the next one is made in a while."""
        with self._lock:
            connection, self._connection = self._connection, None
        later = threading.Timer(NEXT_SECONDS, self.make)
        later.daemon = True
        later.start()
        if connection is not None and select.select([connection], [], [], 0)[0]:  # it has ended meanwhile
            connection.close()
            return None
        return connection


class CellPrograms(HiddenTokens):
    """Starts the programs that stand for tasks, with a cell that waits."""

    def __init__(self, spare: Spare) -> None:
        self._spare = spare

    def Popen(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: N802
        """Start one; what it says itself is heard, whatever the executor wants of the task's output."""
        options.pop("stderr", None)
        connection = self._spare.take() if arguments[0] == installed_line().server_app_program else None
        if connection is None:
            return super().Popen(arguments, **options)
        with connection:
            told = {**os.environ, CONNECTION_VARIABLE: str(connection.fileno())}
            return super().Popen(arguments, pass_fds=(connection.fileno(),), env=told, **options)


def hide_tokens(spare: Spare | None) -> None:
    """Have this process's executor pass tokens where nobody sees them, and tasks to cells.

    Args:
        spare: the cell that waits; None where tasks work as this user.

    Raises:
        ValueError, ImportError, AttributeError: this Flower is not as known.
    """
    inside = installed_line().executor_insides
    if "--token-file" not in inspect.getsource(importlib.import_module(inside.arguments_module)):
        raise ValueError("this Flower reads no token from a file")
    module = importlib.import_module(inside.executor_module)
    plugin: Any = getattr(importlib.import_module(inside.plugin_module), inside.plugin_class)
    launch = plugin.launch_task
    if module.__dict__.get("subprocess") is not subprocess or not callable(launch):
        raise ValueError("the executor starts programs in an unknown way")

    def launch_named(self: Any, token: str, task: Any) -> object:
        os.environ[APP_VARIABLE] = str(getattr(task, "fab_hash", "") or "")
        os.environ[RUN_VARIABLE] = str(int(task.run_id))
        overrides = self.get_run(task.run_id).override_config
        named = [str(overrides[key]) for key in inside.read_keys if overrides.get(key)]
        os.environ[READS_VARIABLE] = json.dumps(named)
        return launch(self, token=token, task=task)

    plugin.launch_task = launch_named
    module.__dict__["subprocess"] = HiddenTokens() if spare is None else CellPrograms(spare)
