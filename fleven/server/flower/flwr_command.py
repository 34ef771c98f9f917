"""Flower's command line, called with a time limit; what is said to it and what its answers mean, `line` knows.

Imports no Flower code. What is only read, and the keys of nodes, go through `control` where that is understood; all
else through the programs of the installed Flower.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig, SuperLinkTable, local_address, split_address, superlink_in_force
from fleven.server.errors import CertificateRefusedError, FlowerError, SuperLinkUnreachableError
from fleven.server.flower import heartbeats
from fleven.server.flower.answers import FlowerNode, FlowerRun
from fleven.server.flower.certificate_problem import certificate_problem
from fleven.server.flower.control import ControlUnusableError, GrpcControl
from fleven.server.flower.line import CONNECTION, FlowerLine, installed_line
from fleven.server.flower.pinned_connection import pinned_connection, recorded_certificate
from fleven.server.flower.ready_command import ReadyCommand
from fleven.server.flower.stored_log import StoredLog
from fleven_agent.common.files import write_atomically
from fleven_agent.common.flower_versions import INSTALL_HINT
from fleven_agent.common.foreign_text import parse_toml

logger = logging.getLogger("fleven.server.flower")
Answer = TypeVar("Answer")
GROUP_READABLE = 0o640
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def environment(paths: Paths, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of the SuperLink and of every `flwr` call."""
    kept = {
        key: value
        for key, value in base.items()
        if key not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FLWR_HOME")
    }
    unproxied = ",".join(dict.fromkeys([*filter(None, base.get("no_proxy", "").split(",")), *LOOPBACK]))
    kept["no_proxy"] = kept["NO_PROXY"] = unproxied
    # The programs of this very installation come first, whatever the caller's PATH holds.
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{base.get('PATH', os.defpath)}"
    return kept | {
        **installed_line().environment(paths.flwr_home),
        "PYTHONUNBUFFERED": "1",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }


def write_connection(table: SuperLinkTable, paths: Paths) -> Path:
    """Write the connection `fleven-deployment` into FLWR_HOME/config.toml and return the file.

    Other connections that the operator added to the file stay. The members of the server's group read it; one of them
    who wrote it would make it a file of their own, which the server cannot read.
    """
    import tomli_w

    file = paths.flwr_home / "config.toml"
    if not is_owner(paths):
        return file
    try:
        content: dict[str, Any] = parse_toml(file.read_bytes())
        if stat.S_IMODE(file.stat().st_mode) != GROUP_READABLE:  # as before 0.2.0
            file.chmod(GROUP_READABLE)
    except (OSError, ValueError):
        content = {}
    connection = installed_line().connection(table, local_address(table.control_address))
    superlink = content.setdefault("superlink", {})
    wanted = {**superlink, "default": CONNECTION, CONNECTION: connection}
    if superlink != wanted:
        content["superlink"] = wanted
        write_atomically(file, tomli_w.dumps(content).encode(), GROUP_READABLE)
    return file


def is_owner(paths: Paths) -> bool:
    """Return whether this process writes for the server: as the owner of its folder, or as root for the owner."""
    try:
        return os.geteuid() in (0, paths.state.stat().st_uid)
    except FileNotFoundError:
        return True


