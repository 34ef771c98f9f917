"""The command line: help with examples, exit codes, checks with stable ids, what is written for people."""

import argparse
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleven_agent.checks import ALL, HINT_FOR_A_DEFECT, Context, machine
from fleven_agent.checks.certificates import judge
from fleven_agent.cli import arguments, config, main
from fleven_agent.cli.completion import script
from fleven_agent.cli.status_text import status_text
from fleven_agent.common.checks import Check, Result, Status, run_checks, select
from fleven_agent.errors import StateError
from fleven_agent.state import Remembered, StateFile


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("state", "runtime"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("FLEVEN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FLEVEN_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def node_toml(tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text('partition-id = 0\nsuperlink = "127.0.0.1:1"\n', encoding="utf-8")
    return file


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands(command)


def test_every_command_says_what_it_does_and_every_option_too() -> None:
    for command in commands(arguments.parser()):
        assert command.description, command.prog
        for action in command._actions:
            if not isinstance(action, argparse._SubParsersAction) and action.dest != "shell":
                assert action.help, f"{command.prog} {action.dest}"


def test_wrong_usage_is_2() -> None:
    for argv in ([], ["quux"], ["status", "--watch", "--interval-seconds", "0"], ["config"]):
        with pytest.raises(SystemExit) as caught:
            main.main(argv)
        assert caught.value.code == 2


def test_an_unknown_check_is_2_and_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["check", "--only", "quux"]) == 2
    assert "fleven-agent check --list" in capsys.readouterr().err


def test_bad_configuration_is_78_with_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "node.toml"
    file.write_text("quux = 1\n", encoding="utf-8")
    assert main.main(["config", "check", "--config", str(file)]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"fleven-agent: {file}: ") for line in lines)
    assert main.main(["config", "check", "--json", "--config", str(file)]) == 78
    assert json.loads(capsys.readouterr().out)["valid"] is False


