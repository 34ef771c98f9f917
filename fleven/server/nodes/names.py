"""Cars by name where Flower or an app speaks of them by Flower's node id: nobody knows a car by twenty digits.

Must not import FastAPI, typer or a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select

from fleven.server.database.tables import nodes

NODE_ID = re.compile(r"(?:\bnode(?:[ _-]?id)?[ =:]+)?(?<![\w.])(\d{1,20})(?![\w.]\d|\w)", re.IGNORECASE)
"""A 64-bit number in decimal, with the word before it that a name makes superfluous."""
SHORTEST_ID = 6
"""Shorter numbers are counts and times: Flower draws its ids from 64 bits."""
TEXTS = ("reason", "error_reason", "message")


def car_names(connection: Connection) -> dict[str, str]:
    """Return each Flower node id that a car has or had, with the car's name; the present holder goes first."""
    statement = select(nodes.c.name, nodes.c.flower_node_id, nodes.c.previous_node_ids)
    found = connection.execute(statement).all()
    earlier = {str(node_id): row.name for row in found for node_id in row.previous_node_ids or ()}
    return earlier | {row.flower_node_id: row.name for row in found if row.flower_node_id}


def with_names(text: str, names: Mapping[str, str]) -> str:
    """Return a text with the name of each car in the place of its node id; unknown numbers stay."""
    if not names:
        return text

    def name_of(match: re.Match[str]) -> str:
        number = match[1]
        return names.get(number, match[0]) if len(number) >= SHORTEST_ID else match[0]

    return NODE_ID.sub(name_of, text)


def named_rows(rows: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return rows of an app's files with `node_name` from the register where it is missing, and names in texts."""
    made = []
    for row in rows:
        new = dict(row)
        if new.get("node_id") is not None and not new.get("node_name"):
            new["node_name"] = names.get(str(new["node_id"]))
        for key in TEXTS:
            if isinstance(new.get(key), str):
                new[key] = with_names(new[key], names)
        made.append(new)
    return made
