"""All that the server knows about Flower's command lines and files; `answers` knows what they answer.

Moving to another line of Flower means changing these two modules and their twin on the car. They import no Flower code:
everything goes through the programs `flower-superlink` and `flwr`, with a time limit.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleven.server.config import Paths, ServerConfig, SuperLinkTable, local_address, split_address
from fleven.server.errors import FlowerError
from fleven.server.flower.answers import (
    REFUSED,
    FlowerNode,
    FlowerRun,
    decoded_failure,
    flower_run,
    moment,
    parse_answer,
)
from fleven_agent.common.files import write_atomically
from fleven_agent.common.foreign_text import printable

if TYPE_CHECKING:
    pass

from fleven_agent.common.flower_versions import INSTALL_HINT
from fleven_agent.common.foreign_text import parse_toml

CONNECTION = "fleven-deployment"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def environment(paths: Paths, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of the SuperLink and of every `flwr` call."""
    kept = {
        key: value
        for key, value in base.items()
        if key not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FLWR_HOME")
    }
    # Flower's gRPC stays on this machine or in the VPN: a proxy would take even its calls to loopback. An empty name
    # comes before https_proxy and http_proxy (gRPC, "HTTP Proxy Support"), which stay for what an app downloads.
    kept["grpc_proxy"] = ""
    unproxied = ",".join(dict.fromkeys([*filter(None, base.get("no_proxy", "").split(",")), *LOOPBACK]))
    kept["no_proxy"] = kept["NO_PROXY"] = unproxied
    # The programs of this very installation come first, whatever the caller's PATH holds.
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{base.get('PATH', os.defpath)}"
    return kept | {
        "FLWR_HOME": str(paths.flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONUNBUFFERED": "1",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }


def superlink_arguments(table: SuperLinkTable, paths: Paths) -> list[str]:
    """Return the command line of `flower-superlink`."""
    arguments = ["flower-superlink"]
    if table.insecure:
        arguments.append("--insecure")
    else:
        arguments += ["--ssl-certfile", str(table.certificate), "--ssl-keyfile", str(table.private_key)]
        arguments += ["--ssl-ca-certfile", str(table.root_certificates)]
    if table.supernode_authentication:
        arguments.append("--enable-supernode-auth")
    return [
        *arguments,
        *("--fleet-api-address", table.fleet_address),
        *("--control-api-address", table.control_address),
        *("--serverappio-api-address", table.serverappio_address),
        *("--database", str(paths.superlink_database)),
        "--disable-runtime-dependency-installation",
    ]


def write_connection(table: SuperLinkTable, paths: Paths) -> Path:
    """Write the connection `fleven-deployment` into FLWR_HOME/config.toml and return the file.

    Other connections that the operator added to the file stay.
    """
    import tomli_w

    file = paths.flwr_home / "config.toml"
    try:
        content: dict[str, Any] = parse_toml(file.read_bytes())
    except (OSError, ValueError):
        content = {}
    connection: dict[str, Any] = {"address": local_address(table.control_address)}
    if table.insecure:
        connection["insecure"] = True
    else:
        connection["root-certificates"] = str(table.root_certificates)
    superlink = content.setdefault("superlink", {})
    wanted = {**superlink, "default": CONNECTION, CONNECTION: connection}
    if superlink != wanted:
        content["superlink"] = wanted
        write_atomically(file, tomli_w.dumps(content).encode())
    return file


def installed_version() -> str:
    """Return the version of the installed Flower, or "" when there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flwr")
    except PackageNotFoundError:
        return ""


def toml_value(value: bool | int | float | str) -> str:
    """Return a run-config value as `flwr run --run-config` reads it.

    Raises:
        FlowerError: the text holds both kinds of quotes, or a line break, which that option cannot carry.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    control = any((character < " " and character != "\t") or character == "\x7f" for character in value)
    if control or ("'" in value and '"' in value):
        what = "a line break, a control character or both kinds of quotes"
        text = f"'{printable(value)}' cannot be passed to Flower: it holds {what}"
        raise FlowerError(text, code=REFUSED)
    # A literal string needs no escapes; a basic one is for text that holds an apostrophe.
    return f"'{value}'" if "'" not in value else '"' + value.replace("\\", "\\\\") + '"'


@dataclass(frozen=True, slots=True)
class Flower:
    """The `flwr` command line, bound to one SuperLink.

    Attributes:
        paths: the server's folders (FLWR_HOME among them).
        control_address: where the Control API listens.
        timeout_seconds: limit of one call.
    """

    paths: Paths
    control_address: str
    timeout_seconds: float = 60.0

    def reachable(self) -> bool:
        """Return whether anything listens at the Control API; costs no process."""
        try:
            socket.create_connection(split_address(self.control_address), timeout=0.3).close()
        except OSError:
            return False
        return True

    def call(self, arguments: Sequence[str], *, pass_fds: Iterable[int] = ()) -> dict[str, Any]:
        """Run one `flwr` command with `--format json` and return its document.

        Raises:
            SuperLinkUnreachableError: nothing answers at the Control API.
            FlowerError: anything else; the code tells a time-out (`flower-timeout`), a missing program
                (`flower-missing`), an unknown run (`run-unknown`) and an app that is refused for good
                (`flower-refused`) apart.
        """
        command = ["flwr", *arguments, "--format", "json"]
        name = " ".join(command[:3])
        env = environment(self.paths)
        program = shutil.which("flwr", path=env["PATH"])
        if program is None:
            raise FlowerError("`flwr` is not installed", code="flower-missing", hint=INSTALL_HINT)
        try:
            done = subprocess.run(
                [program, *command[1:]],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout_seconds,
                cwd=self.paths.state,
                pass_fds=tuple(pass_fds),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FlowerError(
                f"`{name}` did not answer within {self.timeout_seconds:.0f} s", code="flower-timeout"
            ) from error
        return parse_answer(
            name, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def runs(self, run_id: str | None = None) -> list[FlowerRun]:
        """Return the SuperLink's runs, or the one with this id (an empty list when it does not know it)."""
        only = ["--run-id", run_id] if run_id is not None else []
        try:
            answer = self.call(["ls", CONNECTION, *only])
        except FlowerError as error:
            if run_id is not None and error.code == "run-unknown":
                return []
            raise
        return [flower_run(row) for row in answer.get("runs", [])]

    def nodes(self) -> list[FlowerNode]:
        """Return the nodes that the SuperLink knows, online or not."""
        answer = self.call(["supernode", "list", CONNECTION])
        return [
            FlowerNode(
                str(row["node-id"]), str(row["status"]), moment(row.get("online-at")), moment(row.get("offline-at"))
            )
            for row in answer.get("nodes", [])
        ]

    def run(self, app: Path, run_config: Mapping[str, bool | int | float | str], lock: int) -> str:
        """Submit an app and return Flower's run id.

        Args:
            app: folder of the app.
            run_config: overrides.
            lock: file descriptor of a held lock, inherited by the call: the next to get the lock knows that the
                call is over, even if this process died meanwhile.
        """
        overrides: list[str] = []
        for key, value in run_config.items():
            overrides += ["--run-config", f"{key}={toml_value(value)}"]
        answer = self.call(["run", str(app), CONNECTION, *overrides], pass_fds=[lock])
        run_id = answer.get("run-id")
        if not run_id:
            raise FlowerError("`flwr run` answered without a run id")
        return str(run_id)

    def stop(self, run_id: str) -> None:
        """Ask the SuperLink to stop a run; a run that has already ended is not an error."""
        try:
            self.call(["stop", run_id, CONNECTION])
        except FlowerError as error:
            if error.code not in ("run-finished", "run-unknown"):
                raise

    def log_arguments(self, run_id: str, *, follow: bool) -> list[str]:
        """Return the command that prints a run's ServerApp log."""
        return ["flwr", "log", run_id, CONNECTION, "--stream" if follow else "--show"]


def flower_for(config: ServerConfig, paths: Paths) -> Flower:
    """Return the command line bound to this server's SuperLink, with its connection written down."""
    write_connection(config.superlink, paths)
    address = local_address(config.superlink.control_address)
    return Flower(paths, address, config.scheduler.command_timeout_seconds)


LOG_TIMEOUT_SECONDS = 30
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def server_log(flower: Flower, flower_run_id: str, *, follow: bool = False, echo: bool = False) -> str:
    """Return or print a run's ServerApp log.

    Raises:
        FlowerError: Flower could not be asked.
    """
    arguments = flower.log_arguments(flower_run_id, follow=follow)
    limit = None if follow else LOG_TIMEOUT_SECONDS
    try:
        done = subprocess.run(
            arguments,
            env=environment(flower.paths),
            stdin=subprocess.DEVNULL,
            stdout=None if echo and follow else subprocess.PIPE,
            stderr=None if echo and follow else subprocess.PIPE,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FlowerError("`flwr log` did not answer", code="flower-timeout") from error
    except KeyboardInterrupt:
        return ""
    if done.returncode != 0:
        raise decoded_failure("flwr log", done.returncode, (done.stderr or b"").decode(errors="replace"))
    text = COLOURS.sub("", (done.stdout or b"").decode(errors="replace")).strip("\n")
    if echo and text:
        sys.stdout.write(text + "\n")
    return text
