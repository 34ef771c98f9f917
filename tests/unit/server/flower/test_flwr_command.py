"""Flower's words as the server reads them: outputs seen from Flower 1.34, versions, config.toml."""

from __future__ import annotations

import itertools
import os
import stat
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.server.config.paths import Paths
from fleven.server.config.settings import SuperLinkTable
from fleven.server.errors import FlowerError, SuperLinkUnreachableError
from fleven.server.flower import flwr_command, line
from fleven.server.flower.answers import REFUSED
from fleven.server.flower.line import LINES, FlowerLine, line_for

LINE = LINES[0]

ROW = {
    "run-id": "7173133169778452953",
    "fab-version": "1.0.0+fleven.42.1.a1b2c3d4",
    "status": "finished:failed",
    "status-details": "No heartbeat received from the task",
    "pending-at": "2026-11-24 04:33:06Z",
    "running-at": "N/A",
    "finished-at": "2026-11-24 04:33:12Z",
}


def test_a_row_of_flwr_ls() -> None:
    run = LINE.run(ROW)
    assert (run.run_id, run.status, run.sub_status) == ("7173133169778452953", "finished", "failed")
    assert run.details == "No heartbeat received from the task"
    assert (run.running_at, run.finished_at) == (None, datetime(2026, 11, 24, 4, 33, 12, tzinfo=UTC))
    assert LINE.run({**ROW, "status": "running", "status-details": "N/A"}).details == ""


def failure(said: str, name: str = "flwr ls") -> FlowerError:
    return LINE.failure(name, 1, said)


def test_failures_are_told_apart() -> None:
    away = failure("Using SuperLink: fleven-deployment (127.0.0.1:9093)\n\nConnection to the SuperLink is unavailable.")
    assert isinstance(away, SuperLinkUnreachableError)
    unknown = failure(
        "Using SuperLink: x (y)\n Stopping run ID 123...\n\n[code: 16] Run ID not found.", "flwr stop 123"
    )
    assert unknown.code == "run-unknown"
    ended = failure(
        "Using SuperLink: x (y)\n Stopping run ID 6...\n\n[code: 18] Run is already finished.", "flwr stop 6"
    )
    assert ended.code == "run-finished"
    broken = failure("Using SuperLink: x\nUnable to find\nattribute.", "flwr run")
    assert (broken.code, broken.message) == ("flower-failed", "`flwr run`: Unable to find attribute.")
    assert "database" in failure("flower says\nExit Code: 105\nmore").message


@pytest.mark.parametrize("stdout", ["", "no json", "{", '{"success": false, "error-message": "x"}', "[1]"])
def test_no_answer_is_an_error_and_never_a_crash(stdout: str) -> None:
    with pytest.raises(FlowerError):
        LINE.document("flwr ls", 0, stdout, "")


def test_an_answer_is_found_behind_other_lines() -> None:
    assert LINE.document("flwr ls", 0, 'Note: x\n{"success": true, "runs": []}', "") == {
        "success": True,
        "runs": [],
    }


@pytest.mark.parametrize(
    "said",
    [
        "[code: 15] Invalid run configuration.",
        "FAB size exceeds maximum allowed\nsize of 10,485,760 bytes.",
        "Invalid Flower App configuration in '/x':\n- no serverapp",
    ],
)
def test_an_app_that_flower_refuses_for_good_is_told_from_an_error_of_the_superlink(said: str) -> None:
    assert LINE.failure("flwr run", 1, said).code == REFUSED
    for other in ("Internal server error.", "[code: 14] Failed to create or initialize the run."):
        assert LINE.failure("flwr run", 1, other).code == "flower-failed"


@given(
    text=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=0).filter(
        lambda t: not ("'" in t and '"' in t)
    )
)
def test_run_config_texts_survive_toml(text: str) -> None:
    assert tomllib.loads(f"x = {line.toml_value(text)}")["x"] == text


@pytest.mark.parametrize("value", ["a\nb", 'it\'s "so"'])
def test_texts_that_flower_cannot_carry_are_refused(value: str) -> None:
    with pytest.raises(FlowerError):
        line.toml_value(value)


