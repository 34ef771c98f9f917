"""Shorter waits in SuperNode and its executor while a run is active, longer ones while the server wants nothing.

Flower polls at fixed intervals: SuperNode asks the SuperLink every 3 s and looks every 0.5 s whether the ClientApp has
answered; the executor asks every 1 s for a task. Here ``time.sleep`` of exactly those two modules is replaced by one
that waits a share of the time that has passed since something happened, and no longer than Flower would have (but in a
fleet so large that one SuperLink could not bear it). So a wait costs at most that share of what was waited for. While
the server will say when a run is near, the agent has SuperNode ask much more rarely than Flower, and ends its wait when
the word comes (``pace_file``).

Nothing is replaced in a Flower whose waits are not the known ones: the program then runs as Flower has it, and says so.
"""

import ast
import importlib
import logging
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fleven_agent.common.files import program_on_path
from fleven_agent.warm import app_identity, executor, memory, pace_file, twin
from fleven_agent.warm.flower_internals import NotRecognisedError, Wait, installed_internals
from fleven_agent.warm.heartbeats import stretch_heartbeats
from fleven_agent.warm.pace_file import PaceFile
from fleven_agent.warm.programs import SUPEREXEC, SUPERNODE, is_python_program
from fleven_agent.warm.reconnecting import reconnect_soon
from fleven_agent.warm.signing_clock import sign_by_server_clock

log = logging.getLogger(__name__)

# Of the time since something happened, this share is waited before looking again: 50 ms after 1 s, 3 s after a minute.
SHARE = 0.05
LOCAL_FLOOR_SECONDS = 0.02  # inside the machine
# SuperNode announces a task a moment before it stores the message. Flower's executor, asking every second, never comes
# between; ours waits this long before it claims the task.
SETTLE_SECONDS = 0.02


