"""Writes keys into a node.toml that an operator owns, without touching any other text. Pure."""

import re
from collections.abc import Mapping

_TABLE = re.compile(r"^\s*\[")


def with_keys(text: str, values: Mapping[str, str]) -> str:
    """Return the text of a file with top-level keys set that it does not hold.

    Each line goes below the one in which the file shows the key commented out, else to the end of the part before the
    first table: below it the key would belong to that table.

    Args:
        text: of the file.
        values: for each key, its value as TOML writes it.
    """
    lines = text.splitlines(keepends=True)
    for key, value in values.items():
        end = next((number for number, line in enumerate(lines) if _TABLE.match(line)), len(lines))
        shown = re.compile(rf"^#\s?{re.escape(key)}\s*=")
        place = next((number + 1 for number, line in enumerate(lines[:end]) if shown.match(line)), None)
        if place is None:
            place = end
            while place > 0 and (not lines[place - 1].strip() or lines[place - 1].startswith("#")) and end < len(lines):
                place -= 1  # what stands right above a table is said of the table
        if place > 0 and not lines[place - 1].endswith("\n"):
            lines[place - 1] += "\n"
        lines.insert(place, f"{key} = {value}\n")
    return "".join(lines)
