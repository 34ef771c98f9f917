"""`fleven-server nodes`, `status` and `check` on a real register: 80 columns, JSON, exit codes, hints."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleven.server.config.settings import ServerConfig
from fleven.server.database import open_store
from fleven.server.flower.answers import FlowerNode
from fleven.server.nodes.ingest import Arrival
from fleven.server.nodes.registry import NodeRegistry
from fleven_agent.protocol.report import Report

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(command: Run, tmp_path: Path) -> Run:
    """Return `command` of a server whose ports nobody answers at."""
    (tmp_path / "server.toml").write_text(
        '[web]\naddress = "127.0.0.1:1"\n[superlink]\ncontrol-address = "127.0.0.1:2"\n'
    )
    return command


@pytest.fixture
def fleet(tmp_path: Path, a_report: Callable[..., dict[str, Any]]) -> NodeRegistry:
    """A register with a healthy node, a hot one, and one that was last seen long ago."""
    now = datetime.now(UTC)
    store = open_store(tmp_path / "register.db")
    register = NodeRegistry.from_config(store, ServerConfig())
    hot = {
        "code": "temperature-high",
        "severity": "warning",
        "since": now.isoformat(),
        "message": "the processor is at 82 °C",
        "hint": "give the case air",
    }
    task = {"run_id": "7", "round": 2, "message_type": "train", "outcome": "failed", "log_tail": "MemoryError: full"}

    def put(name: str, partition: int, at: datetime, **changes: Any) -> None:
        node = {"name": name, "partition_id": partition, "node_id": str(100 + partition)}
        value = a_report(sender=name, node=node, created_at=at.isoformat(), sent_at=at.isoformat(), **changes)
        register.store_reports([Arrival([Report.model_validate(value)], at)])

    put("pi-1", 0, now, finished_tasks=[task])
    put("pi-2-with-a-very-long-name-of-its-own", 1, now, conditions=[hot])
    put("pi-3", 2, now - timedelta(days=1))
    register.record_flower_nodes([FlowerNode("100", "online"), FlowerNode("101", "online")], now)
    return register


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    "arguments",
    [
        ("nodes",),
        ("nodes", "list", "--state", "offline"),
        ("nodes", "show", "pi-1"),
        ("nodes", "show", "pi-2-with-a-very-long-name-of-its-own"),
        ("nodes", "history", "pi-1"),
        ("nodes", "history", "pi-1", "--tasks"),
        ("status",),
        ("check", "--list"),
    ],
)
def test_text_fits_eighty_columns(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert code in (0, 1)
    assert err == ""
    assert out
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.usefixtures("fleet")
def test_the_list_names_what_is_wrong_and_what_to_do(run: Run) -> None:
    _, out, _ = run("nodes")
    assert "2 of 3 ready" in out
    for wanted in ("pi-1", "ready", "offline", "temperature-high", "give the board airflow", "node-offline"):
        assert wanted in out
    assert "give the case air" not in out, "what the car itself advises is not our advice"
    _, out, _ = run("nodes", "list", "--label", "no-such-label")
    assert out == "No node matches.\n"


@pytest.mark.usefixtures("fleet")
def test_json_holds_the_same_and_more(run: Run) -> None:
    _, out, _ = run("nodes", "--json")
    nodes = {node["name"]: node for node in json.loads(out)["nodes"]}
    assert nodes["pi-1"]["ready"]
    assert not nodes["pi-3"]["ready"]
    _, out, _ = run("nodes", "show", "pi-1", "--json")
    assert json.loads(out)["report"]["node"]["name"] == "pi-1"
    _, out, _ = run("nodes", "history", "pi-1", "--json")
    past = json.loads(out)
    assert [task["log_tail"] for task in past["tasks"]] == ["MemoryError: full"]
    assert len(past["samples"]) == len(past["events"]) == 1
    code, out, _ = run("status", "--json")
    assert code == 1
    assert json.loads(out)["fleet"]["ready"] == 2


def test_a_failed_tasks_last_lines_are_shown(run: Run, fleet: NodeRegistry) -> None:
    assert "MemoryError: full" in run("nodes", "history", "pi-1", "--tasks")[1]
    assert fleet.fleet(datetime.now(UTC))


def test_labels_drain_and_forget_reach_the_register(run: Run, fleet: NodeRegistry) -> None:
    assert run("nodes", "label", "pi-1", "fleet=north", "old")[1] == "pi-1: fleet=north, old\n"
    assert run("nodes", "label", "pi-1", "old-")[1] == "pi-1: fleet=north\n"
    assert run("nodes", "label", "pi-1")[1] == "pi-1: fleet=north\n"
    assert "next report" in run("nodes", "drain", "pi-1", "--reason", "workshop")[1]
    row = fleet.record("pi-1", datetime.now(UTC)).row
    assert row is not None
    assert (row["drain_wanted"], row["drain_wanted_reason"]) == (True, "workshop")
    assert "drained" in run("nodes")[1]
    assert json.loads(run("nodes", "undrain", "pi-1", "--json")[1])["wanted"] == "undrain"
    code, _, err = run("nodes", "forget", "pi-1")
    assert code == 1
    assert "still reports" in err
    assert run("nodes", "forget", "pi-3")[0] == 0
    assert run("nodes", "forget", "pi-1", "--force")[0] == 0
    assert [n.name for n in fleet.fleet(datetime.now(UTC)) if n.partition_id is not None] == [
        "pi-2-with-a-very-long-name-of-its-own"
    ]


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    "arguments",
    [
        ("nodes", "show", "pi-7"),
        ("nodes", "drain", "../etc"),
        ("nodes", "label", "pi-1", "two words"),
        ("nodes", "label", "pi-1", ""),
        ("nodes", "list", "--state", "excellent"),
        ("nodes", "history", "pi-1", "--hours", "-3"),
        ("nodes", "no-such-command"),
        ("check", "--only", "nothing"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err
    assert "Traceback" not in err


def test_without_a_register_commands_say_what_to_do(run: Run) -> None:
    for arguments in (("nodes",), ("status",)):
        code, _, err = run(*arguments)
        assert code == 1
        assert "systemctl start fleven-server" in err
    code, out, _ = run("check")
    assert code == 1
    assert "there is no register yet" in out


@pytest.mark.usefixtures("fleet")
def test_check_runs_every_check_and_exits_with_1_for_an_error(run: Run) -> None:
    code, out, _ = run("check", "--json")
    answer = json.loads(out)
    assert code == 1
    assert not answer["ok"]
    statuses = {row["id"]: row["status"] for row in answer["checks"]}
    assert statuses["register.integrity"] == "ok"
    assert statuses["service.superlink"] == statuses["service.running"] == "error"
    assert all(row["hint"] for row in answer["checks"] if row["status"] in ("error", "warning"))
    assert not any("the check itself failed" in row["message"] for row in answer["checks"])
    assert run("check", "--only", "register.integrity", "--only", "flower.version")[0] == 0


@pytest.mark.usefixtures("fleet")
def test_check_finds_a_damaged_register(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "register.db"
    content = bytearray(file.read_bytes())
    content[5000:9000] = b"\xff" * 4000
    file.write_bytes(content)
    for beside in ("register.db-wal", "register.db-shm"):
        (tmp_path / beside).unlink(missing_ok=True)
    code, out, _ = run("check", "--only", "register.integrity", "--json")
    assert code == 1
    assert json.loads(out)["checks"][0]["status"] == "error"


def test_a_bad_configuration_is_named_by_check_and_the_rest_still_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("[web]\nadress = 1\n")
    code, out, _ = run("check")
    assert code == 1
    assert "web.adress" in out
    assert "flower.version" in out


def test_the_list_says_how_old_it_may_be_when_cars_report_rarely(
    run: Run, fleet: NodeRegistry, a_report: Callable[..., dict[str, Any]]
) -> None:
    _, out, _ = run("nodes")
    assert "old" not in out.splitlines()[-1]
    now = datetime.now(UTC)
    node = {"name": "calm", "partition_id": 9, "node_id": "109"}
    value = a_report(sender="calm", node=node, created_at=now.isoformat(), next_report_seconds=180.0)
    fleet.store_reports([Arrival([Report.model_validate(value)], now)])
    _, out, _ = run("nodes")
    assert out.splitlines()[-1] == "Up to 3 min old: idle cars report rarely. Fresh: nodes show NODE --watch"
    _, out, _ = run("nodes", "show", "calm")
    assert "every 3 min while idle" in out
    _, out, _ = run("nodes", "--json")
    asked = {found["name"]: found["next_report_seconds"] for found in json.loads(out)["nodes"]}
    assert asked["calm"] == 180.0


def test_watching_a_car_asks_it_to_report_and_shows_each_report(
    run: Run, fleet: NodeRegistry, a_report: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []

    def sleep(_seconds: float) -> None:
        now = datetime.now(UTC)
        looks.append("new" in fleet.awaited(now))
        if len(looks) == 3:
            raise KeyboardInterrupt
        if len(looks) == 2:
            put(now)

    def put(at: datetime) -> None:
        node = {"name": "new", "partition_id": 9, "node_id": "109"}
        value = a_report(sequence=len(looks), sender="new", node=node, created_at=at.isoformat())
        fleet.store_reports([Arrival([Report.model_validate(value)], at)])

    put(datetime.now(UTC) - timedelta(seconds=5))
    assert "new" not in fleet.awaited(datetime.now(UTC))
    monkeypatch.setattr("fleven.server.cli.nodes.time.sleep", sleep)
    code, out, _ = run("nodes", "show", "new", "--watch")
    assert code == 0
    assert looks == [True, True, True]
    assert sum(line.startswith("new  ") for line in out.splitlines()) == 2
