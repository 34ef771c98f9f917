"""Joining and reporting with an identity over real sockets, and what strangers must not be able to do."""

import json
import socket
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from enrolments import Board
from waiting import wait_for

from fleven.server.enrolment import decisions, rotation
from fleven.server.enrolment.authority import Authorities, AuthorityFiles
from fleven.server.enrolment.model import Invitation, Key
from fleven.server.enrolment.store import decide, read
from fleven.server.http.connection_guard import GuardedProtocol
from fleven.server.models import registry as models
from fleven_agent.protocol.identity import AUTHORITIES_HEADER, MAXIMUM_SEQUENCE_STEP, secret_digest
from fleven_agent.protocol.report import ReportAnswer

MakeReport = Callable[..., dict[str, Any]]
CODE = ("0123abcd", "once" * 6)


def invite(api: Any, name: str = "car-3", partition_id: int | None = 3, code: tuple[str, str] = CODE) -> None:
    now = datetime.now(UTC)
    made = Invitation(code[0], secret_digest(code[1]), name, partition_id, ("north",), now, now + timedelta(hours=1))
    decide(api.store, now, lambda book: (decisions.invite(book, made), None))


def operate(api: Any, action: Callable[..., Any], car_id: str, *arguments: Any) -> None:
    decide(api.store, datetime.now(UTC), lambda book: (action(book, car_id, *arguments), None))


@pytest.fixture(autouse=True)
def _sees_changes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of the API are looked at for each request: a command's change is seen after a second otherwise."""
    monkeypatch.setattr("fleven.server.enrolment.directory.LOOK_EVERY_SECONDS", -1.0)


@pytest.fixture
def fleet(api: Any) -> Any:
    """A fleet API beside which an operator works."""
    return api


@pytest.fixture
def car(fleet: Any) -> tuple[Board, str]:
    """A car that has joined as car-3 with partition 3."""
    invite(fleet)
    board = Board("pi")
    answer = fleet.client.post("/v1/enrol", json=board.request(invitation=CODE))
    assert answer.status_code == 200, answer.text
    return board, answer.json()["car_id"]


def report_of(a_report: MakeReport, sequence: int = 0, **changes: Any) -> dict[str, Any]:
    return a_report("own-sender", sequence, **{"boot_id": "boot-1", **changes})


def test_an_invited_car_is_in_with_one_request_and_may_repeat_it(fleet: Any) -> None:
    invite(fleet)
    request = Board("pi").request(invitation=CODE)
    first, again = (fleet.client.post("/v1/enrol", json=request) for _ in range(2))
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    answer = first.json()
    assert (answer["status"], answer["name"], answer["partition_id"]) == ("accepted", "car-3", 3)
    assert answer["superlink_address"] == "127.0.0.1:9092"
    assert answer["superlink_transport"] == "plain"
    other = fleet.client.post("/v1/enrol", json=Board("other").request(invitation=CODE))
    assert (other.status_code, other.json()["code"]) == (403, "invitation-used")


def test_a_car_that_was_not_invited_waits_and_learns_nothing(fleet: Any) -> None:
    request = Board("garage").request()
    answer = fleet.client.post("/v1/enrol", json=request).json()
    assert (answer["status"], answer["name"], answer["partition_id"]) == ("pending", None, None)
    assert answer["superlink_address"] is None
    assert "nodes accept garage" in answer["hint"]
    operate(fleet, decisions.accept, answer["car_id"], datetime.now(UTC))
    answer = fleet.client.post("/v1/enrol", json=request).json()
    assert (answer["status"], answer["name"], answer["partition_id"]) == ("accepted", "garage", 0)


@pytest.mark.parametrize("field", ["name", "partition_id", "secret_sha256", "ca_fingerprint", "created_at"])
def test_what_is_changed_on_the_way_is_refused(fleet: Any, field: str) -> None:
    changed = {"partition_id": 7, "name": "else", "created_at": "2026-01-01T00:00:00Z"}.get(field, "cd" * 32)
    body = {**Board("pi").request(), field: changed}
    answer = fleet.client.post("/v1/enrol", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "proof-invalid")


