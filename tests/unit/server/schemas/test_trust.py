"""Car by car from the open mode to TLS."""

from pathlib import Path

import pytest

from fleven.server.cli import enforce
from fleven.server.config.loader import load
from fleven.server.errors import ConfigurationError, UsageError
from fleven.server.nodes.model import Node, NodeHealth
from fleven.server.schemas.trust import Stage, TrustStatusAnswer, WaitingAnswer, car_trust, next_step, shut_out
from fleven_agent.protocol.identity import IdentityStatus

NODES = [
    Node("b", 1, NodeHealth.READY, enrolled=True),
    Node("a", 0, NodeHealth.READY),
    Node("c", 2, NodeHealth.OFFLINE),
]


def status(**changes: object) -> TrustStatusAnswer:
    values: dict[str, object] = {
        "insecure": True,
        "insecure_files": [],
        "fingerprint": None,
        "names": [],
        "given_names": [],
        "ends": [],
        "cars": car_trust(NODES, insecure=True),
        "waiting": [],
    }
    return TrustStatusAnswer.model_validate(values | changes)


def test_each_car_has_its_stage_and_those_behind_come_first() -> None:
    assert [(car.name, car.stage) for car in car_trust(NODES, insecure=True)] == [
        ("a", Stage.OPEN),
        ("c", Stage.OPEN),
        ("b", Stage.ENROLLED),
    ]
    assert car_trust(NODES[:1], insecure=False)[0].stage is Stage.TLS


def test_only_cars_that_take_part_now_would_be_shut_out() -> None:
    assert shut_out(car_trust(NODES, insecure=True)) == ["a"]


def test_the_next_step_is_one_command() -> None:
    waiting = [WaitingAnswer(name="d", status=IdentityStatus.PENDING)]
    assert next_step(status(waiting=waiting)) == "decide about d: fleven-server nodes accept d"
    assert next_step(status()) == "let a join: fleven-server nodes invite a"
    assert next_step(status(cars=[])) == "end the open mode: sudo fleven-server trust enforce"
    assert next_step(status(insecure=False)) == ""


def test_only_the_line_of_the_upgrade_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("log-level = 'debug'\n")
    line = tmp_path / "server.toml.d" / enforce.OPEN_FILE
    line.parent.mkdir()
    line.write_text("insecure = true\n")
    assert enforce.open_file(file) == line
    assert enforce.insecure_files(load(file)) == [str(line)]
    (line.parent / "50-mine.toml").write_text("insecure = true\n")
    with pytest.raises(UsageError, match=r"50-mine\.toml says"):
        enforce.open_file(file)


def test_doors_stay_open_where_the_configuration_needs_them_open(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("insecure = false\n[superlink]\nsupernode-authentication = false\n")
    line = tmp_path / "server.toml.d" / enforce.OPEN_FILE
    line.parent.mkdir()
    line.write_text("insecure = true\n")
    assert load(file).config.insecure
    with pytest.raises(ConfigurationError, match="nothing was changed"):
        enforce.check_without(line, file)


def test_open_runs_are_waited_for_or_named() -> None:
    answers = [[7], [7], []]
    waits: list[float] = []
    enforce.wait_for_runs(lambda: answers.pop(0), wait=True, sleep=waits.append)
    assert len(waits) == 2
    with pytest.raises(UsageError, match="run 7 is open"):
        enforce.wait_for_runs(lambda: [7], wait=False)
