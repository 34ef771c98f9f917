"""Agents under real Flower, with a run in progress: whatever is killed, the run goes on and ends well."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_harness import Agent, ReportServer, report_server, wait_for
from tiny_federation import Federation, Run, free_port

pytestmark = pytest.mark.flower

CONFIGURATION = """
partition-id = {partition}
superlink = "127.0.0.1:{superlink}"
clientapp-address = "127.0.0.1:{clientapp}"
report-url = "{report_url}"
insecure = true
[supervision]
task-stuck-seconds = {stuck}
[reports]
interval-seconds = 5.0
[gates]
memory-minimum-megabytes = 0
disk-minimum-megabytes = 0
open-after-seconds = 0.0
[health]
superlink-probe-seconds = 5.0
[warm]
mode = "{warm}"
short-polling = {short}
"""


class World:
    """A federation with two agents: one as installed, one with Flower exactly as it is by hand."""

    def __init__(self, folder: Path, server: ReportServer, *, stuck: float = 600) -> None:
        self.server = server
        self.federation = Federation(folder / "server").start()
        self.agents = [
            Agent(
                folder / f"car-{partition}",
                CONFIGURATION.format(
                    partition=partition,
                    superlink=self.federation.fleet_port,
                    clientapp=free_port(),
                    report_url=server.url,
                    stuck=stuck,
                    warm="auto" if partition == 0 else "off",
                    short="true" if partition == 0 else "false",
                ),
            )
            for partition in range(2)
        ]
        for agent in self.agents:
            agent.start()
        for agent in self.agents:
            agent.wait_state("running", seconds=60)
        self.journals = [agent.journal for agent in self.agents]

    def close(self) -> None:
        for agent in self.agents:
            agent.clean_up()
        self.federation.kill()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with report_server() as server:
        made = World(tmp_path_factory.mktemp("federation"), server)
        yield made
        made.close()


@pytest.fixture(scope="module")
def run(world: World) -> Run:
    """One run, in progress through all faults."""
    started = world.federation.run()
    started.wait_rounds(1, 90, world.journals)
    return started


@pytest.fixture(params=[0, 1], ids=["as-installed", "flower-by-hand"])
def agent(request: pytest.FixtureRequest, world: World) -> Agent:
    return world.agents[request.param]


def in_task(agent: Agent) -> None:
    """Wait until the agent's car is in the middle of a task."""
    agent.wait("a task", lambda: (s := agent.status()) and s["current_run"], 60)


def node(agent: Agent) -> str | None:
    return (agent.status() or {"node": {"node_id": None}})["node"]["node_id"]


def back(agent: Agent, old: str | None, seconds: float) -> float:
    """Wait until the agent runs as another node; return how long it took [s]."""
    began = time.monotonic()

    def there() -> bool:
        status = agent.status()
        return status is not None and status["state"] == "running" and status["node"]["node_id"] != old

    agent.wait("running as another node", there, seconds)
    return time.monotonic() - began


# The budget is ten seconds on a quiet machine; tests share two cores with whatever else runs there.
READY_SECONDS = 30


def test_supernode_killed(world: World, run: Run, agent: Agent) -> None:
    in_task(agent)
    old = node(agent)
    os.kill(agent.supernode(), signal.SIGKILL)
    back(agent, old, READY_SECONDS)
    status = agent.status()
    assert status is not None
    assert old in status["node"]["previous_node_ids"]
    run.wait_rounds(1, 60, world.journals)


def test_executor_killed(world: World, run: Run, agent: Agent) -> None:
    in_task(agent)
    old = node(agent)
    [executor] = agent.children("flower-superexec")
    os.kill(executor, signal.SIGKILL)
    back(agent, old, READY_SECONDS)
    assert "reason=executor-dead" in agent.log()
    run.wait_rounds(1, 60, world.journals)


def test_agent_killed(world: World, run: Run, agent: Agent) -> None:
    in_task(agent)
    old, before = node(agent), {one.pid for one in agent.marked()}
    agent.kill()
    agent.start()
    back(agent, old, READY_SECONDS)
    assert before.isdisjoint({one.pid for one in agent.marked()})
    run.wait_rounds(1, 60, world.journals)


def test_a_power_cut_while_an_app_is_unpacked(world: World, run: Run, agent: Agent) -> None:
    """Flower takes any folder that is there for a whole app: half unpacked ones must be gone before it starts."""
    in_task(agent)
    old = node(agent)
    [app] = (agent.state / "flwr" / "apps").iterdir()
    agent.kill()
    for one in agent.marked():
        os.kill(one.pid, signal.SIGKILL)
    (app / "tiny" / "client.py").unlink()
    agent.start()
    back(agent, old, READY_SECONDS)
    run.wait_rounds(2, 90, world.journals)
    assert (app / "tiny" / "client.py").exists()


def test_a_removed_app_is_unpacked_again(world: World, run: Run, agent: Agent) -> None:
    """That any folder may go between two tasks is what the removal of old ones rests on."""
    old = node(agent)
    [app] = (agent.state / "flwr" / "apps").iterdir()
    agent.wait("a pause between two tasks", lambda: (s := agent.status()) and s["current_run"] is None, 60)
    app.rename(agent.folder / f"removed-{time.monotonic_ns()}")
    run.wait_rounds(2, 90, world.journals)
    assert (app / "tiny" / "client.py").exists()
    assert node(agent) == old


def test_supernode_stopped_by_a_signal(world: World, run: Run, agent: Agent) -> None:
    in_task(agent)
    old = node(agent)
    os.kill(agent.supernode(), signal.SIGSTOP)
    agent.wait("the continuation", lambda: "continuing what was stopped" in agent.log(), 20)
    run.wait_rounds(1, 60, world.journals)
    assert node(agent) == old