@dataclass(frozen=True, slots=True)
class Flower:
    """The `flwr` command line, bound to one SuperLink.

    Attributes:
        paths: the server's folders (FLWR_HOME among them).
        control_address: where the Control API listens.
        timeout_seconds: limit of one call.
        line: what the installed Flower does in its own way.
        control: the Control API as this process speaks it; None leaves everything to the command.
        root_certificates: whose certificates are believed; None without TLS.
        ready: a `flwr` that is loaded in advance, for submissions; None starts the program each time.
    """

    paths: Paths
    control_address: str
    timeout_seconds: float = 60.0
    line: FlowerLine = field(default_factory=installed_line)
    control: GrpcControl | None = field(default=None, compare=False)
    root_certificates: Path | None = None
    ready: ReadyCommand | None = field(default=None, compare=False)

    def reachable(self) -> bool:
        """Return whether anything listens at the Control API; costs no process."""
        try:
            socket.create_connection(split_address(self.control_address), timeout=0.3).close()
        except OSError:
            return False
        return True

    def refusal(self) -> str:
        """Return why the SuperLink's certificate is refused; "" when it is not."""
        roots = self.root_certificates
        return certificate_problem(self.control_address, roots) if roots is not None else ""

    def missed_heartbeats(self, now: datetime) -> dict[str, float]:
        """Return the nodes whose heartbeat is overdue, and for how long [s]; costs no process."""
        found = heartbeats.read(self.paths.superlink_database, self.line.heartbeats)
        return heartbeats.missed(found, now.timestamp())

    def open_run_ids(self) -> frozenset[str]:
        """Return the ids of all runs at work, also of those that were given by hand; costs no process."""
        return heartbeats.open_runs(self.paths.superlink_database, self.line.open_runs)

    def call(self, arguments: Sequence[str], *, pass_fds: Iterable[int] = ()) -> dict[str, Any]:
        """Run one `flwr` command with `--format json` and return its document.

        Raises:
            SuperLinkUnreachableError: nothing answers at the Control API.
            FlowerError: anything else; the code tells a time-out (`flower-timeout`), a missing program
                (`flower-missing`), an unknown run (`run-unknown`) and an app that is refused for good
                (`flower-refused`) apart.
        """
        command = self.line.as_json(arguments)
        name = " ".join(command[:3])
        env = environment(self.paths)
        program = shutil.which(command[0], path=env["PATH"])
        if program is None:
            raise FlowerError(f"`{command[0]}` is not installed", code="flower-missing", hint=INSTALL_HINT)
        ready = self.ready.take([program, *command[1:]], list(pass_fds)) if self.ready and pass_fds else None
        process = ready or subprocess.Popen(
            [program, *command[1:]],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.paths.state,
            pass_fds=tuple(pass_fds),
        )
        with process:
            try:
                said, complained = (
                    text.decode(errors="replace") for text in process.communicate(None, self.timeout_seconds)
                )
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise FlowerError(
                    f"`{name}` did not answer within {self.timeout_seconds:.0f} s", code="flower-timeout"
                ) from error
            except BaseException:
                process.kill()
                raise
        try:
            return self.line.document(name, process.returncode, said, complained)
        except SuperLinkUnreachableError as error:
            raise self._explained(error) from error

    def _explained(self, error: SuperLinkUnreachableError) -> SuperLinkUnreachableError:
        """Return the error, or one that says why the SuperLink's certificate is refused when that is the reason."""
        problem = self.refusal()
        if not problem:
            return error
        hint = "fleven-server check --only service.certificate"
        return CertificateRefusedError(f"the SuperLink's certificate is refused: {problem}", hint=hint)

    def runs(self, run_id: str | None = None) -> list[FlowerRun]:
        """Return the SuperLink's runs, or the one with this id (an empty list when it does not know it).

        One that is asked for is followed to its end, whatever became of the SuperLink's certificate meanwhile.
        """
        try:
            found = self._ask(lambda control: control.runs(run_id), pinned=run_id is not None)
            return found if found is not None else self.line.runs(self.call(self.line.list_runs(run_id)))
        except FlowerError as error:
            if run_id is not None and error.code == "run-unknown":
                return []
            raise

    def nodes(self, *, pinned: bool = False) -> list[FlowerNode]:
        """Return the nodes that the SuperLink knows, online or not.

        Args:
            pinned: ask also when the SuperLink's certificate is refused; no car can connect then.
        """
        found = self._ask(lambda control: control.nodes(), pinned=pinned)
        return found if found is not None else self.line.nodes(self.call(self.line.list_nodes()))

    def register_node(self, public_key: bytes) -> str:
        """Let a node's key in, and return Flower's id of it.

        Args:
            public_key: PEM of its SubjectPublicKeyInfo.

        Raises:
            FlowerError: it was refused; a key that was ever removed is refused for good.
        """
        found = self._ask(lambda control: control.register(public_key))
        if found is not None:
            return found
        # The command reads OpenSSH's form from a file.
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

        line = load_pem_public_key(public_key).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        with tempfile.NamedTemporaryFile(suffix=".pub") as file:
            file.write(line)
            file.flush()
            return self.line.registered(self.call(self.line.register_node(Path(file.name))))

    def unregister_node(self, node_id: str) -> None:
        """Remove a node: its SuperNode is refused from then on, also in a run that is under way.

        Raises:
            FlowerError: it was refused, or the node is not known.
        """

        def removed(control: GrpcControl) -> bool:
            control.unregister(node_id)
            return True

        if self._ask(removed, pinned=True) is None:
            self.call(self.line.unregister_node(node_id))

    def _ask(self, question: Callable[[GrpcControl], Answer], *, pinned: bool = False) -> Answer | None:
        """Ask the Control API; None when the command is to be asked instead.

        Args:
            question: what is asked.
            pinned: when the SuperLink's certificate is refused, ask by the one that it was started with: for what
                must not wait for its next start, which would end the runs.

        Raises:
            SuperLinkUnreachableError: nothing answers: the command would not be answered either.
        """
        if self.control is None:
            return None
        try:
            return question(self.control)
        except SuperLinkUnreachableError as error:
            explained = self._explained(error)
            if not pinned or not isinstance(explained, CertificateRefusedError):
                raise explained from error
            return self._ask_pinned(question, explained)
        except ControlUnusableError as error:
            logger.debug("event=control-unusable error=%r", str(error))
        except ImportError as error:
            logger.warning("event=control-unusable error=%r", str(error))
        return None

    def _ask_pinned(self, question: Callable[[GrpcControl], Answer], refused: CertificateRefusedError) -> Answer:
        """Ask the SuperLink by the certificate that it was started with.

        Raises:
            CertificateRefusedError: as before; what it uses is not known, or it shows another one.
            FlowerError: it was asked, and answered with an error.
        """
        certificate = recorded_certificate(self.paths.superlink_record)
        if certificate is None:
            raise refused
        with pinned_connection(self.control_address, certificate, self.line.application_protocols) as address:
            control = self.line.control({"address": address, "insecure": True})
            if control is None:
                raise refused
            try:
                return question(control)
            except SuperLinkUnreachableError as error:
                raise refused from error
            except ControlUnusableError as error:
                method, _, said = error.message.partition(": ")
                raise self.line.failure(method.lower(), 1, said) from error
            finally:
                control.close()

    def run(self, app: Path, run_config: Mapping[str, bool | int | float | str], lock: int) -> str:
        """Submit an app and return Flower's run id.

        Args:
            app: folder of the app.
            run_config: overrides.
            lock: file descriptor of a held lock, inherited by the call: the next to get the lock knows that the
                call is over, even if this process died meanwhile.
        """
        return self.line.submitted(self.call(self.line.submit(app, run_config), pass_fds=[lock]))

    def stop(self, run_id: str) -> None:
        """Ask the SuperLink to stop a run, also when its certificate has ended under it.

        A run that has already ended is not an error.
        """

        def stopped(control: GrpcControl) -> bool:
            control.stop(run_id)
            return True

        try:
            if self._ask(stopped, pinned=True) is None:
                self.call(self.line.stop(run_id))
        except FlowerError as error:
            if error.code not in ("run-finished", "run-unknown"):
                raise

    def log_arguments(self, run_id: str, *, follow: bool) -> list[str]:
        """Return the command that prints a run's ServerApp log."""
        return self.line.log(run_id, follow=follow)


