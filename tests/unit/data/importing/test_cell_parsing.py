"""Cells to numbers: decimal marks, thousands, units, missing and unreadable cells."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleven.data.importing import cell_parsing


def parse(
    texts: list[str], target: str = "mass_air_flow", unit: str = "", mark: str | None = None, declared: bool = False
):
    taken = cell_parsing.take_apart(pa.chunked_array([pa.array(texts)]))
    mark = mark or cell_parsing.evidence(taken).mark(".")
    return cell_parsing.parse_texts(taken, target, unit, mark, declared=declared)


@pytest.mark.parametrize(
    ("text", "mark", "value"),
    [
        ("24,77", ",", 24.77),
        ("24.77", ".", 24.77),
        ("-1,5", ",", -1.5),
        ("\u22121.5", ".", -1.5),
        ("+3", ".", 3.0),
        ("1.234,5", ",", 1234.5),
        ("1,234.5", ".", 1234.5),
        ("1.234.567", ",", 1234567.0),
        ("1 234,5", ",", 1234.5),
        ("1\u00a0234,5", ",", 1234.5),
        ("1'234.5", ".", 1234.5),
        (".5", ".", 0.5),
        ("5.", ".", 5.0),
        ("1,51336E+12", ",", 1.51336e12),
        ("1e3", ".", 1000.0),
    ],
)
def test_a_number_is_read_by_its_decimal_mark(text: str, mark: str, value: float) -> None:
    assert cell_parsing.to_numbers(pa.array([text]), mark)[0] == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "mark"), [("1,23,4", ","), ("12.34.5", ","), ("1,2345.6", ","), ("abc", "."), ("", ".")]
)
def test_a_text_that_does_not_fit_the_mark_is_no_number(text: str, mark: str) -> None:
    assert math.isnan(cell_parsing.to_numbers(pa.array([text]), mark)[0])


@pytest.mark.parametrize(
    ("texts", "mark"),
    [
        (["24,77", "9,99"], ","),
        (["24.77", "9.99"], "."),
        (["1.234,5", "7"], ","),
        (["1,234.5", "7"], "."),
        (["1.234.567"], ","),
        (["1,234,567"], "."),
        (["0,123", "0,500"], ","),  # nobody groups a leading zero
        (["1,234", "1,5"], ","),  # one cell proves it for the column
    ],
)
def test_the_decimal_mark_is_proved_by_the_cells(texts: list[str], mark: str) -> None:
    taken = cell_parsing.take_apart(pa.chunked_array([pa.array(texts)]))
    assert cell_parsing.evidence(taken).mark("neither") == mark


def test_cells_that_may_be_thousands_prove_nothing() -> None:
    evidence = cell_parsing.evidence(cell_parsing.take_apart(pa.chunked_array([pa.array(["1,234", "2,345", "700"])])))
    assert evidence == cell_parsing.Evidence(0, 0, 2)


def test_a_whole_file_decides_for_a_column_that_proves_nothing() -> None:
    proof, none = cell_parsing.Evidence(comma=5), cell_parsing.Evidence(grouped=3)
    assert cell_parsing.file_mark([proof, none], ";") == (",", False)
    assert cell_parsing.file_mark([cell_parsing.Evidence(point=2), none], ";") == (".", False)


@pytest.mark.parametrize(("delimiter", "mark"), [(";", ","), ("\t", ","), (",", "."), ("|", ".")])
def test_without_any_proof_the_delimiter_decides_and_it_counts_as_a_guess(delimiter: str, mark: str) -> None:
    assert cell_parsing.file_mark([cell_parsing.Evidence(grouped=3)], delimiter) == (mark, True)


def test_whole_numbers_need_no_guess() -> None:
    assert cell_parsing.file_mark([cell_parsing.Evidence()], ";") == (".", False)


@pytest.mark.parametrize(
    ("text", "target", "value"),
    [
        ("48km/h", "vehicle_speed", 48.0),
        ("30 mph", "vehicle_speed", 48.28032),
        ("10m/s", "vehicle_speed", 36.0),
        ("2124RPM", "engine_rpm", 2124.0),
        ("800 1/min", "engine_rpm", 800.0),
        ("24,77g/s", "mass_air_flow", 24.77),
        ("36 kg/h", "mass_air_flow", 10.0),
        ("79,20%", "calculated_load_value", 79.2),
        ("1 bar", "intake_manifold_pressure", 100.0),
        ("82C", "engine_coolant_temp", 82.0),
        ("212 °F", "engine_coolant_temp", 100.0),
        ("20 ºC", "engine_coolant_temp", 20.0),
    ],
)
def test_a_unit_inside_the_cell_is_taken_out_and_converted(text: str, target: str, value: float) -> None:
    parsed = parse([text], target)
    assert parsed.values[0] == pytest.approx(value)
    assert parsed.unreadable == 0


def test_each_cell_is_converted_by_its_own_unit() -> None:
    parsed = parse(["100km/h", "100mph", "100"], "vehicle_speed", unit="mph")
    assert parsed.values.tolist() == pytest.approx([100.0, 160.9344, 160.9344])


def test_a_declared_unit_holds_against_the_cell() -> None:
    assert parse(["100km/h"], "vehicle_speed", unit="mph", declared=True).values[0] == pytest.approx(160.9344)


def test_a_raw_frame_of_the_adapter_is_unreadable_and_shown() -> None:
    parsed = parse(["12,5g/s", "1:6032000007E803", "13,5g/s"])
    assert np.isnan(parsed.values[1])
    assert (parsed.unreadable, parsed.example) == (1, "1:6032000007E803")


def test_an_unknown_unit_is_reported_and_its_cells_are_no_values() -> None:
    parsed = parse(["12 furlongs", "13 furlongs"], "vehicle_speed")
    assert parsed.unknown_units == {"furlongs": 2}
    assert np.isnan(parsed.values).all()


@pytest.mark.parametrize("text", ["", " ", "-", "--", "NaN", "n/a", "NULL", "None", "NO DATA", "inf", "∞", "?"])
def test_words_for_nothing_are_missing_not_unreadable(text: str) -> None:
    parsed = parse(["1.5", text])
    assert (parsed.missing, parsed.unreadable) == (1, 0)
    assert np.isnan(parsed.values[1])


def test_null_cells_are_missing() -> None:
    taken = cell_parsing.take_apart(pa.chunked_array([pa.array(["1", None, "2"])]))
    parsed = cell_parsing.parse_texts(taken, "engine_rpm", "", ".", declared=False)
    assert parsed.missing == 1
    assert parsed.values[[0, 2]].tolist() == [1.0, 2.0]


def test_numbers_of_a_parquet_file_are_converted_and_infinity_is_missing() -> None:
    parsed = cell_parsing.parse_numbers(pa.chunked_array([pa.array([10.0, None, math.inf])]), "vehicle_speed", "mph")
    assert parsed.values[0] == pytest.approx(16.09344)
    assert parsed.missing == 2


@settings(deadline=None)  # examples are small; a busy machine is slow
@given(
    values=st.lists(st.floats(-99_999, 99_999).map(lambda x: round(x, 2)), min_size=1, max_size=30),
    comma=st.booleans(),
    thousands=st.sampled_from(["", "other", " ", "'"]),
    unit=st.sampled_from(["", "g/s", " g/s", "\tg/sec"]),
)
def test_any_number_comes_back_as_it_was_written(values: list[float], comma: bool, thousands: str, unit: str) -> None:
    mark, other = (",", ".") if comma else (".", ",")
    grouping = other if thousands == "other" else thousands
    texts = [f"{value:,.2f}".replace(",", "G").replace(".", mark).replace("G", grouping) + unit for value in values]
    parsed = parse(texts, mark=mark)
    assert parsed.values.tolist() == pytest.approx(values)
    taken = cell_parsing.take_apart(pa.chunked_array([pa.array(texts)]))
    assert cell_parsing.evidence(taken).mark("neither") == mark


@settings(deadline=None)  # examples are small; a busy machine is slow
@given(st.lists(st.text(max_size=12), min_size=1, max_size=20))
def test_any_text_is_either_a_value_or_missing_or_unreadable(texts: list[str]) -> None:
    parsed = parse(texts)
    assert parsed.readable == int(np.isfinite(parsed.values).sum())
    assert parsed.readable + parsed.missing + parsed.unreadable == len(texts)
