"""All that is known of Flower: the command line, the environment, the log lines, the ends."""

import shlex
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.common import flower_versions
from fleven_agent.common.cell.output import MARK
from fleven_agent.config.settings import Settings
from fleven_agent.protocol.codes import Reason
from fleven_agent.supernode import flower
from fleven_agent.supernode.flower import LINES, Api, Event, FlowerLine, Kind, Line, line_for

SETTINGS = Settings(partition_id=2, superlink="100.64.0.1:9092", insecure=True)
STATE = Path("/var/lib/fleven")
LINE = line_for("1.34.0")


def test_the_command_line_of_two_lines_of_configuration() -> None:
    assert LINE.launch(SETTINGS, STATE, {}).argv == (
        "flower-supernode",
        "--insecure",
        "--superlink",
        "100.64.0.1:9092",
        "--clientappio-api-address",
        "127.0.0.1:9094",
        "--node-config",
        "partition-id=2",
    )


def test_the_command_line_with_everything() -> None:
    full = replace(
        SETTINGS,
        root_certificates="/ca.crt",
        auth_private_key="/key",
        num_partitions=3,
        data_path="/home/pi/my trips",
        insecure=False,
    )
    argv = LINE.launch(full, STATE, {}).argv
    assert "--insecure" not in argv
    assert argv[argv.index("--root-certificates") + 1] == "/ca.crt"
    assert argv[argv.index("--auth-supernode-private-key") + 1] == "/key"
    assert argv[-1] == 'partition-id=2 num-partitions=3 data-path="/home/pi/my trips"'


def test_flower_itself_reads_the_node_config_as_it_was_meant() -> None:
    from flwr.common.config import parse_config_args

    written = LINE.node_config(
        replace(SETTINGS, num_partitions=3, node_name="the red car", data_path="/home/pi/my trips=1")
    )
    assert parse_config_args([written]) == {
        "partition-id": 2,
        "node-name": "the red car",
        "num-partitions": 3,
        "data-path": "/home/pi/my trips=1",
    }


def test_flower_itself_takes_every_option() -> None:
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

    full = replace(SETTINGS, root_certificates="/ca.crt", auth_private_key="/key", num_partitions=3, data_path="/trips")
    for settings in (SETTINGS, full):
        parsed = _parse_args_run_supernode().parse_args(list(LINE.launch(settings, STATE, {}).argv[1:]))
        assert parsed.superlink == "100.64.0.1:9092"
        assert parsed.runtime_dependency_install is False


def test_the_environment_is_explicit() -> None:
    mine = {
        "PATH": "/usr/bin",
        "LC_ALL": "C",
        "OMP_NUM_THREADS": "2",
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "1",
        "JOURNAL_STREAM": "8:1",
        "FLWR_HOME": "/root/.flwr",
        "PYTHONPATH": "/elsewhere",
        "SECRET_TOKEN": "x",
    }
    found = dict(LINE.launch(SETTINGS, STATE, mine, interpreter_directory="/opt/bin").environment)
    assert found == {
        "PATH": "/opt/bin:/usr/bin",
        "LC_ALL": "C",
        "OMP_NUM_THREADS": "2",
        "HOME": "/var/lib/fleven",
        "FLWR_HOME": "/var/lib/fleven/flwr",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
        "FLEVEN_SUPERNODE_OF": "/var/lib/fleven",
    }


def test_a_path_that_names_the_interpreters_folder_keeps_its_order() -> None:
    found = dict(
        LINE.launch(SETTINGS, STATE, {"PATH": "/fakes:/opt/bin"}, interpreter_directory="/opt/bin").environment
    )
    assert found["PATH"] == "/fakes:/opt/bin"


INFO = "\x1b[92mINFO \x1b[0m:      "