def test_a_failing_clientapp_is_told_with_its_words(world: World, run: Run, agent: Agent) -> None:
    mark = run.folder / f"fail-{world.agents.index(agent)}"
    mark.touch()

    def told() -> bool:
        status = agent.status()
        return bool(status and status["last_task"] and "told to fail" in (status["last_task"]["log_tail"] or ""))

    agent.wait("a failed task with its last words", told, 60)
    mark.unlink()
    run.wait_rounds(1, 60, world.journals)
    tails = [task["log_tail"] for one in world.server.reports for task in one["finished_tasks"] if task["log_tail"]]
    assert any("ValueError: told to fail" in tail for tail in tails)


def test_report_server_away_and_back(world: World, run: Run) -> None:
    world.server.stop()
    run.wait_rounds(2, 60, world.journals)
    world.server.start()
    for agent in world.agents:
        agent.wait("an empty queue", lambda agent=agent: (s := agent.status()) and s["reports_waiting"] == 0, 60)
    for sender in {one["sender_id"] for one in world.server.reports}:
        sequences = [one["sequence"] for one in world.server.reports if one["sender_id"] == sender]
        assert sequences == sorted(set(sequences))
    assert world.server.invalid == []


def test_tasks_cost_what_they_cost(world: World, run: Run) -> None:
    run.wait_rounds(1, 60, world.journals)
    tasks = [task for one in world.server.reports for task in one["finished_tasks"] if task["run_id"] == run.id]
    good = [task for task in tasks if task["outcome"] == "succeeded" and task["peak_rss_bytes"]]
    assert good
    for task in good:
        assert task["message_type"] == "train"
        assert task["round"] >= 1
        assert 0 <= task["cpu_seconds"] < 30
        assert 20e6 < task["peak_rss_bytes"] < 2e9
        assert task["wall_seconds"] > 0.5
    # A forked task of a tiny app may take less than the kernel's clock tick; a cold one starts a whole Python.
    assert any(task["cpu_seconds"] > 0.05 for task in good)
    assert any((task["bytes_received"] or 0) > 200 and (task["bytes_sent"] or 0) > 200 for task in good)
    assert any(task["warm"] is False for task in good)


def test_a_clientapp_killed(world: World, run: Run) -> None:
    """SuperNode would answer for it after about a minute; the agent replaces it before."""
    agent = world.agents[1]
    old, file = node(agent), run.folder / "pid-1"
    in_task(agent)
    file.unlink(missing_ok=True)
    pid = wait_for("the ClientApp's process", lambda: file.exists() and file.read_text() and int(file.read_text()), 60)
    os.kill(pid, signal.SIGKILL)
    agent.wait("the aborted task", lambda: (s := agent.status()) and s["last_task"]["outcome"] == "aborted", 50)
    back(agent, old, 60)
    run.wait_rounds(1, 90, world.journals)


def test_the_run_ends_well(run: Run) -> None:
    assert run.end() == "finished:completed"


def test_superlink_killed_and_restarted(world: World) -> None:
    """The nodes come back by themselves, as the nodes they were, and the next run ends well."""
    before = [node(agent) for agent in world.agents]
    restarts = [agent.status()["counters"]["restarts"] for agent in world.agents]  # type: ignore[index]  # they answer
    broken = world.federation.run()
    broken.wait_rounds(1, 60, world.journals)
    world.federation.kill()
    for agent in world.agents:
        agent.wait_condition("superlink-unreachable", 60)
    world.federation.start()
    for agent in world.agents:
        agent.wait_condition("superlink-unreachable", 60, gone=True)
    run = world.federation.run()
    run.wait_rounds(2, 90, world.journals)
    assert run.end() == "finished:completed"
    assert [node(agent) for agent in world.agents] == before
    assert [agent.status()["counters"]["restarts"] for agent in world.agents] == restarts  # type: ignore[index]


def test_all_stop_in_order_and_leave_nothing(world: World) -> None:
    for agent in world.agents:
        assert agent.stop() == 0
        assert agent.marked() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_superlink_down_for_two_minutes(tmp_path: Path) -> None:
    """Longer than Flower keeps a silent node online: the nodes come back, and the next run ends well."""
    with report_server() as server:
        world = World(tmp_path, server)
        try:
            world.federation.run().wait_rounds(1, 90, world.journals)
            world.federation.kill()
            time.sleep(120)  # the time itself is what is tested
            assert all(agent.wait_condition("superlink-unreachable") for agent in world.agents)
            world.federation.start()
            run = world.federation.run()
            for agent in world.agents:
                agent.wait_condition("superlink-unreachable", 120, gone=True)
            run.wait_rounds(2, 240, world.journals)
            assert run.end() == "finished:completed"
        finally:
            world.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stuck_clientapp_is_ended_and_the_run_goes_on(tmp_path: Path) -> None:
    """A task without progress: its ClientApp is killed, Flower answers for it, and the same node takes the next one."""
    with report_server() as server:
        world = World(tmp_path, server, stuck=15)
        try:
            run = world.federation.run()
            run.wait_rounds(1, 90, world.journals)
            old = [node(agent) for agent in world.agents]
            mark = run.folder / "stick-1"
            mark.touch()
            agent = world.agents[1]
            agent.wait_condition("task-stuck", 90)
            mark.unlink()
            agent.wait(
                "the failed task", lambda: (s := agent.status()) and s["last_task"]["outcome"] != "succeeded", 180
            )
            run.wait_rounds(1, 120, world.journals)
            assert run.end() == "finished:completed"
            assert node(world.agents[0]) == old[0]
        finally:
            world.close()
