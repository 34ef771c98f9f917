"""Fixtures of the agent's integration tests: fakes on PATH, agents and a report server that are gone at the end."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_harness import Agent, ReportServer, report_server
from certificates import write_certificates
from joining_server import JoiningServer

QUICK = """
partition-id = 0
superlink = "127.0.0.1:{superlink}"
report-url = "{report_url}"
insecure = true
[supervision]
stable-seconds = 0.3
stop-grace-seconds = 1.0
repair-grace-seconds = 0.5
registration-timeout-seconds = 3.0
backoff-initial-seconds = 0.2
backoff-maximum-seconds = 2.0
crash-loop-count = 3
task-stuck-seconds = 2.0
hang-seconds = {hang}
executor-start-seconds = 2.0
task-deadline-seconds = 5.0
stop-task-seconds = 5.0
[gates]
close-after-seconds = 0.0
open-after-seconds = 0.0
memory-minimum-megabytes = 0
disk-minimum-megabytes = 0
[warm]
mode = "off"
short-polling = false
[reports]
interval-seconds = 1.0
timeout-seconds = 1.0
"""


class Fakes:
    """A folder with fake Flower programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        source = Path(__file__).with_name("fake_supernode.py").read_text(encoding="utf-8")
        for name in ("flower-supernode", "flower-superexec", "flwr-clientapp"):
            program = folder / name
            program.write_text(f"#!{sys.executable} -SE\n{source}", encoding="utf-8")
            program.chmod(0o755)
        self.mode("normal")

    def mode(self, *words: object) -> None:
        """Say how the next SuperNode is to behave."""
        (self.folder / "mode").write_text(" ".join(map(str, words)), encoding="utf-8")

    def starts(self) -> list[dict[str, Any]]:
        """Return what was noted at each start: pid, at, argv, environment."""
        file = self.folder / "starts"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    return Fakes(tmp_path / "fakes")


@pytest.fixture
def server() -> Iterator[ReportServer]:
    with report_server() as started:
        yield started


@pytest.fixture
def joining(tmp_path: Path) -> Iterator[JoiningServer]:
    """Return a server that lets cars in, with an authority of its own."""
    server = JoiningServer(write_certificates(tmp_path / "certificates"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_agent(tmp_path: Path, fakes: Fakes) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def make(extra: str = "", *, report_url: str = "http://127.0.0.1:2", hang: float = 60, **options: Any) -> Agent:
        text = QUICK.format(superlink=1, report_url=report_url, hang=hang)
        agent = Agent(tmp_path / f"agent-{len(made)}", text, path=[fakes.folder], **options)
        agent.drop_in(extra)
        made.append(agent)
        return agent

    yield make
    for agent in made:
        agent.clean_up()
    shutil.rmtree(tmp_path, ignore_errors=True)
