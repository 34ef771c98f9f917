"""`fleven-agent join`: from an invitation of the server to a car that is ready, with every step said.

Runs in the command's own process, so it may load what makes keys. What it writes: the identity in the state folder, the
two lines of node.toml where they are missing. It takes away the line of an upgrade that kept an old fleet open.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleven_agent import __version__
from fleven_agent.common.errors import EXIT_STOPPED
from fleven_agent.common.files import write_atomically
from fleven_agent.config.editing import with_keys
from fleven_agent.config.parser import Loaded, load
from fleven_agent.config.settings import Settings
from fleven_agent.control import request
from fleven_agent.errors import EXIT_TEMPORARY, AgentError, NotAllowedError, UsageError
from fleven_agent.identity import keys
from fleven_agent.identity.files import IdentityFolder
from fleven_agent.identity.joining import Joining
from fleven_agent.identity.model import About, ExchangeError, Identity, Standing, Trouble
from fleven_agent.monitoring.machine import Reader
from fleven_agent.protocol.join_code import JoinCodeError, decode
from fleven_agent.system import procfs
from fleven_agent.system.versions import installed_version

UNIT = "fleven-agent.service"
OPEN_FLEET = "00-open-fleet.toml"
"""The drop-in with which the upgrade of an open fleet keeps it going."""
MAXIMUM_CODE_BYTES = 8_192
POLL_SECONDS = 0.2
_PASSING = (Trouble.UNREACHABLE, Trouble.BUSY, Trouble.CLOCK)


class JoinError(AgentError):
    """The car did not join, or did not become ready."""

    code = "join-failed"


def join(arguments: argparse.Namespace, state: Path, runtime: Path) -> int:
    """Join the server of an invitation and wait until the car is ready; return the exit code.

    Raises:
        AgentError: it did not succeed; the message says what to do.
    """
    began = time.monotonic()
    say = _silent if arguments.json else _said
    config = arguments.config.absolute()
    code = _code(arguments)
    try:
        wanted = decode(code)
    except JoinCodeError as error:
        raise UsageError(error.message, hint=error.hint, code=error.code) from None
    loaded = load(config, join=code)
    _may_write(config, state, loaded)
    identity = _enrolled(arguments, loaded.settings, IdentityFolder(state), wanted.invitation_id, say)
    say(f"this car is {identity.name}, partition {identity.partition_id}")
    _write_lines(config, loaded, identity, say)
    _end_open_fleet(config, loaded, identity, say)
    status = None if arguments.no_start else _ready(runtime, identity, arguments.timeout_seconds, say)
    seconds = time.monotonic() - began
    if arguments.json:
        print(json.dumps(_answer(identity, status, seconds), indent=2))
    elif status is not None and status["state"] == "running":
        say(f"ready after {seconds:.1f} s: node {status['node']['node_id']}")
    return EXIT_STOPPED


def _code(arguments: argparse.Namespace) -> str:
    if (arguments.code is None) == (arguments.file is None):
        raise UsageError("give either a join code or --file", hint="`fleven-server nodes invite CAR` prints a code")
    if arguments.code not in (None, "-"):
        return str(arguments.code)
    if arguments.file is None:
        return sys.stdin.read(MAXIMUM_CODE_BYTES)
    try:
        with Path(arguments.file).open(encoding="utf-8") as file:
            content = file.read(MAXIMUM_CODE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{arguments.file}: {getattr(error, 'strerror', None) or 'no text'}") from None
    # A file for node.toml.d holds it as join = "CODE".
    return content.partition('join = "')[2].partition('"')[0] or content


def _may_write(config: Path, state: Path, loaded: Loaded) -> None:
    """Find out what would fail later, before the invitation is used."""
    missing = any(loaded.sources[key].startswith("computed") for key in ("partition-id", "superlink"))
    for path in [state if state.exists() else state.parent, *([config] if missing else [])]:
        if not os.access(path, os.W_OK):
            raise NotAllowedError(f"{path}: not writable by this user", hint="use sudo")


def _enrolled(
    arguments: argparse.Namespace,
    settings: Settings,
    folder: IdentityFolder,
    invitation_id: str,
    say: Callable[[str], None],
) -> Identity:
    about = About(
        procfs.boot_id(), __version__, installed_version("flwr"), Reader([str(folder.path.parent)]).board_model()
    )
    joining = Joining(folder, settings, about, sign=keys.sign, timeout_seconds=arguments.step_seconds, say=say)
    try:
        before = folder.load()
        if before is not None and before.standing in (Standing.ACCEPTED, Standing.HELD):
            if before.invitation_id == invitation_id and before.standing is Standing.ACCEPTED:
                say("this car has already joined with this invitation")
                return before
            if not arguments.replace:
                name = f"{before.name}, partition {before.partition_id}"
                hint = "give up that identity with --replace"
                raise JoinError(f"this car has joined already: it is {name}", hint=hint, code="already-joined")
            identity = joining.replace().identity
            say(f"the identity of {before.name} was given up")
            return identity
        identity = joining.enrol().identity
    except ExchangeError as error:
        raise _refused(error) from None
    except OSError as error:
        raise JoinError(f"{error.filename}: {error.strerror}", hint="use sudo") from None
    if identity.standing is not Standing.ACCEPTED:
        message = f"the server did not let this car in: it is {identity.standing.value} {identity.message}".strip()
        raise JoinError(message, hint=identity.hint or "print a new invitation: `fleven-server nodes invite CAR`")
    return identity


def _refused(error: ExchangeError) -> JoinError:
    failed = JoinError(error.message, hint=error.hint, code=error.code or error.trouble.value)
    if error.trouble in _PASSING:
        failed.exit_code = EXIT_TEMPORARY
    return failed


def _write_lines(config: Path, loaded: Loaded, identity: Identity, say: Callable[[str], None]) -> None:
    """Write partition-id and superlink into node.toml where no file holds them."""
    values = {"partition-id": str(identity.partition_id), "superlink": json.dumps(identity.superlink_address)}
    missing = {key: value for key, value in values.items() if loaded.sources[key].startswith("computed")}
    if loaded.settings.join is not None and "partition-id" not in missing:
        given = loaded.settings.partition_id
        if given != identity.partition_id:
            source = loaded.sources["partition-id"]
            say(f"{source} says partition-id = {given}; the server's value counts: {identity.partition_id}")
    if not missing:
        return
    mode = config.stat().st_mode & 0o777
    text = with_keys(config.read_text(encoding="utf-8"), missing)
    write_atomically(config, text.encode(), mode)
    say(f"wrote {' and '.join(missing)} into {config}")


def _end_open_fleet(config: Path, loaded: Loaded, identity: Identity, say: Callable[[str], None]) -> None:
    """Take away the line that an upgrade wrote for a fleet without TLS, once the SuperLink uses TLS."""
    source = loaded.sources["insecure"]
    if loaded.settings.insecure is not True or not identity.superlink_tls:
        if not identity.superlink_tls and loaded.settings.insecure is not True:
            say("the SuperLink does not use TLS yet: the car waits until `fleven-server trust enforce`")
        return
    if Path(source) == Path(f"{config}.d") / OPEN_FLEET:
        try:
            Path(source).unlink()
            say(f"removed {source}: this car no longer needs it")
        except OSError as error:
            say(f"{source} could not be removed: {error.strerror}")
    else:
        say(f"insecure = true in {source} is no longer needed: remove it")


def _ready(
    runtime: Path, identity: Identity, timeout_seconds: float, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Have the agent take over the identity, and wait until it is ready; None where no service can be started."""
    status = _status(runtime)
    if status is not None:
        os.kill(int(status["agent_pid"]), signal.SIGHUP)
    elif Path("/run/systemd/system").is_dir() and not os.environ.get("FLEVEN_STATE_DIR"):
        _start()
        say(f"started {UNIT}")
    else:
        say("start the agent: `fleven-agent run`")
        return None
    until, told = time.monotonic() + timeout_seconds, ""
    while time.monotonic() < until:
        status = _status(runtime)
        if status is not None and _is_of(status, identity):
            if status["state"] == "running":
                return status
            if status["state"] == "gated":
                _say_gate(status, say)
                return status
            if status["state"] != told:
                told = status["state"]
                say(f"SuperNode is {told}")
        time.sleep(POLL_SECONDS)
    raise _not_ready(status, timeout_seconds)


