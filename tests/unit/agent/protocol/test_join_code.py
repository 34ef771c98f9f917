"""The one line of an invitation: what goes in comes out, and what is damaged is named."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.protocol.join_code import MAXIMUM_CHARACTERS, PREFIX, JoinCode, JoinCodeError, decode, encode

CODE = JoinCode(("pc.local:9190", "192.168.1.5:9190", "[fd7a::1]:9190"), "ab" * 32, "0123abcd", "s3cret_-" * 3)


def packed(content: object) -> str:
    return PREFIX + base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def test_a_code_is_one_word_and_comes_back_as_it_was() -> None:
    line = encode(CODE)
    assert decode(line) == CODE
    assert line.startswith("fleven1.")
    assert len(line.split()) == 1
    assert not set(line) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_line_breaks_of_a_mail_and_padding_do_no_harm() -> None:
    line = encode(CODE)
    assert decode(f"  {line[:40]}\n{line[40:]}==\n") == CODE


def test_the_secret_is_not_shown_in_logs() -> None:
    assert CODE.secret not in repr(CODE)


def test_a_later_version_may_add_parts() -> None:
    content = [list(CODE.server_addresses), CODE.ca_fingerprint, CODE.invitation_id, CODE.secret, {"more": 1}]
    assert decode(packed(content)) == CODE


GOOD = [["pc:9190"], "ab" * 32, "0123abcd", "s" * 22]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'does not begin with "fleven1."'),
        ("https://pc:9190", 'does not begin with "fleven1."'),
        ("fleven2.abc", "of version 2"),
        (encode(CODE)[:-9], "cut off or damaged"),
        (PREFIX, "cut off or damaged"),
        (PREFIX + "*" * 40, "cut off or damaged"),
        (PREFIX + "A" * MAXIMUM_CHARACTERS, "too long"),
        (packed({"a": 1}), "lacks a part"),
        (packed(GOOD[:3]), "lacks a part"),
        (packed([[], *GOOD[1:]]), "names no server"),
        (packed(["pc:9190", *GOOD[1:]]), "names no server"),
        (packed([["pc"], *GOOD[1:]]), "no port"),
        (packed([["http://pc:1"], *GOOD[1:]]), "without a scheme"),
        (packed([[7], *GOOD[1:]]), "no port"),
        (packed([GOOD[0], "AB" * 32, *GOOD[2:]]), "fingerprint"),
        (packed([GOOD[0], 7, *GOOD[2:]]), "fingerprint"),
        (packed([*GOOD[:2], "xyz", GOOD[3]]), "invitation"),
        (packed([*GOOD[:3], "short"]), "secret"),
        (packed([*GOOD[:3], "with blank in it!!!"]), "secret"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(JoinCodeError, match=words) as caught:
        decode(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def said_of(text: str) -> str:
    try:
        decode(text)
    except JoinCodeError as error:
        return error.message
    return "read"


@given(st.text(max_size=300))
def test_no_text_ends_in_a_traceback(text: str) -> None:
    assert said_of(text)
    assert said_of(PREFIX + text)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=5)))
def test_no_content_ends_in_a_traceback(content: object) -> None:
    assert said_of(packed(content))