def test_one_key_has_one_spelling(fleet: Any) -> None:
    board = Board("pi")
    board.__dict__["public_key"] = board.public_key[:-1] + "=" * (not board.public_key.endswith("="))
    answer = fleet.client.post("/v1/enrol", json=board.request())
    assert answer.json()["code"] in ("key-refused", "request-invalid")


def test_a_car_that_trusts_another_authority_is_told_so(fleet: Any, tmp_path: Path) -> None:
    from certificates import write_certificates

    from fleven.server.enrolment.authority import parse

    made = write_certificates(tmp_path / "made")
    trust = fleet.paths.state / "trust"
    trust.mkdir()
    (trust / "ca.crt").write_bytes((made / "ca.crt").read_bytes())
    answer = fleet.client.post("/v1/enrol", json=Board("pi").request())
    assert (answer.status_code, answer.json()["code"]) == (403, "authority-mismatch")
    told = fleet.client.get("/v1/trust").json()["ca_certificates"]
    fingerprint = parse(told).fingerprints[0]
    assert fleet.client.post("/v1/enrol", json=Board("pi").request(ca_fingerprint=fingerprint)).status_code == 200


def test_a_server_without_authority_says_so(fleet: Any) -> None:
    assert fleet.client.get("/v1/trust").json()["code"] == "authority-missing"


def test_reports_take_name_and_partition_from_the_enrolment(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport
) -> None:
    board, car_id = car
    lies = report_of(a_report, node={"name": "somebody", "partition_id": 77, "node_id": "100"})
    answer = fleet.post(lies, headers=board.bearer(car_id))
    assert answer.status_code == 200, answer.text
    told = ReportAnswer.model_validate(answer.json())
    assert told.acknowledged == {"own-sender": 0}
    assert told.identity is not None
    assert (told.identity.status, told.identity.name, told.identity.partition_id) == ("accepted", "car-3", 3)
    (node,) = fleet.client.get("/v1/nodes").json()["nodes"]
    assert (node["name"], node["partition_id"], node["labels"]) == ("car-3", 3, ["north"])
    whole = fleet.client.get("/v1/nodes/car-3").text
    for private in ("own-sender", "boot-1", car_id, board.secret, "sender_id", "boot_id"):
        assert private not in whole, private


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": f"Bearer {'0' * 16}.{'x' * 43}"}, 401, "identity-unknown"),
        (None, 401, "identity-wrong"),
    ],
)
def test_a_wrong_secret_is_refused(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport, headers: dict[str, str] | None, status: int, code: str
) -> None:
    used = headers or {"Authorization": f"Bearer {car[1]}.{'x' * 43}"}
    answer = fleet.post(report_of(a_report), headers=used)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    # It is enrolled, and has not reported.
    [node] = fleet.client.get("/v1/nodes").json()["nodes"]
    assert (node["health"], node["last_seen_at"]) == ("offline", None)


def test_a_pending_car_reports_nothing(fleet: Any, a_report: MakeReport) -> None:
    board = Board("pi")
    car_id = fleet.client.post("/v1/enrol", json=board.request()).json()["car_id"]
    answer = fleet.post(report_of(a_report), headers=board.bearer(car_id))
    assert (answer.status_code, answer.json()["code"]) == (403, "identity-pending")


def test_a_revoked_car_is_refused_by_its_next_report(fleet: Any, car: tuple[Board, str], a_report: MakeReport) -> None:
    board, car_id = car
    assert fleet.post(report_of(a_report), headers=board.bearer(car_id)).status_code == 200
    operate(fleet, decisions.revoke, car_id, "stolen", datetime.now(UTC))
    answer = fleet.post(report_of(a_report, 1), headers=board.bearer(car_id))
    assert (answer.status_code, answer.json()["code"]) == (403, "identity-revoked")
    answer = fleet.client.post("/v1/enrol", json=board.request())
    assert (answer.status_code, answer.json()["code"]) == (403, "identity-revoked")
    # Nor under its old name without any identity, in the open mode.
    answer = fleet.post(a_report("fresh", 0, node={"name": "car-3", "partition_id": 9}))
    assert (answer.status_code, answer.json()["code"]) == (403, "identity-revoked")


