"""What the server answers and what tasks end with reaches those who act on it."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleven_agent.config.settings import Settings
from fleven_agent.identity.files import IdentityFolder
from fleven_agent.identity.keeper import Keeper
from fleven_agent.identity.model import About
from fleven_agent.protocol.codes import Attention, TaskOutcome
from fleven_agent.reporting.client import Answer
from fleven_agent.state import AgentState
from fleven_agent.supernode.tasks import Finished
from fleven_agent.telemetry import Telemetry

SETTINGS = Settings(partition_id=0, superlink="127.0.0.1:9092", report_url="http://127.0.0.1:9190")


class Bed:
    """Telemetry of an agent of which only its state is real."""

    def __init__(self, folder: Path) -> None:
        self.writes: list[str] = []
        monitors = SimpleNamespace(
            name=SimpleNamespace(problem=""), data=None, write_now=lambda: self.writes.append("card")
        )
        components: Any = SimpleNamespace(
            settings=SETTINGS,
            keeper=Keeper(IdentityFolder(folder), SETTINGS, About(), lambda: None),
            state_directory=folder,
            agent_state=AgentState(folder),
            monitors=monitors,
            boot_id="boot-1",
            node=SimpleNamespace(warm=SimpleNamespace(expect_task=lambda: self.expected.append("task"))),
        )
        self.expected: list[str] = []
        self.telemetry = Telemetry(components, lambda: None)

    def attend(self, attention: Attention) -> None:
        self.telemetry._attend(attention, None)

    def answer(self, **flower_offline: float) -> None:
        self.telemetry._post(Answer({}, None, None, None, None, (), flower_offline))
        self.telemetry.take_answers()


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_flowers_list_is_of_the_moment_at_which_it_was_told(bed: Bed) -> None:
    assert bed.telemetry.flower_offline.told_at == float("-inf")
    before = time.monotonic()
    bed.answer(**{"55": 40.0})
    told = bed.telemetry.flower_offline
    assert told.seconds == {"55": 40.0}
    assert before <= told.told_at <= time.monotonic()
    bed.answer()
    assert bed.telemetry.flower_offline.seconds == {}


@pytest.mark.parametrize(
    ("outcome", "writes"),
    [(TaskOutcome.FAILED, ["card"]), (TaskOutcome.ABORTED, ["card"]), (TaskOutcome.SUCCEEDED, [])],
)
def test_a_task_that_failed_has_the_card_tried_at_once(bed: Bed, outcome: TaskOutcome, writes: list[str]) -> None:
    task = Finished("5", 1, "train", outcome, 0.0, None, None, 1.0, None, None, None, None, None)
    bed.telemetry.tasks_finished([task], time.monotonic())
    assert bed.writes == writes


def test_a_task_is_expected_when_a_run_comes_near(bed: Bed) -> None:
    for attention in (Attention.CALM, Attention.WATCHED, Attention.WATCHED):
        bed.attend(attention)
    assert bed.expected == ["task"]  # what cools down meanwhile stays so until the run comes
    for attention in (Attention.RUN, Attention.RUN, Attention.CALM):
        bed.attend(attention)
    assert bed.expected == ["task", "task"]
    bed.attend(Attention.RUN)
    assert bed.expected == ["task", "task", "task"]
