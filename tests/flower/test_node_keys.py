"""Node keys at a real SuperLink with TLS and authentication: let in, removed in a run, found again after a crash."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from agent_harness import wait_for
from certificates import sign_server, write_certificates, write_node_key
from tiny_federation import CONNECTION, Federation, free_port

from fleven.server.config.paths import Paths
from fleven.server.database import Store, open_store
from fleven.server.enrolment import decisions, rotation
from fleven.server.enrolment.decisions import Wish
from fleven.server.enrolment.flower_keys import FlowerKeys
from fleven.server.enrolment.keys import flower_form, read_key_file
from fleven.server.enrolment.model import Identity
from fleven.server.enrolment.store import decide, read
from fleven.server.errors import CertificateRefusedError, SuperLinkUnreachableError
from fleven.server.flower.flwr_command import Flower
from fleven.server.flower.line import installed_line
from fleven.server.trust.files import facts_of

pytestmark = [pytest.mark.flower, pytest.mark.timeout(240)]


class Fleet:
    """A SuperLink that takes registered keys only, and a register beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = write_certificates(folder / "certificates")
        self.federation = Federation(folder / "server")
        self.store: Store = open_store(folder / "register.db")
        address = f"127.0.0.1:{self.federation.control_port}"
        line = installed_line()
        control = line.control({"address": address, "root-certificates": str(self.certificates / "ca.crt")})
        assert control is not None
        self.control = control
        # The command uses another connection's name: whatever works here works without it.
        self.flower = Flower(Paths(folder / "server"), address, 20.0, line, control, self.certificates / "ca.crt")
        self.executor = ThreadPoolExecutor(1)
        self.keys = FlowerKeys(self.store, self.flower, self.executor, lambda: None)
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self.federation.start(certificates=self.certificates, node_keys=True)

    def enrol(self, name: str) -> Identity:
        """Accept a car with a key of its own, without telling Flower."""
        (self.folder / name).mkdir()
        key = read_key_file(write_node_key(self.folder / name).with_suffix(".pub"))
        now = datetime.now(UTC)
        car = decide(
            self.store, now, lambda book: decisions.join(book, Wish(key, "0" * 64, name), now, os.urandom(8).hex())
        )
        decide(self.store, now, lambda book: (decisions.accept(book, car.car_id, now), None))
        return self.car(car.car_id)

    def car(self, car_id: str) -> Identity:
        return read(self.store).identities[car_id]

    def bring(self) -> None:
        self.keys.bring(read(self.store), datetime.now(UTC))

    def statuses(self) -> dict[str, str]:
        return {node.node_id: node.status for node in self.flower.nodes()}

    def start_node(self, name: str, partition: int) -> Path:
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            node = subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "flower-supernode"),
                    *("--superlink", f"127.0.0.1:{self.federation.fleet_port}"),
                    *("--root-certificates", str(self.certificates / "ca.crt")),
                    *("--auth-supernode-private-key", str(self.folder / name / "node.key")),
                    *("--clientappio-api-address", f"127.0.0.1:{free_port()}"),
                    *("--node-config", f"partition-id={partition}"),
                ],
                env={**self.federation.environment, "FLWR_HOME": str(self.folder / name / "home")},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.nodes.append(node)
        return log

    def stop(self) -> None:
        self.control.close()
        self.executor.shutdown()
        for node in self.nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        self.federation.kill()
        self.store.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    made.start()
    yield made
    made.stop()


def test_keys_follow_the_enrolment_and_a_revoked_car_leaves_a_run_under_way(fleet: Fleet) -> None:
    cars = [fleet.enrol(f"car-{number}") for number in range(3)]
    fleet.bring()
    ids = [str(fleet.car(car.car_id).current.flower_node_id) for car in cars]
    assert fleet.statuses() == dict.fromkeys(ids, "registered")
    for number in range(3):
        fleet.start_node(f"car-{number}", number)
    wait_for("three nodes", lambda: set(fleet.statuses().values()) == {"online"}, 60)
    # A stranger with a key that it has just made is not let in.
    (fleet.folder / "stranger").mkdir()
    write_node_key(fleet.folder / "stranger")
    log = fleet.start_node("stranger", 7)
    wait_for("the stranger's refusal", lambda: '"code": 2004' in log.read_text(), 60)
    assert set(fleet.statuses()) == set(ids)

    run = fleet.federation.run(cars=2)
    run.wait_rounds(1, 90)
    now = datetime.now(UTC)
    decide(fleet.store, now, lambda book: (decisions.revoke(book, cars[2].car_id, "stolen", now), None))
    began = time.monotonic()
    fleet.bring()
    assert fleet.statuses()[ids[2]] == "unregistered"
    assert time.monotonic() - began < 5
    run.wait_rounds(2, 90)
    assert ids[2] not in run.rounds()[-1]["good"].values()
    # Its SuperNode is refused from now on, and its key for good.
    log = fleet.start_node("car-2", 2)
    wait_for("the refusal", lambda: '"code": 2004' in log.read_text(), 60)
    assert fleet.car(cars[2].car_id).current.spent
    assert run.end().startswith("finished:completed")