class Pace:
    """How long to wait before looking again: a share of the time since something happened, between two bounds."""

    def __init__(self, floor_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.floor_seconds = floor_seconds
        self._clock = clock
        self._since: float | None = None

    def happened(self) -> None:
        """Note that something happened now."""
        self._since = self._clock()

    def seconds(self, longest_seconds: float) -> float:
        """Return the wait, at most ``longest_seconds``; exactly that when nothing ever happened."""
        if self._since is None:
            return longest_seconds
        return min(longest_seconds, max(self.floor_seconds, SHARE * (self._clock() - self._since)))


class PacedTime:
    """Stands for the module ``time`` in one module of Flower; only ``sleep`` differs."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


class SupernodeWaits:
    """SuperNode's waits: for the SuperLink's next message, and for the ClientApp's reply."""

    def __init__(
        self, file: PaceFile, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._file, self._clock, self._pause = file, clock, pause
        self._superlink = Pace(pace_file.DEFAULT_FLOOR_SECONDS, clock=clock)
        self._reply = Pace(LOCAL_FLOOR_SECONDS, clock=clock)
        self._in_task = False
        self._calm = False

    def seconds(self, asked_seconds: float) -> float:
        """Return the wait for one of Flower's two intervals, as things stand now."""
        waits_for_superlink = asked_seconds >= installed_internals().superlink_wait_seconds
        if self._in_task == waits_for_superlink:  # a task began, or its reply was just sent
            self._in_task = not waits_for_superlink
            (self._superlink if waits_for_superlink else self._reply).happened()
        if not waits_for_superlink:
            return self._reply.seconds(asked_seconds)
        wanted = self._file.wanted
        calm = wanted.pull_seconds is not None and wanted.pull_seconds > asked_seconds
        if self._calm and not calm:  # the server has a run for this car, or will have one soon
            self._superlink.happened()
        self._calm, self._superlink.floor_seconds = calm, wanted.floor_seconds
        longest = wanted.pull_seconds if calm and wanted.pull_seconds is not None else asked_seconds
        # Of very many cars the SuperLink bears less than Flower's own pace.
        return self._superlink.seconds(max(longest, wanted.floor_seconds))

    def sleep(self, asked_seconds: float) -> None:
        """Wait instead of ``asked_seconds``; a wait for the SuperLink ends when the agent has the word."""
        if asked_seconds < installed_internals().superlink_wait_seconds:
            self._pause(self.seconds(asked_seconds))
            return
        first = self.seconds(asked_seconds)
        if not self._calm:
            self._pause(first)
            return
        pace_file.wait(lambda began: began + self._while_calm(asked_seconds), self._pause, self._clock)

    def _while_calm(self, asked_seconds: float) -> float:
        """Return how long a wait may last in all while the server wants nothing; nothing once it does."""
        seconds = self.seconds(asked_seconds)
        return seconds if self._calm else 0.0


def waits_in(source: str) -> frozenset[Wait]:
    """Return every ``time.sleep`` in ``source``; raises ``NotRecognisedError`` when ``time`` is used otherwise."""
    found: set[Wait] = set()

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time" and node.attr != "sleep":
            raise NotRecognisedError(f"time.{node.attr} in {function}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep":
            argument = node.args[0] if len(node.args) == 1 and not node.keywords else None
            if not isinstance(argument, ast.Constant) or not isinstance(argument.value, int | float):
                raise NotRecognisedError(f"time.sleep in {function} with something else than a number")
            found.add(Wait(function, float(argument.value)))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(source), "")
    return frozenset(found)


def recognised(name: str, known: frozenset[Wait]) -> ModuleType:
    """Import Flower's module ``name``; raises ``NotRecognisedError`` when its waits are not the known ones."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise NotRecognisedError(f"no module {name}") from error
    if getattr(module, "time", None) is not time or module.__file__ is None:
        raise NotRecognisedError(f"{name} does not use the module time")
    found = waits_in(Path(module.__file__).read_text(encoding="utf-8"))
    if found != known:
        described = ", ".join(sorted(f"{wait.function}:{wait.seconds:g}" for wait in found)) or "none"
        raise NotRecognisedError(f"{name} waits in an unknown way ({described})")
    return module


def shorten_supernode() -> None:
    """Shorten SuperNode's waits in this process; raises ``NotRecognisedError`` and then leaves it as it is."""
    flower = installed_internals()
    module = recognised(flower.supernode_module, flower.supernode_waits)
    shorten_object_retries()
    path = os.environ.get(pace_file.VARIABLE)
    module.__dict__["time"] = PacedTime(SupernodeWaits(PaceFile(path)).sleep)
    stretch_heartbeats(flower, PaceFile(path))
    reconnect_soon(flower)


def shorten_superexec() -> None:
    """Shorten the executor's wait in this process; raises ``NotRecognisedError`` and then leaves it as it is."""
    flower = installed_internals()
    module = recognised(flower.superexec_module, flower.superexec_waits)
    runner = getattr(importlib.import_module(flower.executor_module), flower.executor_class)
    if not callable(getattr(runner, "launch", None)) or not callable(getattr(runner, "wait_for_capacity", None)):
        raise NotRecognisedError("the executor has no launch or wait_for_capacity")
    pace = Pace(LOCAL_FLOOR_SECONDS)
    launch, wait_for_capacity = runner.launch, runner.wait_for_capacity

    def launch_and_note(self: object, spec: object) -> object:
        pace.happened()
        return launch(self, spec)

    def wait_and_settle(self: object) -> None:
        time.sleep(SETTLE_SECONDS)
        wait_for_capacity(self)

    runner.launch, runner.wait_for_capacity = launch_and_note, wait_and_settle
    module.__dict__["time"] = PacedTime(lambda asked_seconds: time.sleep(pace.seconds(asked_seconds)))


def shorten_object_retries() -> None:
    """Have parts of messages asked for again sooner; raises ``NotRecognisedError`` and then leaves it as it is."""
    flower = installed_internals()
    module = importlib.import_module(flower.objects_module)
    functions = [getattr(module, name, None) for name in flower.object_functions]
    for name, function in zip(flower.object_functions, functions, strict=True):
        defaults = getattr(function, "__kwdefaults__", None) or {}
        if any(defaults.get(argument) != known for argument, (known, _) in flower.object_retries.items()):
            raise NotRecognisedError(f"{name} tries again in an unknown way")
    for function in functions:
        function.__kwdefaults__.update({argument: short for argument, (_, short) in flower.object_retries.items()})  # type: ignore[union-attr]


def close_channel_at_once() -> None:
    """Have a task's channel closed at once; raises ``NotRecognisedError`` and then leaves it as it is.

    Flower has a thread follow the channel's states to log them, and its close waits for that thread, up to 0.2 s: in a
    cell, where tasks run one after another, the next one would wait too.
    """
    flower = installed_internals()
    module = importlib.import_module(flower.task_module)
    make = module.__dict__.get(flower.channel_function)
    callback = module.__dict__.get(flower.channel_callback)
    named = getattr(getattr(callback, "__code__", None), "co_names", ())
    if not callable(make) or set(named) != flower.channel_callback_names:
        raise NotRecognisedError(f"{flower.task_module} follows its channel in an unknown way")

    def unfollowed(*arguments: Any, **options: Any) -> Any:
        channel = make(*arguments, **options)
        follow = channel.subscribe

        def subscribe(called: object, *others: Any, **named: Any) -> None:
            if called is not callback:
                follow(called, *others, **named)

        channel.subscribe = subscribe
        return channel

    module.__dict__[flower.channel_function] = unfollowed


SHORTEN = {SUPERNODE: shorten_supernode, SUPEREXEC: shorten_superexec}


def run_program(name: str, own_folder: str, *, shorter_waits: bool = True) -> object:
    """Run Flower's program ``name`` in this process with shorter waits; called by our program of that name.

    Becomes Flower's own program, unchanged, when that is not a script of this Python. Ends with 127 when there is none.
    """
    path = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    own = os.path.realpath(own_folder)
    program = program_on_path(name, os.pathsep.join(part for part in path if os.path.realpath(part) != own))
    if program is None:
        print(f"{name}: no Flower program of this name on PATH", file=sys.stderr)
        return 127
    if not is_python_program(program, sys.prefix):
        print(f"polling=unchanged program={name} reason='not a script of {sys.prefix}'", file=sys.stderr, flush=True)
        os.execv(program, [program, *sys.argv[1:]])  # noqa: S606 - it takes this process over
    memory.one_heap()
    if name == SUPERNODE:
        try:
            twin.fork_executor(SUPEREXEC, lambda: run_program(SUPEREXEC, own_folder, shorter_waits=shorter_waits))
        except (ImportError, ValueError, OSError) as error:
            print(f"executor=started-apart reason={str(error)!r}", file=sys.stderr, flush=True)
        try:
            app_identity.note_apps()
        except (ImportError, ValueError) as error:
            print(f"apps=unknown reason={str(error)!r}", file=sys.stderr, flush=True)
    if name == SUPEREXEC:
        try:
            executor.hide_tokens()
        except Exception as error:
            print(f"tokens=visible program={name} reason={str(error)!r}", file=sys.stderr, flush=True)
    try:
        if shorter_waits:
            SHORTEN[name]()
    except Exception as error:  # whatever Flower has become, it must still start
        print(f"polling=unchanged program={name} reason={str(error)!r}", file=sys.stderr, flush=True)
    if name == SUPERNODE:
        try:
            sign_by_server_clock(installed_internals(), PaceFile(os.environ.get(pace_file.VARIABLE)))
        except Exception as error:
            print(f"clock=own program={name} reason={str(error)!r}", file=sys.stderr, flush=True)
    # The real program runs under its own path, so that it finds in sys.argv and __main__ what it expects.
    sys.argv[0] = program
    if not sys.flags.safe_path:
        sys.path[0] = str(Path(program).resolve().parent)
    return runpy.run_path(program, run_name="__main__")
