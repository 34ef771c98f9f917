"""Reports against a server that is away, slow, wrong or hostile: in order, each once, and supervision never waits."""

import http.server
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

from agent_harness import Agent, ReportServer, wait_for

Make = Callable[..., Agent]


def sequences(server: ReportServer) -> list[int]:
    return [one["sequence"] for one in server.reports]


def test_what_happened_while_the_server_was_away_arrives_later_in_order_and_once(
    make_agent: Make, fakes: Any, server: ReportServer
) -> None:
    agent = make_agent(report_url=server.url).start()
    agent.wait_state("running")
    wait_for("a report of running", lambda: server.states()[-1:] == ["running"])
    server.stop()
    fakes.mode("exit-zero", 0.1)
    agent.run("restart")
    agent.wait("three failures", lambda: agent.log().count("exited-zero") >= 6)
    fakes.mode("normal")
    agent.wait_state("running")
    agent.kill()  # what waits survives the agent
    agent.start()
    agent.wait_state("running")
    server.start()
    wait_for("the backlog", lambda: server.states()[-1:] == ["running"] and "backoff" in server.states(), 30)
    agent.wait("an empty queue", lambda: (s := agent.status()) and s["reports_waiting"] == 0, 30)
    assert sequences(server) == sorted(set(sequences(server)))
    assert len({one["sender_id"] for one in server.reports}) == 1
    assert server.states().count("backoff") >= 2
    assert server.invalid == []
    agent.wait_condition("report-undelivered", gone=True)


def test_an_answer_that_is_lost_does_not_double_a_report(make_agent: Make, server: ReportServer) -> None:
    seen: list[int] = []

    def lose(handler: http.server.BaseHTTPRequestHandler) -> bool:
        seen.append(1)
        if len(seen) > 2:
            return False
        handler.connection.close()
        return True

    server.behave = lose
    agent = make_agent(report_url=server.url).start()
    wait_for("reports", lambda: len(server.reports) >= 2, 30)
    assert agent.stop() == 0
    assert sequences(server) == sorted(set(sequences(server)))


def test_an_agent_whose_state_was_put_back_is_heard_again(make_agent: Make, server: ReportServer) -> None:
    """A card restored from an image: its numbers are old, the server has later ones."""
    agent = make_agent(report_url=server.url).start()
    agent.wait_state("running")
    old = agent.folder / "old"
    agent.stop()
    shutil.copytree(agent.state, old)
    for _ in range(2):  # each start takes numbers from a new block
        agent.start()
        agent.wait_state("running")
        wait_for("a report of running", lambda: server.states()[-1:] == ["running"])
        agent.stop()
    highest = max(sequences(server))
    shutil.rmtree(agent.state)
    shutil.copytree(old, agent.state)
    agent.start()
    wait_for("a report with a new number", lambda: sequences(server)[-1] > highest, 60)
    assert "the server knows later reports" in agent.log()


def test_a_server_that_never_answers_delays_nothing(make_agent: Make, fakes: Any, server: ReportServer) -> None:
    server.behave = lambda _handler: bool(time.sleep(60)) or True
    agent = make_agent("[reports]\ntimeout-seconds = 30.0\n", report_url=server.url).start()
    agent.wait_state("running")
    fakes.mode("normal")
    import os

    os.kill(agent.supernode(), signal.SIGKILL)
    agent.wait("the failure", lambda: "killed-by-signal" in agent.log(), 3)
    agent.wait_state("running", seconds=6)
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 8


def test_a_server_that_trickles_is_cut_off(make_agent: Make, server: ReportServer) -> None:
    def trickle(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        try:
            for _ in range(1_000):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.2)
        except OSError:
            pass
        return True

    server.behave = trickle
    agent = make_agent(report_url=server.url).start()
    agent.wait("the cut", lambda: "takes too long" in agent.log(), 20)


def test_a_wrong_answer_keeps_the_reports(make_agent: Make, server: ReportServer) -> None:
    wrong = iter([b"<html>", b"[]", b'{"acknowledged": 3}', b'{"acknowledged": {"x": "y"}}'])

    def answer(handler: http.server.BaseHTTPRequestHandler) -> bool:
        body = next(wrong, None)
        if body is None:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    server.behave = answer
    make_agent(report_url=server.url).start()
    wait_for("the first report after all", lambda: sequences(server)[:1] == [1], 60)