def test_show_names_value_and_source(node_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["config", "show", "--json", "--config", str(node_toml)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["partition-id"] == {"value": 0, "source": str(node_toml)}
    assert shown["gates.allowed-hours"] == {"value": [], "source": "default"}


def test_no_agent_and_no_state_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["status"]) == 3
    assert "systemctl start fleven-agent" in capsys.readouterr().err
    assert main.main(["restart"]) == 3


def test_without_an_agent_the_last_known_state_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = Remembered(sender_id="a", last_status={"state": "running", "node": {"name": "car-0"}, "at": None})
    StateFile(tmp_path / "state").save(known)
    assert main.main(["status"]) == 3
    assert "not running; last known state" in capsys.readouterr().out
    assert main.main(["status", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["agent_running"] is False


def test_a_user_who_may_not_read_the_state_hears_that_no_agent_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_file: StateFile) -> None:
        raise StateError("state.json: permission denied", hint="use sudo")

    monkeypatch.setattr(StateFile, "peek", refuse)
    assert main.main(["status"]) == 3
    said = capsys.readouterr().err
    assert "no agent answers" in said
    assert "use sudo for the last known state" in said
    assert "systemctl start fleven-agent" in said


@pytest.mark.parametrize(
    ("mode", "status"), [(0o600, "ok"), (0o640, "ok"), (0o660, "warning"), (0o644, "warning"), (0o620, "warning")]
)
def test_a_private_key_may_be_the_groups_to_read(
    tmp_path: Path, mode: int, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "node.key"
    key.write_text("key", encoding="utf-8")
    key.chmod(mode)
    certificate = tmp_path / "ca.crt"
    certificate.write_text("certificate", encoding="utf-8")
    file = tmp_path / "node.toml"
    text = f'partition-id = 0\nsuperlink = "127.0.0.1:1"\nroot-certificates = "{certificate}"\n'
    file.write_text(f'{text}auth-private-key = "{key}"\n', encoding="utf-8")
    main.main(["check", "--json", "--config", str(file), "--only", "permissions.key"])
    [row] = json.loads(capsys.readouterr().out)["checks"]
    assert row["status"] == status
    assert "chmod 600" not in row["hint"]


def test_a_drain_without_an_agent_is_kept_for_its_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["drain", "--reason", "brakes"]) == 0
    kept = StateFile(tmp_path / "state").peek()
    assert kept is not None
    assert (kept.drained, kept.drain_reason) == (True, "brakes")
    assert main.main(["undrain", "--json"]) == 0
    kept_after = StateFile(tmp_path / "state").peek()
    assert kept_after is not None
    assert (kept_after.drained, kept_after.sender_id) == (False, kept.sender_id)


def test_the_ids_of_checks_are_stable() -> None:
    assert [check.id for check in ALL] == [
        "configuration.valid",
        "configuration.transport",
        "configuration.reports",
        "configuration.applied",
        "permissions.state",
        "permissions.runtime",
        "permissions.key",
        "permissions.token",
        "identity.joined",
        "identity.wishes",
        "identity.key",
        "identity.server",
        "flower.programs",
        "flower.version",
        "flower.running",
        "machine.disk",
        "machine.memory",
        "machine.memory-limit",
        "machine.temperature",
        "machine.power",
        "machine.local-users",
        "clock.synchronised",
        "clock.server",
        "network.superlink-dns",
        "network.superlink-tcp",
        "network.superlink-tls",
        "network.superlink-api",
        "network.report-dns",
        "network.report-tcp",
        "network.report-http",
        "certificates.roots",
        "certificates.superlink",
        "certificates.server",
        "certificates.tailscale",
        "data.readable",
        "data.enough",
        "data.quarantine",
        "server.version",
        "server.partition",
        "server.delivery",
    ]


@pytest.mark.parametrize(
    ("version_2", "version_1", "expected"),
    [
        ("cpuset cpu io memory pids\n", "", Status.OK),
        ("cpuset cpu io pids\n", "", Status.WARNING),  # as Raspberry Pi OS starts
        (None, "#subsys_name hierarchy num_cgroups enabled\nmemory 3 70 1\n", Status.OK),
        (None, "#subsys_name hierarchy num_cgroups enabled\nmemory 0 1 0\n", Status.WARNING),
    ],
)
def test_a_kernel_that_does_not_limit_memory_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version_2: str | None, version_1: str, expected: Status
) -> None:
    monkeypatch.setattr(machine, "CONTROLLERS", tmp_path / "controllers")
    monkeypatch.setattr(machine, "CONTROLLERS_OF_VERSION_1", tmp_path / "cgroups")
    if version_2 is not None:
        (tmp_path / "controllers").write_text(version_2)
    (tmp_path / "cgroups").write_text(version_1)
    context = Context(tmp_path / "node.toml", tmp_path, tmp_path)
    [(_, found)] = run_checks(select(ALL, ["machine.memory-limit"]), context, hint_for_a_defect=HINT_FOR_A_DEFECT)
    assert found.status == expected
    assert ("cgroup_enable=memory" in found.hint) == (expected == Status.WARNING)


def test_checks_are_chosen_by_id_or_group() -> None:
    assert {check.id for check in select(ALL, ["clock", "data.enough"])} == {
        "clock.synchronised",
        "clock.server",
        "data.enough",
    }
    with pytest.raises(KeyError):
        select(ALL, ["cloc"])


def test_a_check_that_fails_itself_is_an_error_and_stops_nothing(tmp_path: Path) -> None:
    def broken(_context: Context) -> Result:
        raise ZeroDivisionError

    check = Check("x.broken", "broken", broken)
    results = list(run_checks([check, check], Context(tmp_path / "n", tmp_path, tmp_path), hint_for_a_defect="tell"))
    assert [result.status for _, result in results] == [Status.ERROR, Status.ERROR]


def test_without_a_configuration_what_needs_one_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main.main(
            ["check", "--json", "--config", str(tmp_path / "no.toml"), "--only", "data", "--only", "configuration"]
        )
        == 1
    )
    found = {row["id"]: row["status"] for row in json.loads(capsys.readouterr().out)["checks"]}
    assert found["configuration.valid"] == "error"
    assert found["data.enough"] == "skipped"