def test_a_rotation_ends_the_old_secret_with_the_first_report_by_the_new(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport
) -> None:
    old, car_id = car
    operate(fleet, rotation.ask_rotation, car_id)
    answer = fleet.post(report_of(a_report), headers=old.bearer(car_id)).json()
    assert answer["identity"]["rotate"] is True
    new = Board("pi", secret="n" * 43)
    for _ in range(2):  # the same again after a crash
        answer = fleet.client.post("/v1/rotate", json=new.rotation(car_id), headers=old.bearer(car_id))
        assert (answer.status_code, answer.json()["status"]) == (200, "accepted"), answer.text
    assert fleet.post(report_of(a_report, 1), headers=old.bearer(car_id)).status_code == 200
    answer = fleet.post(report_of(a_report, 2), headers=new.bearer(car_id))
    assert (answer.status_code, answer.json()["identity"]["rotate"]) == (200, False)
    answer = fleet.post(report_of(a_report, 3), headers=old.bearer(car_id))
    assert (answer.status_code, answer.json()["code"]) == (401, "identity-wrong")
    answer = fleet.client.post("/v1/rotate", json=Board(secret="z" * 43).rotation(car_id), headers=old.bearer(car_id))
    assert answer.json()["code"] == "identity-wrong"


def test_what_a_car_was_told_of_its_identity_is_not_told_again_until_it_changes(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport
) -> None:
    board, car_id = car

    def send(sequence: int, base: int | None = None) -> dict[str, Any]:
        body: dict[str, Any] = {"reports": [report_of(a_report, sequence)]}
        if base is not None:
            body = {"change": {"sender_id": "own-sender", "base": base, "patch": {"sequence": sequence}}}
        answer = fleet.client.post("/v1/reports", json=body, headers=board.bearer(car_id))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    assert send(0)["identity"]["status"] == "accepted"
    assert "identity" not in send(1, base=0)
    assert send(2)["identity"]["status"] == "accepted"  # a report as a whole is told all
    operate(fleet, rotation.ask_rotation, car_id)
    for sequence in (3, 4):  # as often as it takes
        assert send(sequence, base=sequence - 1)["identity"]["rotate"] is True


