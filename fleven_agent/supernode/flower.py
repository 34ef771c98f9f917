"""All that the agent knows of Flower: SuperNode's command line, environment, log lines, ends and habits.

One object for each line of Flower, chosen once by ``line_for``: another line is another object here, and no `if`
anywhere else. Pure: builds and parses, runs nothing. Imports the agent's settings and states.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fleven_agent.common import flower_versions
from fleven_agent.common.cell.output import MARK
from fleven_agent.config.settings import Settings
from fleven_agent.protocol.codes import Reason

MARKER = "FLEVEN_SUPERNODE_OF"
"""Variable in the environment of all that descends from SuperNode: the state folder of the agent that started it."""

# The child sees these of the agent's environment, and nothing else: no NOTIFY_SOCKET or WATCHDOG_* (SuperNode must not
# speak to systemd for the agent), no JOURNAL_STREAM, no credentials, no settings of another Flower.
_INHERITED = {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"}
_INHERITED_PREFIXES = ("LC_", "OMP_", "OPENBLAS_", "MKL_", "KMP_", "TORCH_", "PYTORCH_", "SSL_CERT_", "GRPC_")


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start SuperNode: changed in any part, it must be restarted."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    credentials: str = ""
    """Names the content of the key and the certificates that argv names, which SuperNode reads once."""


class Kind(StrEnum):
    """What a line of SuperNode's output means for the agent."""

    REGISTERED = "registered"
    CONTEXT = "context"
    TASK_RECEIVING = "task-receiving"
    TASK_RECEIVED = "task-received"
    TASK_RECEIVE_FAILED = "task-receive-failed"
    TASK_SENDING = "task-sending"
    TASK_SENT = "task-sent"
    TASK_SEND_FAILED = "task-send-failed"
    TASK_IGNORED = "task-ignored"
    APP_FAILED = "app-failed"
    CONNECTION_LOST = "connection-lost"
    CONNECTION_RESTORED = "connection-restored"
    REFUSED = "refused"
    HEARTBEATS_ENDED = "heartbeats-ended"
    FLOWER_EXIT = "flower-exit"
    ENDED_GRACEFULLY = "ended-gracefully"
    VERSION_MISMATCH = "version-mismatch"


@dataclass(frozen=True, slots=True)
class Event:
    """A line with a meaning. Ids are decimal strings."""

    kind: Kind
    node_id: str = ""
    run_id: str = ""
    round: int | None = None
    message_type: str = ""
    exit_code: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of output without colours: its level in the words of syslog, its text, and its meaning if it has one."""

    level: str
    text: str
    event: Event | None


SAID_BY_TASKS = frozenset({Kind.APP_FAILED})
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_LEVEL = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*:\s?\s*(.*)$")


@dataclass(frozen=True, slots=True)
class End:
    """Why SuperNode ended. ``permanent``: not cured until somebody changes something."""

    reason: Reason
    detail: str
    permanent: bool = False


class Api(StrEnum):
    """One of the SuperLink's APIs, by what speaks at a port."""

    FLEET = "Fleet"
    CONTROL = "Control"
    SERVERAPPIO = "ServerAppIo"
    UNKNOWN = ""