def test_every_check_that_is_not_well_has_a_hint(node_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["check", "--json", "--config", str(node_toml), "--timeout-seconds", "0.5"])
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert len(rows) == len(ALL)
    for row in rows:
        assert row["message"]
        assert bool(row["hint"]) == (row["status"] in {"warning", "error"}), row


def _trips_with_agent(node_toml: Path, tmp_path: Path, seen: dict[str, Any] | None) -> tuple[Result, Result]:
    """The checks of trips on a folder with one trip of 30 rows, beside an agent that says what it sees in it."""
    folder = tmp_path / "trips"
    folder.mkdir()
    (folder / "trip.csv").write_text("timestamp,vehicle_speed\n" + "".join(f"{row},50\n" for row in range(30)))
    with node_toml.open("a") as file:
        file.write(f'data-path = "{folder}"\n')
    context = Context(node_toml, tmp_path, tmp_path)
    context.status = None if seen is None else {"data": {"path": str(folder), **seen}}
    [(_, readable), (_, enough)] = run_checks(
        select(ALL, ["data.readable", "data.enough"]), context, hint_for_a_defect=HINT_FOR_A_DEFECT
    )
    return readable, enough


def test_of_trips_that_cannot_be_opened_counts_what_the_service_says(node_toml: Path, tmp_path: Path) -> None:
    said = "b.csv cannot be read: Permission denied"
    readable, _ = _trips_with_agent(node_toml, tmp_path, {"trips": 1, "rows": 30, "unmovable": said})
    assert (readable.status, said in readable.message) == (Status.WARNING, True)


def test_trips_that_the_service_cannot_see_are_an_error_though_this_user_sees_them(
    node_toml: Path, tmp_path: Path
) -> None:
    readable, enough = _trips_with_agent(node_toml, tmp_path, {"trips": 0, "rows": 0})
    assert readable.status == Status.ERROR
    assert "where this user finds 1" in readable.message
    assert "allow-data" in readable.hint
    assert enough.status == Status.ERROR


@pytest.mark.parametrize(("seen", "rows"), [(None, 30), ({"trips": 3, "rows": 400}, 400)])
def test_trips_are_counted_as_the_agent_counts_them_when_one_runs(
    node_toml: Path, tmp_path: Path, seen: dict[str, Any] | None, rows: int
) -> None:
    readable, enough = _trips_with_agent(node_toml, tmp_path, seen)
    assert (readable.status, enough.status) == (Status.OK, Status.OK)
    assert f"with {rows} rows" in readable.message


@pytest.mark.parametrize(("days", "expected"), [(-1, Status.ERROR), (10, Status.WARNING), (100, Status.OK)])
def test_certificates_are_judged_by_the_days_they_have_left(days: int, expected: Status) -> None:
    end = 1_830_000_000.0
    assert judge("x", "Dec 28 13:20:00 2027 GMT", end - days * 86_400).status is expected


def test_the_drop_in_opens_one_folder_only() -> None:
    assert config.drop_in(Path("/srv/trips"), None).splitlines()[1:] == [
        "[Service]",
        'ReadWritePaths="-/srv/trips"',
    ]
    home = config.drop_in(Path("/home/pi/trips"), "pi").splitlines()[1:]
    assert home == [
        "[Service]",
        "ProtectHome=tmpfs",
        'BindPaths="-/home/pi/trips"',
        'ReadWritePaths="-/home/pi/trips"',
        "SupplementaryGroups=pi",
    ]