def test_a_car_need_not_say_again_which_authorities_it_trusts(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, car_id = car
    trusted = Authorities("NEW", ("aa" * 32,))
    monkeypatch.setattr(AuthorityFiles, "read", lambda _self: trusted)
    headers = {**board.bearer(car_id), AUTHORITIES_HEADER: "aa" * 32}
    assert "ca_certificates" not in fleet.post(report_of(a_report), headers=headers).json()["identity"]
    change = {"change": {"sender_id": "own-sender", "base": 0, "patch": {"sequence": 1}}}
    assert "identity" not in fleet.client.post("/v1/reports", json=change, headers=board.bearer(car_id)).json()
    trusted = Authorities("NEW", ("aa" * 32, "bb" * 32))
    change = {"change": {"sender_id": "own-sender", "base": 1, "patch": {"sequence": 2}}}
    answer = fleet.client.post("/v1/reports", json=change, headers=board.bearer(car_id)).json()
    assert answer["identity"]["ca_certificates"] == "NEW"


def test_a_copy_of_the_card_is_noticed_and_held(fleet: Any, car: tuple[Board, str], a_report: MakeReport) -> None:
    board, car_id = car
    signed = {"headers": board.bearer(car_id)}
    assert fleet.post(report_of(a_report, 5), **signed).status_code == 200
    # The copy starts from an older state, is told the numbers, and goes on from there.
    answer = fleet.post(report_of(a_report, 3, boot_id="boot-2"), **signed)
    assert answer.json()["acknowledged"] == {"own-sender": 5}
    assert fleet.post(report_of(a_report, 6, boot_id="boot-2"), **signed).status_code == 200
    # The car itself still uses the boot that the copy has superseded.
    answer = fleet.post(report_of(a_report, 7), **signed)
    assert (answer.status_code, answer.json()["code"]) == (403, "identity-held")
    answer = fleet.post(report_of(a_report, 8, boot_id="boot-2"), **signed)
    assert (answer.status_code, answer.json()["code"]) == (403, "identity-held")
    assert read(fleet.store).identities[car_id].status == "held"
    # It asks on, and hears within seconds that an operator has let it in again.
    asked = fleet.client.post("/v1/enrol", json=board.request()).json()
    assert (asked["status"], asked["retry_seconds"] <= 15) == ("held", True)
    decide(fleet.store, datetime.now(UTC), lambda book: (decisions.accept(book, car_id, datetime.now(UTC)), None))
    assert fleet.client.post("/v1/enrol", json=board.request()).json()["status"] == "accepted"


def test_a_copy_is_noticed_where_both_boards_see_one_boot(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport
) -> None:
    board, car_id = car
    signed = {"headers": board.bearer(car_id)}

    def sent(number: int, process: str) -> Any:
        sender = {"boot_id": "boot-1", "process": process}
        return fleet.post({**report_of(a_report, number), "sent_by": sender}, **signed)

    assert not sent(5, "first").json()["identity"].get("report_again")
    assert not sent(1_005, "second").json()["identity"].get("report_again")
    # This may be late on the way: the first is asked to report once more, if it is alive.
    assert sent(6, "first").json()["identity"]["report_again"]
    assert fleet.register.awaited(datetime.now(UTC)) == {read(fleet.store).identities[car_id].name}
    answer = sent(1_006, "first")
    assert (answer.status_code, answer.json()["code"]) == (403, "identity-held")
    shown = fleet.client.get("/v1/nodes/" + read(fleet.store).identities[car_id].name)
    assert shown.status_code == 200
    assert "sent_by" not in shown.text


def test_a_car_that_restarts_and_sends_what_it_kept_is_no_copy(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport
) -> None:
    board, car_id = car
    signed = {"headers": board.bearer(car_id)}
    kept = [report_of(a_report, number, boot_id=f"boot-{1 + number // 4}") for number in range(12)]
    for _ in range(2):  # the answer to the first was lost
        assert fleet.post(*kept[:6], **signed).status_code == 200
    assert fleet.post(*kept[4:], **signed).json()["acknowledged"] == {"own-sender": 11}


def test_numbers_do_not_leap(fleet: Any, car: tuple[Board, str], a_report: MakeReport) -> None:
    board, car_id = car
    signed = {"headers": board.bearer(car_id)}
    fleet.post(report_of(a_report, 5), **signed)
    for leap in (2**63 - 1, 6 + MAXIMUM_SEQUENCE_STEP):
        answer = fleet.post(report_of(a_report, leap), **signed).json()
        assert [problem["code"] for problem in answer["problems"]] == ["sequence-invalid"]
    assert fleet.post(report_of(a_report, 6), **signed).json()["acknowledged"] == {"own-sender": 6}


def test_a_state_folder_that_was_lost_goes_on_with_the_numbers_of_the_identity(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport
) -> None:
    board, car_id = car
    fleet.post(report_of(a_report, 40), headers=board.bearer(car_id))
    answer = fleet.post(a_report("new-sender", 0, boot_id="boot-1"), headers=board.bearer(car_id)).json()
    assert answer["acknowledged"] == {"new-sender": 40}
    assert [node["name"] for node in fleet.client.get("/v1/nodes").json()["nodes"]] == ["car-3"]


def test_an_open_car_that_joins_keeps_its_history(fleet: Any, a_report: MakeReport) -> None:
    board = Board("pi-1")
    fleet.post(report_of(a_report, 3))
    request = board.request(partition_id=0)
    car_id = fleet.client.post("/v1/enrol", json=request).json()["car_id"]
    operate(fleet, decisions.accept, car_id, datetime.now(UTC))
    assert fleet.post(report_of(a_report, 4), headers=board.bearer(car_id)).status_code == 200
    (node,) = fleet.client.get("/v1/nodes").json()["nodes"]
    assert (node["name"], node["partition_id"]) == ("pi-1", 0)
    history = fleet.client.get("/v1/nodes/pi-1/history").json()
    assert len(history["samples"]) == 2
    assert "enrolment" in {event["kind"] for event in history["events"]}


# What strangers tried on the first release, each with nothing but the network


@pytest.fixture
def reporting(fleet: Any, car: tuple[Board, str], a_report: MakeReport) -> Iterator[tuple[Any, Callable[[int], Any]]]:
    """A car that reports, with Flower's id 100 for its key; and a function with which it reports again."""
    board, car_id = car
    key = read(fleet.store).identities[car_id].current

    def registered(book: Any) -> Any:
        changed = book.identities[car_id].with_key(
            Key(key.public_key, key.secret_sha256, key.role, flower_node_id="100")
        )
        return decisions.Change(identities=(changed,)), None

    decide(fleet.store, datetime.now(UTC), registered)

    def send(sequence: int) -> Any:
        return fleet.post(report_of(a_report, sequence), headers=board.bearer(car_id))

    assert send(10).status_code == 200
    yield fleet, send
    assert send(11).json()["acknowledged"] == {"own-sender": 11}, "the car was silenced"
    (node,) = (node for node in fleet.client.get("/v1/nodes").json()["nodes"] if node["name"] == "car-3")
    assert (node["partition_id"], node["labels"], node["flower_node_id"]) == (3, ["north"], "100")


def test_a_stranger_cannot_silence_a_car(reporting: Any, a_report: MakeReport) -> None:
    fleet, _ = reporting
    for sender in ("own-sender", "identity:0000000000000000"):
        node = {"name": "car-3", "partition_id": 3, "node_id": "100"}
        answer = fleet.post(a_report(sender, 2**63 - 1, node=node))
        assert (answer.status_code, answer.json()["code"]) == (401, "identity-required")
    # Its old sender alone, under another name, does not reach it either.
    fleet.post(a_report("own-sender", 2**63 - 1, node={"name": "x", "partition_id": 9}))


def test_a_stranger_cannot_take_over_a_live_car(reporting: Any, a_report: MakeReport) -> None:
    fleet, _ = reporting
    for node in (
        {"name": "car-3", "partition_id": 3, "node_id": "100"},
        {"name": "car-3", "partition_id": 8},
        {"name": "other", "partition_id": 3},
        {"name": "other", "partition_id": 8, "node_id": "100"},
        {"name": "other", "partition_id": 8, "previous_node_ids": ["100"]},
        {"name": " car-3 ", "partition_id": 8},
    ):
        answer = fleet.post(a_report("deadbeef", 1, boot_id="boot-1", node=node))
        assert (answer.status_code, answer.json()["code"]) == (401, "identity-required"), node


def test_a_stranger_cannot_squat_the_partitions_of_cars_that_are_off(reporting: Any, a_report: MakeReport) -> None:
    fleet, _ = reporting
    squat = [a_report(f"squat-{number}", 1, node={"name": f"g-{number}", "partition_id": number}) for number in (2, 3)]
    assert fleet.post(*squat).status_code == 401
    assert [node["name"] for node in fleet.client.get("/v1/nodes").json()["nodes"]] == ["car-3"]


def test_a_car_cannot_claim_the_flower_id_of_another(reporting: Any, a_report: MakeReport) -> None:
    fleet, _ = reporting
    code = ("89abcdef", "twice" * 5)
    invite(fleet, "car-4", 4, code)
    board = Board("pi", secret="o" * 43)
    car_id = fleet.client.post("/v1/enrol", json=board.request(invitation=code)).json()["car_id"]
    node = {"name": "car-3", "partition_id": 3, "node_id": "100", "previous_node_ids": ["100", "101"]}
    assert fleet.post(a_report("x", 0, node=node), headers=board.bearer(car_id)).status_code == 200
    detail = fleet.client.get("/v1/nodes/car-4").json()
    assert (detail["partition_id"], detail["flower_node_id"]) == (4, None)


# The model that a car should have


def champion(
    fleet: Any, folder: Path, name: str, content: bytes = b"weights" * 1_000, rmse: float | None = None
) -> str:
    """Import a model and make it the champion of its experiment; return its SHA-256."""
    plain = {"kind": "fleven-model", "provenance": {"experiment": name, "global": {"rmse": rmse}}}
    header = json.dumps({"__metadata__": {"fleven": json.dumps(plain)}}).encode()
    file = folder / "import.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + content)
    now = datetime.now(UTC)
    made = models.take_file(fleet.store, fleet.paths, file, "", now)
    with fleet.store.write() as connection:
        models.promote(connection, made, "", now)
    return made.sha256


@pytest.fixture
def _offers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleven.server.models.offers.VALID_SECONDS", -1.0)


@pytest.mark.usefixtures("_offers_at_once")
def test_an_enrolled_car_is_told_of_the_champion_until_it_has_it(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport, tmp_path: Path
) -> None:
    board, car_id = car
    signed = board.bearer(car_id)

    def told(sequence: int, model: Any) -> Any:
        answer = fleet.post(report_of(a_report, sequence, model=model), headers=signed)
        assert answer.status_code == 200, answer.text
        return answer.json().get("model")

    wants = {"experiment": "night"}
    assert told(1, wants) is None
    first = champion(fleet, tmp_path, "night")
    offer = told(2, wants)
    assert offer == {"name": "night@1", "sha256": first, "bytes": offer["bytes"]}
    assert told(3, {"experiment": "day"}) is None
    assert told(4, None) is None
    assert told(5, wants | {"current": {"name": "night@1", "sha256": first}}) is None
    second = champion(fleet, tmp_path, "night", b"other")
    assert told(6, wants | {"current": {"name": "night@1", "sha256": first}})["sha256"] == second
    shown = fleet.client.get("/v1/nodes/car-3").json()["report"]["model"]
    assert shown["current"]["name"] == "night@1"


@pytest.mark.usefixtures("_offers_at_once")
def test_an_enrolled_car_fetches_the_champion_whole_or_in_parts_and_nothing_else(
    fleet: Any, car: tuple[Board, str], tmp_path: Path
) -> None:
    board, car_id = car
    signed = board.bearer(car_id)
    first = champion(fleet, tmp_path, "night")
    content = (tmp_path / "import.safetensors").read_bytes()
    whole = fleet.client.get(f"/v1/model/{first}", headers=signed)
    assert (whole.status_code, whole.headers["etag"], whole.content) == (200, f'"{first}"', content)
    part = fleet.client.get(f"/v1/model/{first}", headers=signed | {"Range": "bytes=10-99"})
    assert (part.status_code, part.content) == (206, content[10:100])
    assert fleet.client.get(f"/v1/model/{first}", headers=signed | {"If-None-Match": f'"{first}"'}).status_code == 304
    beyond = fleet.client.get(f"/v1/model/{first}", headers=signed | {"Range": "bytes=999999-"})
    assert beyond.status_code == 416
    # The one before it stays; one before that, and any other file, is not there.
    second = champion(fleet, tmp_path, "night", b"second")
    third = champion(fleet, tmp_path, "night", b"third")
    found = [fleet.client.get(f"/v1/model/{one}", headers=signed).status_code for one in (third, second, first)]
    assert found == [200, 200, 404]
    for name in ("0" * 64, "..%2f..%2fregister.db", third[:-1], third.upper()):
        assert fleet.client.get(f"/v1/model/{name}", headers=signed).status_code in (404, 422)


@pytest.mark.usefixtures("_offers_at_once")
def test_nobody_but_an_enrolled_car_gets_a_model(fleet: Any, car: tuple[Board, str], tmp_path: Path) -> None:
    board, car_id = car
    digest = champion(fleet, tmp_path, "night")
    path = f"/v1/model/{digest}"
    strangers = [{}, {"Authorization": "Bearer stranger"}, {"Authorization": f"Bearer {fleet.token}"}]
    assert [fleet.client.get(path, headers=headers).status_code for headers in strangers] == [401] * 3
    wrong = {"Authorization": f"Bearer {car_id}.{'x' * 43}"}
    assert fleet.client.get(path, headers=wrong).json()["code"] == "identity-wrong"
    operate(fleet, decisions.revoke, car_id, "stolen", datetime.now(UTC))
    refused = fleet.client.get(path, headers=board.bearer(car_id))
    assert (refused.status_code, refused.json()["code"]) == (403, "identity-revoked")


def test_errors_that_grow_on_new_trips_become_a_condition_of_the_car_and_of_the_fleet(
    fleet: Any, car: tuple[Board, str], a_report: MakeReport, tmp_path: Path
) -> None:
    board, car_id = car
    digest = champion(fleet, tmp_path, "night", rmse=8.0)

    def conditions(sequence: int, *errors: float) -> list[str]:
        told = [{"at": f"2026-05-0{day}T12:00:00Z", "rmse": rmse, "values": 90} for day, rmse in enumerate(errors, 1)]
        model = {"experiment": "night", "current": {"name": "night@1", "sha256": digest}, "errors": told}
        answer = fleet.post(report_of(a_report, sequence, model=model), headers=board.bearer(car_id))
        assert answer.status_code == 200, answer.text
        (node,) = fleet.client.get("/v1/nodes").json()["nodes"]
        return [one["code"] for one in node["conditions"]]

    assert "model-drift" not in conditions(1, 8.0, 16.0)
    assert "model-drift" in conditions(2, 8.0, 16.0, 16.0, 16.0)
    status = fleet.client.get("/v1/status").json()
    assert status["fleet"]["drifts"]
    assert any("no longer fits 1 cars" in problem for problem in status["problems"])
    assert "model-drift" not in conditions(3, 8.0, 16.0, 16.0, 16.0, 4.0, 4.0, 4.0)
    assert not fleet.client.get("/v1/status").json()["fleet"]["drifts"]


def joined(fleet: Any, number: int) -> dict[str, str]:
    """Let one more car join, and return the headers that sign its requests."""
    code = (f"{number:08x}", f"{number:024d}")
    invite(fleet, f"car-{number}", number, code)
    board = Board(f"pi-{number}", secret=f"{number:043d}")
    answer = fleet.client.post("/v1/enrol", json=board.request(invitation=code))
    assert answer.status_code == 200, answer.text
    return board.bearer(answer.json()["car_id"])


def test_cars_that_have_proved_who_they_are_do_not_share_the_room_of_their_address(
    fleet: Any, a_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.client.close()
    monkeypatch.setattr(GuardedProtocol, "maximum_per_address", 3)
    monkeypatch.setattr(GuardedProtocol, "maximum_per_identity", 2)
    signed = []
    for number in range(4, 9):
        with httpx.Client(base_url=fleet.url, timeout=10) as client:
            signed.append(joined(type(fleet)(**{**vars(fleet), "client": client}), number))

    def connected(headers: dict[str, str]) -> httpx.Client:
        return httpx.Client(base_url=fleet.url, timeout=10, headers=headers)

    clients = [connected(headers) for headers in signed for _ in range(2)]
    try:
        for number, client in enumerate(clients):
            answer = client.post("/v1/reports", json={"reports": [report_of(a_report, number)]})
            assert answer.status_code == 200, answer.text
        assert sum(GuardedProtocol.by_identity.values()) == 10
        assert GuardedProtocol.by_address["127.0.0.1"] == 0
        with connected(signed[0]) as third:  # of one car
            answer = third.post("/v1/reports", json={"reports": [report_of(a_report, 99)]})
            assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
        strangers = [socket.create_connection(("127.0.0.1", fleet.port)) for _ in range(5)]
        try:
            wait_for(lambda: GuardedProtocol.by_address["127.0.0.1"] == 3)
            answer = clients[0].post("/v1/reports", json={"reports": [report_of(a_report, 100)]})
            assert answer.status_code == 200  # strangers behind the same address take no car's room
        finally:
            for stranger in strangers:
                stranger.close()
    finally:
        for client in clients:
            client.close()
    wait_for(lambda: not GuardedProtocol.by_identity and not GuardedProtocol.by_address)
