"""The car's cell: runs tasks isolated from the machine, as forks of itself when it is warm, else as new programs.

The agent tells it over a connection what to import and with which environment; it then starts itself again with
that environment, so that all is imported as a new process would. Whatever is not as expected makes a task a new
program, in the same cell. See ``common.cell.server`` for all that is not about warmth.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from fleven_agent.common.cell import server as base
from fleven_agent.common.cell.request import Request
from fleven_agent.common.cell.sandbox import PR_SET_DUMPABLE, process_control
from fleven_agent.common.cell.server import Running
from fleven_agent.warm import child, memory, polling, preload
from fleven_agent.warm import request as requests
from fleven_agent.warm.exit_hook import ending
from fleven_agent.warm.flower_internals import NotRecognisedError, installed_internals
from fleven_agent.warm.kept import FOLDER_VARIABLE, Kept
from fleven_agent.warm.request import Refused
from fleven_agent.warm.settings import Fallback, WarmReason
from fleven_agent.warm.waiting import Waiting, wait

log = logging.getLogger(__name__)

CONFIGURATION = "FLEVEN_CELL_CONFIGURATION"
"""Variable with what the agent asked for, across a new start; taken out at once."""
BEGAN = b"began\n"
MODULE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
MAXIMUM_LEARNED = 2_000
IMPORT_SECONDS = 5.0
"""How long a task waits while modules are imported that the last two needed: without that it would import them too."""


EXPECTED_SECONDS = 60.0
"""How long after a task the process of the next one waits."""
DESCRIPTORS = 3
"""Of a task: standard input, output and errors."""


class Handover(BaseException):
    """What the forked process needs to become a task: what that is, or where it will be told.

    Args:
        note: descriptor on which it says that it has begun.
        loaded: names of the modules that it need not import.
        task: the task and its descriptors.
        told_on: connection on which it is told, when there is no task yet.
    """

    def __init__(
        self,
        note: int,
        loaded: frozenset[str],
        task: tuple[Request, list[int]] | None = None,
        told_on: socket.socket | None = None,
    ) -> None:
        super().__init__()
        self.note = note
        self.loaded = loaded
        self.task = task
        self.told_on = told_on


class WarmCell(base.Cell):
    """A cell that may be warm."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.environment = dict(os.environ)
        self.processors = os.sched_getaffinity(0)
        self.current: dict[str, Any] = json.loads(options.configuration) if options.configuration else {}
        """What this process was started for."""
        self.told.left = options.left
        self.told.left_out = dict(self.warm.get("left_out", {})) if self.warm else {}
        self.loaded: frozenset[str] = frozenset()
        """What tasks find imported."""
        self.learned: list[str] = []
        self.imported_once: set[str] = set()
        self.import_until = float("-inf")
        """Until when a waiting task does not end an import."""
        self.waiting: Waiting | None = None
        self.expected_until = float("-inf")
        """Until when the next task is near enough to have its process waiting."""
        self.without_culprit: dict[str, Any] | None = None
        """What to start again with once no task waits."""
        self.kept = Kept(options.kept) if options.kept is not None else None
        self.preloader = preload.Preloader(int(self.warm["maximum_memory_bytes"]) if self.warm else 0)

    @property
    def warm(self) -> dict[str, Any] | None:
        """The options of a warm process; None for one that imports nothing."""
        found: dict[str, Any] | None = self.current.get("warm")
        return found

    def cycle(self, now: float) -> None:
        """Do what is due; a new configuration is taken over in a pause."""
        super().cycle(now)
        if self.running is not None or self.queue:
            return
        if self.without_culprit is not None:
            self.start_again(self.without_culprit, None)
        if self.configuration is not None and not self.watcher_bytes:
            wanted, self.configuration = self.configuration, None
            if _essence(wanted) != _essence(self.current):
                self.start_again(wanted, None)
        if self.warm is not None and (reason := self._reason_to_cool(now)) is not None:
            self.start_again({**self.current, "warm": None}, reason)
        self._have_one_waiting(now)

    def _reason_to_cool(self, now: float) -> WarmReason | None:
        if self.warm is None:
            return None
        if memory.is_short(int(self.warm["minimum_available_bytes"])):
            return WarmReason.MEMORY_PRESSURE
        if now - self.active_at > float(self.warm["idle_seconds"]):
            return WarmReason.IDLE
        return None

    def start_again(self, configuration: dict[str, Any], left: WarmReason | None) -> NoReturn:
        """Become a new process of this kind with another configuration; connections and home stay."""
        self._end_waiting()
        # A line now and then is what a card of a waiting car is written for: that it cools after each run says nothing.
        level = logging.DEBUG if left is WarmReason.IDLE else logging.INFO
        what = f"cooling reason={left.value}" if left else "warming" if configuration["warm"] else "ready"
        log.log(level, "cell=%s", what)
        environment = {"PATH": os.environ.get("PATH", os.defpath), **configuration.get("environment", {})}
        environment = self.task_environment(environment)
        environment[CONFIGURATION] = json.dumps(configuration)
        if self.notify.path:
            environment["NOTIFY_SOCKET"] = self.notify.path
        flags = configuration["warm"]["interpreter_flags"] if configuration["warm"] else ""
        arguments = [sys.executable, *([flags] if flags else []), "-m", "fleven_agent.warm", "cell"]
        arguments += ["--unit", self.options.unit, "--listener", str(self.listener.fileno())]
        arguments += ["--home", str(self.options.home), "--home-owner", self.home.owner]
        arguments += [f"--address-option={self.options.address_option}"]
        arguments += ["--maximum-bytes", str(self.options.maximum_bytes)]
        arguments += ["--maximum-files", str(self.options.maximum_files)]
        for folder in self.options.swept:
            arguments += ["--swept", str(folder)]
        if self.options.kept is not None:
            arguments += ["--kept", str(self.options.kept)]
        if left is not None:
            arguments += ["--left", left.value]
        self.listener.set_inheritable(True)
        if self.watcher is not None:
            arguments += ["--watcher", str(self.watcher.fileno())]
            self.watcher.set_inheritable(True)
        signal.set_wakeup_fd(-1)
        self.notify.give_time()
        os.execve(sys.executable, arguments, environment)  # noqa: S606

    # -- what is kept

    def task_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return what of an environment a task gets, and where it may keep a model of its own."""
        kept = super().task_environment(environment)
        return kept if self.kept is None else {**kept, FOLDER_VARIABLE: str(self.kept.folder)}

    def written_folders(self) -> list[Path]:
        """Return the folders on disks that a task may write to."""
        return [*super().written_folders(), *([self.kept.folder] if self.kept is not None else [])]

    def leave_nothing(self) -> int:
        """End and remove what is left of a task, and put what it kept in order. Raises ``LeftoverError``."""
        left = super().leave_nothing()
        if self.kept is not None and (removed := self.kept.tidy()):
            log.info("cell=removed-of-kept files=%d folder=%s", removed, self.kept.folder)
        return left

    # -- warmth

    def warm_up(self) -> None:
        """Import what the configuration names; on a module that must not be here, start again without it."""
        if self.warm is None:
            return
        self._end_waiting()
        with self.notify.slow():
            self._warm_up(self.warm)

    def _warm_up(self, warm: Mapping[str, Any]) -> None:
        started = time.monotonic()
        left_out = self.told.left_out
        try:
            preload.warm_up(
                self.preloader, warm["modules"], [*self.learned, *warm["learned"]], left_out, self._is_wanted
            )
        except preload.CulpritError as culprit:
            log.warning("cell=restarting left_out=%s why=%r", culprit.module, culprit.why)
            left = {**left_out, culprit.module: culprit.why}
            learned = [] if culprit.module in left_out else warm["learned"]
            self.told.ready = False
            self.without_culprit = {**self.current, "warm": {**warm, "left_out": left, "learned": learned}}
            self._accept_all()
            if not self.queue:
                self.start_again(self.without_culprit, None)
            return  # a task that waits would be lost; it is started as a program
        if warm["short_polling"] and not self.told.ready and installed_internals().clientapp_module in sys.modules:
            for shorten in (polling.shorten_object_retries, polling.close_channel_at_once):
                with contextlib.suppress(NotRecognisedError):
                    shorten()
        self.loaded = frozenset(sys.modules)
        memory.settle()
        self.told.memory_bytes = memory.proportional_bytes()
        self.told.modules = len(sys.modules)
        self.told.ready = True
        self.active_at = time.monotonic()
        log.info(
            "cell=warm modules=%d memory_mib=%d seconds=%.1f",
            len(sys.modules),
            (self.told.memory_bytes or 0) >> 20,
            time.monotonic() - started,
        )
        self.tell()

    def _is_wanted(self) -> bool:
        self._accept_all()
        return bool(self.queue) and time.monotonic() > self.import_until

    def start_task(self, running: Running) -> None:
        """Fork where that can be the task, else start its program; raises ``OSError``."""
        reason = self._why_cold(running.asked.request)
        if reason is None:
            if not self._hand_to_waiting(running):
                self._fork(running)
            return
        self._end_waiting()
        self._count_cold(reason)
        self.start_program(running)

    def _why_cold(self, request: Request) -> Fallback | None:
        if self.warm is None or not self.told.ready:
            return Fallback.ABSENT
        if memory.is_short(int(self.warm["minimum_available_bytes"])):
            return Fallback.MEMORY
        try:
            requests.check(request, self.environment, self.processors, self.warm["interpreter_flags"])
        except Refused as refusal:
            return refusal.reason
        return None

    def _count_cold(self, reason: Fallback) -> None:
        self.told.cold[reason.value] = self.told.cold.pop(reason.value, 0) + 1

    def _fork(self, running: Running) -> None:
        note_read, note_write = os.pipe2(os.O_CLOEXEC)
        process_id = os.fork()
        if process_id == 0:
            own = [os.dup(descriptor) for descriptor in running.asked.descriptors]
            running.asked.close()
            self._let_go(note_read)
            raise Handover(note_write, self.loaded, (running.asked.request, own))
        os.close(note_write)
        os.set_blocking(note_read, False)
        running.note = note_read
        running.row.process_id, running.row.warm = process_id, True

    def _let_go(self, note: int) -> None:
        """Close, in a fork, what is this process's alone."""
        signal.set_wakeup_fd(-1)
        for held in (self.listener, self.watcher):
            if held is not None:
                held.close()
        for descriptor in (note, self.wake_read, self.wake_write):
            os.close(descriptor)

    # -- the next task's process

    def _have_one_waiting(self, now: float) -> None:
        """Fork the next task's process while there is nothing else to do, and give it up when no task comes."""
        if now > self.expected_until or self.warm is None or not self.told.ready:
            self._end_waiting()
            return
        if self.waiting is not None or preload.thread_count() != 1:
            return
        if memory.is_short(int(self.warm["minimum_available_bytes"])):
            return
        note_read, note_write = os.pipe2(os.O_CLOEXEC)
        here, there = socket.socketpair()
        process_id = os.fork()
        if process_id == 0:
            here.close()
            self._let_go(note_read)
            raise Handover(note_write, self.loaded, told_on=there)
        there.close()
        os.close(note_write)
        os.set_blocking(note_read, False)
        self.waiting = Waiting(process_id, here, note_read)

    def _hand_to_waiting(self, running: Running) -> bool:
        """Have the process that waits become this task; False when there is none."""
        waiting, self.waiting = self.waiting, None
        if waiting is None:
            return False
        try:
            waiting.hand_over(running.asked.request, running.asked.descriptors)
        except OSError:
            waiting.end()
            return False
        running.note = waiting.note
        running.row.process_id, running.row.warm = waiting.process_id, True
        return True

    def _end_waiting(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.end()

    def begin_again(self, running: Running) -> bool:
        """Start the program of a task whose fork ended before it had begun."""
        if running.note is None or running.noted.startswith(BEGAN) or running.row.killed:
            return False
        os.close(running.note)
        running.note, running.noted = None, b""
        self._count_cold(Fallback.SETUP)
        self.start_program(running)
        running.row.exit_status = running.row.ended_at = running.row.cpu_seconds = None
        self.running = running
        self.tell()
        return True

    def count(self, running: Running) -> None:
        """Count a task that was a fork."""
        self.told.tasks += running.row.warm

    def task_ended(self, running: Running) -> None:
        """Import what two forks have imported besides, so that the next finds it loaded.

        What one task alone needed, such as a reader of new trips' files, would be held until the car is switched off.
        """
        if not running.row.warm or self.warm is None:
            return
        self.expected_until = time.monotonic() + EXPECTED_SECONDS
        known = {*self.learned, *self.warm["learned"]}
        found = [name for name in believable_modules(running.noted.removeprefix(BEGAN)) if name not in known]
        new = [name for name in found if name in self.imported_once]
        if len(self.imported_once) < MAXIMUM_LEARNED:
            self.imported_once.update(found)
        if new and len(self.learned) < MAXIMUM_LEARNED:
            self.learned += new
            self.told.learned = self.learned
        if self.preloader.missing([*self.learned, *self.warm["learned"]], self.told.left_out):
            self.import_until = time.monotonic() + IMPORT_SECONDS
            self.warm_up()


def believable_modules(note: bytes) -> list[str]:
    """Return the names in what a task says it imported that are modules of installed packages.

    A hostile task may say anything: nothing of Python's own is taken, for some of it acts when it is imported, and no
    program.
    """
    try:
        names = json.loads(note)
    except ValueError:
        return []
    if not isinstance(names, list):
        return []
    found = [name for name in names[:MAXIMUM_LEARNED] if isinstance(name, str) and MODULE_NAME.match(name)]
    return [name for name in found if "__" not in name and _is_installed(name.partition(".")[0])]


@functools.cache
def _is_installed(package: str) -> bool:
    if package in preload.FORBIDDEN_PACKAGES or package in sys.stdlib_module_names:
        return False
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and bool(spec.origin) and str(spec.origin).startswith(preload.installed_folders())


def _essence(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return what of a configuration makes another process necessary."""
    warm = configuration.get("warm")
    if not warm:
        return {}
    kept = {name: value for name, value in warm.items() if name not in ("learned", "left_out")}
    return {"warm": kept, "environment": configuration.get("environment")}


def run_task(handover: Handover) -> NoReturn:
    """Become the task in the forked process and run it to its end; the cell starts its program if that fails."""
    try:
        task = handover.task
        if handover.told_on is not None:
            task = wait(handover.told_on, DESCRIPTORS)
        if task is None:
            os._exit(0)
        request, descriptors = task
        process_control(PR_SET_DUMPABLE, 1)
        code = child.take_over(child.in_the_cell(request), descriptors)
        os.write(handover.note, BEGAN)
    except Exception as error:
        print(f"warm=setup-failed error={error!r}", file=sys.stderr, flush=True)
        os._exit(child.NEVER_BEGAN)
    ending.before = _leaving(handover.note, handover.loaded)
    child.run_program(code)


def _leaving(note: int, loaded: frozenset[str]) -> Callable[[int], None]:
    def leave(status: int) -> None:
        if status == 0:
            with contextlib.suppress(OSError):
                names = preload.shareable_modules(preload.imported_since(loaded))
                os.write(note, json.dumps(names).encode()[: base.MAXIMUM_NOTE_BYTES])

    return leave


def main(arguments: list[str] | None = None) -> int:
    """Run the cell; in a forked task this does not return but ends as the task ends."""
    parser = base.parser(__doc__)
    parser.add_argument("--kept", type=Path, help="folder in which apps may keep a car's own models from run to run")
    parser.add_argument("--left", choices=list(WarmReason), help="why the process before was left")
    options = parser.parse_args(arguments)
    options.configuration = os.environ.pop(CONFIGURATION, "")
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder this was started in; a task gets its program's folder instead
    base.prepare()
    cell = WarmCell(options)
    try:
        cell.tell()
        cell.warm_up()
        return base.run(cell)
    except Handover as handover:
        root = logging.getLogger()
        root.handlers.clear()
        root.setLevel(logging.WARNING)
        forked = handover
    run_task(forked)
