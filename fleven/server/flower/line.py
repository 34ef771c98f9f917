"""All that differs between Flower's lines, in one object: programs, options, ports, environment, words, codes, pauses.

`FlowerLine` is Flower 1.31 to 1.34. Another line is a subclass that says what it does otherwise, and an entry in
`LINES`: nothing else in the server asks for the version. It is chosen once, by the installed Flower. Pure; imports no
Flower code, and little else: the SuperLink's watchdog loads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fleven.server.errors import FlowerError, SuperLinkUnreachableError
from fleven.server.flower.answers import REFUSED, FlowerNode, FlowerRun
from fleven_agent.common import flower_versions
from fleven_agent.common.endpoints import HTTP2_GREETING
from fleven_agent.common.foreign_text import printable

if TYPE_CHECKING:
    from fleven.server.config.settings import SuperLinkTable
    from fleven.server.flower.control import GrpcControl

CONNECTION = "fleven-deployment"
"""Name of the connection to this server's SuperLink, in Flower's configuration."""
EXIT_CODES: Mapping[int, str] = {
    101: "the Flower licence is not valid",
    102: "the Flower licence is missing",
    104: "the SuperLink refused its arguments",
    105: "the database was written by another line of Flower",
    200: "a precondition of the strategy did not hold",
    201: "the ServerApp ended with an exception",
    202: "the strategy could not aggregate",
    203: "the SuperLink refused to start the run",
    600: "an address is not valid",
    602: "TLS is not supported here",
    603: "the root certificates do not fit",
    604: "a path is not valid",
    605: "the server certificates are not valid",
    606: "client and SuperLink run different lines of Flower",
    607: "the app could not be imported",
    608: "the app's dependencies could not be installed",
    800: "an exception in a task process",
}
"""Meaning of the `Exit Code: N` lines that Flower logs (flwr/supercore/exit/exit_code.py of Flower 1.34)."""


@dataclass(frozen=True, slots=True)
class SuperLinkInsides:
    """Where `superlink_process` sets its bounds inside Flower's package."""

    transport_module: str
    maximum_message_name: str
    """Its largest message [bytes], which the modules of the servers import when they are loaded."""
    program_module: str
    """What `flower-superlink` runs."""
    authentication_name: str
    """The gRPC interceptor of the Fleet API, as that module calls it."""
    authentication_option: str
    """With this option, keys must be registered."""
    configuration_name: str
    """Returns what the SuperLink runs with, a dataclass with `superexec_auth_secret`."""
    executor_command_name: str
    """Function in the program's module that returns the command line of the executor."""
    executor_secret_option: str
    executor_module: str
    """Where the executor's loop waits, by `time.sleep`."""
    database_option: str
    state_module: str
    state_class: str
    """Keeps the SuperLink's state in its database; its `get_message_ins` and `get_node_id_by_public_key`
    are what SuperNodes ask most."""
    sessions_module: str
    sessions_class: str
    """Its `session` opens every transaction on that database, one within another being a part of it."""
    waiting_message: str
    """Has a row when a node (its id as a signed number of 64 bits) has a message that was not delivered."""
    node_of_key: str
    """The id of the node that has a public key."""
    unanswered_messages: str
    """The messages that a node (its id as above) has taken, and whose answers are not there in full."""
    arriving_answers: str
    """Those of some messages (ids as a list in JSON) whose answers were announced, and still come in.

    Not so where Flower would say that there will be none: the node is offline, the message's time is over, or no part
    of the answer has come for so long that Flower gives it up.
    """


@dataclass(frozen=True, slots=True)
class ExecutorInsides:
    """What `executor` changes inside Flower's package."""

    executor_module: str
    """Starts the programs of tasks, by its `subprocess`."""
    plugin_module: str
    plugin_class: str
    """Its `launch_task(token, task)` is called for each task."""
    arguments_module: str
    """Reads the options that all of Flower's task programs have."""
    read_keys: tuple[str, ...] = ("resume-from", "champion")
    """Keys of a run's configuration that name models to be read, as the shipped app has them."""


