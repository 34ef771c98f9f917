"""`status`, `drain`, `undrain` and `restart`: talk to the running agent, or to its state file when none runs."""

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleven_agent.cli.status_text import status_text
from fleven_agent.common.errors import EXIT_FAILURE, EXIT_STOPPED
from fleven_agent.control import request
from fleven_agent.errors import EXIT_NOT_RUNNING, NotAllowedError, NotRunningError, StateError
from fleven_agent.state import Remembered, StateFile, fresh


def command(arguments: argparse.Namespace, state: Path, runtime: Path) -> int:
    """Run one of the commands; return the exit code."""
    match arguments.command:
        case "status":
            return _watch(arguments, state, runtime) if arguments.watch else _status(arguments, state, runtime)
        case "drain":
            return _drain(arguments, state, runtime)
        case "undrain":
            return _undrain(arguments, state, runtime)
        case _:
            return _restart(arguments, runtime)


def _restart(arguments: argparse.Namespace, runtime: Path) -> int:
    answer = request(runtime, "restart", now=arguments.now)
    state, restarting = str(answer.get("state")), bool(answer.get("restarting"))
    match state:
        case "starting":
            text = "SuperNode is being started again"
        case "stopping" if not restarting:
            text = "SuperNode is being stopped already; `fleven-agent status` says why"
        case "stopping" if arguments.now:
            text = "SuperNode restarts now"
        case "stopping":
            text = "SuperNode restarts, after the current task if there is one"
        case "gated":
            text = "nothing to restart: a gate keeps SuperNode stopped; it starts when the gate opens"
        case _:
            text = "SuperNode did not start; `fleven-agent status` says why"
    _say(arguments, f"{text} (state: {state})", {"restarting": restarting, "state": state})
    return EXIT_STOPPED if restarting or state == "gated" else EXIT_FAILURE


def _say(arguments: argparse.Namespace, text: str, values: dict[str, Any]) -> int:
    print(json.dumps(values, indent=2) if arguments.json else text)
    return EXIT_STOPPED


def _look(state: Path, runtime: Path) -> tuple[dict[str, Any], bool]:
    """Return (status, whether an agent runs)."""
    try:
        return request(runtime, "status")["status"], True
    except NotRunningError as error:
        try:
            known = StateFile(state).peek()
        except StateError:
            raise NotRunningError(error.message, hint=f"use sudo for the last known state; {error.hint}") from None
        if known is None or not known.last_status:
            raise error from None
        drained = {
            "active": known.drained or known.drained_by_server,
            "reason": known.drain_reason or known.server_reason,
        }
        return {**known.last_status, "drained": drained}, False


def _status(arguments: argparse.Namespace, state: Path, runtime: Path) -> int:
    status, runs = _look(state, runtime)
    if arguments.json:
        print(json.dumps({"agent_running": runs, **status}, indent=2))
    else:
        print(status_text(status, runs=runs, now=time.time(), width=shutil.get_terminal_size().columns))
    return EXIT_STOPPED if runs else EXIT_NOT_RUNNING


def _watch(arguments: argparse.Namespace, state: Path, runtime: Path) -> int:
    terminal = sys.stdout.isatty()
    while True:
        try:
            status, runs = _look(state, runtime)
            if arguments.json:
                text = json.dumps({"agent_running": runs, **status})
            else:
                text = status_text(status, runs=runs, now=time.time(), width=shutil.get_terminal_size().columns)
        except NotRunningError as error:
            text = error.lines()[0]
        clear = "\x1b[H\x1b[2J" if terminal and not arguments.json else ""
        print(f"{clear}{text}", flush=True)
        time.sleep(arguments.interval_seconds)


def _drain(arguments: argparse.Namespace, state: Path, runtime: Path) -> int:
    try:
        answer = request(runtime, "drain", reason=arguments.reason, until_restart=arguments.until_restart)
    except NotRunningError:
        if arguments.until_restart:
            return _say(arguments, "no agent runs, so there is nothing to drain until its restart", {"drained": False})
        _change_file(state, drained=True, drain_reason=arguments.reason, drained_until_restart=False)
        return _say(arguments, "drained; no agent runs: it takes effect when the agent starts", {"drained": True})
    if answer.get("state_problem"):
        print(f"fleven-agent: not kept across a reboot: {answer['state_problem']}", file=sys.stderr)
    if not arguments.wait:
        return _say(arguments, "drained; the current task, if any, is finished first", {"drained": True})
    until = time.monotonic() + arguments.timeout_seconds
    while True:
        try:
            status = request(runtime, "status")["status"]
        except NotRunningError:
            return _say(arguments, "drained; the agent has stopped", {"drained": True, "idle": True})
        if status["state"] in {"gated", "stopped"}:
            return _say(arguments, "drained; no task runs", {"drained": True, "idle": True})
        if time.monotonic() >= until:
            message = f"drained, but a task still runs after {arguments.timeout_seconds:g} s"
            print(json.dumps({"drained": True, "idle": False}) if arguments.json else message)
            return EXIT_FAILURE
        time.sleep(0.5)


def _undrain(arguments: argparse.Namespace, state: Path, runtime: Path) -> int:
    try:
        by_server = bool(request(runtime, "undrain").get("drained_by_server"))
    except NotRunningError:
        by_server = _change_file(state, drained=False, drain_reason="", drained_until_restart=False).drained_by_server
    text = "undrained"
    if by_server:
        text += " here; the server drains this node too: `fleven-server nodes undrain` there"
    return _say(arguments, text, {"drained": by_server, "drained_by_server": by_server})


def _change_file(state: Path, **values: Any) -> Remembered:
    """Change the state file of an agent that does not run.

    Raises:
        NotAllowedError, StateError: when it cannot be written.
    """
    file = StateFile(state)
    changed = replace(file.peek() or fresh(), **values)
    try:
        file.save(changed)
    except PermissionError:
        raise NotAllowedError(f"{file.path}: permission denied", hint="use sudo") from None
    except OSError as error:
        hint = "is the agent installed here? FLEVEN_STATE_DIR names another folder"
        raise StateError(f"{file.path}: {error.strerror}", hint=hint) from None
    return changed
