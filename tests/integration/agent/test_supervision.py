"""The agent against fakes of every kind of SuperNode: each ends in the state and the repair that it ought to."""

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_harness import Agent, ReportServer, wait_for

from fleven_agent.system import procfs

Make = Callable[..., Agent]


def gone(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is None or found.defunct


def test_a_normal_life(make_agent: Make, fakes: Any, server: ReportServer) -> None:
    agent = make_agent(report_url=server.url).start()
    status = agent.wait_state("running")
    assert status["node"]["node_id"].isdigit()
    pid = agent.supernode()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii") == "500\n"
    assert os.getsid(pid) == pid
    [start] = fakes.starts()
    assert start["argv"][:3] == ["--insecure", "--superlink", "127.0.0.1:1"]
    assert start["environment"]["FLWR_TELEMETRY_ENABLED"] == "0"
    assert "FLEVEN_STATE_DIR" not in start["environment"]
    assert agent.stop() == 0
    assert agent.marked() == []
    assert gone(pid)
    assert not (agent.runtime / "agent.sock").exists()
    wait_for("the last report", lambda: server.states()[-1:] == ["stopped"])
    assert [state for state in server.states() if state != "stopping"] == ["starting", "running", "stopped"]
    assert server.invalid == []
    reasons = [one["reason"] for one in server.reports]
    assert reasons[0] == "start"
    assert reasons[-1] == "stop"


def test_a_slow_start_is_waited_for(make_agent: Make, fakes: Any) -> None:
    fakes.mode("slow-start", 2)
    agent = make_agent().start()
    assert agent.wait_state("starting")["node"]["node_id"] is None
    agent.wait_state("running")
    assert len(fakes.starts()) == 1


def test_a_crash_at_start_is_a_loop_that_shows_and_heals(make_agent: Make, fakes: Any) -> None:
    fakes.mode("crash-at-start")
    agent = make_agent().start()
    status = agent.wait_condition("supernode-crash-loop")
    assert status["state"] == "failed"
    assert "302" in status["state_reason"]
    fakes.mode("normal")
    agent.wait_state("running")
    agent.wait_condition("supernode-down", gone=True)


def test_delays_grow_between_crashes(make_agent: Make, fakes: Any) -> None:
    fakes.mode("crash-later", 0.05)
    make_agent("[supervision]\ncrash-loop-count = 50\n").start()
    starts = wait_for("six starts", lambda: len(fakes.starts()) >= 6 and fakes.starts())
    pauses = [later["at"] - earlier["at"] for earlier, later in itertools.pairwise(starts)]
    assert pauses[3] > pauses[0] * 1.8
    assert max(pauses) < 5


def test_the_backoff_index_survives_the_agent(make_agent: Make, fakes: Any) -> None:
    fakes.mode("crash-later", 0.05)
    agent = make_agent().start()
    agent.wait_condition("supernode-crash-loop")
    agent.kill()
    agent.start()
    assert agent.wait_condition("supernode-crash-loop", 3)


def test_a_crash_after_a_while_is_started_again_at_once(make_agent: Make, fakes: Any) -> None:
    fakes.mode("crash-later", 1)
    agent = make_agent().start()
    first = agent.wait_state("running")["node"]["node_id"]
    fakes.mode("normal")
    status = agent.wait(
        "another node", lambda: (s := agent.status()) and s["node"]["node_id"] not in (None, first) and s
    )
    assert status["node"]["previous_node_ids"] == [first]
    assert status["counters"]["restarts"] == 1


def test_exit_zero_unasked_is_a_failure(make_agent: Make, fakes: Any) -> None:
    fakes.mode("exit-zero", 0.6)
    agent = make_agent().start()
    agent.wait("a failure", lambda: "exited-zero" in agent.log())
    fakes.mode("normal")
    agent.wait_state("running")


def test_a_refusal_is_told_apart_from_a_crash(make_agent: Make, fakes: Any) -> None:
    fakes.mode("refused")
    agent = make_agent().start()
    status = agent.wait_condition("superlink-rejected")
    [condition] = [one for one in status["conditions"] if one["code"] == "superlink-rejected"]
    assert "UNAUTHENTICATED" in condition["message"]
    assert "unknown node" in condition["message"]
    fakes.mode("normal")
    agent.wait_state("running")
    agent.wait_condition("superlink-rejected", gone=True)


def test_an_unreachable_superlink_is_waited_for(make_agent: Make, fakes: Any) -> None:
    fakes.mode("unreachable")
    agent = make_agent().start()
    status = agent.wait_condition("superlink-unreachable", 30)
    assert status["state"] == "starting"
    assert len(fakes.starts()) == 1


def test_a_hang_at_start_is_replaced(make_agent: Make, fakes: Any) -> None:
    fakes.mode("hang")
    agent = make_agent().start()
    agent.wait("the replacement", lambda: "registration-timeout" in agent.log())
    fakes.mode("normal")
    agent.wait_state("running")


def test_a_supernode_that_does_nothing_any_more_is_replaced(make_agent: Make, fakes: Any) -> None:
    fakes.mode("hung")
    agent = make_agent(hang=2).start()
    agent.wait("the replacement", lambda: "reason=hung" in agent.log())
    fakes.mode("normal")
    agent.wait_state("running")


def test_one_that_ignores_term_is_killed(make_agent: Make, fakes: Any) -> None:
    fakes.mode("ignore-term")
    agent = make_agent().start()
    agent.wait_state("running")
    pid = agent.supernode()
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began >= 0.9
    assert gone(pid)
    assert agent.marked() == []


def test_nothing_outlives_the_stop(make_agent: Make, fakes: Any) -> None:
    fakes.mode("orphan")
    agent = make_agent().start()
    agent.wait_state("running")
    assert len(agent.marked()) == 4
    assert agent.stop() == 0
    assert agent.marked() == []


def test_nothing_outlives_a_killed_agent_beyond_its_successors_start(make_agent: Make, fakes: Any) -> None:
    fakes.mode("orphan")
    agent = make_agent().start()
    agent.wait_state("running")
    old = {one.pid for one in agent.marked()}
    agent.kill()
    assert {one.pid for one in agent.marked()} == old
    fakes.mode("normal")
    agent.start()
    agent.wait_state("running")
    assert old.isdisjoint({one.pid for one in agent.marked()})


def test_a_flood_of_lines_delays_nothing(make_agent: Make, fakes: Any) -> None:
    fakes.mode("flood", 200_000)
    agent = make_agent().start()
    agent.wait_state("running")
    agent.wait("the end of the flood", lambda: "lines held back" in agent.log(), 60)
    assert agent.journal.stat().st_size < 2_000_000


def test_a_dead_executor_is_seen_and_repaired_within_ten_seconds(make_agent: Make, fakes: Any) -> None:
    fakes.mode("executor-dies", 1)
    agent = make_agent().start()
    first = agent.supernode()
    agent.wait_state("running")
    agent.wait("the executor's end", lambda: "executor-dead" in agent.log())
    began = time.monotonic()
    fakes.mode("normal")
    agent.wait("a new SuperNode", lambda: (s := agent.status()) and s["supernode_pid"] not in (None, first))
    agent.wait_state("running")
    assert time.monotonic() - began < 10


def test_a_frozen_supernode_is_continued(make_agent: Make) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    pid = agent.supernode()
    os.kill(pid, signal.SIGSTOP)
    agent.wait("the continuation", lambda: "continuing what was stopped" in agent.log())
    agent.wait("its life", lambda: not procfs.stat(pid).frozen)  # type: ignore[union-attr]  # it lives
    assert agent.supernode() == pid


def test_a_task_is_followed_and_reported(make_agent: Make, fakes: Any, server: ReportServer) -> None:
    fakes.mode("task", 1)
    agent = make_agent(report_url=server.url).start()
    agent.wait("the task", lambda: (s := agent.status()) and s["current_run"])
    agent.wait("its end", lambda: (s := agent.status()) and s["counters"]["tasks"] == 1)
    tasks = wait_for("the report of it", lambda: [t for r in server.reports for t in r["finished_tasks"]])
    assert [task["run_id"] for task in tasks] == ["18446744073709551615"]
    assert tasks[0]["outcome"] == "succeeded"
    assert any(one["current_run"] for one in server.reports)


def test_a_stuck_task_without_a_process_replaces_supernode(make_agent: Make, fakes: Any) -> None:
    fakes.mode("stuck-task")
    with socket.create_server(("127.0.0.1", 0)) as superlink:  # one that is away excuses a task that stands still
        agent = make_agent(f'superlink = "127.0.0.1:{superlink.getsockname()[1]}"\n').start()
        agent.wait("the repair", lambda: "reason=task-stuck" in agent.log())
        fakes.mode("normal")
        agent.wait_state("running")
    status = agent.status()
    assert status is not None
    assert status["last_task"]["outcome"] == "aborted"
    assert status["counters"]["task_failures"] == 1


def test_a_program_that_cannot_start_is_failed_and_tried_again(make_agent: Make, fakes: Any) -> None:
    (fakes.folder / "flower-supernode").write_text("#!/no/such/interpreter\n", encoding="utf-8")
    agent = make_agent().start()
    status = agent.wait_state("failed")
    assert "cannot be started" in status["state_reason"]
    assert status["retry_in_seconds"] is not None
    [condition] = [one for one in status["conditions"] if one["code"] == "supernode-down"]
    assert condition["hint"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_waits_for_the_task_and_a_second_signal_does_not(make_agent: Make, fakes: Any, number: int) -> None:
    fakes.mode("task", 30)
    agent = make_agent("[supervision]\nstop-task-seconds = 60.0\n").start()
    agent.wait("the task", lambda: (s := agent.status()) and s["current_run"])
    agent.signal(number)
    agent.wait_state("stopping")
    time.sleep(0.5)
    assert agent.process is not None
    assert agent.process.poll() is None
    agent.signal(number)
    assert agent.process.wait(10) == 0
    assert agent.marked() == []
