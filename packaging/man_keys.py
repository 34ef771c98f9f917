#!/usr/bin/env python3
"""Write the KEYS section of node.toml(5) and server.toml(5) from the commented configuration files themselves.

Why it exists: the shipped file already says what each key means and its default; a second list would drift from it.
Standard library only. Usage: man_keys.py FILE.toml HEAD.rst TAIL.rst > PAGE.rst
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEY = re.compile(r"^#\s?([a-z][a-z0-9-]*) = (.+)$")
TABLE = re.compile(r"^\[([a-z.-]+)\]$")
SKIPPED = re.compile(r"^# -- ")


@dataclass(frozen=True)
class Entry:
    """A key, or a table when `value` is None."""

    name: str
    value: str | None
    text: str


def entries(text: str) -> Iterator[Entry]:
    """Yield tables and keys in the order of the file, each with the comment right above it."""
    comment: list[str] = []
    for line in text.splitlines():
        if match := KEY.match(line):
            yield Entry(match[1], match[2], " ".join(comment))
            comment = []
        elif match := TABLE.match(line):
            yield Entry(match[1], None, " ".join(comment))
            comment = []
        elif line.startswith("#") and not SKIPPED.match(line):
            comment.append(line.lstrip("#").strip())
        else:
            comment = []


def escape(text: str) -> str:
    """Plain text as reStructuredText."""
    return re.sub(r"([\\*`_|])", r"\\\1", text)


def section(text: str) -> str:
    """The KEYS section."""
    lines: list[str] = []
    for entry in entries(text):
        if entry.value is None:
            title = f"[{entry.name}]"
            lines += ["", title, "-" * len(title), "", escape(entry.text)]
        else:
            meaning = entry.text or "What its name says; the value is the default, or an example of one."
            lines += ["", f"**{entry.name}** = *{escape(entry.value)}*", f"    {escape(meaning)}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    configuration, head, tail = (Path(argument).read_text(encoding="utf-8") for argument in sys.argv[1:4])
    sys.stdout.write(head + section(configuration) + tail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
