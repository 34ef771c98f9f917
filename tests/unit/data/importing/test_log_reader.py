"""Files to tables: encodings, delimiters, header lines, and what is no table."""

import contextlib
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleven.data.importing import log_reader
from fleven.data.importing.log_reader import decode, read_log
from fleven.data.importing.log_table import UnreadableError
from fleven.data.importing.text_table import sniff


def known(header: str) -> bool:
    return header.strip().lower() in {"time", "speed", "rpm", "maf", "température"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.csv"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_each_delimiter_is_found(delimiter: str) -> None:
    text = delimiter.join(["time", "speed", "rpm"]) + "\n" + (delimiter.join(["1", "2", "3"]) + "\n") * 5
    dialect = sniff(text, known)
    assert (dialect.delimiter, dialect.header) == (delimiter, ("time", "speed", "rpm"))


def test_decimal_commas_do_not_pass_for_the_delimiter() -> None:
    text = "time;speed;rpm\n" + "1,5;2,5;3,5\n" * 20
    assert sniff(text, known).delimiter == ";"


@settings(deadline=None)  # examples are small; a busy machine is slow
@given(st.sampled_from([",", ";", "\t", "|"]), st.integers(2, 8), st.integers(1, 40))
def test_a_regular_table_is_always_split_by_its_own_delimiter(delimiter: str, columns: int, rows: int) -> None:
    header = ["time", *(f"other{number}" for number in range(columns - 1))]
    text = "\n".join(delimiter.join(row) for row in [header, *[["7"] * columns] * rows])
    dialect = sniff(text, known)
    assert (dialect.delimiter, dialect.header) == (delimiter, tuple(header))


def test_lines_before_the_header_are_passed_over() -> None:
    text = "sep=;\nLogger 3.1, serial 12\n\nTIME;SPEED\n1;2\n3;4\n"
    assert sniff(text, known).header_line == 3


def test_a_delimiter_at_the_end_of_rows_alone_does_no_harm(file: Path) -> None:
    file.write_text("time,speed\n1,2,\n3,4,\n")
    table = read_log(file, known)
    assert table.headers == ["time", "speed", ""]
    assert (table.rows, table.rows_broken) == (2, 0)


def test_a_delimiter_at_the_end_of_the_header_alone_does_no_harm(file: Path) -> None:
    file.write_text("time,speed,\n1,2\n3,4\n")
    table = read_log(file, known)
    assert (table.headers, table.rows, table.rows_broken) == (["time", "speed"], 2, 0)


def test_a_first_column_without_a_name_is_a_column(file: Path) -> None:
    file.write_text(",time,speed\n0,1,2\n1,3,4\n")
    table = read_log(file, known)
    assert table.headers == ["", "time", "speed"]
    assert table.columns[1].to_pylist() == ["1", "3"]


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        ("time,speed,rpm\n1,50,5,2000\n2,51,5,2010\n", "names 3 columns, the rows have 4", "decimal commas"),
        ("time;speed\n0;1;50\n1;2;51\n", "names 2 columns, the rows have 3", "row numbers without a name"),
        ("time,speed\n1,50,\n2,51,x\n", "names 2 columns, the rows have 3", "row numbers without a name"),
        ("time,rpm,speed\n1,50\n2,51\n", "names 3 columns, the rows have 2", "only the columns that the rows have"),
    ],
)
def test_rows_that_do_not_fit_the_header_are_refused_and_not_put_under_wrong_names(
    file: Path, content: str, said: str, hint: str
) -> None:
    file.write_text(content)
    with pytest.raises(UnreadableError, match=said) as caught:
        read_log(file, known)
    assert hint in caught.value.hint


def test_lines_with_another_number_of_cells_are_counted_not_guessed(file: Path) -> None:
    file.write_text("time,speed\n1,2\n3\n4,5,6\n7,8\n9,1")
    table = read_log(file, known)
    assert table.columns[0].to_pylist() == ["1", "7", "9"]
    assert table.rows_broken == 2


def test_quoted_cells_are_unquoted(file: Path) -> None:
    file.write_text('"time","speed"\n"1","1,5"\n"2","2,5"\n')
    assert read_log(file, known).columns[1].to_pylist() == ["1,5", "2,5"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_quote_that_does_not_end_costs_its_own_line_alone(file: Path, ending: str) -> None:
    lines = ["time,speed", "1,5", '2,"6', '"3,7', '4,"8""', '5,"9"', '6,""', '"7","1""0"', "8,11"]
    file.write_bytes(ending.join(lines).encode())
    table = read_log(file, known)
    assert table.columns[0].to_pylist() == ["1", "5", "6", "7", "8"]
    assert table.columns[1].to_pylist() == ["5", "9", "", '1"0', "11"]
    assert table.rows_broken == 3


def test_a_quote_inside_a_cell_begins_nothing(file: Path) -> None:
    file.write_text('time,wheel,speed\n1,12",3\n2,12"x"",4\n3,"a"b"c",5\n')
    table = read_log(file, known)
    assert table.columns[2].to_pylist() == ["3", "4", "5"]
    assert table.columns[1].to_pylist() == ['12"', '12"x""', 'ab"c"']
    assert table.rows_broken == 0


def test_a_file_of_open_quotes_is_refused(file: Path) -> None:
    file.write_text('time,speed\n1,"2\n3,"4\n')
    with pytest.raises(UnreadableError, match="has no row with as many cells as the header"):
        read_log(file, known)


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("latin-1", "cp1252"), ("cp1252", "cp1252")],
)
def test_encodings_are_found(file: Path, encoding: str, named: str) -> None:
    file.write_bytes("time;température\n1;20 °C\n2;21 °C\n".encode(encoding))
    table = read_log(file, known)
    assert table.headers == ["time", "température"]
    assert table.columns[1].to_pylist() == ["20 °C", "21 °C"]
    assert table.encoding == named