@pytest.mark.parametrize(
    ("raw", "event"),
    [
        (f"{INFO}SuperNode ID: 13905849338974022485", Event(Kind.REGISTERED, node_id="13905849338974022485")),
        (f"{INFO}[RUN 154, ROUND 3]", Event(Kind.CONTEXT, run_id="154", round=3)),
        (f"{INFO}[RUN 154]", Event(Kind.CONTEXT, run_id="154")),
        (f"{INFO}Receiving: train message (ID: a62)", Event(Kind.TASK_RECEIVING, message_type="train")),
        (f"{INFO}Received successfully", Event(Kind.TASK_RECEIVED)),
        (f"{INFO}Sending: train.fit message (ID: a62)", Event(Kind.TASK_SENDING, message_type="train.fit")),
        (f"{INFO}Sent successfully", Event(Kind.TASK_SENT)),
        ("\x1b[91mERROR \x1b[0m:     Failed to send message a62: gone", Event(Kind.TASK_SEND_FAILED, detail="gone")),
        ("\x1b[91mERROR \x1b[0m:     ClientApp raised an exception", Event(Kind.APP_FAILED)),
        ("\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.67 seconds", Event(Kind.CONNECTION_LOST)),
        (f"{INFO}Connection successful after 3.10 seconds and 2 tries.", Event(Kind.CONNECTION_RESTORED)),
        (
            '  File "/x/flwr/client/grpc_rere_client/connection.py", line 192, in send_node_heartbeat',
            Event(Kind.HEARTBEATS_ENDED),
        ),
        ("\tstatus = StatusCode.UNAUTHENTICATED", Event(Kind.REFUSED, detail="UNAUTHENTICATED")),
        ('\tdetails = "no such node"', Event(Kind.REFUSED, detail="no such node")),
        ("\x1b[91mERROR \x1b[0m:     Exit Code: 302", Event(Kind.FLOWER_EXIT, exit_code=302)),
        (f"{INFO}SuperNode terminated gracefully.", Event(Kind.ENDED_GRACEFULLY)),
        (
            f"{INFO}Run ID 7 is not in `RUNNING` status. Ignoring reply message a62.",
            Event(Kind.TASK_IGNORED, run_id="7"),
        ),
    ],
)
def test_lines_with_a_meaning(raw: str, event: Event) -> None:
    assert LINE.parse_line(raw).event == event


def test_a_line_keeps_its_level_and_loses_its_colours() -> None:
    line = LINE.parse_line("\x1b[93mWARNING \x1b[0m:   Option `--insecure` was set.\n")
    assert (line.level, line.text, line.event) == ("warning", "Option `--insecure` was set.", None)
    assert LINE.parse_line("epoch 1 loss 0.3").level == "info"


@given(st.text())
def test_no_line_breaks_the_parser(raw: str) -> None:
    assert LINE.parse_line(raw).level in {"debug", "info", "warning", "error", "critical"}


@pytest.mark.parametrize(
    "line",
    [
        "SuperNode ID: 42",
        "[RUN 7, ROUND 3]",
        "Receiving: train message",
        "Sent successfully",
        '  File "x", line 1, in send_node_heartbeat',
        "Exit Code: 600",
        '    details = "unknown key"',
        "Connection attempt failed, retrying",
        "SuperNode terminated gracefully",
    ],
)
def test_what_a_task_prints_is_not_taken_for_supernodes_word(line: str) -> None:
    assert LINE.parse_line(line).event is not None
    assert LINE.parse_line(MARK + line) == replace(LINE.parse_line(line), event=None)
    assert LINE.parse_line(f"{MARK}\x1b[0m{INFO}{line}").event is None
    failed = f"{MARK}ERROR :     ClientApp raised an exception"
    assert LINE.parse_line(failed) == Line("error", "ClientApp raised an exception", Event(Kind.APP_FAILED))


@pytest.mark.parametrize("digits", ["9" * 5_000, "٣"])
@pytest.mark.parametrize("line", ["SuperNode ID: {}", "[RUN 7, ROUND {}]", "Run ID {} is not in", "Exit Code: {}"])
def test_a_number_that_is_none_of_flowers_is_no_number(line: str, digits: str) -> None:
    """An app may print anything: a number that Python refuses ended the thread that reads SuperNode's output."""
    event = LINE.parse_line(line.format(digits)).event
    assert event in {None, Event(Kind.CONTEXT, run_id="7")}


def end(returncode: int, *seen: Event, registered: bool = True) -> tuple[Reason, bool]:
    found = LINE.classify_end(returncode, registered=registered, seen=seen, last_line="the last words")
    assert found.detail
    return found.reason, found.permanent


REFUSED = (Event(Kind.REFUSED, detail="UNAUTHENTICATED"), Event(Kind.REFUSED, detail="unknown key"))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (end(-9), (Reason.KILLED_BY_SIGNAL, False)),
        (end(0), (Reason.EXITED_UNASKED_ZERO, False)),
        (end(0, registered=False), (Reason.REJECTED, False)),
        (end(0, *REFUSED), (Reason.REJECTED, False)),
        (end(1, *REFUSED, registered=False), (Reason.REJECTED, False)),
        (end(1), (Reason.EXITED, False)),
        (end(1, Event(Kind.FLOWER_EXIT, exit_code=302)), (Reason.EXITED, True)),
        (end(1, Event(Kind.FLOWER_EXIT, exit_code=606)), (Reason.REJECTED, True)),
        (end(1, Event(Kind.VERSION_MISMATCH, detail="mismatch: 1.34 and 1.40")), (Reason.REJECTED, True)),
        (end(1, Event(Kind.FLOWER_EXIT, exit_code=800)), (Reason.EXITED, False)),
    ],
)
def test_ends(found: tuple[Reason, bool], expected: tuple[Reason, bool]) -> None:
    assert found == expected


