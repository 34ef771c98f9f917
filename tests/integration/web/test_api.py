"""The fleet API over real sockets: reports in, answers out, and what clients must not be able to do."""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from fleven import __version__
from fleven.server.flower.answers import FlowerNode
from fleven.server.http.connection_guard import GuardedProtocol
from fleven_agent.reporting.client import Target, deliver

MakeReport = Callable[..., dict[str, Any]]
PAGES = ["/", "/?health=ready&search=pi", "/nodes/pi-1", "/nodes/pi-1?hours=1", "/runs", "/schedules"]


def test_the_agents_own_sender_is_understood(api: Any, a_report: MakeReport) -> None:
    answer = deliver(Target(api.url, 5, None, "test"), [a_report()])
    assert answer.acknowledged == {"a": 0}
    assert answer.server_version == __version__
    assert answer.flwr_version
    assert answer.drain is None


def test_an_empty_batch_tells_time_and_versions(api: Any) -> None:
    answer = api.post().json()
    assert answer["acknowledged"] == {}
    assert abs(datetime.fromisoformat(answer["server_time"]) - datetime.now(UTC)).total_seconds() < 5


def test_a_report_makes_a_node_that_is_ready_once_flower_agrees(api: Any, a_report: MakeReport) -> None:
    api.post(a_report())
    (node,) = api.client.get("/v1/nodes").json()["nodes"]
    assert (node["name"], node["ready"], node["load_1m"]) == ("pi-1", False, 0.5)
    api.register.record_flower_nodes([FlowerNode("100", "online")], datetime.now(UTC))
    (node,) = api.client.get("/v1/nodes").json()["nodes"]
    assert (node["health"], node["ready"]) == ("ready", True)
    assert api.client.get("/v1/nodes", params={"health": "offline"}).json()["nodes"] == []
    assert api.client.get("/v1/nodes/pi-1").json()["report"]["state"] == "running"
    assert len(api.client.get("/v1/nodes/pi-1/history").json()["samples"]) == 1


def test_the_agents_own_sender_hears_that_flower_has_lost_its_node(api: Any, a_report: MakeReport) -> None:
    def told(sequence: int) -> list[str]:
        report = a_report(sequence=sequence)
        return list(deliver(Target(api.url, 5, None, ""), [report]).flower_offline)

    assert told(0) == []
    api.register.record_flower_nodes([FlowerNode("100", "offline")], datetime.now(UTC))
    assert told(1) == ["100"]
    api.register.record_flower_nodes([FlowerNode("100", "online")], datetime.now(UTC))
    assert told(2) == []