def test_allow_data_writes_the_drop_in_and_says_what_is_next(
    tmp_path: Path, node_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trips = tmp_path / "trips"
    trips.mkdir(mode=0o755)
    argv = ["config", "allow-data", str(trips), "--json", "--unit-directory", str(tmp_path), "--config", str(node_toml)]
    assert main.main(argv) == 0
    said = json.loads(capsys.readouterr().out)
    assert str(trips) in Path(said["file"]).read_text(encoding="utf-8")
    assert Path(said["file"]).name.startswith("fleven-data")
    assert f'set data-path = "{trips}" in {node_toml}' in said["next_steps"]
    assert main.main(["config", "allow-data", str(tmp_path / "missing")]) == 2


def test_the_bundle_holds_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "node.toml"
    text = 'partition-id = 0\nsuperlink = "127.0.0.1:1"\nreport-token = "raspberry-raspberry"\n'
    file.write_text(text, encoding="utf-8")
    output = tmp_path / "b.tar.gz"
    assert main.main(["collect", "--json", "--config", str(file), "--output", str(output)]) == 0
    held = {one["name"] for one in json.loads(capsys.readouterr().out)["holds"]}
    assert {"check.json", "status.json", "versions.json", "configuration/node.toml", "journal.txt"} <= held
    assert output.stat().st_mode & 0o777 == 0o600
    with tarfile.open(output) as bundle:
        for member in bundle.getmembers():
            content = bundle.extractfile(member)
            assert content is not None
            assert b"raspberry" not in content.read(), member.name


def test_the_bundle_of_a_wrong_file_holds_no_secret_either(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("report-token = 'raspberry-raspberry'\n\"report-token\" = 'raspberry'\nx = \n", encoding="utf-8")
    output = tmp_path / "b.tar.gz"
    assert main.main(["collect", "--config", str(file), "--output", str(output)]) == 0
    with tarfile.open(output) as bundle:
        texts = {member.name: bundle.extractfile(member).read() for member in bundle}  # type: ignore[union-attr]  # files
    assert not [name for name, text in texts.items() if b"raspberry" in text]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_the_bundle_follows_no_link_of_the_agents_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root collects; the state folder belongs to a user who may have put links and pipes there."""
    secret, state = tmp_path / "shadow", tmp_path / "state"
    secret.write_text("root:hash", encoding="utf-8")
    (state / "spool").mkdir(parents=True)
    (state / "state.json").symlink_to(secret)
    os.lchown(state / "state.json", 12_345, 12_345)
    (state / "spool" / "entry").symlink_to(secret)
    monkeypatch.setenv("FLEVEN_STATE_DIR", str(state))
    output = tmp_path / "b.tar.gz"
    # Where the half-written bundle goes, somebody has put a link to a file of root's.
    (tmp_path / ".b.tar.gz.tmp").symlink_to(secret)
    assert main.main(["collect", "--config", str(tmp_path / "none.toml"), "--output", str(output)]) == 0
    assert secret.read_text(encoding="utf-8") == "root:hash"
    with tarfile.open(output) as bundle:
        texts = {Path(member.name).name: bundle.extractfile(member).read() for member in bundle}  # type: ignore[union-attr]  # files
    assert b"root:hash" not in texts["state.json"]
    assert b"entry" in texts["spool.txt"]
    (state / "state.json").unlink()
    os.mkfifo(state / "state.json")
    assert main.main(["collect", "--config", str(tmp_path / "none.toml"), "--output", str(output)]) == 0


def test_a_token_that_everybody_can_read_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "node.toml"
    file.write_text('partition-id = 0\nsuperlink = "127.0.0.1:1"\n', encoding="utf-8")
    (tmp_path / "node.toml.d").mkdir()
    secret = tmp_path / "node.toml.d" / "token.toml"
    ask = ["check", "--json", "--config", str(file), "--only", "permissions.token"]

    def found() -> dict[str, str]:
        assert main.main(ask) == 0
        [row] = json.loads(capsys.readouterr().out)["checks"]
        return dict(row)

    assert found()["status"] == "skipped"
    secret.write_text('report-token = "raspberry-raspberry"\n', encoding="utf-8")
    secret.chmod(0o644)
    open_to_all = found()
    assert (open_to_all["status"], str(secret) in open_to_all["message"]) == ("warning", True)
    assert open_to_all["hint"].startswith(f"chmod o= {secret}; ")
    secret.chmod(0o640)
    assert found()["status"] == "ok"


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://127.0.0.1:9190", "ok"),
        ("http://100.64.0.1:9190", "warning"),
        ("https://203.0.113.5", "ok"),
        ("http://203.0.113.5:9190", "warning"),
    ],
)
def test_a_token_in_the_clear_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, status: str
) -> None:
    file = tmp_path / "node.toml"
    text = f'partition-id = 0\nsuperlink = "127.0.0.1:1"\nreport-url = "{url}"\nreport-token = "raspberry-raspberry"\n'
    file.write_text(f"{text}insecure = true\n", encoding="utf-8")
    assert main.main(["check", "--json", "--config", str(file), "--only", "configuration.reports"]) == 0
    [row] = json.loads(capsys.readouterr().out)["checks"]
    assert row["status"] == status
    assert ("report-token can be read on the way" in row["message"]) == (status == "warning")


def test_the_bundle_goes_nowhere_when_it_cannot_be_written(tmp_path: Path, node_toml: Path) -> None:
    assert main.main(["collect", "--config", str(node_toml), "--output", str(tmp_path / "no" / "b.tar.gz")]) == 1


STATUS = {
    "state": "backoff",
    "state_since": "2026-01-05T10:00:00+00:00",
    "state_reason": "SuperNode was killed by SIGKILL",
    "retry_in_seconds": 3.5,
    "node": {"name": "car-0", "partition_id": 0, "num_partitions": 3, "node_id": None, "flower_address": "a:1"},
    "report_url": "http://a:9190",
    "reports_waiting": 4,
    "report_problem": "Connection refused",
    "counters": {"restarts": 1, "tasks": 2},
    "current_run": {"run_id": "7", "round": 2, "message_type": "train", "since": "2026-01-05T10:00:00+00:00"},
    "last_task": {
        "run_id": "7",
        "round": 1,
        "message_type": "train",
        "outcome": "failed",
        "wall_seconds": 2.0,
        "cpu_seconds": 1.0,
        "peak_rss_bytes": 200_000_000,
        "bytes_received": 1_500,
        "bytes_sent": 2_500_000,
        "log_tail": "Traceback\nValueError: no column",
    },
    "data": {"trips": 2, "rows": 500, "path": "/trips", "quarantined": 1},
    "conditions": [
        {
            "code": "supernode-down",
            "severity": "error",
            "message": "killed",
            "hint": "wait",
            "since": "2026-01-05T10:00:00+00:00",
        }
    ],
}


def test_a_status_for_people_fits_and_says_it_all() -> None:
    text = status_text(STATUS, runs=True, now=1_767_607_290.0, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "backoff for 90 s",
        "killed by SIGKILL",
        "in 3.5 s",
        "partition 0 of 3",
        "4 reports wait",
        "train of run 7, round 2",
        "1 in quarantine",
        "2.5 MB up",
        "ValueError: no column",
        "error: killed (supernode-down",
        "→ wait",
    ):
        assert part in text


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command_and_option(shell: str) -> None:
    text = script(arguments.parser(), shell)
    for command in commands(arguments.parser()):
        assert command.prog.split()[-1] in text
        for action in command._actions:
            assert all(option in text for option in action.option_strings if action.help is not argparse.SUPPRESS)
    assert "--unit-directory" not in text


def test_bash_takes_the_completion(tmp_path: Path) -> None:
    file = tmp_path / "completion"
    file.write_text(script(arguments.parser(), "bash"), encoding="utf-8")
    ask = (
        f'source {file}; COMP_WORDS=(fleven-agent config sh); COMP_CWORD=2; _fleven_agent; echo "${{COMPREPLY[*]}}"; '
        'COMP_WORDS=(fleven-agent drain --w); COMP_CWORD=2; _fleven_agent; echo "${COMPREPLY[*]}"'
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["show", "--wait"]
