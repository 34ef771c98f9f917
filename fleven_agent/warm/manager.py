"""What the agent uses of the warm launcher: whether it may run, its process, and what to show of it.

It imports the standard library only and stays light: torch and Flower live in the warm process, never here.

Use, in the agent's loop::

    warm = WarmServer(settings, state_directory=…, runtime_directory=…, total_memory_bytes=…)
    environment = warm.environment(environment)            # of SuperNode: PATH starts with our folder
    program = warm.supernode_program(environment)          # the flower-supernode to start, shorter waits included
    warm.tick(wanted=supernode_is_up)                      # about once a second; never blocks
    warm.status()                                          # flat; goes into `status` and the report's `warm`
    warm.tasks(), warm.process_ids()                       # what ran, and whose CPU and memory belong to SuperNode
    warm.stop()                                            # after SuperNode

Every failure here leaves Flower as it is: without a warm process the launcher starts Flower's own ``flwr-clientapp``,
and without the folder SuperNode starts exactly as it would by hand.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleven_agent.common.files import program_on_path
from fleven_agent.warm import apps_file, pace_file
from fleven_agent.warm.memory import is_short
from fleven_agent.warm.programs import CLIENTAPP, PROGRAMS, SUPERNODE, interpreter_of, write_programs
from fleven_agent.warm.settings import WarmDecision, WarmReason, WarmSettings, WarmState, decide

__all__ = ["WarmDecision", "WarmServer", "WarmSettings", "WarmTask", "decide"]

log = logging.getLogger(__name__)

RESTART_DELAYS_SECONDS = (2.0, 10.0, 60.0, 600.0)
STABLE_SECONDS = 120.0
MEMORY_DELAY_SECONDS = 10.0
MAXIMUM_FALLBACK_BYTES = 64 * 1024
FALLBACKS = "fallbacks"  # launcher.FALLBACKS_NAME


@dataclass(frozen=True, slots=True)
class WarmTask:
    """A task that the warm process ran; ``ended_at`` is None while it runs. Times are seconds since the epoch."""

    process_id: int
    launcher_process_id: int
    started_at: float
    ended_at: float | None
    exit_status: int | None
    """0 to 255, or minus the number of the signal that ended it."""
    cpu_seconds: float | None
    peak_rss_bytes: int | None
    warm: bool = True
    """False for a program that the cell has started."""
    app: str = ""
    """Hash of the app that ran, where the cell knows it."""


class WarmServer:
    """The warm process and the folder of programs in front of SuperNode's PATH.

    ``state_directory`` must allow executing files (``/run`` often does not); ``runtime_directory`` holds the socket.
    Nothing is started or written before ``environment`` or ``tick`` is called.
    """

    def __init__(
        self,
        settings: WarmSettings,
        *,
        state_directory: Path,
        runtime_directory: Path,
        total_memory_bytes: int,
        oom_score_adjustment: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.decision = decide(settings, total_memory_bytes=total_memory_bytes)
        self._state = state_directory / "warm"
        self._runtime = runtime_directory / "warm"
        self._oom_score_adjustment = oom_score_adjustment
        self._clock = clock
        self._interpreter_flags = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] | None = None
        self._started = 0.0
        self._start_after = 0.0
        self._crashes = 0
        self._starts = 0
        self._reason = self.decision.reason
        self._demanded = True
        self._fallbacks: dict[str, int] = {}
        self._fallback_offset = 0
        self._pace: pace_file.Wanted | None = None

    cell_socket: Path | None = None
    """Where tasks run isolated from the machine; None where they run as the agent's own user."""

    unplaced: str = ""
    """Why SuperNode must not start, after ``environment``: its tasks would not come to the cell."""

    def problem(self) -> str:
        """Return why no task can run; empty when it can."""
        return ""

    def close(self) -> None:
        """Let go of what is left when the agent ends."""

    # -- before SuperNode starts

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return SuperNode's environment with our programs first on PATH, or a copy when they cannot be placed.

        The warm process runs with the same environment, so call this with the final one.
        """
        result = dict(base)
        if not (self.decision.enabled or self.settings.short_polling or self.cell_socket is not None):
            return result
        own = str((self._state / "bin").absolute())
        path = os.pathsep.join(part for part in result.get("PATH", os.defpath).split(os.pathsep) if part != own)
        if (program := program_on_path(CLIENTAPP, path)) is None:
            self._give_up(WarmReason.FLOWER_NOT_FOUND, f"no {CLIENTAPP} on PATH")
            return result
        self._interpreter_flags = interpreter_of(program)[1]
        try:
            self._runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._environment is None:
                (self._runtime / FALLBACKS).unlink(missing_ok=True)  # of an agent before this one, counted by it
            folder = write_programs(
                self._state / "bin",
                runtime_directory=self._runtime,
                flags={name: interpreter_of(program_on_path(name, path) or "")[1] for name in self._programs()},
                interpreter=sys.executable,
                cell_socket=self.cell_socket,
                shorter_waits=self.settings.short_polling,
            )
        except OSError as error:
            self._give_up(WarmReason.FOLDER_UNUSABLE, f"{error.filename}: {error.strerror}")
            return result
        result["PATH"] = f"{folder}{os.pathsep}{path}"
        result[apps_file.VARIABLE] = str((self._runtime / apps_file.FILE_NAME).absolute())
        if self.settings.short_polling:
            result[pace_file.VARIABLE] = str((self._runtime / pace_file.FILE_NAME).absolute())
        self._environment = result
        return dict(result)

    def supernode_program(self, environment: Mapping[str, str]) -> str | None:
        """Return the path of the flower-supernode to start in ``environment``; None when there is none."""
        return program_on_path(SUPERNODE, environment.get("PATH", os.defpath))

    # -- while SuperNode runs

    def tick(self, *, wanted: bool) -> None:
        """Reap, read what launchers noted, and start the warm process when a task asked for it. Never blocks.

        ``wanted``: SuperNode is up, or will be again in a moment, so tasks may come.
        """
        self._read_fallbacks()
        self._reap()
        if not (wanted and self.decision.enabled and self._demanded and self._environment is not None):
            return
        if self._process is not None or self._clock() < self._start_after:
            return
        if is_short(self.settings.minimum_available_bytes):
            self._reason = WarmReason.MEMORY_PRESSURE
            self._start_after = self._clock() + MEMORY_DELAY_SECONDS
            return
        self._start(self._environment)

    def expect_task(self) -> None:
        """Have the warm process there when the task comes: one that had nothing to do for long has ended."""
        if self._process is None:
            self._demanded = True

    def set_pace(self, wanted: pace_file.Wanted) -> None:
        """Tell SuperNode how often it may ask the SuperLink. Costs nothing while that is the same."""
        if wanted == self._pace or self._environment is None:
            return
        try:
            pace_file.write(self._runtime / pace_file.FILE_NAME, wanted)
        except OSError as error:
            log.warning("pace=unchanged reason=%r", f"{error.filename}: {error.strerror}")
        else:
            self._pace = wanted

    def stop(self, grace_seconds: float = 5.0) -> None:
        """End the warm process and wait for it. Tasks that run go on by themselves; SuperNode's end ends them."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reason = WarmReason.STOPPED
        self._demanded = True

    # -- to show

    def status(self) -> dict[str, str | int | float | bool | None]:
        """Return one flat table: state and why, memory, counts of warm and cold starts."""
        told = self._told()
        state = self._current_state(told)
        message = self.decision.message if state is WarmState.OFF else ""
        return {
            "enabled": self.decision.enabled,
            "state": state.value,
            "reason": (self.decision.reason if state is WarmState.OFF else self._reason).value,
            "message": message,
            "process_id": self._process.pid if self._process is not None else None,
            "memory_bytes": _integer(told.get("memory_bytes")),
            "starts": self._starts,
            "crashes": self._crashes,
            "tasks_warm": _integer(told.get("tasks")) or 0,
            "tasks_cold": sum(self._fallbacks.values()),
            "last_cold_reason": next(reversed(self._fallbacks), None) if self._fallbacks else None,
            "modules": _integer(told.get("modules")) or 0,
            "short_polling": self.settings.short_polling,
        }

    def tasks(self) -> list[WarmTask]:
        """Return the running and the most recent finished tasks, oldest first."""
        rows = self._told().get("recent_tasks")
        return [WarmTask(**row) for row in rows] if isinstance(rows, list) else []

    def process_ids(self) -> list[int]:
        """Return the warm process and its running tasks: none of them is a descendant of SuperNode."""
        if self._process is None:
            return []
        return [self._process.pid, *(task.process_id for task in self.tasks() if task.ended_at is None)]

    # -- inner

    def _programs(self) -> tuple[str, ...]:
        names = PROGRAMS if self.settings.short_polling else (CLIENTAPP,)
        return names if self.decision.enabled else tuple(name for name in names if name != CLIENTAPP)

    def _give_up(self, reason: WarmReason, message: str) -> None:
        self.decision = WarmDecision(False, reason, message)
        log.warning("warm=off reason=%s message=%r", reason.value, message)

    def _start(self, environment: dict[str, str]) -> None:
        (self._runtime / "status.json").unlink(missing_ok=True)
        flags = self._interpreter_flags
        command = [sys.executable, *([flags] if flags else []), "-m", "fleven_agent.warm"]
        command += ["--runtime-directory", str(self._runtime), "--state-directory", str(self._state)]
        command += ["--parent-pid", str(os.getpid()), "--idle-seconds", str(self.settings.idle_seconds)]
        command += ["--minimum-available-bytes", str(self.settings.minimum_available_bytes)]
        command += ["--maximum-memory-bytes", str(self.settings.maximum_memory_bytes)]
        if flags:
            command.append(f"--interpreter-flags={flags}")
        if self._oom_score_adjustment is not None:
            command += ["--oom-score-adjustment", str(self._oom_score_adjustment)]
        if self.settings.short_polling:
            command.append("--short-polling")
        for module in self.settings.modules:
            command += ["--module", module]
        self._starts += 1
        self._started = self._clock()
        self._demanded = False
        try:
            # Its own session: a stop or Ctrl-C that is meant for SuperNode's group must not reach it.
            self._process = subprocess.Popen(
                command, env=environment, cwd="/", stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            self._crashed(f"cannot start: {error.strerror}")
            return
        self._reason = WarmReason.ENABLED
        log.info("warm=starting process_id=%d", self._process.pid)

    def _reap(self) -> None:
        if self._process is None or (status := self._process.poll()) is None:
            return
        told = self._told()
        self._process = None
        left = told.get("left")
        if status == 0 and isinstance(left, str) and left in set(WarmReason):
            self._reason = WarmReason(left)
            log.info("warm=left reason=%s", left)
            return
        self._crashed(signal.strsignal(-status) or str(status) if status < 0 else f"exit status {status}")

    def _crashed(self, why: str) -> None:
        if self._clock() - self._started > STABLE_SECONDS:
            self._crashes = 0
        delay = RESTART_DELAYS_SECONDS[min(self._crashes, len(RESTART_DELAYS_SECONDS) - 1)]
        self._crashes += 1
        self._reason = WarmReason.CRASHED
        self._start_after = self._clock() + delay
        self._demanded = True
        log.warning("warm=crashed why=%r next_start_seconds=%.0f", why, delay)

    def _current_state(self, told: Mapping[str, object]) -> WarmState:
        if not self.decision.enabled:
            return WarmState.OFF
        if self._process is not None:
            return WarmState.READY if told.get("ready") is True else WarmState.WARMING
        return WarmState.BACKOFF if self._reason is WarmReason.CRASHED else WarmState.ABSENT

    def _told(self) -> dict[str, object]:
        try:
            content = json.loads((self._runtime / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _read_fallbacks(self) -> None:
        """Count the lines that launchers appended; each stands for one task that started cold, and asks for warmth."""
        try:
            with (self._runtime / FALLBACKS).open("rb+") as stream:
                stream.seek(self._fallback_offset)
                new = stream.read()
                complete = new[: new.rfind(b"\n") + 1]
                self._fallback_offset += len(complete)
                all_read = stream.seek(0, os.SEEK_END) == self._fallback_offset
                if all_read and self._fallback_offset >= MAXIMUM_FALLBACK_BYTES:
                    stream.truncate(0)
                    self._fallback_offset = 0
        except OSError:
            return
        for line in complete.decode("ascii", "replace").splitlines():
            reason = line.partition(" ")[2]
            self._fallbacks[reason] = self._fallbacks.pop(reason, 0) + 1
            self._demanded = True
            log.info("warm=fallback reason=%s", reason)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
