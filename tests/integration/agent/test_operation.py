"""The operator's hand on the agent: drain, gates, reload, restart, locks, and systemd's ear."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_harness import Agent, ReportServer, wait_for

from fleven_agent.control import request
from fleven_agent.errors import NotAllowedError
from fleven_agent.warm.launcher import through_folder

Make = Callable[..., Agent]


def test_a_drain_survives_the_agent_and_undrain_ends_it(make_agent: Make) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    done = agent.run("drain", "--reason", "brake inspection", "--wait", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"drained": True, "idle": True})
    status = agent.wait_condition("gated")
    assert status["state_reason"] == "drained: brake inspection"
    agent.kill()
    agent.start()
    assert agent.wait_state("gated")["drained"]["reason"] == "brake inspection"
    assert agent.run("undrain").stdout == "undrained\n"
    agent.wait_state("running")
    agent.wait_condition("gated", gone=True)


def test_a_drain_until_restart_ends_with_the_next_start_and_spares_one_that_is_to_last(make_agent: Make) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    assert agent.run("drain", "--until-restart", "--reason", "package upgrade", "--wait").returncode == 0
    agent.wait_state("gated")
    agent.kill()  # as a power cut in the middle of an upgrade does
    agent.start()
    assert not agent.wait_state("running")["drained"]["active"]
    assert agent.run("drain", "--reason", "brakes", "--wait").returncode == 0
    assert agent.run("drain", "--until-restart", "--reason", "package upgrade", "--wait").returncode == 0
    agent.kill()
    agent.start()
    assert agent.wait_state("gated")["drained"]["reason"] == "brakes"


def test_a_drain_lets_the_task_finish(make_agent: Make, fakes: Any) -> None:
    fakes.mode("task", 2)
    agent = make_agent().start()
    agent.wait("the task", lambda: (s := agent.status()) and s["current_run"])
    assert agent.run("drain", "--wait").returncode == 0
    status = agent.status()
    assert status is not None
    assert (status["state"], status["last_task"]["outcome"]) == ("gated", "succeeded")


def test_a_drain_waits_for_a_task_only_so_long(make_agent: Make, fakes: Any) -> None:
    fakes.mode("task", 60)
    agent = make_agent("[supervision]\ntask-deadline-seconds = 2.0\ntask-stuck-seconds = 600.0\n").start()
    agent.wait("the task", lambda: (s := agent.status()) and s["current_run"])
    waited = agent.run("drain", "--wait", "--timeout-seconds", "0.5")
    assert (waited.returncode, "still runs" in waited.stdout) == (1, True)
    assert agent.wait_state("gated")["last_task"]["outcome"] == "aborted"


def test_a_file_of_another_program_keeps_the_car_from_training(make_agent: Make) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    (agent.runtime / "inhibit.d" / "ignition").write_text("driving\n", encoding="utf-8")
    assert agent.wait_state("gated")["state_reason"] == "inhibited: driving"
    (agent.runtime / "inhibit.d" / "ignition").unlink()
    agent.wait_state("running")


def test_hours_in_which_nothing_is_allowed(make_agent: Make) -> None:
    from datetime import datetime

    hour = (datetime.now().astimezone().hour + 12) % 23
    agent = make_agent(f'[gates]\nallowed-hours = ["{hour:02d}:00-{hour + 1:02d}:00"]\n').start()
    assert "outside the allowed hours" in agent.wait_state("gated")["state_reason"]


def test_a_reload_applies_what_can_change_live(make_agent: Make, server: ReportServer) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    pid = agent.supernode()
    agent.drop_in(f'report-url = "{server.url}"\n')
    agent.signal(signal.SIGHUP)
    wait_for("reports at the new address", lambda: server.reports)
    assert "restarts_supernode=False" in agent.log()
    assert agent.supernode() == pid


def test_a_reload_restarts_supernode_only_for_its_command_line(make_agent: Make, fakes: Any) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    pid = agent.supernode()
    agent.drop_in("num-partitions = 3\n")
    agent.signal(signal.SIGHUP)
    agent.wait("another SuperNode", lambda: (s := agent.status()) and s["supernode_pid"] not in (None, pid))
    agent.wait_state("running")
    assert "num-partitions=3" in fakes.starts()[-1]["argv"][-1]
    assert "command-line-changed" in agent.log()


def test_a_bad_reload_keeps_the_old_configuration_and_says_so(make_agent: Make) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    pid = agent.supernode()
    agent.drop_in("partition-id = -1\n")
    agent.signal(signal.SIGHUP)
    status = agent.wait_condition("configuration-invalid")
    assert (status["state"], status["supernode_pid"]) == ("running", pid)
    assert any("partition-id" in one["message"] for one in status["conditions"])
    agent.drop_in("")
    agent.signal(signal.SIGHUP)
    agent.wait_condition("configuration-invalid", gone=True)


def test_bad_configuration_ends_with_78_and_a_line_each(make_agent: Make) -> None:
    agent = make_agent('quux = 1\npartition-id = "0"\n')
    done = agent.run("run", "--config", str(agent.config))
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr
    assert not agent.state.exists()


def test_two_agents_do_not_share_a_state_folder(make_agent: Make) -> None:
    agent = make_agent().start()
    done = agent.run("run", "--config", str(agent.config))
    assert done.returncode == 1
    assert "another agent uses" in done.stderr
    assert agent.status() is not None


def test_a_restart_now_ends_the_wait_of_one_before(make_agent: Make, fakes: Any) -> None:
    fakes.mode("task", 60)
    agent = make_agent("[supervision]\ntask-deadline-seconds = 60.0\n").start()
    agent.wait("the task", lambda: (s := agent.status()) and s["current_run"])
    pid = agent.supernode()
    assert "after the current task if there is one (state: stopping)" in agent.run("restart").stdout
    fakes.mode("normal")
    assert "SuperNode restarts now (state: stopping)" in agent.run("restart", "--now").stdout
    agent.wait("a new SuperNode", lambda: (s := agent.status()) and s["supernode_pid"] not in (None, pid))
    assert agent.run("drain", "--wait").returncode == 0
    assert "(state: gated)" in agent.run("restart").stdout


def test_a_restart_while_supernode_is_stopped_for_a_drain_is_refused(make_agent: Make, fakes: Any) -> None:
    fakes.mode("ignore-term")
    agent = make_agent("[supervision]\nstop-grace-seconds = 60.0\n").start()
    agent.wait_state("running")
    assert agent.run("drain").returncode == 0
    agent.wait_state("stopping")
    done = agent.run("restart")
    assert (done.returncode, "is being stopped already" in done.stdout) == (1, True), done.stdout


def test_a_restart_by_hand(make_agent: Make) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    pid = agent.supernode()
    assert agent.run("restart").returncode == 0
    agent.wait("another SuperNode", lambda: (s := agent.status()) and s["supernode_pid"] not in (None, pid))
    agent.wait_state("running")
    assert agent.status()["counters"]["restarts"] == 1  # type: ignore[index]  # it answers


def test_status_of_a_running_agent(make_agent: Make) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    text = agent.run("status")
    assert text.returncode == 0
    assert "running for" in text.stdout
    assert json.loads(agent.run("status", "--json").stdout)["agent_running"] is True
    agent.stop()
    last = agent.run("status")
    assert (last.returncode, "last known state" in last.stdout) == (3, True)


def test_watch_shows_it_again_and_again(make_agent: Make) -> None:
    agent = make_agent().start()
    command = [sys.executable, "-m", "fleven_agent", "status", "--watch", "--json", "--interval-seconds", "0.1"]
    with subprocess.Popen(command, env=agent.environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        for _ in range(3):
            assert json.loads(watching.stdout.readline())["agent_running"] is True
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b"[1]\n", b'{"command": "quux"}\n', b"\xff" * 100, b"x" * 100_000]
)
def test_nonsense_on_the_control_socket_is_answered_and_harmless(make_agent: Make, content: bytes) -> None:
    agent = make_agent().start()
    with socket.socket(socket.AF_UNIX) as link:
        through_folder(str(agent.runtime), "agent.sock", link.connect)
        link.sendall(content)
        link.shutdown(socket.SHUT_WR)
        answer = json.loads(link.makefile().readline())
    assert answer["ok"] is False
    assert agent.status() is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_everybody_may_look_and_only_its_user_may_change(make_agent: Make) -> None:
    agent = make_agent()
    with tempfile.TemporaryDirectory(prefix="fleven-test-") as name:  # pytest's own folders are closed to others
        agent.runtime = Path(name)
        agent.runtime.chmod(0o755)
        agent.environment["FLEVEN_RUNTIME_DIR"] = name
        agent.start()
        os.seteuid(65_534)
        try:
            assert request(agent.runtime, "status")["status"]["state"]
            for command in ("drain", "undrain", "restart"):
                with pytest.raises(NotAllowedError, match=f"may not {command}") as caught:
                    request(agent.runtime, command)
                assert caught.value.hint == "use sudo"
        finally:
            os.seteuid(0)
        agent.stop()


def test_systemd_hears_of_readiness_status_reload_and_stop(make_agent: Make, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(address))
        ear.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "2000000"}
        agent = make_agent(environment=environment).start()
        said: list[str] = []

        def hear(what: str) -> None:
            while not any(what in one for one in said):
                said.append(ear.recv(4_096).decode())

        hear("READY=1")
        assert not any("STATUS=running" in one for one in said)
        hear("STATUS=running: partition 0; node ")
        hear("WATCHDOG=1")
        said.clear()
        agent.signal(signal.SIGHUP)
        hear("RELOADING=1\nMONOTONIC_USEC=")
        hear("READY=1")
        agent.signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert agent.process is not None
        assert agent.process.wait(20) == 0


def test_systemd_gives_time_while_a_task_finishes(make_agent: Make, fakes: Any, tmp_path: Path) -> None:
    fakes.mode("task", 3)
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(address))
        ear.settimeout(20)
        agent = make_agent(environment={"NOTIFY_SOCKET": str(address)}).start()
        agent.wait("the task", lambda: (s := agent.status()) and s["current_run"])
        agent.signal(signal.SIGTERM)
        while "EXTEND_TIMEOUT_USEC=30000000" not in ear.recv(4_096).decode():
            pass
        assert agent.process is not None
        assert agent.process.wait(20) == 0
    assert "outcome=succeeded" in agent.log()


def test_trips_are_watched_and_bad_ones_set_aside(make_agent: Make, tmp_path: Path, server: ReportServer) -> None:
    trips = tmp_path / "trips"
    trips.mkdir()
    text = f'data-path = "{trips}"\n[data]\nscan-interval-seconds = 1.0\nsettle-seconds = 0.0\n'
    agent = make_agent(text, report_url=server.url).start()
    agent.wait_condition("data-missing")
    (trips / "a.csv").write_text("time_sec,vehicle_speed\n" + "0,1\n" * 30, encoding="utf-8")
    (trips / "b.csv").write_bytes(b"\0" * 50)
    agent.wait_condition("data-missing", gone=True)
    status = agent.wait_condition("data-invalid")
    assert (status["data"]["trips"], status["data"]["rows"], status["data"]["quarantined"]) == (1, 30, 1)
    wait_for("the report of it", lambda: (server.reports[-1]["data"] or {}).get("quarantined") == 1)


def test_the_daemon_stays_small(make_agent: Make) -> None:
    agent = make_agent().start()
    agent.wait_state("running")
    assert agent.process is not None
    loaded = Path(f"/proc/{agent.process.pid}/maps").read_text(encoding="ascii")
    assert "pydantic_core" not in loaded
    assert "numpy" not in loaded
