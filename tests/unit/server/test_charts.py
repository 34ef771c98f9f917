"""Charts are read by people and by screen readers: shape, gaps and escaping are held here."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.server import charts
from fleven.server.formatting import number_text

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
values = st.lists(st.one_of(st.none(), numbers, st.just(math.nan)), max_size=200)


@given(values, st.integers(1, 80))
def test_a_text_sparkline_never_passes_its_width(readings: list[float | None], width: int) -> None:
    line = charts.text_sparkline(readings, width)
    assert len(line) <= width
    assert set(line) <= set(charts.BLOCKS + charts.GAP)


def test_a_text_sparkline_rises_with_its_values_and_keeps_gaps() -> None:
    assert charts.text_sparkline([0, None, 7], 8) == "▁ █"
    assert charts.text_sparkline([5, 5], 8) == "▁▁"
    assert charts.text_sparkline([50], 8, low=0, high=100) in "▄▅"
    assert charts.text_sparkline([None], 8) == ""


def test_resampling_takes_means_of_equal_slices() -> None:
    assert charts.resample([1, 3, None, None, 5, None], 3) == [2, None, 5]
    with pytest.raises(ValueError, match="width"):
        charts.resample([1], 0)


@given(numbers, numbers)
def test_ticks_enclose_the_values_and_grow(first: float, second: float) -> None:
    low, high = sorted((first, second))
    ticks = charts.nice_ticks(low, high)
    assert len(ticks) >= 2
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * max(abs(low), abs(high), 1e-30)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack


def test_ticks_are_round_numbers() -> None:
    assert charts.nice_ticks(0, 10) == [0, 5, 10]
    assert charts.nice_ticks(3.1, 8.9) == [2, 4, 6, 8, 10]


@given(values)
def test_every_sparkline_is_well_formed(readings: list[float | None]) -> None:
    svg = charts.svg_sparkline(readings, label='load <"&', unit="°C")
    if svg:
        ElementTree.fromstring(svg)  # noqa: S314  (our own text)
        assert "nan" not in svg


@given(st.lists(st.tuples(st.integers(1, 500), st.one_of(st.none(), numbers)), max_size=30))
def test_every_line_chart_is_well_formed(points: list[tuple[int, float | None]]) -> None:
    svg = charts.svg_line_chart([charts.Series("car <0>", points)], title="t & t", x_label="round", y_label="km/h")
    if svg:
        ElementTree.fromstring(svg)  # noqa: S314  (our own text)
        assert "nan" not in svg


def test_a_single_point_far_beyond_any_round_is_drawn() -> None:
    drawn = charts.svg_line_chart([charts.Series("a", [(2**53 + 3, 1.0)])], title="t", x_label="x", y_label="y")
    assert "<circle" in drawn


def test_a_line_is_never_drawn_across_a_missing_round() -> None:
    svg = charts.svg_line_chart(
        [charts.Series("car 0", [(1, 4.0), (2, 5.0), (3, None), (4, 6.0)])],
        title="RMSE",
        x_label="round",
        y_label="km/h",
    )
    assert svg.count("<path") == 1
    assert svg.count("<circle") == 3


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3"), (3.14159, "3.142"), (0.5, "0.5"), (math.nan, "-"), (100.0, "100"), (1200.4, "1200")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text
