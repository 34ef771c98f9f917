"""The car's model over real connections and in real processes: resumed, held, refused, given up, caught up."""

import hashlib
import http.server
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent_harness import Agent, ReportServer, wait_for

from fleven.app.model import build, weights_of
from fleven.app.server import bundle
from fleven.app.settings import parse
from fleven.app.trips.windows import Scaler
from fleven_agent.models import keeper as keeper_module
from fleven_agent.models.decisions import Offer
from fleven_agent.models.keeper import Circumstances, ModelKeeper
from fleven_agent.models.trial import Trier
from fleven_agent.reporting.client import Target


class Files:
    """An HTTP server that sends parts of files, and counts what it was asked for."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.breaks_after = 10**9
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                sha256 = self.path.rpartition("/")[2]
                wanted = self.headers["Range"]
                outer.asked.append((sha256, wanted, self.headers["Authorization"]))
                first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
                part = outer.content[sha256][first : last + 1]
                outer.breaks_after -= 1
                self.send_response(206)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                if outer.breaks_after < 0:
                    self.wfile.write(part[: len(part) // 2])
                    self.close_connection = True
                else:
                    self.wfile.write(part)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.target = Target(f"http://127.0.0.1:{self.server.server_port}", 5.0, None, "test", token="secret")
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name: str, content: bytes, sha256: str = "") -> Offer:
        digest = sha256 or hashlib.sha256(content).hexdigest()
        self.content[digest] = content
        return Offer(name, digest, len(content))


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setattr(keeper_module, "PART_BYTES", 2_000)
    monkeypatch.setattr(keeper_module, "RETRY_INITIAL_SECONDS", 0.2)
    made = Files()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def keepers(tmp_path: Path) -> Iterator[Callable[..., ModelKeeper]]:
    started: list[ModelKeeper] = []

    def start(**options: Any) -> ModelKeeper:
        made = ModelKeeper(tmp_path, lambda: None, **options)
        made.start()
        started.append(made)
        return made

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def trips(tmp_path: Path) -> Path:
    folder = tmp_path / "trips"
    folder.mkdir()
    write_trip(folder / "trip_1.csv", 1)
    return folder


def write_trip(path: Path, stamp: float) -> None:
    lines = ["time_sec,vehicle_speed,engine_rpm,mass_air_flow,calculated_load_value"]
    lines += [f"{second},{50 + second % 5},2000,20,40" for second in range(60)]
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, (stamp, stamp))


def model(folder: Path, mean: float = 52.0, seed: int = 1, spread: float = 0.1, hidden_size: int = 8) -> bytes:
    """A model that predicts about `mean`, whatever it sees."""
    settings = parse({"sequence-length": 5, "hidden-size": hidden_size, "seed": seed})
    scaler = Scaler(np.array([2000.0, 20.0, 40.0, mean]), np.array([900.0, 9.0, 20.0, spread]))
    bundle.save(folder / "made.safetensors", weights_of(build(settings)), scaler, settings, {"experiment": "night"})
    return (folder / "made.safetensors").read_bytes()


def using(keeper: ModelKeeper, name: str) -> dict[str, Any]:
    return dict(
        wait_for(
            f"{name} in use",
            lambda: told if ((told := keeper.told())["current"] or {}).get("name") == name else None,
            40,
            lambda: str(keeper.told()),
        )
    )


def follow_first(keeper: ModelKeeper, seen: Circumstances) -> None:
    """Have the first model fetched, tried and used."""
    keeper.follow(seen)
    using(keeper, "night@1")


def test_a_model_is_fetched_in_parts_goes_on_where_it_broke_and_is_tried_before_it_is_used(
    files: Files, keepers: Callable[..., ModelKeeper], trips: Path, tmp_path: Path
) -> None:
    offer = files.add("night@1", model(tmp_path))
    files.breaks_after = 1  # the second part breaks off, and each after it until the server is well again
    keeper = keepers()
    seen = Circumstances(files.target, offer, "", str(trips), 1.0)
    keeper.follow(seen)
    wait_for("a failed try", lambda: "night@1 cannot be fetched" in keeper.told()["problem"], 20)
    files.breaks_after = 10**9
    told = using(keeper, "night@1")
    assert told["problem"] == ""
    assert told["errors"][0]["values"] == 56
    assert told["errors"][0]["rmse"] == pytest.approx(2**0.5, rel=0.1)
    starts = [int((asked or "").removeprefix("bytes=").split("-")[0]) for _, asked, _ in files.asked]
    assert starts.count(0) == 1, "the first part came once"
    assert max(starts) > 2_000
    assert {token for _, _, token in files.asked} == {"Bearer secret"}
    assert (tmp_path / "models" / "current").read_bytes() == files.content[offer.sha256]


def test_nothing_is_done_while_a_gate_is_closed_and_a_car_that_was_off_catches_up(
    files: Files, keepers: Callable[..., ModelKeeper], trips: Path, tmp_path: Path
) -> None:
    first, second = files.add("night@1", model(tmp_path)), files.add("night@2", model(tmp_path, seed=2))
    keeper = keepers()
    held = Circumstances(files.target, first, "inhibited: driving", str(trips), 1.0)
    keeper.follow(held)
    keeper.follow(replace(held, held="inhibited: driving fast"))
    assert files.asked == []
    keeper.follow(replace(held, held=""))
    using(keeper, "night@1")
    keeper.stop()
    again = keepers()
    assert again.told()["current"]["name"] == "night@1"
    again.follow(Circumstances(files.target, second, "", str(trips), 1.0))
    assert using(again, "night@2")["previous"]["name"] == "night@1"
    asked = len(files.asked)
    again.follow(Circumstances(files.target, first, "", str(trips), 1.0))
    assert using(again, "night@1")["previous"]["name"] == "night@2"
    assert len(files.asked) == asked, "it was on the shelf"


def test_a_model_that_is_much_worse_here_is_refused_until_there_is_another_trip(
    files: Files, keepers: Callable[..., ModelKeeper], trips: Path, tmp_path: Path
) -> None:
    good, bad = files.add("night@1", model(tmp_path)), files.add("night@2", model(tmp_path, mean=90.0))
    keeper, seen = keepers(), Circumstances(files.target, good, "", str(trips), 1.0)
    follow_first(keeper, seen)
    keeper.follow(replace(seen, offer=bad))
    wait_for(
        "it is refused", lambda: "night@2 is not used: its error on the newest trip" in keeper.told()["problem"], 40
    )
    assert keeper.told()["current"]["name"] == "night@1"
    keeper.follow(replace(seen, offer=None))
    assert keeper.told()["problem"] == ""


def test_a_car_goes_back_to_a_worse_model_that_it_has_used_before(
    files: Files, keepers: Callable[..., ModelKeeper], trips: Path, tmp_path: Path
) -> None:
    poor, good = files.add("night@1", model(tmp_path, mean=60.0)), files.add("night@2", model(tmp_path))
    keeper, seen = keepers(), Circumstances(files.target, poor, "", str(trips), 1.0)
    follow_first(keeper, seen)
    keeper.follow(replace(seen, offer=good))
    using(keeper, "night@2")
    keeper.follow(replace(seen, offer=poor))
    assert using(keeper, "night@1")["problem"] == ""


def test_what_is_no_model_is_refused_and_other_bytes_than_promised_are_dropped(
    files: Files, keepers: Callable[..., ModelKeeper], trips: Path, tmp_path: Path
) -> None:
    junk = files.add("night@1", b"junk" * 1_000)
    keeper = keepers()
    seen = Circumstances(files.target, junk, "", str(trips), 1.0)
    keeper.follow(seen)
    wait_for("it is refused", lambda: "night@1 is not used" in keeper.told()["problem"], 40)
    other = files.add("night@2", model(tmp_path), sha256="a" * 64)
    keeper.follow(replace(seen, offer=other))
    wait_for("it is dropped", lambda: "is not what the server promised" in keeper.told()["problem"], 40)
    assert keeper.told()["current"] is None


def test_a_new_trip_is_held_against_the_model_once_and_one_that_rots_gives_way_to_the_one_before(
    files: Files, keepers: Callable[..., ModelKeeper], trips: Path, tmp_path: Path
) -> None:
    first, second = files.add("night@1", model(tmp_path)), files.add("night@2", model(tmp_path, seed=2))
    keeper, seen = keepers(), Circumstances(files.target, first, "", str(trips), 1.0)
    follow_first(keeper, seen)
    keeper.follow(replace(seen, offer=second))
    using(keeper, "night@2")
    write_trip(trips / "trip_2.csv", 2)
    keeper.follow(replace(seen, offer=None, newest_trip=2.0))
    errors = wait_for("the second trip", lambda: e if len(e := keeper.told()["errors"]) == 2 else None, 40)
    assert [error["at"][:19] for error in errors] == ["1970-01-01T00:00:01", "1970-01-01T00:00:02"]
    (tmp_path / "models" / f"{second.sha256}.safetensors").write_bytes(b"rotten")
    write_trip(trips / "trip_3.csv", 3)
    keeper.follow(replace(seen, offer=None, newest_trip=3.0))
    told = using(keeper, "night@1")
    assert told["problem"] == "night@2 cannot be used any more: its file is damaged"
    assert told["previous"] is None


def test_a_trial_without_an_end_is_given_up(files: Files, keepers: Callable[..., ModelKeeper], tmp_path: Path) -> None:
    keeper = keepers(trier=Trier(("sleep", "600", "#"), 0.5))
    keeper.follow(Circumstances(files.target, files.add("night@1", b"x" * 100), "", None, None))
    wait_for("it is given up", lambda: "night@1 is not used" in keeper.told()["problem"], 20)
    assert keeper.told()["current"] is None


def test_an_agent_fetches_a_model_only_over_the_networks_of_its_gate_and_goes_on_when_one_is_back(
    make_agent: Callable[..., Agent], server: ReportServer, tmp_path: Path
) -> None:
    """The whole agent: its probe of the way, its gate, its reports, its fetch; a test changes the allowed networks."""
    content = model(tmp_path, hidden_size=300)
    parts = range(0, len(content), keeper_module.PART_BYTES)
    assert len(parts) >= 3
    offer = {"name": "night@1", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    server.answer["model"] = offer
    asked: list[int] = []
    under_way, go_on = threading.Event(), threading.Event()

    def send_part(handler: http.server.BaseHTTPRequestHandler) -> None:
        first, last = (int(part) for part in handler.headers["Range"].removeprefix("bytes=").split("-"))
        asked.append(first)
        under_way.set()
        assert go_on.wait(30)
        handler.send_response(206)
        handler.send_header("Content-Length", str(last + 1 - first))
        handler.end_headers()
        handler.wfile.write(content[first : last + 1])

    server.answer_get = send_part  # type: ignore[method-assign]
    agent = make_agent(allowed("wwan9"), report_url=server.url).start()
    agent.wait_state("gated")
    answered(agent, server)
    assert asked == [], "the way to the SuperLink is lo, and only wwan9 is allowed"

    allow(agent, "wwan9", "lo")
    assert under_way.wait(30), agent.log()[-3_000:]
    allow(agent, "wwan9")
    agent.wait_state("gated")
    go_on.set()
    part = agent.state / "models" / f"{offer['sha256']}.part"
    agent.wait("the part that was under way", lambda: part.is_file() and part.stat().st_size == parts[1])
    answered(agent, server)
    assert asked == [0], "nothing more is asked for while the gate is closed"

    allow(agent, "wwan9", "lo")
    agent.wait("the model in use", lambda: ((agent.status() or {})["model"]["current"] or {}).get("name") == "night@1")
    assert asked == list(parts), "it went on where it had stopped"
    assert (agent.state / "models" / "current").read_bytes() == content
    assert server.invalid == []


def allowed(*networks: str) -> str:
    return f"[gates]\nnetworks = {list(networks)}\n[reports]\ntimeout-seconds = 60.0\n"


def allow(agent: Agent, *networks: str) -> None:
    agent.drop_in(allowed(*networks))
    agent.signal(signal.SIGHUP)


def answered(agent: Agent, server: ReportServer) -> None:
    """Wait until the agent has had the answers to two more batches, with the offer in each."""
    batches = len(server.batches)
    agent.wait("two more batches", lambda: len(server.batches) >= batches + 3)