def test_a_report_that_the_server_refuses_for_good_does_not_block_the_rest(
    make_agent: Make, server: ReportServer
) -> None:
    server.stop()
    server.refused = {2}
    agent = make_agent(report_url=server.url, extra="[reports]\ninterval-seconds = 1.0\n").start()
    agent.wait_state("running")
    server.start()  # what has gathered meanwhile comes in one batch
    agent.wait("the count", lambda: (s := agent.status()) and s["counters"]["reports_lost"] == 1)
    wait_for("those around it", lambda: {1, 3} <= set(sequences(server)), 30)
    assert 2 not in sequences(server)


def test_reports_that_are_switched_off_are_not_tried_any_more(make_agent: Make, server: ReportServer) -> None:
    server.stop()
    agent = make_agent(report_url=server.url).start()
    agent.wait("a failed try", lambda: (s := agent.status()) and s["report_problem"])
    agent.drop_in("[reports]\nenabled = false\n")
    agent.signal(signal.SIGHUP)
    agent.wait("silence", lambda: (s := agent.status()) and not s["report_problem"])
    server.start()
    time.sleep(4)
    assert server.reports == []
    agent.drop_in("[reports]\nenabled = true\n")
    agent.signal(signal.SIGHUP)
    wait_for("what waited", lambda: sequences(server)[:1] == [1])


def test_a_lost_state_is_a_new_sender(make_agent: Make, server: ReportServer) -> None:
    agent = make_agent(report_url=server.url).start()
    wait_for("a report", lambda: server.reports)
    assert agent.stop() == 0
    (agent.state / "state.json").write_text("{", encoding="utf-8")
    agent.start()
    wait_for("a second sender", lambda: len({one["sender_id"] for one in server.reports}) == 2)
    assert (agent.state / "state.json.unusable").exists()


def test_the_server_drains_and_undrains(make_agent: Make, server: ReportServer) -> None:
    agent = make_agent(report_url=server.url).start()
    agent.wait_state("running")
    server.answer["drain"] = {"active": True, "reason": "service"}
    status = agent.wait_state("gated")
    assert status["drained"] == {"active": True, "reason": "service"}
    wait_for("the report of it", lambda: server.reports[-1]["state"] == "gated")
    agent.stop()
    agent.start()
    assert agent.status()["state"] == "gated"  # type: ignore[index]  # it has just answered
    server.answer["drain"] = {"active": False, "reason": ""}
    agent.wait_state("running")


def test_a_duplicate_partition_shows_with_the_other_nodes_name(make_agent: Make, server: ReportServer) -> None:
    problem = {"code": "duplicate-partition", "message": "car-2 has partition 0 too", "hint": "change one"}
    server.answer["problems"] = [problem]
    agent = make_agent(report_url=server.url).start()
    status = agent.wait_condition("duplicate-partition")
    [condition] = [one for one in status["conditions"] if one["code"] == "duplicate-partition"]
    assert (condition["message"], condition["hint"]) == ("car-2 has partition 0 too", "change one")
    checked = agent.run("check", "--config", str(agent.config), "--only", "server.partition")
    assert checked.returncode == 1
    assert "car-2" in checked.stdout
    server.answer["problems"] = []
    agent.wait_condition("duplicate-partition", gone=True)


def test_another_flower_on_the_server_names_both_versions(make_agent: Make, server: ReportServer) -> None:
    server.answer["flwr_version"] = "1.31.0"
    agent = make_agent(report_url=server.url).start()
    status = agent.wait_condition("version-mismatch")
    [condition] = [one for one in status["conditions"] if one["code"] == "version-mismatch"]
    assert "1.31.0" in condition["message"]
    assert condition["severity"] == "warning"  # they train together all the same
    assert status["versions"]["flwr"] in condition["message"]


def test_a_state_folder_that_goes_away_is_a_condition_not_an_end(make_agent: Make, server: ReportServer) -> None:
    agent = make_agent(report_url=server.url).start()
    agent.wait_state("running")
    shutil.rmtree(agent.state)
    agent.state.write_text("in the way", encoding="utf-8")
    agent.run("drain")
    agent.wait_condition("state-unwritable")
    agent.wait_state("gated")
    wait_for("reports go on", lambda: server.reports[-1]["state"] == "gated")