def test_a_named_encoding_is_used(file: Path) -> None:
    file.write_bytes("time;скорость\n1;2\n2;3\n".encode("cp1251"))
    assert read_log(file, known, encoding="cp1251").headers[1] == "скорость"


def test_a_named_encoding_that_does_not_fit_is_refused(file: Path) -> None:
    file.write_bytes("time;température\n1;2\n".encode("latin-1"))
    with pytest.raises(UnreadableError, match="not text in ascii"):
        read_log(file, known, encoding="ascii")


def test_the_zeros_of_a_power_cut_are_taken_out_and_noted() -> None:
    text, _, notes = decode(b"time,speed\n1,2\n3,4\n" + b"\0" * 512)
    assert text.endswith("3,4\n")
    assert "512 zero bytes" in notes[0]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark_is_no_power_cut(encoding: str) -> None:
    text = "time;Temp °C;speed\n0;20;5\n1;20;6\n"
    assert decode(text.encode(encoding)) == (text, encoding, [])


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_of_all_systems_are_read(file: Path, ending: str) -> None:
    file.write_bytes(ending.join(["junk", "time,speed", "1,2", "3,4", ""]).encode())
    assert read_log(file, known).columns[1].to_pylist() == ["2", "4"]


def test_a_gzipped_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(b"time,speed\n1,2\n"))
    assert read_log(path, known).rows == 1


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"time": [1.0, 2.0], "speed": [3, 4]}), path)
    table = read_log(path, known)
    assert pa.types.is_integer(table.columns[1].type)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n  \n", "is empty"),
        (b"\0" * 100, "is empty"),
        (b"time;speed\n", "no rows"),
        (b"PK\x03\x04rest", "spreadsheet"),
        (b"PAR1rest", "broken Parquet"),
        (bytes(range(256)) * 20, "binary"),
        (b"just prose without columns\nand more of it\n", "no columns"),
        (b"1;2;3\n4;5;6\n7;8;9\n", "no header"),
        (b"time;speed\n1\n2\n3\n", "no columns separated"),
        (b"!;\n!", "no columns separated"),
        (b"\x1f\x8bnot really gzip", "gzip"),
    ],
)
def test_what_is_no_table_is_refused_with_its_reason(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UnreadableError, match=reason):
        read_log(file, known)


@settings(deadline=None)  # examples are small; a busy machine is slow
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "log.csv"
    path.write_bytes(content)
    with contextlib.suppress(UnreadableError):
        table = read_log(path, known)
        assert table.rows > 0
        assert len(table.headers) == len(table.columns) >= 2


def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "MAXIMUM_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(b"time,speed\n" + b"1,2\n" * (1 << 18)))
    with pytest.raises(UnreadableError, match="unpacks to more than 1 MiB") as caught:
        read_log(path, known)
    assert "cut it into several files" in caught.value.hint


@pytest.mark.parametrize(
    ("last", "kept"),
    [("4,1507.5", "1507.5"), ("4,1507.", ""), ("4,15", ""), ("4,1", "")],
)
def test_a_last_cell_that_looks_cut_is_emptied(file: Path, last: str, kept: str) -> None:
    file.write_text("time,rpm\n1,1500.5\n2,1501.5\n3,1502.5\n" + last)
    table = read_log(file, known)
    assert table.columns[1].to_pylist()[-1] == kept
    assert bool(table.notes) is (kept == "")


def test_zeros_in_mid_file_do_not_glue_two_lines_together(file: Path) -> None:
    file.write_bytes(b"time,speed\n1,2\n3,4\n5,6\n7\0\0\0\0" + b"8,9\n10,11\n")
    table = read_log(file, known)
    assert table.columns[0].to_pylist() == ["1", "3", "5", "8", "10"]
    assert table.rows_broken == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_character_cut_by_the_end_of_the_file_costs_its_own_line(file: Path, encoding: str) -> None:
    data = "time,température\n1,20\n2,21\n3,é".encode(encoding)
    file.write_bytes(data[:-1])
    table = read_log(file, known)
    assert table.headers == ["time", "température"]
    assert table.columns[0].to_pylist() == ["1", "2"]
    assert table.rows_broken == 1
