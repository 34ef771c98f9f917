"""A car's report by what changed, and its open question, over real sockets and with the agent's own client."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fleven_agent.protocol.codes import Attention
from fleven_agent.protocol.patch import difference
from fleven_agent.reporting.client import Change, DeliveryError, Target, attend, deliver
from fleven_agent.reporting.reporter import Reporter
from fleven_agent.reporting.session import Session
from fleven_agent.reporting.spool import Spool

MakeReport = Callable[..., dict[str, Any]]


def server(api: Any) -> Target:
    return Target(api.url, 10, None, "test")


def test_a_change_is_stored_as_the_report_that_it_stands_for(api: Any, a_report: MakeReport) -> None:
    first = a_report(sequence=5)
    answer = deliver(server(api), [first])
    assert answer.attention is Attention.CALM
    second = {**first, "sequence": 6, "state": "gated", "resources": {"load_1m": 2.5, "temperature_celsius": 51.0}}
    answer = deliver(server(api), [], change=Change("a", 5, difference(first, second)))
    assert answer.acknowledged == {"a": 6}
    stored = api.client.get("/v1/nodes/pi-1").json()["report"]
    assert (stored["state"], stored["resources"]["load_1m"]) == ("gated", 2.5)
    assert stored["node"]["node_id"] == "100"


def test_a_change_of_what_the_server_does_not_have_is_asked_for_as_a_whole(api: Any, a_report: MakeReport) -> None:
    first = a_report(sequence=5)
    deliver(server(api), [first])
    for change in (Change("a", 4, {"sequence": 6}), Change("b", 5, {"sequence": 6})):
        answer = deliver(server(api), [], change=change)
        assert answer.wants_whole_report
        assert answer.acknowledged == {}
    for bad in ({"sequence": 5}, {"sequence": 6, "sender_id": "b"}, {"sequence": 6, "node": {"partition_id": "x"}}):
        with pytest.raises(DeliveryError) as refused:
            deliver(server(api), [], change=Change("a", 5, bad))
        assert refused.value.refused


def test_an_idle_cars_reports_are_small_and_go_over_one_connection(
    api: Any, a_report: MakeReport, tmp_path: Path
) -> None:
    answered: list[Any] = []
    come = threading.Semaphore(0)

    def on_answer(answer: Any) -> None:
        answered.append(answer)
        come.release()

    spool = Spool(tmp_path / "spool", "ab", maximum_reports=10, maximum_bytes=1_000_000)
    target = server(api)
    reporter = Reporter(spool, target, on_answer, pytest.fail)
    reporter.start()
    sockets = set()
    for sequence in range(1, 5):
        reporter.submit(a_report(sender="ab", sequence=sequence), durable=sequence == 3)
        assert come.acquire(timeout=10)
        connection = reporter._session._connection
        assert connection is not None
        sockets.add(connection.sock.getsockname())
        if sequence == 2:
            assert reporter._change([{**a_report(sender="ab", sequence=9)}]) is not None
    reporter.stop(1)
    assert len(sockets) == 1
    assert [answer.acknowledged["ab"] for answer in answered] == [1, 2, 3, 4]
    assert len(api.client.get("/v1/nodes/pi-1/history").json()["samples"]) == 4


def test_a_question_is_answered_when_somebody_looks(api: Any, a_report: MakeReport) -> None:
    deliver(server(api), [a_report()])
    session = Session(60)
    told = attend(server(api), "a", Attention.RUN, wait_seconds=30, session=session)
    assert told == (Attention.CALM, 0.05)
    api.register.note_look("pi-1", datetime.now(UTC))
    assert api.register.awaited(datetime.now(UTC)) == {"pi-1"}
    assert attend(server(api), "a", Attention.CALM, wait_seconds=0, session=session)[0] is Attention.CALM
    session.close()
