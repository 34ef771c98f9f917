"""`fleven-agent join`, run as an operator runs it, against a server that checks every request."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_harness import Agent
from joining_server import JoiningServer

Make = Callable[..., Agent]


@pytest.fixture
def fresh(make_agent: Make) -> Agent:
    """A car whose node.toml lacks both lines."""
    agent = make_agent()
    lines = agent.config.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(("partition-id", "superlink", "report-url"))]
    agent.config.write_text("\n".join(["# mine", *kept]) + "\n", encoding="utf-8")
    return agent


def join(agent: Agent, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["join", "--config", str(agent.config), "--step-seconds", "3", *arguments]

    return subprocess.run(
        [sys.executable, "-m", "fleven_agent", *command],
        env=agent.environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_one_command_joins_a_fresh_car(fresh: Agent, joining: JoiningServer) -> None:
    before = fresh.config.read_text(encoding="utf-8")
    done = join(fresh, joining.invite(5))
    assert done.returncode == 0, done.stdout + done.stderr
    after = fresh.config.read_text(encoding="utf-8")
    assert "partition-id = 5\n" in after
    assert 'superlink = "127.0.0.1:9092"\n' in after
    assert [line for line in after.splitlines() if not line.startswith(("partition-id", "superlink"))] == (
        before.splitlines()
    )
    assert "partition 5" in done.stdout
    assert "start the agent" in done.stdout
    fresh.drop_in("insecure = false\n")
    fresh.start()
    status = fresh.wait_state("running")
    assert status["node"]["partition_id"] == 5


def test_a_running_agent_takes_the_invitation_over_and_is_ready(make_agent: Make, joining: JoiningServer) -> None:
    agent = make_agent("insecure = false\n", report_url=joining.url).start()
    agent.wait_condition("enrolment-pending")
    done = join(agent, "-", "--json", text=joining.invite(2) + "\n")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert (answer["ready"], answer["partition_id"], answer["state"]) == (True, 2, "running")
    assert answer["seconds"] < 10
    assert len(joining.cars) == 1, "the key that waited is the one that was let in"

    code = joining.invite(4)
    again = join(agent, "--file", str(written(agent, code)))
    assert (again.returncode, "already" in again.stderr) == (1, True)
    assert "--replace" in again.stderr
    joining.invitations.clear()  # a code that is refused costs nothing of what the car has
    before = (agent.state / "identity/identity.json").read_bytes()
    refused = join(agent, "--file", str(written(agent, code)), "--replace")
    assert (refused.returncode, "invitation-unknown" in refused.stderr) == (1, True), refused.stderr
    assert (agent.state / "identity/identity.json").read_bytes() == before
    assert agent.wait_state("running")
    replaced = join(agent, joining.invite(4), "--replace", "--json")
    assert json.loads(replaced.stdout)["partition_id"] == 4
    assert len(joining.cars) == 2


def written(agent: Agent, code: str) -> Path:
    file = agent.folder / "invitation.toml"
    file.write_text(f'join = "{code}"\n', encoding="utf-8")
    return file


def test_the_same_invitation_again_only_carries_on(fresh: Agent, joining: JoiningServer) -> None:
    code = joining.invite(5)
    assert [join(fresh, code, "--no-start").returncode for _ in range(2)] == [0, 0]
    assert (len(joining.cars), len(joining.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("spoil", "exit_code", "said"),
    [
        ("cut", 2, "cut off or damaged"),
        ("text", 2, "this is not a join code"),
        ("fingerprint", 1, "has a different authority from the one that this car was told"),
        ("used", 1, "invitation-unknown"),
        ("away", 75, "no answer from the server"),
        ("toml", 78, "unknown key"),
    ],
)
def test_what_goes_wrong_is_said_with_what_to_do(
    fresh: Agent, joining: JoiningServer, spoil: str, exit_code: int, said: str
) -> None:
    code = joining.invite(1, fingerprint="ab" * 32 if spoil == "fingerprint" else None)
    if spoil in ("cut", "text"):
        code = code[:60] if spoil == "cut" else "hello"
    elif spoil == "used":
        joining.invitations.clear()
    elif spoil == "away":
        joining.stop()
    elif spoil == "toml":
        fresh.drop_in("quux = 1\n")
    before = fresh.config.read_bytes()
    done = join(fresh, code)
    assert (done.returncode, done.stderr.count("Traceback")) == (exit_code, 0), done.stderr
    assert said in done.stderr
    assert "(" in done.stderr, "no hint"
    assert fresh.config.read_bytes() == before
    assert bool(joining.requests) == (spoil == "used")
    as_json: dict[str, Any] = json.loads(join(fresh, code, "--json").stdout)
    assert as_json["error"]["problems"]


def test_the_line_of_an_open_fleets_upgrade_goes_when_the_superlink_speaks_tls(
    make_agent: Make, joining: JoiningServer
) -> None:
    agent = make_agent(report_url=f"http://127.0.0.1:{joining.port}")
    line = Path(f"{agent.config}.d") / "00-open-fleet.toml"
    line.write_text("insecure = true\n", encoding="utf-8")
    joining.transport = "plain"
    agent.start()
    agent.wait_state("running")
    done = join(agent, joining.invite(3))
    assert done.returncode == 0, done.stderr
    assert line.exists()
    joining.transport = "tls"
    replaced = join(agent, joining.invite(3), "--replace")
    assert replaced.returncode == 0, replaced.stdout + replaced.stderr
    assert not line.exists()