def _is_of(status: dict[str, Any], identity: Identity) -> bool:
    shown = status.get("identity") or {}
    return (shown.get("key_fingerprint"), shown.get("standing")) == (identity.key_fingerprint, "accepted")


def _say_gate(status: dict[str, Any], say: Callable[[str], None]) -> None:
    for one in status["conditions"]:
        if one["code"] == "transport-insecure" and one["severity"] == "error":
            raise JoinError(f"joined, but {one['message']}", hint=one["hint"], code=one["code"])
    say(f"joined; it does not train now: {'; '.join(status['gates'])}")


def _not_ready(status: dict[str, Any] | None, timeout_seconds: float) -> JoinError:
    bad = [one for one in (status or {}).get("conditions", []) if one["severity"] == "error"]
    message = f"joined, but not ready after {timeout_seconds:g} s"
    hint = "`fleven-agent status` and `journalctl -u fleven-agent` say more"
    if bad:
        message, hint = f"{message}: {bad[0]['message']}", bad[0]["hint"]
    failed = JoinError(message, hint=hint, code="not-ready")
    failed.exit_code = EXIT_TEMPORARY
    return failed


def _start() -> None:
    try:
        done = subprocess.run(["systemctl", "start", UNIT], capture_output=True, text=True, timeout=150, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JoinError(f"joined, but {UNIT} cannot be started: {error}", hint=f"systemctl start {UNIT}") from None
    if done.returncode:
        hint = f"journalctl -u {UNIT}"
        raise JoinError(f"joined, but {UNIT} does not start: {done.stderr.strip().splitlines()[:1]}", hint=hint)


def _status(runtime: Path) -> dict[str, Any] | None:
    try:
        return dict(request(runtime, "status")["status"])
    except AgentError:
        return None


def _answer(identity: Identity, status: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    return {
        "car_id": identity.car_id,
        "name": identity.name,
        "partition_id": identity.partition_id,
        "superlink": identity.superlink_address,
        "key_fingerprint": identity.key_fingerprint,
        "server_authority": identity.ca_fingerprint,
        "state": status["state"] if status is not None else None,
        "ready": status is not None and status["state"] == "running",
        "node_id": status["node"]["node_id"] if status is not None else None,
        "seconds": round(seconds, 1),
    }


def _said(text: str) -> None:
    print(text, flush=True)


def _silent(_text: str) -> None:
    return