def test_the_connection_is_written_beside_those_of_the_operator(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.flwr_home.mkdir()
    file = paths.flwr_home / "config.toml"
    file.write_text('[superlink.other]\naddress = "10.0.0.1:9093"\n')
    assert flwr_command.write_connection(SuperLinkTable(control_address="0.0.0.0:9093"), paths) == file
    written = tomllib.loads(file.read_text())["superlink"]
    assert written == {
        "default": "fleven-deployment",
        "other": {"address": "10.0.0.1:9093"},
        "fleven-deployment": {"address": "127.0.0.1:9093", "insecure": True},
    }
    before = file.stat().st_mtime_ns
    flwr_command.write_connection(SuperLinkTable(control_address="0.0.0.0:9093"), paths)
    assert file.stat().st_mtime_ns == before


def test_a_member_of_the_group_reads_the_connection_and_leaves_it_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path)
    paths.flwr_home.mkdir()
    file = paths.flwr_home / "config.toml"
    file.write_text("")
    file.chmod(0o600)  # as before 0.2.0
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert flwr_command.write_connection(SuperLinkTable(), paths) == file
    assert file.read_text() == ""
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid)
    flwr_command.write_connection(SuperLinkTable(), paths)
    assert "fleven-deployment" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o600)
    flwr_command.write_connection(SuperLinkTable(), paths)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_the_environment_of_flower_is_its_own(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    made = flwr_command.environment(
        paths, {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "FLWR_HOME": "/x", "PATH": "/bin"}
    )
    assert made["FLWR_HOME"] == str(paths.flwr_home)
    assert made["FLWR_TELEMETRY_ENABLED"] == "0"
    assert "NOTIFY_SOCKET" not in made
    assert "WATCHDOG_USEC" not in made


def test_a_proxy_stays_out_of_flowers_way_and_in_the_apps_reach(tmp_path: Path) -> None:
    base = {"PATH": "/bin", "http_proxy": "http://proxy:3128", "grpc_proxy": "http://proxy:3128", "no_proxy": "a.b"}
    made = flwr_command.environment(Paths(tmp_path), base)
    assert made["grpc_proxy"] == ""
    assert made["http_proxy"] == "http://proxy:3128"
    assert made["no_proxy"] == made["NO_PROXY"] == "a.b,localhost,127.0.0.1,::1"


@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "a\x1bb", "both ' and \""])
def test_what_toml_cannot_carry_is_refused(value: str) -> None:
    with pytest.raises(FlowerError):
        line.toml_value(value)


def test_the_superlink_line_has_the_ports_of_the_configuration(tmp_path: Path) -> None:
    arguments = LINE.superlink_arguments(SuperLinkTable(), Paths(tmp_path).superlink_database)
    pairs = dict(itertools.pairwise(arguments))
    assert arguments[0] == "flower-superlink"
    assert pairs["--fleet-api-address"] == "0.0.0.0:9092"
    assert pairs["--control-api-address"] == "127.0.0.1:9093"
    assert pairs["--serverappio-api-address"] == "127.0.0.1:9091"
    assert pairs["--database"] == str(tmp_path / "superlink.db")
    assert {"--insecure", "--disable-runtime-dependency-installation"} <= set(arguments)


def test_a_run_whose_process_was_lost_is_told_by_the_line() -> None:
    assert LINE.run(ROW).process_lost
    assert LINE.run({**ROW, "status-details": "Task failed with unknown error."}).process_lost
    assert not LINE.run({**ROW, "status-details": "ServerApp failed with exception: x"}).process_lost


def test_nodes_and_a_submission_are_read() -> None:
    rows = [{"node-id": 7, "status": "online", "online-at": "2026-11-24 04:33:06Z", "offline-at": "N/A"}]
    [node] = LINE.nodes({"nodes": rows})
    assert (node.node_id, node.status, node.offline_since) == ("7", "online", None)
    assert LINE.submitted({"run-id": 12}) == "12"
    with pytest.raises(FlowerError):
        LINE.submitted({})


def test_the_commands_of_this_line() -> None:
    assert LINE.as_json(LINE.list_runs("5"))[:4] == ["flwr", "ls", "fleven-deployment", "--run-id"]
    assert LINE.submit(Path("/app"), {"rounds": 3, "x": "a'b"}) == [
        *("run", "/app", "fleven-deployment", "--run-config", "rounds=3", "--run-config", 'x="a\'b"')
    ]
    assert LINE.log("5", follow=True) == ["flwr", "log", "5", "fleven-deployment", "--stream"]
    assert LINE.stop("5") == ["stop", "5", "fleven-deployment"]


def test_another_line_is_another_object_that_is_chosen_by_the_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Joined(FlowerLine):
        lowest = (1, 42)
        addresses = ("control_address",)

    monkeypatch.setattr(line, "LINES", (LINE, Joined()))
    for version in ("1.31.0", "1.34.2", "1.41.9", "", "none"):
        assert line_for(version) is LINE
    for version in ("1.42.0", "2.0.1"):
        assert isinstance(line_for(version), Joined)