class FlowerLine:
    """Flower 1.31 to 1.34: four ports, gRPC, a SuperLink with an executor beside it."""

    lowest: ClassVar[tuple[int, int]] = flower_versions.LOWEST
    """First release line (major, minor) that behaves like this."""

    # Programs and their processes

    superlink_program: ClassVar[str] = "flower-superlink"
    command_program: ClassVar[str] = "flwr"
    command_module: ClassVar[str] = "flwr.cli.app"
    """What that program imports: all of its commands."""
    superlink_insides: ClassVar[SuperLinkInsides] = SuperLinkInsides(
        transport_module="flwr.supercore.grpc",
        maximum_message_name="GRPC_MAX_MESSAGE_LENGTH",
        program_module="flwr.superlink.cli.flower_superlink",
        authentication_name="NodeAuthServerInterceptor",
        authentication_option="--enable-supernode-auth",
        configuration_name="_parse_superlink_lifespan_config",
        executor_command_name="_get_superexec_command",
        executor_secret_option="--superexec-auth-secret-file",  # noqa: S106 - an option's name
        executor_module="flwr.supercore.superexec.run_superexec",
        database_option="--database",
        state_module="flwr.server.superlink.linkstate.sql_linkstate",
        state_class="SqlLinkState",
        sessions_module="flwr.supercore.sql_mixin",
        sessions_class="SqlMixin",
        waiting_message="SELECT 1 FROM message_ins WHERE dst_node_id = ? AND delivered_at = '' LIMIT 1",
        node_of_key="SELECT node_id FROM node WHERE public_key = ? AND status != 'unregistered'",
        unanswered_messages=(
            "SELECT message_id FROM message_ins AS question WHERE dst_node_id = ? AND delivered_at != ''"
            " AND NOT EXISTS (SELECT 1 FROM message_res AS answer"
            " WHERE answer.reply_to_message_id = question.message_id AND NOT EXISTS ("
            "SELECT 1 FROM object_push_session_roots AS root"
            " JOIN object_push_sessions AS push ON push.session_id = root.session_id"
            " WHERE root.root_object_id = answer.message_id AND push.pending_count > 0))"
        ),
        arriving_answers=(
            "SELECT question.message_id FROM message_ins AS question"
            " JOIN message_res AS answer ON answer.reply_to_message_id = question.message_id"
            " JOIN object_push_session_roots AS root ON root.root_object_id = answer.message_id"
            " JOIN object_push_sessions AS push ON push.session_id = root.session_id"
            " JOIN node ON node.node_id = question.dst_node_id"
            " WHERE question.message_id IN (SELECT value FROM json_each(?)) AND push.pending_count > 0"
            " AND julianday(push.expires_at) > julianday('now')"
            " AND question.created_at + question.ttl > (julianday('now') - 2440587.5) * 86400"
            " AND node.status != 'unregistered'"
            " AND node.online_until > (julianday('now') - 2440587.5) * 86400"
        ),
    )
    executor_insides: ClassVar[ExecutorInsides] = ExecutorInsides(
        executor_module="flwr.supercore.superexec.executor.subprocess_executor",
        plugin_module="flwr.supercore.superexec.plugin.base_exec_plugin",
        plugin_class="BaseExecPlugin",
        arguments_module="flwr.common.args",
    )
    executor_program: ClassVar[str] = "flower-superexec"
    """What the SuperLink starts once, and never watches; it launches the ServerApps."""
    server_app_program: ClassVar[str] = "flwr-serverapp"
    task_programs: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("flwr-serverapp", "flwr-agentapp", "flwr-connector", "flwr-model", "flwr-simulation"),
        "--serverappio-api-address",
    )
    """All that the executor launches, and the option that says where it connects to."""
    server_app_modules: ClassVar[tuple[str, ...]] = (
        "flwr.superlink.cli.flwr_serverapp",
        "flwr.serverapp",
        "numpy",
        "torch",
        "safetensors.numpy",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
    )
    """What every ServerApp imports, and what the shipped one does besides."""
    executor_option: ClassVar[str] = "--parent-pid"
    """By this option a ServerApp is told the process id of its executor."""

    # Addresses and first bytes

    addresses: ClassVar[tuple[str, ...]] = ("fleet_address", "control_address", "serverappio_address")
    """Keys of `[superlink]` that the SuperLink binds."""
    greeting: ClassVar[bytes] = HTTP2_GREETING
    """What a living server at the Fleet API answers."""
    application_protocols: ClassVar[tuple[str, ...]] = ("h2",)
    """What is offered in a TLS handshake with it."""

    # The database

    revisions_folder: ClassVar[Path] = Path("supercore", "state", "alembic", "versions")
    """Where the migrations of the SuperLink's database lie inside the package `flwr`."""
    run_migrations: ClassVar[str] = "flwr.supercore.state.alembic.utils"
    """Module whose `run_migrations(engine)` brings a database to the newest form."""

    heartbeats: ClassVar[str] = (
        "SELECT node_id, online_until - 2 * heartbeat_interval, heartbeat_interval FROM node WHERE status = 'online'"
    )
    """Node id, time [s since 1970] and interval [s] of each last heartbeat: a node is online for two intervals."""
    open_runs: ClassVar[str] = (
        "SELECT run.run_id FROM run JOIN task ON task.task_id = run.primary_task_id WHERE task.finished_at IS NULL"
        " AND julianday(coalesce(task.active_until, task.pending_at)) > julianday('now', '-10 minutes')"
    )
    """Runs (ids as signed numbers of 64 bits) that wait for their ServerApp, or whose ServerApp gives signs of life.

    One whose ServerApp has died stays open until somebody asks for it.
    """
    server_app_log: ClassVar[str] = (
        "SELECT log FROM task_logs WHERE task_id = (SELECT primary_task_id FROM run WHERE run_id = ?) "
        "ORDER BY timestamp"
    )
    """Parts of a ServerApp's log, by its run's number as a signed one of 64 bits."""
    server_app_ended: ClassVar[str] = (
        "SELECT finished_at IS NOT NULL FROM task WHERE task_id = (SELECT primary_task_id FROM run WHERE run_id = ?)"
    )

    run_ended: ClassVar[str] = (
        "SELECT 1 FROM run JOIN task ON task.task_id = run.primary_task_id"
        " WHERE run.run_id = ? AND task.finished_at IS NOT NULL"
    )
    """Has a row when the run (its id as a signed number of 64 bits) has ended."""

    run_bundle: ClassVar[str] = (
        "SELECT run.fab_hash, fab.content FROM run JOIN fab ON fab.fab_hash = run.fab_hash WHERE run.run_id = ?"
    )
    """Hash and content of the bundle of a run (its id as a signed number of 64 bits)."""

    # Apps and bundles

    app_table: ClassVar[tuple[str, ...]] = ("tool", "flwr", "app")
    """Table of an app's pyproject.toml that names its publisher, its components and its config."""
    app_components: ClassVar[tuple[str, ...]] = ("serverapp", "clientapp")
    """What `components` in it must name."""
    bundle_suffixes: ClassVar[frozenset[str]] = frozenset({".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"})
    """The kinds of files that are packed into a bundle."""
    bundle_files: ClassVar[frozenset[str]] = frozenset({".gitignore", "LICENSE", "LICENSE.md", ".editorconfig"})
    """Other files that are."""
    bundle_own_folder: ClassVar[str] = ".info/"
    """What a bundle holds besides the app's files."""
    unpacked_apps: ClassVar[Path] = Path("apps")
    """Folder below FLWR_HOME in which bundles are unpacked."""

    # Pauses

    restart_grace: ClassVar[timedelta] = timedelta(seconds=75)
    """A ServerApp that outlives a restart of the SuperLink is heard from within this time (heartbeat: 30 s)."""
    settle_seconds: ClassVar[float] = 3.0
    """A request that a killed `flwr run` had sent is in the SuperLink's list after this time."""

    # Words

    unreachable: ClassVar[str] = "Connection to the SuperLink is unavailable"
    run_not_found: ClassVar[re.Pattern[str]] = re.compile(
        r"run.{0,40}(not found|invalid|does not exist)|invalid run", re.IGNORECASE
    )
    already_finished: ClassVar[re.Pattern[str]] = re.compile(r"already finished|finished", re.IGNORECASE)
    final: ClassVar[re.Pattern[str]] = re.compile(
        r"Invalid run configuration|FAB size exceeds|Invalid Flower App|Failed to load Flower App"
        r"|Flower App directory name|not a valid path to a Flower app|fab-(include|exclude)"
        r"|Property \"name\" missing|configuration string is in an",
    )
    """What Flower says about an app that it cannot build or accept.

    Anything else, such as `Internal server error.` (any error of the SuperLink's own, a full disk among them), may go
    differently next time."""
    noise: ClassVar[re.Pattern[str]] = re.compile(r"Using SuperLink:|Stopping run|Displaying information|Listing all")
    """Lines of progress that stand before the message of an error."""
    exit_code_line: ClassVar[re.Pattern[str]] = re.compile(r"Exit Code: (\d+)")
    log_line: ClassVar[re.Pattern[str]] = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*:\s*(.*)$")
    """A line of the SuperLink's log, without colours: level and text."""
    # "[Fleet.PullMessages] node_id=1", "ControlServicer.ListRuns", "ServerAppIoServicer.GetRun"
    request_line: ClassVar[re.Pattern[str]] = re.compile(
        r"^\[?(?:Fleet|ServerAppIo|Runtime|(?:Control|Fleet|ServerAppIo|Runtime)Servicer)\.(\w+)\b"
    )
    """The text of a line that only says that a request has come, and which."""
    exit_codes: ClassVar[Mapping[int, str]] = EXIT_CODES
    lost: ClassVar[tuple[str, ...]] = ("No heartbeat received", "Task failed with unknown error")
    """Words of a run's details when its ServerApp's process went away."""

    def environment(self, flwr_home: Path) -> dict[str, str]:
        """Return the variables that the SuperLink and every command are given."""
        return {
            "FLWR_HOME": str(flwr_home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            # gRPC stays on this machine or in the VPN: a proxy would take even its calls to loopback. An empty name
            # comes before https_proxy and http_proxy (gRPC, "HTTP Proxy Support"), which stay for what an app
            # downloads.
            "grpc_proxy": "",
        }

    def superlink_arguments(self, table: SuperLinkTable, database: Path) -> list[str]:
        """Return the command line of the SuperLink."""
        arguments = [self.superlink_program]
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
            *("--database", str(database)),
            "--disable-runtime-dependency-installation",
        ]

    def connection(self, table: SuperLinkTable, address: str) -> dict[str, Any]:
        """Return the table of a connection in FLWR_HOME/config.toml.

        Args:
            table: `[superlink]` of server.toml.
            address: the Control API as this machine reaches it.
        """
        if table.insecure:
            return {"address": address, "insecure": True}
        return {"address": address, "root-certificates": str(table.root_certificates)}

    def control(self, connection: Mapping[str, Any]) -> GrpcControl | None:
        """Return the Control API as this process speaks it, or None for a line that leaves it to the commands.

        Args:
            connection: as `connection` gives it.
        """
        from fleven.server.flower.control import GrpcControl

        return GrpcControl(connection, self.process_lost)

    # The commands

    def as_json(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line that answers with a JSON document."""
        return [self.command_program, *arguments, "--format", "json"]

    def list_runs(self, run_id: str | None) -> list[str]:
        """Return the arguments that ask for all runs, or for one."""
        return ["ls", CONNECTION, *(["--run-id", run_id] if run_id is not None else [])]

    def list_nodes(self) -> list[str]:
        """Return the arguments that ask for the nodes."""
        return ["supernode", "list", CONNECTION]

    def register_node(self, public_key: Path) -> list[str]:
        """Return the arguments that let a node's key in."""
        return ["supernode", "register", str(public_key), CONNECTION]

    def unregister_node(self, node_id: str) -> list[str]:
        """Return the arguments that remove a node."""
        return ["supernode", "unregister", node_id, CONNECTION]

    def submit(self, app: Path, run_config: Mapping[str, bool | int | float | str]) -> list[str]:
        """Return the arguments that submit an app.

        Raises:
            FlowerError: a value cannot be passed on.
        """
        overrides = [
            word for key, value in run_config.items() for word in ("--run-config", f"{key}={toml_value(value)}")
        ]
        return ["run", str(app), CONNECTION, *overrides]

    def stop(self, run_id: str) -> list[str]:
        """Return the arguments that stop a run."""
        return ["stop", run_id, CONNECTION]

    def log(self, run_id: str, *, follow: bool) -> list[str]:
        """Return the command line that prints a run's ServerApp log."""
        return [self.command_program, "log", run_id, CONNECTION, "--stream" if follow else "--show"]

    # Their answers

    def document(self, name: str, status: int, stdout: str, stderr: str) -> dict[str, Any]:
        """Return the JSON document that a command printed.

        Raises:
            FlowerError: it reports a failure, or printed no document.
        """
        start = stdout.find("{")
        try:
            answer = json.loads(stdout[start:]) if start >= 0 else None
        except ValueError:
            answer = None
        if isinstance(answer, dict) and answer.get("success") and status == 0:
            return answer
        said = str(answer.get("error-message", "")) if isinstance(answer, dict) else ""
        raise self.failure(name, status, said or stderr or stdout)

    def failure(self, name: str, status: int, said: str) -> FlowerError:
        """Return the coded error for what a failed command said."""
        lines = [line.strip() for line in said.splitlines() if line.strip() and not self.noise.match(line.strip())]
        if self.unreachable in said:
            return SuperLinkUnreachableError("the SuperLink does not answer", hint="systemctl status fleven-superlink")
        # Flower breaks its messages into lines at any word.
        whole = " ".join(lines)
        text = whole[:500] or f"ended with status {status}"
        if match := self.exit_code_line.search(said):
            text = self.exit_codes.get(int(match.group(1)), f"Flower's exit code {match.group(1)}")
        if self.final.search(whole):
            return FlowerError(f"`{name}`: {text}", code=REFUSED)
        if self.run_not_found.search(text):
            return FlowerError(f"`{name}`: {text}", code="run-unknown")
        if "stop" in name and self.already_finished.search(text):
            return FlowerError(f"`{name}`: {text}", code="run-finished")
        return FlowerError(f"`{name}`: {text}")

    def runs(self, document: Mapping[str, Any]) -> list[FlowerRun]:
        """Return the runs of a document."""
        return [self.run(row) for row in document.get("runs", [])]

    def run(self, row: Mapping[str, Any]) -> FlowerRun:
        """Return one row of the runs."""
        status, _, sub_status = str(row["status"]).partition(":")
        details = str(row.get("status-details") or "")
        return FlowerRun(
            run_id=str(row["run-id"]),
            version=str(row.get("fab-version", "")),
            status=status,
            sub_status=sub_status,
            details="" if details == "N/A" else details,
            process_lost=self.process_lost(details),
            pending_at=moment(row.get("pending-at")),
            running_at=moment(row.get("running-at")),
            finished_at=moment(row.get("finished-at")),
        )

    def process_lost(self, details: str) -> bool:
        """Return whether a run's details say that its ServerApp's process went away."""
        return any(words in details for words in self.lost)

    def nodes(self, document: Mapping[str, Any]) -> list[FlowerNode]:
        """Return the nodes of a document."""
        return [
            FlowerNode(
                str(row["node-id"]), str(row["status"]), moment(row.get("online-at")), moment(row.get("offline-at"))
            )
            for row in document.get("nodes", [])
        ]

    def registered(self, document: Mapping[str, Any]) -> str:
        """Return the id of the node whose key was let in.

        Raises:
            FlowerError: the document names none.
        """
        node_id = document.get("node-id")
        if not node_id:
            raise FlowerError("`flwr supernode register` answered without a node id")
        return str(node_id)

    def submitted(self, document: Mapping[str, Any]) -> str:
        """Return the id of the run that was submitted.

        Raises:
            FlowerError: the document names none.
        """
        run_id = document.get("run-id")
        if not run_id:
            raise FlowerError("`flwr run` answered without a run id")
        return str(run_id)


LINES: tuple[FlowerLine, ...] = (FlowerLine(),)
"""Every line that the server knows, the oldest first."""


def line_for(version: str) -> FlowerLine:
    """Return the line of a version of Flower: the newest that is not above it, else the oldest.

    Whether a version is supported at all is not asked here: check and preflight say so.
    """
    found = flower_versions.release_line(version)
    fitting = [line for line in LINES if found is not None and line.lowest <= found]
    return fitting[-1] if fitting else LINES[0]


def installed_version() -> str:
    """Return the version of the installed Flower, or "" when there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flwr")
    except PackageNotFoundError:
        return ""


@lru_cache(maxsize=1)
def installed_line() -> FlowerLine:
    """Return the line of the installed Flower; found once."""
    return line_for(installed_version())


def moment(text: str | None) -> datetime | None:
    """Return a time as `flwr` prints it (`2026-11-24 04:33:06Z`), or None for `N/A`."""
    if not text or text == "N/A":
        return None
    return datetime.fromisoformat(text.replace(" ", "T").replace("Z", "+00:00")).astimezone(UTC)


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