def flower_for(config: ServerConfig, paths: Paths) -> Flower:
    """Return the command line bound to this server's SuperLink, with its connection written down."""
    table = superlink_in_force(config, paths)
    write_connection(table, paths)
    address = local_address(table.control_address)
    line = installed_line()
    control = line.control(line.connection(table, address))
    return Flower(paths, address, config.scheduler.command_timeout_seconds, line, control, table.root_certificates)


LOG_TIMEOUT_SECONDS = 30
FOLLOW_SECONDS = 1.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def server_log(flower: Flower, flower_run_id: str, *, follow: bool = False, echo: bool = False) -> str:
    """Return or print a run's ServerApp log, from the SuperLink's database where the Control API does not answer.

    Raises:
        FlowerError: Flower could not be asked.
    """
    if not flower.reachable() or flower.refusal():
        with contextlib.suppress(sqlite3.Error):
            return _stored_log(flower, flower_run_id, follow=follow, echo=echo)
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
        raise flower.line.failure("flwr log", done.returncode, (done.stderr or b"").decode(errors="replace"))
    text = COLOURS.sub("", (done.stdout or b"").decode(errors="replace")).strip("\n")
    if echo and text:
        sys.stdout.write(text + "\n")
    return text


def _stored_log(flower: Flower, flower_run_id: str, *, follow: bool, echo: bool) -> str:
    stored = StoredLog(
        flower.paths.superlink_database, flower.line.server_app_log, flower.line.server_app_ended, flower_run_id
    )
    text = ""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            ended = not follow or stored.ended()
            fresh = COLOURS.sub("", stored.new())
            if echo:
                sys.stdout.write(fresh)
                sys.stdout.flush()
            text += fresh
            if ended:
                break
            time.sleep(FOLLOW_SECONDS)
    if echo and text and not text.endswith("\n"):
        sys.stdout.write("\n")
    return text.strip("\n")
