"""A patch makes of the last report the next one, whatever is in them."""

from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.protocol.patch import applied, difference

LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=2)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
)
REPORTS = st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3)


def without_nulls(value: object) -> object:
    """Null and missing mean the same in a report; lists are replaced as a whole."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return value


@given(REPORTS, REPORTS)
def test_the_patch_of_two_reports_makes_the_second_of_the_first(
    before: dict[str, object], after: dict[str, object]
) -> None:
    made = applied(without_nulls(before), difference(before, after))  # type: ignore[arg-type]  # a dict stays one
    assert without_nulls(made) == without_nulls(after)


def test_only_what_differs_is_said() -> None:
    before = {"state": "running", "resources": {"load_1m": 0.5, "cpu_count": 4}, "disks": [1], "data": {"trips": 3}}
    after = {"state": "running", "resources": {"load_1m": 0.6, "cpu_count": 4}, "disks": (1,), "data": None}
    assert difference(before, after) == {"resources": {"load_1m": 0.6}, "data": None}