def test_a_read_costs_milliseconds_and_says_what_the_command_says(fleet: Fleet) -> None:
    fleet.enrol("car-0")
    fleet.bring()
    run = fleet.federation.run()
    line = installed_line()
    by_command = line.nodes(fleet.federation.flwr("supernode", "list", CONNECTION))
    by_stub = [replace(node, public_key=b"") for node in fleet.flower.nodes()]
    assert by_stub == by_command
    told = line.runs(fleet.federation.flwr("ls", CONNECTION))
    [seen] = fleet.flower.runs()
    assert (seen.run_id, seen.version) == (told[0].run_id, told[0].version) == (run.id, "1.0.0")
    assert fleet.flower.runs(run.id)[0].run_id == run.id
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        fleet.flower.nodes()
        fleet.flower.runs()
        seconds.append((time.perf_counter() - began) / 2)
    print(f"a read: median {1000 * sorted(seconds)[10]:.1f} ms")
    assert sorted(seconds)[10] < 0.02
    run.federation.flwr("stop", run.id, CONNECTION)


def test_a_crash_between_flower_and_the_register_is_made_good(fleet: Fleet) -> None:
    car = fleet.enrol("car-0")
    # Flower took the key, and the server died before it could write its id down.
    node_id = fleet.flower.register_node(flower_form(car.current.public_key))
    fleet.bring()
    assert fleet.car(car.car_id).current.flower_node_id == node_id
    # Somebody removed it by hand: the key is spent, and the car is held until an operator lets it bring a new one.
    fleet.flower.unregister_node(node_id)
    fleet.bring()
    after = fleet.car(car.car_id)
    assert (after.current.spent, after.status) == (True, "held")
    now = datetime.now(UTC)
    decide(fleet.store, now, lambda book: (decisions.accept(book, car.car_id, now), None))
    assert fleet.car(car.car_id).rotate_wanted
    (fleet.folder / "new").mkdir()
    new = read_key_file(write_node_key(fleet.folder / "new").with_suffix(".pub"))
    now = datetime.now(UTC)
    decide(fleet.store, now, lambda book: rotation.rotate(book, car.car_id, new, "1" * 64))
    fleet.bring()
    decide(fleet.store, now, lambda book: (rotation.promote(book.identities[car.car_id]), None))
    fleet.bring()
    after = fleet.car(car.car_id)
    assert (after.current.public_key, after.rotate_wanted) == (new, False)
    assert fleet.statuses()[str(after.current.flower_node_id)] == "registered"
    # The SuperLink lost its database: all that are accepted are let in again.
    fleet.federation.kill()
    with pytest.raises(SuperLinkUnreachableError):
        fleet.bring()
    (fleet.federation.folder / "superlink.db").unlink()
    fleet.start()
    fleet.bring()
    again = fleet.car(car.car_id).current
    assert fleet.statuses() == {again.flower_node_id: "registered"}


def test_a_run_is_followed_and_stopped_and_a_car_shut_out_after_the_end_of_the_certificate(fleet: Fleet) -> None:
    """No new connection is possible then; another start of the SuperLink would end all runs."""
    car = fleet.enrol("car-0")
    fleet.bring()
    node_id, run = fleet.car(car.car_id).current.flower_node_id, fleet.federation.run()
    # A SuperLink does not ask how long its certificate is valid; the run outlasts its restart.
    fleet.federation.kill()
    sign_server(fleet.certificates, days=-1)
    fleet.start()
    fleet.control.close()
    flower, record = fleet.flower, fleet.flower.paths.superlink_record
    for content in ("", json.dumps({"certificate": "0" * 64})):
        record.write_text(content)
        for refused in (flower.nodes, flower.runs, lambda: flower.runs(run.id), lambda: flower.stop(run.id)):
            with pytest.raises(CertificateRefusedError, match="certificate has expired"):
                refused()
    facts = facts_of(fleet.certificates / "server.crt")
    assert facts is not None
    record.write_text(json.dumps({"certificate": facts.fingerprint}))
    with pytest.raises(CertificateRefusedError):
        flower.nodes()
    assert [one.status for one in flower.runs(run.id)] != ["finished"]
    assert flower.runs("17") == []
    began = time.monotonic()
    flower.stop(run.id)
    print(f"a stop: {time.monotonic() - began:.2f} s")
    [seen] = flower.runs(run.id)
    assert (seen.status, seen.sub_status) == ("finished", "stopped")
    flower.stop(run.id)
    now = datetime.now(UTC)
    decide(fleet.store, now, lambda book: (decisions.revoke(book, car.car_id, "stolen", now), None))
    fleet.bring()
    assert [(node.node_id, node.status) for node in flower.nodes(pinned=True)] == [(node_id, "unregistered")]
    assert fleet.car(car.car_id).current.spent
    assert not [one for one in threading.enumerate() if one.name == "pinned-connection"]
