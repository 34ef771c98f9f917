"""Cars whose changes of the weights were unlike the others' in their newest run: what the register remembers of it.

The app scores them; here it becomes a condition of the car, until a run in which it takes part finds nothing. Pure but
for `remember` and `remembered`. Must not import the scheduler or FastAPI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from fleven.server.database import Store
from fleven.server.database.tables import facts
from fleven.server.nodes.model import Condition, Node, Severity

CODE = "update-suspicious"
HINT = "look at its data and at who has it; `schedule edit --no-suspicious` keeps such cars out of a schedule's runs"
FACT = "suspicious-updates"
MOST = 5_000
"""Cars that are remembered, the newest."""
REASON_CHARACTERS = 300


def after_run(
    known: Mapping[str, Any], run_id: int, result: Mapping[str, Any], now: datetime
) -> dict[str, dict[str, Any]]:
    """Return what is remembered after a run, by Flower's node id.

    known: what was before. result: of the run, as its ServerApp wrote it.
    """
    found = dict(known)
    warnings = [row for row in result.get("warnings") or [] if isinstance(row, Mapping) and row.get("code") == CODE]
    reasons = {str(row.get("node_id")): str(row.get("reason") or "")[:REASON_CHARACTERS] for row in warnings}
    for car in result.get("cars") or []:
        if not isinstance(car, Mapping) or not car.get("rounds_contributed"):
            continue
        node_id = str(car.get("node_id"))
        found.pop(node_id, None)
        if car.get("update_suspicious") is True:
            found[node_id] = {"run": run_id, "since": now.timestamp(), "reason": reasons.get(node_id, "")}
    return dict(list(found.items())[-MOST:])


def marked(nodes: Sequence[Node], known: Mapping[str, Any]) -> tuple[Node, ...]:
    """Return the nodes, those that are remembered with the condition."""
    return tuple(_with_condition(node, known.get(node.flower_node_id or "")) for node in nodes)


def _with_condition(node: Node, entry: Any) -> Node:
    if not isinstance(entry, Mapping):
        return node
    since = datetime.fromtimestamp(float(entry["since"]), UTC)
    message = f"in run {entry['run']} {entry['reason'] or 'its updates were unlike the others'}"
    condition = Condition(CODE, Severity.WARNING, message, HINT, since)
    return replace(node, conditions=(*node.conditions, condition))


def is_suspicious(node: Node) -> bool:
    """Return whether the node has the condition."""
    return any(condition.code == CODE for condition in node.conditions)


def remember(store: Store, run_id: int, result: Mapping[str, Any], now: datetime) -> None:
    """Write down what a run found."""
    fact = store.fact(FACT)
    known = fact[0] if fact is not None else {}
    found = after_run(known, run_id, result, now)
    if found != known:
        store.set_fact(FACT, found, now)


def remembered(connection: Connection) -> Mapping[str, Any]:
    """Return what is remembered, by Flower's node id."""
    return connection.execute(select(facts.c.value).where(facts.c.key == FACT)).scalar() or {}
