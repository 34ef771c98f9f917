"""What rounds have gone on without: which answer is owed, until when, and what a late one counts for."""

from typing import Any

import numpy as np
import pytest

from fleven.app.messages import Answer
from fleven.app.server.answers import Question
from fleven.app.server.fleet import Sent
from fleven.app.server.owed_answers import Owed, OwedAnswers
from fleven.app.settings import Settings

BASE = np.array([1.0, 2.0], dtype=np.float32)


@pytest.fixture
def question(small: Any) -> Question:
    settings: Settings = small()
    return Question("train", settings, base=BASE)


def owing(question: Question, *node_ids: int, until: float = 10.0) -> OwedAnswers:
    owed = OwedAnswers()
    for node_id in node_ids:
        owed.add(Owed(Sent(node_id, "train", 2), question, until))
    return owed


def test_an_answer_is_owed_for_the_very_task_until_it_has_come(question: Question) -> None:
    owed = owing(question, 7)
    assert (7 in owed, 8 in owed) == (True, False)
    assert owed.is_owed(Sent(7, "train", 2))
    for other in (Sent(7, "train", 3), Sent(7, "evaluate", 2), Sent(8, "train", 2)):
        assert not owed.is_owed(other)
        assert owed.settle(other) is None
    assert owed.settle(Sent(7, "train", 2)) is question
    assert 7 not in owed
    assert owed.settle(Sent(7, "train", 2)) is None


def test_nobody_waits_beyond_the_deadline(question: Question) -> None:
    owed = owing(question, 7, 8, until=10.0)
    owed.add(Owed(Sent(9, "train", 3), question, 11.0))
    assert owed.expired(9.9) == []
    assert owed.expired(10.0) == [Sent(7, "train", 2), Sent(8, "train", 2)]
    assert (7 in owed, 8 in owed, 9 in owed) == (False, False, True)
    assert owed.expired(10.0) == []


def test_a_late_answer_is_the_same_change_of_other_weights_and_counts_once(question: Question) -> None:
    owed = owing(question, 7)
    late = Answer(
        partition_id=3, weights=BASE + np.array([0.5, -0.5], dtype=np.float32), numbers={"windows-train": 4.0}
    )
    owed.keep(7, late, BASE)
    newer = np.array([10.0, 20.0], dtype=np.float32)
    found = owed.take_late({8: Answer(partition_id=2)}, newer)
    assert list(found) == [7]
    assert found[7].weights is not None
    assert found[7].weights.tolist() == [10.5, 19.5]
    assert (found[7].partition_id, found[7].numbers) == (3, {"windows-train": 4.0})
    assert owed.take_late({}, newer) == {}


def test_a_late_answer_is_dropped_when_its_car_has_answered_under_another_node_id(question: Question) -> None:
    owed = owing(question, 7)
    owed.keep(7, Answer(partition_id=3, weights=BASE), BASE)
    assert owed.take_late({8: Answer(partition_id=3)}, BASE) == {}
    assert owed.take_late({}, BASE) == {}
