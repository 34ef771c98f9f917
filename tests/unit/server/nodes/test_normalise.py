"""What a batch of reports comes to before any transaction: ordered, cleaned, told apart from what cannot be kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

from fleven.server.database.tables import node_tasks, samples
from fleven.server.nodes import normalise
from fleven_agent.protocol.report import SCHEMA_VERSION, Report


def test_a_batch_is_ordered_by_sender_and_number_and_names_each_reason_once(
    report: Callable[..., Report], now: datetime
) -> None:
    batch = normalise.batch(
        [
            report("a", 2),
            report("b", 1),
            report("a", 1),
            report("a", 3, schema_version=SCHEMA_VERSION + 1),
            report("a", 4, schema_version=SCHEMA_VERSION + 1),
            report("a", 2**63),
        ],
        now,
    )
    assert {sender: [one.sequence for one in found] for sender, found in batch.by_sender.items()} == {
        "a": [1, 2],
        "b": [1],
    }
    assert [problem.code for problem in batch.problems] == ["report-too-new", "sequence-invalid"]


def test_a_report_gives_every_column_but_those_that_hang_on_the_register(
    report: Callable[..., Report], now: datetime
) -> None:
    task = {"run_id": "7", "message_type": "train\x1b[2J", "outcome": "ok", "round": 2**70}
    found = normalise.report(report(finished_tasks=[task, task], node={"name": "car 1/\x1b"}), now)
    assert found.name == "car-1"
    assert set(found.sample) == {column.name for column in samples.c} - {"sender", "received_bytes", "sent_bytes"}
    assert [set(row) for row in found.tasks] == [{column.name for column in node_tasks.c} - {"sender", "node_id"}] * 2
    assert [row["position"] for row in found.tasks] == [0, 1]
    assert (found.tasks[0]["message_type"], found.tasks[0]["round"]) == ("train[2J", normalise.LARGEST_INTEGER)
    assert "\x1b" not in json.dumps(json.loads(found.text), ensure_ascii=False)


def test_a_report_of_a_broken_clock_is_brought_to_the_server_s_time_once(
    report: Callable[..., Report], now: datetime
) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=now.tzinfo)
    found = normalise.report(report(created_at=epoch, sent_at=epoch + timedelta(minutes=1)), now)
    assert found.at == now - timedelta(minutes=1)
    assert (found.values["reported_at"], found.sample["at"]) == (found.at, found.at)


def test_traffic_is_the_difference_of_two_reports_of_one_boot(report: Callable[..., Report], now: datetime) -> None:
    def values(boot: str, received: int | None) -> dict[str, object]:
        return {"boot_id": boot, "received_bytes_total": received, "sent_bytes_total": None}

    assert normalise.traffic(values("a", 10), values("a", 25)) == {"received_bytes": 15, "sent_bytes": None}
    assert normalise.traffic(values("a", 10), values("b", 25)) == {"received_bytes": 25, "sent_bytes": None}
    assert normalise.traffic(values("a", 30), values("a", 25))["received_bytes"] is None
