"""What a row of the fault matrix is, and what several rows need. Imports nothing of fleven."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .fleet import POLL_SECONDS, Fleet
from .machine import Machine
from .shell import wait_for

Action = Callable[[Fleet], None]


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        name: what happens, for the table.
        inject: makes it happen, and ends it where it does not end by itself.
        by_hand: what a person does in it, because it is a person's mistake or visit; empty for all other rows.
        simulated: what is not the real thing; empty when everything is.
        holds: what `inject` demands besides a run that succeeds and nodes that are ready again.
        forgets_run: the server knows nothing of the run afterwards; the next one has to succeed in its place.
        idle: no run is under way; the next one has to succeed.
        before: makes the fleet ready for it, before the run is submitted.
        after: puts the fleet back when everything has been measured.
        lasts: it does not end by itself: its recovery counts from its beginning.
        small_disks: the states of the first node and of the server are on disks small enough to fill.
    """

    name: str
    inject: Action
    by_hand: str = ""
    simulated: str = ""
    holds: str = ""
    forgets_run: bool = False
    idle: bool = False
    before: Action | None = None
    after: Action | None = None
    lasts: bool = False
    small_disks: bool = False


def first_node(fleet: Fleet) -> Machine:
    return fleet.nodes[0]


def the_server(fleet: Fleet) -> Machine:
    return fleet.server


def lasting(seconds: float) -> None:
    """Let a fault last: its length, not a wait for anything."""
    time.sleep(seconds)


def node_answer(fleet: Fleet, name: str) -> dict[str, Any]:
    """What the server says of a node; empty while it says nothing."""
    return next((node for node in fleet.get("nodes").get("nodes", []) if node["name"] == name), {})


def wait_node_says(fleet: Fleet, name: str, code: str, seconds: float) -> None:
    """Wait until the server shows a condition of a node."""

    def said() -> bool:
        return any(condition["code"] == code for condition in node_answer(fleet, name).get("conditions", []))

    wait_for(f"the server shows {code} of {name}", said, seconds, POLL_SECONDS)


def wait_not_ready(fleet: Fleet, name: str, seconds: float) -> str:
    """Wait until the server does not count on a node; returns the reason that it gives."""

    def reason() -> str | None:
        answer = node_answer(fleet, name)
        return f"{answer['reason']}" if answer and not answer["ready"] and answer["health"] != "busy" else None

    return wait_for(f"the server says that {name} is not ready, and why", reason, seconds, POLL_SECONDS)


def agent_says(node: Machine, text: str, seconds: float) -> None:
    """Wait until a condition of the agent, or its hint, holds a text."""

    def said() -> bool:
        answer = node.try_run("fleven-agent", "status", "--json")
        if answer.exit_code:
            return False
        return any(text in f"{one['message']} {one['hint']}" for one in json.loads(answer.output)["conditions"])

    wait_for(f"the agent says {text!r}", said, seconds, POLL_SECONDS)


def configured(superlink: str = "", *lines: str) -> Action:
    """Give every node the same address of the SuperLink, and the first one more lines; restart those that changed."""

    def change(fleet: Fleet) -> None:
        for partition, node in enumerate(fleet.nodes):
            before = node.run("cat", "/etc/fleven/node.toml")
            fleet.configure(node, partition, *(() if partition else lines), superlink=superlink)
            if node.run("cat", "/etc/fleven/node.toml") != before:
                node.run("systemctl", "restart", "fleven-agent")
        fleet.wait_ready()

    return change
