"""What editors put into a TOML file is read or named, and what the wire brings can be shown."""

import pytest

from fleven_agent.common.foreign_text import lookalike, parse_toml, printable


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_toml(b"\xef\xbb\xbfpartition-id = 3\n") == {"partition-id": 3}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a = “x”", 'line 1: “ is left double quotation mark (U+201C): write the straight " instead'),
        ("a = 1\nb = „x“", "line 2: „ is double low-9 quotation mark (U+201E)"),
        ("a = ‘x’", "write the straight ' or \" instead"),
        ("a = 1\u00a0# one", "line 1: is no-break space (U+00A0): write an ordinary blank instead"),
        ("partition–id = 1", "– is en dash (U+2013): write the plain - instead"),
        ("\u200ba = 1", "is zero width space (U+200B): delete it"),
        ('a = "“fine inside a text”"\nb = 3 4', "(strings need quotes, one key on each line)"),
    ],
)
def test_what_looks_like_another_character_is_named_with_its_line(content: str, expected: str) -> None:
    with pytest.raises(ValueError, match="not valid TOML") as caught:
        parse_toml(content.encode())
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["x = " + "[" * 5_000 + "]" * 5_000, "[" + ".".join(["a"] * 20_000) + "]\nb = 1", "a = " + "[" * 40 + "]" * 40],
)
def test_what_is_nested_too_deeply_for_anybody_to_walk_through_is_refused(content: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_toml(content.encode())


def test_what_a_person_would_nest_is_read() -> None:
    assert parse_toml(b"[a.b.c.d]\ne = [[[1]]]\n")["a"]["b"]["c"]["d"]["e"] == [[[1]]]


def test_utf_16_is_named() -> None:
    with pytest.raises(ValueError, match="it is UTF-16"):
        parse_toml("a = 1".encode("utf-16"))


def test_a_lookalike_inside_a_value_is_found() -> None:
    assert "straight" in lookalike("“100.64.0.1:9092”")
    assert lookalike("100.64.0.1:9092") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a plain line\n\twith Übermut", "a plain line\n\twith Übermut"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x00\x00\x1e\x04", "\\x00\\x00\\x1e\\x04"),
        ("abc\u202edef", "abc\\u202edef"),
        ("15\u202fkm", "15\u202fkm"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_shown_as_it_is(text: str, shown: str) -> None:
    assert printable(text) == shown
