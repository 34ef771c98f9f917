"""`fleven-server nodes invite … revoke` on a real register: what is printed, what is refused, and with which code."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from certificates import write_node_key
from enrolments import Board

from fleven.server.access import audit
from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store, open_store
from fleven.server.enrolment import keys
from fleven.server.enrolment.directory import Directory
from fleven.server.enrolment.operations import Operations, numbered
from fleven.server.enrolment.registrar import Registrar
from fleven.server.enrolment.store import read
from fleven.server.nodes.ingest import Arrival
from fleven.server.nodes.registry import NodeRegistry
from fleven_agent.protocol.enrolment import EnrolRequest
from fleven_agent.protocol.join_code import decode
from fleven_agent.protocol.report import Report

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(command: Run) -> Run:
    """Return `command` for `fleven-server nodes`."""
    return partial(command, "nodes")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "register.db")


def ask(store: Store, tmp_path: Path, board: Board, **options: Any) -> Any:
    """Ask to join as a car does over the network."""
    registrar = Registrar.of(store, Directory(store), ServerConfig(), Paths(tmp_path))
    trusted = registrar.authorities.read().fingerprints
    body = board.request(**{**({"ca_fingerprint": trusted[0]} if trusted else {}), **options})
    return registrar.enrol(EnrolRequest.model_validate(body), "192.0.2.7", "pc", datetime.now(UTC))


def test_an_invitation_is_one_line_that_a_car_can_use(run: Run, store: Store, tmp_path: Path) -> None:
    code, out, err = run("invite", "car-3", "--partition", "3", "--labels", "fleet=north,diesel", "-l", "old")
    assert code == 0
    [line] = out.splitlines()
    assert line.startswith("sudo fleven-agent join fleven1.")
    assert "car-3" in err
    assert "partition-id 3" in err
    found = decode(line.rpartition(" ")[2])
    assert found.server_addresses == ("127.0.0.1:9190",)
    # The fingerprint is that of the authority which the server has made.
    assert found.ca_fingerprint == Operations(store, ServerConfig(), Paths(tmp_path)).authority_fingerprints()[0]
    assert found.secret not in (tmp_path / "register.db").read_bytes().decode("latin-1")
    answer = ask(store, tmp_path, Board("x"), invitation=(found.invitation_id, found.secret))
    assert (answer.status, answer.name, answer.partition_id) == ("accepted", "car-3", 3)
    assert answer.superlink_address == "pc:9092"
    assert read(store).identities[answer.car_id].labels == ("diesel", "fleet=north", "old")


def test_several_cars_at_once_and_other_forms(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("invite", "car-7", "-n", "3", "-p", "7", "--json", "-a", "fd00::5", "-a", "pc:99", "-a", "host")
    made = json.loads(out)["invitations"]
    assert code == 0
    assert [(one["name"], one["partition_id"]) for one in made] == [("car-7", 7), ("car-8", 8), ("car-9", 9)]
    assert decode(made[0]["code"]).server_addresses == ("[fd00::5]:9190", "pc:99", "host:9190")
    assert len({one["code"] for one in made}) == 3

    file = tmp_path / "50-join.toml"
    assert run("invite", "car-1", "--drop-in", str(file))[0] == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert 'join = "fleven1.' in file.read_text()
    code, out, _ = run("invite", "car-1", "--cloud-init")
    assert out.startswith("#cloud-config\n")
    data = yaml.safe_load(out)
    assert list(data) == ["write_files", "runcmd"]
    [written] = data["write_files"]
    assert (written["path"], written["permissions"]) == ("/etc/fleven/node.toml.d/50-join.toml", "0600")
    assert decode(tomllib.loads(written["content"])["join"]).server_addresses
    assert [command[0] for command in data["runcmd"]] == ["systemd-tmpfiles", "systemctl", "systemctl"]
    if shutil.which("cloud-init") is not None:
        (tmp_path / "user-data").write_text(out)
        schema = ["cloud-init", "schema", "--config-file", str(tmp_path / "user-data")]
        judged = subprocess.run(schema, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout + judged.stderr
    code, out, _ = run("invite", "car-1", "--qr")
    assert code == 0
    assert len(out.splitlines()) > 20, "no QR code"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["invite", "bad/name"], "cannot be a car's name"),
        (["invite", "car", "--expires", "900d"], "90 days"),
        (["invite", "car", "--expires", "soon"], "not a duration"),
        (["invite", "car", "--address", "http://pc"], "http://pc"),
        (["invite", "car", "--address", "1:2:x"], "1:2:x"),
        (["invite", "car", "--labels", "a b"], "not valid"),
        (["invite", "car", "--count", "2", "--cloud-init"], "one card is for one car"),
        (["accept"], "name the cars"),
        (["accept", "a", "b", "--name", "c"], "one car"),
        (["accept", "nobody"], "no car is enrolled or waits as nobody"),
        (["revoke", "nobody"], "no car is enrolled or waits as nobody"),
        (["rotate"], "name the cars"),
        (["forget"], "name a node"),
        (["forget", "x", "--stale"], "name a node"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(run: Run, store: Store, arguments: list[str], words: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert words in " ".join(err.replace("│", " ").split())
    assert read(store).invitations == {}


def test_a_car_waits_is_accepted_rotated_and_revoked(run: Run, store: Store, tmp_path: Path) -> None:
    assert "No car waits." in run("pending")[1]
    board = Board("garage")
    assert ask(store, tmp_path, board).status == "pending"
    _, out, _ = run("pending")
    fingerprint = keys.fingerprint(board.public_key)
    assert "garage" in out
    assert "".join(fingerprint[-20:]) in "".join(out.split())
    [shown] = json.loads(run("pending", "--json")[1])["pending"]
    assert (shown["fingerprint"], shown["asked_from"]) == (fingerprint, "192.0.2.7")
    # It shows among the nodes, and does not belong to the fleet yet.
    listed = json.loads(run("--json")[1])["nodes"]
    assert [(node["name"], node["health"], node["enrolled"]) for node in listed] == [("garage", "pending", False)]
    assert "0 of 0 ready" in run()[1]

    assert run("accept", fingerprint[:20])[1] == "garage: accepted, partition-id 0\n"
    assert json.loads(run("--json")[1])["nodes"][0]["health"] == "offline"
    assert run("rotate", "garage")[1].startswith("garage: asked for a new key")
    assert run("rotate", "--all")[1].startswith("garage: asked for a new key")
    assert run("reject", "garage")[0] == 1
    assert run("revoke", "garage", "--reason", "stolen")[1].startswith("garage: revoked")
    assert run("accept", "garage")[0] == 2
    assert run("rotate", "garage")[0] == 1
    assert json.loads(run("--json")[1])["nodes"] == []


def test_several_that_wait_under_one_name_are_told_apart(run: Run, store: Store, tmp_path: Path) -> None:
    boards = [Board("twin"), Board("twin")]
    for board in boards:
        ask(store, tmp_path, board)
    code, _, err = run("accept", "twin")
    assert code == 2
    for board in boards:
        assert keys.fingerprint(board.public_key) in err
    code, _, err = run("accept", "--all-pending")
    assert code == 1
    assert "another car is enrolled as twin" in err
    assert {one.status for one in read(store).identities.values()} == {"pending"}, "all or nothing"
    run("reject", keys.fingerprint(boards[0].public_key))
    assert run("accept", "twin", "--name", "twin-1", "--partition", "4")[1] == "twin-1: accepted, partition-id 4\n"


def test_a_stock_key_is_let_in(run: Run, store: Store, tmp_path: Path) -> None:
    file = write_node_key(tmp_path).with_suffix(".pub")
    assert run("accept-key", str(file), "lab", "--partition", "7")[1] == "lab: accepted, partition-id 7\n"
    assert run("accept-key", str(file), "other")[0] == 1
    assert run("accept-key", str(tmp_path / "node.key"), "other")[2].count("private key") == 1
    assert run("accept-key", str(tmp_path / "none"), "other")[0] == 1
    [node] = json.loads(run("--json")[1])["nodes"]
    assert (node["name"], node["partition_id"], node["reason"]) == ("lab", 7, "a plain flower-supernode; not connected")
    assert "stock" in run("show", "lab")[1]


def test_forget_stale_removes_what_is_off_and_not_enrolled(
    run: Run, store: Store, tmp_path: Path, a_report: Callable[..., dict[str, Any]]
) -> None:
    register = NodeRegistry.from_config(store, ServerConfig())
    long_ago = datetime.now(UTC) - timedelta(days=30)
    for number, name in enumerate(("old", "enrolled", "fresh")):
        at = datetime.now(UTC) if name == "fresh" else long_ago
        value = a_report(
            sender=name, node={"name": name, "partition_id": number}, created_at=at.isoformat(), sent_at=None
        )
        register.store_reports([Arrival([Report.model_validate(value)], at)])
    ask(store, tmp_path, Board("enrolled", secret="e" * 43))
    run("accept", "enrolled")
    assert json.loads(run("forget", "--stale", "--json")[1]) == {"forgotten": ["old"]}
    assert run("forget", "--stale")[1] == "Nothing to forget.\n"
    run("revoke", "enrolled")
    assert json.loads(run("show", "enrolled", "--json")[1])["health"] == "revoked"
    assert run("forget", "--stale")[1] == "enrolled: forgotten, with its history\n"
    assert {node["name"] for node in json.loads(run("--json")[1])["nodes"]} == {"fresh"}


def test_names_count_on() -> None:
    assert numbered("car-3", 2) == ["car-3", "car-4"]
    assert numbered("car", 2) == ["car-0", "car-1"]
    assert numbered("pi08", 3) == ["pi08", "pi09", "pi10"]
    assert numbered("x9", 1) == ["x9"]


def test_help_needs_no_heavy_module() -> None:
    names = "' '.join({name.split('.')[0] for name in sys.modules})"
    code = f"import sys, fleven.server.cli.nodes; print({names})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"cryptography", "sqlalchemy", "segno", "fastapi"} & set(loaded) == set()


def test_who_let_a_car_in_is_written_down(run: Run, store: Store) -> None:
    assert run("invite", "car-3")[0] == 0
    with store.read() as connection:
        found = audit.entries(connection, 9, subject="car-3")
    assert [(entry.action, entry.source) for entry in found] == [("car-invited", "command")]