NOT_KNOWN = "UNIMPLEMENTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowerLine:
    """What one line of Flower does on the car: the one place to change, or to replace, for another line.

    What differs in values is a field of ``LINES``; what differs in kind is a class of its own over a method.
    """

    lowest: tuple[int, int]
    """Its first release (major, minor)."""
    below: tuple[int, int]
    """The first that is no longer of it."""
    supernode: str
    """Program of SuperNode."""
    executor: str
    """Program that SuperNode starts for its tasks, once, and never watches."""
    clientapp: str
    """Program of one task."""
    home_folder: str
    """Flower's own home, below the agent's state folder."""
    apps_folder: str
    """Below Flower's home: a folder for each app that was ever unpacked."""
    runtime_address_option: str
    """Under which SuperNode listens for its ClientApps."""
    patterns: tuple[tuple[re.Pattern[str], Kind], ...]
    """What a line of output means, tried in order."""
    permanent_exits: Mapping[int, str]
    """Its exit codes that waiting does not cure: the operator must change something."""
    version_exit: int
    """The one of them that says that two releases do not fit."""
    key_refusals: Mapping[int, str]
    """Its codes of a refusal that registering a key cures."""
    key_hint: str
    clock_refusal: str
    """How it refuses a call whose signature is too old or from the future."""
    clock_hint: str
    api_questions: Mapping[Api, str]
    """Calls that change nothing, even when they are answered: which of them a port knows tells whose it is."""
    answer_after_kill_seconds: float
    """So long Flower may take to answer for a ClientApp that was killed; after that the agent replaces SuperNode."""
    died_seconds: float
    """How long SuperNode may take to find the answer of a ClientApp that has ended; after that there is none."""
    broken_off_seconds: float
    """How long an answer whose ClientApp died may go on without moving: it may be complete all the same."""
    lost_seconds: float
    """While SuperNode has lost the SuperLink it says so at least every so often. That it has it back, it does not
    always say."""
    executor_slack_seconds: float
    """The executor may see a message, and start its ClientApp, this much before SuperNode's line about it is read."""

    def home(self, state_directory: Path) -> Path:
        """Return FLWR_HOME of SuperNode."""
        return state_directory / self.home_folder

    def launch(
        self,
        settings: Settings,
        state_directory: Path,
        environment: Mapping[str, str],
        *,
        interpreter_directory: str = "",
        credentials: str = "",
    ) -> Launch:
        """Return argv and environment of SuperNode; the warm launcher puts its folder before PATH when it is enabled.

        Args:
            settings: complete settings (``config.parser.complete``).
            state_directory: the agent's state folder; Flower's own home lies below it.
            environment: the agent's environment.
            interpreter_directory: folder with the ``flower-supernode`` of the agent's own installation; it is put
                before PATH unless PATH names it already.
            credentials: names the content of the key and the certificates.
        """
        argv = [self.supernode]
        if settings.root_certificates is not None:
            argv += ["--root-certificates", settings.root_certificates]
        elif settings.insecure is not False:
            argv += ["--insecure"]
        argv += ["--superlink", settings.superlink]
        argv += [self.runtime_address_option, settings.clientapp_address]
        if settings.auth_private_key is not None:
            argv += ["--auth-supernode-private-key", settings.auth_private_key]
        argv += ["--node-config", self.node_config(settings)]

        kept = {
            name: value
            for name, value in environment.items()
            if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
        }
        path = [entry for entry in kept.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":") if entry]
        if interpreter_directory and interpreter_directory not in path:
            path.insert(0, interpreter_directory)
        kept["PATH"] = ":".join(path)
        kept.setdefault("HOME", str(state_directory))
        kept["FLWR_HOME"] = str(self.home(state_directory))
        kept["FLWR_TELEMETRY_ENABLED"] = "0"
        kept["FLWR_DISABLE_UPDATE_CHECK"] = "1"
        kept["PYTHONUNBUFFERED"] = "1"  # a ClientApp's last lines must be out before it is killed
        kept[MARKER] = str(state_directory)
        return Launch(tuple(argv), tuple(sorted(kept.items())), credentials)

    def node_config(self, settings: Settings) -> str:
        """Return the value of ``--node-config``: what the ClientApp finds in its context."""
        pairs = [] if settings.partition_id is None else [f"partition-id={settings.partition_id}"]
        if settings.node_name is not None:
            pairs.append(f"node-name={_toml_string(settings.node_name)}")
        if settings.num_partitions is not None:
            pairs.append(f"num-partitions={settings.num_partitions}")
        if settings.data_path is not None:
            pairs.append(f"data-path={_toml_string(settings.data_path)}")
        return " ".join(pairs)

    def parse_line(self, raw: str) -> Line:
        """Read one line of output of SuperNode or of its children.

        Of a line that a task in the cell has printed only what concerns the task is believed.
        """
        from_task = raw.startswith(MARK)
        text = _ANSI.sub("", raw.removeprefix(MARK)).rstrip()
        match = _LEVEL.match(text)
        level = match[1].lower() if match else "info"
        text = match[2] if match else text
        for pattern, kind in self.patterns:
            found = None if from_task and kind not in SAID_BY_TASKS else pattern.search(text)
            if found:
                parts = {name: value for name, value in found.groupdict().items() if value is not None}
                return Line(level, text, _event(kind, parts))
        return Line(level, text, None)

    def refusal(self, detail: str) -> str:
        """Return the details of a refused call as people read them: Flower sends some as JSON."""
        try:
            answer = json.loads(detail.replace('\\"', '"'))
            code, message = answer["code"], str(answer["public_message"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return detail
        known = self.key_refusals.get(code) if isinstance(code, int) else None
        return f"{known} ({message})" if known else message

    def refusal_hint(self, message: str) -> str:
        """Return what to do about a refusal; empty when there is no better hint than the condition's own."""
        if self.clock_refusal in message:
            return self.clock_hint
        return self.key_hint if any(known in message for known in self.key_refusals.values()) else ""

    def classify_end(self, returncode: int, *, registered: bool, seen: Sequence[Event], last_line: str) -> End:
        """Return why SuperNode ended unasked.

        Flower leaves with 0 when the SuperLink refuses the node (it interrupts itself), and with 1 for all else, so the
        log decides.

        Args:
            returncode: as ``Popen.returncode``: negative for a signal.
            registered: whether this process had received a node id.
            seen: events of its output, oldest first.
            last_line: last line of its output, for the operator.
        """
        if returncode < 0:
            return End(Reason.KILLED_BY_SIGNAL, f"SuperNode was killed by {signal_name(-returncode)}")
        mismatch = next((event.detail for event in seen if event.kind is Kind.VERSION_MISMATCH), "")
        if mismatch:
            return End(Reason.REJECTED, f"SuperLink refused the node: {mismatch}", permanent=True)
        code = next((event.exit_code for event in reversed(seen) if event.kind is Kind.FLOWER_EXIT), 0)
        if code in self.permanent_exits:
            reason = Reason.REJECTED if code == self.version_exit else Reason.EXITED
            return End(
                reason, f"SuperNode ended with Flower's exit code {code}: {self.permanent_exits[code]}", permanent=True
            )
        refused = [self.refusal(event.detail) for event in seen if event.kind is Kind.REFUSED and event.detail]
        if refused and (not registered or returncode == 0):
            return End(Reason.REJECTED, f"SuperLink refused the node: {': '.join(dict.fromkeys(refused[-2:]))}")
        if returncode == 0 and not registered:
            return End(Reason.REJECTED, "SuperLink refused to register the node, and SuperNode ended with 0")
        if returncode == 0:
            detail = "SuperNode ended with 0 unasked: SuperLink no longer knows the node, or somebody stopped it"
            return End(Reason.EXITED_UNASKED_ZERO, detail)
        what = f"Flower's exit code {code}" if code else f"exit status {returncode}"
        return End(Reason.EXITED, f"SuperNode ended with {what}" + (f": {last_line}" if last_line else ""))

    def is_executor(self, command_line: Sequence[str]) -> bool:
        """Return whether a process is SuperNode's executor, from its argv."""
        return any(Path(part).name == self.executor for part in command_line[:3])

    def api_of(self, answers: Mapping[Api, str]) -> Api:
        """Return the API that gave these status codes to ``api_questions``; one that answers all alike is none."""
        if answers[Api.UNKNOWN] == "UNAUTHENTICATED":  # flwr 1.34 asks for a token before it looks at the method
            return Api.SERVERAPPIO
        if answers[Api.UNKNOWN] != NOT_KNOWN:
            return Api.UNKNOWN
        return next((api for api in (Api.FLEET, Api.CONTROL) if answers[api] != NOT_KNOWN), Api.UNKNOWN)


def _toml_string(text: str) -> str:
    """Return a text as a TOML string; ``config.parser`` refuses the quotes and control characters it cannot carry."""
    return '"' + text.replace("\\", "\\\\") + '"'


def signal_name(number: int) -> str:
    """Return SIGKILL for 9, and so on."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _event(kind: Kind, parts: Mapping[str, str]) -> Event:
    return Event(
        kind,
        node_id=parts.get("node_id", ""),
        run_id=parts.get("run_id", ""),
        round=int(parts["round"]) if "round" in parts else None,
        message_type=parts.get("message_type", ""),
        exit_code=int(parts.get("exit_code", "0")),
        detail=parts.get("detail", ""),
    )


LINES = (
    # Separate ports for each API, gRPC all over. Silent when the first call after one that it gave up succeeds.
    FlowerLine(
        lowest=(1, 31),
        below=(1, 35),
        supernode="flower-supernode",
        executor="flower-superexec",
        clientapp="flwr-clientapp",
        home_folder="flwr",
        apps_folder="apps",
        runtime_address_option="--clientappio-api-address",
        patterns=(
            (re.compile(r"^SuperNode ID: (?P<node_id>[0-9]{1,20})\b"), Kind.REGISTERED),
            (
                re.compile(r"^\[RUN (?P<run_id>[0-9]{1,20})\b(?:, ROUND (?P<round>[0-9]{1,18})\b)?[^\]]*\]"),
                Kind.CONTEXT,
            ),
            (re.compile(r"^Receiving: (?P<message_type>\S+) message"), Kind.TASK_RECEIVING),
            (re.compile(r"^Received successfully"), Kind.TASK_RECEIVED),
            (re.compile(r"^Failed to receive message \S+: (?P<detail>.*)"), Kind.TASK_RECEIVE_FAILED),
            (re.compile(r"^Sending: (?P<message_type>\S+) message"), Kind.TASK_SENDING),
            (re.compile(r"^Sent successfully"), Kind.TASK_SENT),
            (re.compile(r"^Failed to send message \S+: (?P<detail>.*)"), Kind.TASK_SEND_FAILED),
            (re.compile(r"^Run ID (?P<run_id>[0-9]{1,20})\b is not in `RUNNING` status\. Ignoring"), Kind.TASK_IGNORED),
            (re.compile(r"^Run transitioned to a non-`RUNNING` status"), Kind.TASK_IGNORED),
            (re.compile(r"^ClientApp raised an exception"), Kind.APP_FAILED),
            (re.compile(r"^Connection attempt failed, retrying"), Kind.CONNECTION_LOST),
            (re.compile(r"^Connection successful after"), Kind.CONNECTION_RESTORED),
            (re.compile(r"(?P<detail>SSL/TLS handshake error detected)"), Kind.REFUSED),
            (re.compile(r"(?P<detail>Heartbeat failed unexpectedly\..*)"), Kind.REFUSED),
            # Frames of tracebacks: an answer that Flower does not expect ends the thread; SuperNode goes on without it.
            (re.compile(r'^\s*File ".*", line \d+, in send_node_heartbeat$'), Kind.HEARTBEATS_ENDED),
            (re.compile(r"(?P<detail>runtime version mismatch: .*)"), Kind.VERSION_MISMATCH),
            (re.compile(r"^\s*status = StatusCode\.(?P<detail>[A-Z_]+)"), Kind.REFUSED),
            (re.compile(r'^\s*details = "(?P<detail>.+)"'), Kind.REFUSED),
            (re.compile(r"^Exit Code: (?P<exit_code>[0-9]{1,9})\b"), Kind.FLOWER_EXIT),
            (re.compile(r"^SuperNode terminated gracefully"), Kind.ENDED_GRACEFULLY),
        ),
        permanent_exits={
            302: "the node's private key is not an elliptic curve key in OpenSSH format",
            303: "a private key is set, but the connection is without TLS",
            304: "the file of trusted entities is invalid",
            600: "an address is invalid",
            602: "TLS is not supported for this address",
            603: "root certificates cannot be used together with an insecure connection",
            604: "a path is invalid",
            606: "SuperLink and SuperNode are of different Flower releases",
        },
        version_exit=606,
        key_refusals={2001: "it takes only nodes whose key is registered", 2004: "it does not know this node's key"},
        key_hint="register this node's public key on the server, `flwr supernode register`, and set auth-private-key",
        clock_refusal="Invalid timestamp",
        clock_hint="this car's clock and the server's differ: `fleven-agent check --only clock` says by how much",
        api_questions={
            Api.FLEET: "/flwr.proto.Fleet/GetRun",
            Api.CONTROL: "/flwr.proto.Control/ListRuns",
            Api.UNKNOWN: "/flwr.proto.Nothing/Nothing",
        },
        answer_after_kill_seconds=150.0,
        died_seconds=8.0,
        broken_off_seconds=60.0,
        lost_seconds=120.0,
        executor_slack_seconds=0.5,
    ),
)
"""Oldest first."""


def line_for(version: str | None) -> FlowerLine:
    """Return the line of a version such as `1.34.0`: the newest that is not above it, else the oldest.

    The server chooses by the same rule. Whether a version is supported at all is not asked here: the checks say so.
    """
    found = flower_versions.release_line(version) if version else None
    fitting = [line for line in LINES if found is not None and line.lowest <= found]
    return fitting[-1] if fitting else LINES[0]