def test_metrics_are_made_once_for_all_who_ask_within_a_second(
    api: Any, a_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleven.server.http.shared_answer.SHARED_SECONDS", 60.0)
    before = api.client.get("/metrics").text
    api.post(a_report())
    assert api.client.get("/metrics").text == before


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 422, "report-invalid"),
        (b"no json", {}, 422, "report-invalid"),
        (b'{"reports": 5}', {}, 422, "report-invalid"),
        (b'{"reports": [{}]}', {}, 422, "report-invalid"),
        (b"[" * 60_000, {}, 422, "report-invalid"),
        (b"\xff\xfe{}", {}, 422, "report-invalid"),
        (b"{}", {"Content-Encoding": "br"}, 415, "encoding-unsupported"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "body-malformed"),
        (gzip.compress(b"{}", mtime=0)[:-4], {"Content-Encoding": "gzip"}, 400, "body-malformed"),
        (gzip.compress(b"\0" * 20_000_000), {"Content-Encoding": "gzip"}, 413, "body-too-large"),
        (b"x" * 1_000_001, {}, 413, "body-too-large"),
    ],
)
def test_a_bad_body_gets_a_code_and_stores_nothing(
    shared_api: Any, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = shared_api.client.post("/v1/reports", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert shared_api.client.get("/v1/nodes").json()["nodes"] == []


def test_a_body_without_a_length_is_limited_too(api: Any) -> None:
    def endless() -> Any:
        for _ in range(1100):
            yield b"x" * 1000

    try:
        answer = api.client.post("/v1/reports", content=endless())
    except httpx.TransportError:
        # The server closed the connection while the client was still sending: that is an answer too.
        return
    assert answer.status_code == 413


def test_values_out_of_every_range_are_stored_cleaned(api: Any, a_report: MakeReport) -> None:
    wild = a_report(
        sender="\x1b[31mred",
        created_at="0001-01-01T00:00:00+14:00",
        sent_at="9999-12-31T23:59:59-14:00",
        state_since="9999-12-31T23:59:59-14:00",
        node={"name": "../../etc/\u202epasswd\n", "partition_id": 10**40, "num_partitions": 2**70},
        state="\x1b]0;x\x07" * 30,
        conditions=[{"code": "x" * 200, "severity": "apocalyptic", "since": "0001-01-01T00:00:00+14:00"}],
        finished_tasks=[{"run_id": "9" * 20, "round": 10**30, "peak_rss_bytes": 10**30, "log_tail": "\x00\x1b[2J"}],
        data={"newest_trip_at": "0001-01-01T00:00:00+14:00", "trips": 10**30},
        counters={"tasks": 10**30},
    )
    # NaN and Infinity are no JSON, but many readers take them.
    text = json.dumps({"reports": [wild | {"resources": {"temperature_celsius": float("nan")}}]})
    answer = api.client.post("/v1/reports", content=text.encode())
    assert answer.status_code == 200, answer.text
    (node,) = api.client.get("/v1/nodes").json()["nodes"]
    assert node["name"] == "etc--passwd"
    assert node["temperature_celsius"] is None
    name = node["name"]
    for path in [f"/v1/nodes/{name}", f"/v1/nodes/{name}/history", "/metrics", "/", f"/nodes/{name}", "/v1/status"]:
        shown = api.client.get(path)
        assert shown.status_code == 200, path
        assert "\x1b" not in shown.text


def test_a_token_is_asked_for_when_one_is_set(api_with: Callable[..., Any], a_report: MakeReport) -> None:
    api = api_with(**{"report-token": "a-secret-of-the-fleet"})
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a-secret-of-the-fleet"}):
        answer = api.post(a_report(), headers=header)
        assert (answer.status_code, answer.json()["code"]) == (401, "token-invalid")
    assert api.post(a_report(), headers={"Authorization": "Bearer a-secret-of-the-fleet"}).status_code == 200
    assert api.client.get("/v1/nodes").status_code == 200


def test_one_sender_can_not_take_all_the_time(api_with: Callable[..., Any], a_report: MakeReport) -> None:
    api = api_with(**{"requests-per-minute": 10})
    statuses = [api.post(a_report(sequence=n)).status_code for n in range(12)]
    assert statuses[:10] == [200] * 10
    refused = api.post(a_report(sequence=99))
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
    assert int(refused.headers["Retry-After"]) >= 1
    other = {"name": "pi-2", "partition_id": 1}
    assert api.post(a_report(sender="b", node=other)).status_code == 200


def test_reports_from_many_at_once_are_all_stored(api: Any, a_report: MakeReport) -> None:
    def send(number: int) -> int:
        node = {"name": f"pi-{number}", "partition_id": number}
        return int(api.post(a_report(sender=str(number), node=node)).status_code)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(send, range(64))) == [200] * 64
    assert len(api.client.get("/v1/nodes").json()["nodes"]) == 64


def test_a_register_that_is_locked_answers_503_and_recovers(
    api: Any, a_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fleven.server.errors import StoreError

    def locked(_register: Any, _arrivals: Any, _seconds: float) -> Any:
        raise StoreError("stays locked", code="register-locked")

    with monkeypatch.context() as patch:
        patch.setattr("fleven.server.nodes.registry.NodeRegistry.store_reports", locked)
        answer = api.post(a_report())
        assert (answer.status_code, answer.json()["code"]) == (503, "register-locked")
        assert "Retry-After" in answer.headers
    assert api.post(a_report()).status_code == 200


def test_a_defect_in_one_report_costs_the_others_nothing(
    api: Any, a_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fleven.server.nodes import normalise

    original = normalise.node_values

    def broken(report: Any, received_at: Any) -> Any:
        if report.sender_id == "bad":
            raise ZeroDivisionError
        return original(report, received_at)

    monkeypatch.setattr(normalise, "node_values", broken)
    gate = threading.Barrier(2)

    def send(sender: str) -> int:
        gate.wait()
        return int(api.post(a_report(sender=sender, node={"name": sender, "partition_id": 1})).status_code)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(send, ["bad", "good"])) == [200, 503]
    assert [node["name"] for node in api.client.get("/v1/nodes").json()["nodes"]] == ["good"]


def test_healthz_is_honest(api: Any) -> None:
    assert api.client.get("/healthz").json()["ok"]
    api.store.set_fact("service", {"pid": 1}, datetime(2026, 1, 1, tzinfo=UTC))
    answer = api.client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["problems"] == ["the scheduler's loop is not running"]


def test_metrics_are_in_prometheus_format(api: Any, a_report: MakeReport) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    api.post(a_report(counters={"tasks": 7}))
    families = {f.name: f for f in text_string_to_metric_families(api.client.get("/metrics").text)}
    assert families["fleven_node_temperature_celsius"].samples[0].value == 51.0
    assert families["fleven_node_tasks"].samples[0].value == 7.0
    assert {s.labels["state"] for s in families["fleven_runs"].samples} >= {"running", "failed"}
    assert families["fleven_reports_written"].samples[0].value == 1.0


def test_what_a_car_sends_and_receives_is_told_everywhere(api: Any, a_report: MakeReport) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    from fleven.server.cli.node_tables import traffic_text
    from fleven_agent.common.formatting import size_text

    traffic = {
        "day_bytes": 1_500_000,
        "month_bytes": 90_000_000,
        "month_limit_bytes": 100_000_000,
        "way": ["wlan0", "Home"],
    }
    name = a_report()["node"]["name"]
    api.post(a_report(traffic=traffic))
    families = {f.name: f for f in text_string_to_metric_families(api.client.get("/metrics").text)}
    assert families["fleven_node_traffic_day_bytes"].samples[0].value == 1_500_000
    assert families["fleven_node_traffic_month_bytes"].samples[0].value == 90_000_000
    assert families["fleven_node_traffic_month_limit_bytes"].samples[0].value == 100_000_000
    told = f"{size_text(1_500_000)} today, {size_text(90_000_000)} this month of {size_text(100_000_000)}"
    page = " ".join(api.client.get(f"/nodes/{name}").text.split())
    assert told in page
    assert "by wlan0, Home" in page
    report = api.client.get(f"/v1/nodes/{name}").json()["report"]
    assert traffic_text(report["traffic"]) == f"{told}; by wlan0, Home"


def test_a_car_that_counts_nothing_is_no_trouble(api: Any, a_report: MakeReport) -> None:
    name = a_report()["node"]["name"]
    api.post(a_report())
    assert "fleven_node_traffic_day_bytes{" not in api.client.get("/metrics").text
    assert "Traffic" not in api.client.get(f"/nodes/{name}").text


@pytest.mark.parametrize("path", PAGES)
def test_pages_load_nothing_from_elsewhere(filled_api: Any, path: str) -> None:
    answer = filled_api.client.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script>alert" not in answer.text
    for outside in ("http://", "https://", "//cdn"):
        assert outside not in answer.text.replace("http://www.w3.org", "")
    assert "style=" not in answer.text


@pytest.mark.parametrize("path", ["/nodes/nobody", "/runs/99", "/nothing", "/runs/abc"])
def test_a_page_that_is_not_there_says_so_in_html(filled_api: Any, path: str) -> None:
    answer = filled_api.client.get(path)
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"].startswith("text/html")


def send_slowly(line: socket.socket, texts: Iterable[str]) -> None:
    for text in texts:
        line.sendall(text.encode())
        # Separate packets: one large packet would be one look of the server.
        time.sleep(0.0005)


def test_a_head_that_never_ends_is_cut(api: Any) -> None:
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.settimeout(10)
        line.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"reset|pipe|abort"):
            send_slowly(line, (f"X-{number}: {'y' * 100}\r\n" for number in range(2000)))
    assert api.client.get("/healthz").status_code == 200


def test_a_large_head_in_one_piece_is_cut_too(api: Any) -> None:
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.settimeout(10)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 100_000 + b"\r\n\r\n")
            assert line.recv(1000) == b""
    assert api.client.get("/healthz", headers={"X-Long": "y" * 20_000}).status_code == 200


def test_a_silent_connection_is_closed(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleven.server.http.connection_guard.HEAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(1) == b""


def test_one_address_can_not_hold_all_connections(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardedProtocol, "maximum_per_address", 8)
    lines = [socket.create_connection(("127.0.0.1", api.port)) for _ in range(20)]
    try:
        # Another address of this machine is still served.
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=api.url, transport=transport, timeout=10) as other:
            assert other.get("/healthz").status_code == 200
    finally:
        for line in lines:
            line.close()


def test_a_client_that_trickles_its_body_is_cut(
    api: Any, a_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleven.server.http.request_body.BODY_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.settimeout(10)
        line.sendall(b"POST /v1/reports HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert b" 408 " in line.recv(1000)
    assert api.post(a_report()).status_code == 200
