"""How long a round waits: never beyond its deadline, never without a quorum, and by what this round's others took."""

from hypothesis import given
from hypothesis import strategies as st

from fleven.app.server.patience import Patience

SECONDS = st.floats(0.0, 10_000.0)
patiences = st.builds(
    Patience,
    multiple=st.floats(0.0, 10.0),
    floor_seconds=st.floats(0.0, 100.0),
    deadline_seconds=st.floats(0.1, 10_000.0),
    quorum=st.integers(1, 10),
)
took = st.lists(SECONDS, max_size=20)


@given(patiences, took, st.integers(0, 20))
def test_no_wait_is_longer_than_the_deadline(patience: Patience, answered: list[float], more: int) -> None:
    assert patience.seconds(answered, len(answered) + more) <= patience.deadline_seconds


@given(patiences, took, st.integers(0, 20))
def test_too_few_answers_wait_until_the_deadline(patience: Patience, answered: list[float], more: int) -> None:
    asked = len(answered) + more
    if len(answered) < patience.quorum or len(answered) * 2 < asked:
        assert patience.seconds(answered, asked) == patience.deadline_seconds


@given(patiences, took, SECONDS, st.integers(1, 20))
def test_who_answers_never_shortens_the_wait_of_the_others_once_enough_have(
    patience: Patience, answered: list[float], next_one: float, more: int
) -> None:
    asked = len(answered) + more
    if len(answered) >= max(patience.quorum, -(-asked // 2)):
        assert patience.seconds([*answered, next_one], asked) >= patience.seconds(answered, asked)


@given(patiences, st.lists(SECONDS, min_size=10, max_size=20))
def test_the_rest_have_the_floor_and_a_multiple_of_the_slowest(patience: Patience, answered: list[float]) -> None:
    waits = patience.seconds(answered, len(answered) + 1)
    if patience.multiple and waits < patience.deadline_seconds:
        assert waits >= max(answered) + patience.floor_seconds
        assert waits >= patience.multiple * max(answered)
        assert waits in (max(answered) + patience.floor_seconds, patience.multiple * max(answered))


def test_the_shipped_patience_costs_a_round_of_a_second_four_seconds() -> None:
    patience = Patience(2.0, 4.0, 600.0, 2)
    assert patience.seconds([0.9, 1.0], asked=3) == 5.0
    assert patience.seconds([0.9], asked=3) == 600.0
    assert patience.seconds([30.0, 40.0], asked=3) == 80.0


def test_half_of_those_who_were_asked_must_have_answered() -> None:
    patience = Patience(2.0, 4.0, 600.0, 1)
    assert patience.seconds([1.0] * 2, asked=5) == 600.0
    assert patience.seconds([1.0] * 3, asked=5) == 5.0
    assert patience.seconds([1.0] * 3, asked=6) == 5.0
    assert patience.seconds([1.0], asked=2) == 5.0
    assert Patience(2.0, 4.0, 600.0, 2).seconds([1.0], asked=2) == 600.0
    assert Patience(0.0, 4.0, 600.0, 1).seconds([1.0] * 6, asked=6) == 600.0
