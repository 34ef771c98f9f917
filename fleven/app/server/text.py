"""Text that a car has sent, made fit for logs, tables, pages and spreadsheets. Imports the standard library only.

It is cleaned once, where it enters; nothing behind has to remember that it came from outside.
"""

import unicodedata
from typing import Any

NAME_CHARACTERS = 100
REASON_CHARACTERS = 500
FILE_CHARACTERS = 200
#: Characters beyond this are not even looked at: cutting comes before cleaning.
LONGEST_LOOK = 10_000
#: Beginnings of a cell that a spreadsheet takes for a formula (OWASP, CSV injection).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def clean(text: str, characters: int) -> str:
    """Return `text` in one line of at most so many characters.

    White space of every kind, line and paragraph separators included, becomes one space. Controls, bidirectional and
    other invisible marks, lone surrogates, and code points without a character go.
    """
    seen = (" " if char.isspace() else char for char in text[:LONGEST_LOOK])
    line = " ".join("".join(char for char in seen if char == " " or unicodedata.category(char)[0] != "C").split())
    return line if len(line) <= characters and len(text) <= LONGEST_LOOK else f"{line[: characters - 1]}…"


def cell(value: Any) -> Any:
    """Return a table's value as a spreadsheet may read it: a text that looks like a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
