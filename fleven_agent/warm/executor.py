"""Flower's executor starts tasks without their tokens in the command line, and says whose app a task belongs to.

Nothing is changed in a Flower that is not as known; the caller then says so. Imports Flower in functions only.
"""

import importlib
import inspect
import os
import subprocess
from collections.abc import Callable
from typing import Any

from fleven_agent.common.cell.hidden_tokens import HiddenTokens
from fleven_agent.common.cell.stand_in import APP_VARIABLE, IDENTITY_VARIABLE
from fleven_agent.warm import apps_file
from fleven_agent.warm.flower_internals import installed_internals


def hide_tokens() -> None:
    """Have this process's executor hide tokens and name apps; raises ``ValueError`` or ``ImportError`` if it cannot."""
    flower = installed_internals()
    if "--token-file" not in inspect.getsource(importlib.import_module(flower.arguments_module)):
        raise ValueError("this Flower reads no token from a file")
    module = importlib.import_module(flower.executor_module)
    plugin: Any = getattr(importlib.import_module(flower.plugin_module), flower.plugin_class)
    if module.__dict__.get("subprocess") is not subprocess or not callable(getattr(plugin, "launch_task", None)):
        raise ValueError("the executor starts programs in an unknown way")
    launch: Callable[..., object] = plugin.launch_task

    def launch_named(self: object, token: str, task: Any) -> object:
        os.environ[APP_VARIABLE] = bundle = str(getattr(task, "fab_hash", "") or "")
        os.environ[IDENTITY_VARIABLE] = apps_file.app_of(bundle)
        return launch(self, token=token, task=task)

    plugin.launch_task = launch_named
    module.__dict__["subprocess"] = HiddenTokens()
