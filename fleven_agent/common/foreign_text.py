"""Text that comes from outside: TOML files as people and their editors write them, and strings off the wire.

An editor's byte order mark or typographic quotes must not end in a riddle, and what a stranger's port answers must
not reach a terminal or the journal as it is. Imports the standard library only.
"""

import re
from typing import Any

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
MAXIMUM_DEPTH = 32
"""Tables and arrays within each other. A dotted key of twenty thousand parts is valid TOML, but code that walks through
its tables with recursion ends in a traceback."""
_TOO_DEEP = "not valid TOML: nested too deeply"

LOOKALIKES = {
    **dict.fromkeys("“”„‟«»″＂", 'write the straight " instead'),
    **dict.fromkeys("‘’‚‛‹›′`´＇", "write the straight ' or \" instead"),
    **dict.fromkeys("‐‑‒–—−－", "write the plain - instead"),
    **dict.fromkeys("＝", "write the plain = instead"),
    **dict.fromkeys("：", "write the plain : instead"),
    **dict.fromkeys("＃", "write the plain # instead"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000", "write an ordinary blank instead"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "delete it: it cannot be seen"),
}
"""Characters that word processors, chats and web pages put in the place of those that a configuration needs."""

_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'|#.*")


def parse_toml(content: bytes) -> dict[str, Any]:
    """Read the content of a TOML file; a UTF-8 byte order mark, as some editors write it, is passed over.

    Raises:
        ValueError: it is no UTF-8 text or no TOML; the message says what to change.
    """
    import tomllib  # the daemon shows text of others, and reads no TOML

    if content.startswith(_UTF16_MARKS):
        raise ValueError("not UTF-8 text at byte 0: it is UTF-16 (save it as UTF-8)")
    try:
        text = content.removeprefix(_UTF8_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text at byte {error.start} (save it as UTF-8)") from None
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = lookalike_in_line(text, str(error)) or "strings need quotes, one key on each line"
        raise ValueError(f"not valid TOML: {error} ({hint})") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _deeper_than(found, MAXIMUM_DEPTH):
        raise ValueError(_TOO_DEEP)
    return found


def _deeper_than(value: object, limit: int) -> bool:
    """Return whether tables and arrays lie deeper in each other than a limit; without recursion of its own."""
    floor: list[object] = [value]
    for _ in range(limit + 1):
        floor = [
            inner
            for outer in floor
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not floor:
            return False
    return True


def lookalike_in_line(text: str, error: str) -> str:
    """Return what is wrong with the line that a TOML error names, when a look-alike stands outside its strings."""
    at = _AT_LINE.search(error)
    lines = text.split("\n")
    number = int(at[1]) if at else len(lines)
    if not 0 < number <= len(lines):
        return ""
    outside = _STRING.sub("", lines[number - 1])
    found = next((character for character in outside if character in LOOKALIKES), "")
    return f"line {number}: {lookalike(found)}" if found else ""


def lookalike(text: str) -> str:
    """Return the name of the first look-alike in a text and what to write instead; empty when there is none."""
    for character in text:
        if character in LOOKALIKES:
            import unicodedata  # only on the way to an error message

            shown = f"{character} " if character.isprintable() and not character.isspace() else ""
            name = unicodedata.name(character, "a character").lower()
            return f"{shown}is {name} (U+{ord(character):04X}): {LOOKALIKES[character]}"
    return ""


_SHOWN_AS_IT_IS = frozenset("\n\t\u00a0\u2009\u202f")


def printable(text: str) -> str:
    r"""Return a text with all that a terminal would obey, or show as rubbish, written as ``\x1b`` or ``\u202e``.

    Line breaks, tabs and the blanks of typography stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in _SHOWN_AS_IT_IS
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