@pytest.mark.parametrize("escaped", ["", "\\"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (2001, "it takes only nodes whose key is registered (Said by Flower.)"),
        (2004, "it does not know this node's key (Said by Flower.)"),
        (2003, "Said by Flower."),
    ],
)
def test_a_refusal_is_read_out_of_flowers_json(code: int, expected: str, escaped: str) -> None:
    details = f'{{"code": {code}, "public_message": "Said by Flower.", "public_details": null}}'
    quoted = details.replace('"', f'{escaped}"')
    line = LINE.parse_line(f'\tdetails = "{quoted}"')
    assert line.event is not None
    found = LINE.classify_end(0, registered=False, seen=[line.event], last_line="").detail
    assert found == f"SuperLink refused the node: {expected}"
    assert ("flwr supernode register" in LINE.refusal_hint(found)) == (code != 2003)


def test_a_refused_clock_names_the_clock() -> None:
    details = LINE.parse_line('\tdetails = "Invalid timestamp"')
    status = LINE.parse_line("\tstatus = StatusCode.UNAUTHENTICATED")
    assert status.event is not None
    assert details.event is not None
    found = LINE.classify_end(0, registered=True, seen=[status.event, details.event], last_line="")
    assert found.reason is Reason.REJECTED
    assert "clock" in LINE.refusal_hint(found.detail)


@given(st.text() | st.from_regex(r'\{"code": .*, "public_message": .*\}'))
def test_any_details_of_a_refusal_are_a_text(detail: str) -> None:
    assert isinstance(LINE.refusal(detail), str)


def test_an_end_names_the_signal_and_the_last_words() -> None:
    assert "SIGKILL" in LINE.classify_end(-9, registered=True, seen=[], last_line="").detail
    assert "the last words" in LINE.classify_end(1, registered=True, seen=[], last_line="the last words").detail


def test_a_version_mismatch_names_both_versions() -> None:
    line = LINE.parse_line(
        "SuperLink version 1.34.0 detected a runtime version mismatch: expected a peer from the same major.minor "
        "release, but received SuperNode version 1.31.0."
    )
    assert line.event is not None
    detail = LINE.classify_end(0, registered=False, seen=[line.event], last_line="").detail
    assert "1.31.0" in detail


@pytest.mark.parametrize(
    ("fleet", "control", "unknown", "expected"),
    [  # as the three ports of flower-superlink 1.34 answer
        ("UNAUTHENTICATED", "UNIMPLEMENTED", "UNIMPLEMENTED", Api.FLEET),
        ("UNIMPLEMENTED", "OK", "UNIMPLEMENTED", Api.CONTROL),
        ("UNAUTHENTICATED", "UNAUTHENTICATED", "UNAUTHENTICATED", Api.SERVERAPPIO),
        ("UNIMPLEMENTED", "UNIMPLEMENTED", "UNIMPLEMENTED", Api.UNKNOWN),
    ],
)
def test_the_apis_of_the_superlink_are_told_apart(fleet: str, control: str, unknown: str, expected: Api) -> None:
    answers = {Api.FLEET: fleet, Api.CONTROL: control, Api.UNKNOWN: unknown}
    assert LINE.api_of(answers) is expected


def test_the_newest_line_that_is_not_above_the_version_is_chosen_and_else_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newer = replace(LINE, lowest=(1, 42), below=(1, 43))
    monkeypatch.setattr(flower, "LINES", (LINE, newer))
    for version in ("1.31.0", "1.34.2", "1.41.9", "1.2", "0+unknown", "", None):
        assert line_for(version) is LINE, version
    for version in ("1.42.0", "1.99.0", "2.0"):
        assert line_for(version) is newer, version


def test_the_lines_are_those_of_the_supported_range_without_a_gap() -> None:
    assert (LINES[0].lowest, LINES[-1].below) == (flower_versions.LOWEST, flower_versions.BELOW)
    assert all(one.below == following.lowest for one, following in pairwise(LINES))


def test_another_line_is_another_object() -> None:
    other: FlowerLine = replace(LINE, runtime_address_option="--runtime-api-address", supernode="flower-node")
    assert other.launch(SETTINGS, STATE, {}).argv[:1] == ("flower-node",)
    assert "--runtime-api-address" in other.launch(SETTINGS, STATE, {}).argv
    assert "--runtime-api-address" not in LINE.launch(SETTINGS, STATE, {}).argv


def test_a_backslash_reaches_the_app_as_it_is_written() -> None:
    settings = replace(SETTINGS, node_name="a\\b", data_path="/data/c\\")
    read = tomllib.loads("\n".join(shlex.split(LINE.node_config(settings), posix=False)))
    assert read["node-name"] == "a\\b"
    assert read["data-path"] == "/data/c\\"


def test_no_proxy_of_the_environment_reaches_supernode(tmp_path: Path) -> None:
    proxies = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTPS_PROXY", "grpc_proxy", "all_proxy"), "http://proxy:3128"
    )
    made = LINE.launch(SETTINGS, tmp_path, {"PATH": "/bin", **proxies})
    assert not any("proxy" in name.lower() for name, _ in made.environment)
