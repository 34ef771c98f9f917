"""Whom a run asks, read from the register when it is submitted.

Which of the cars it is, `selection` decides. Must not import the scheduler or Flower's command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import func, select

from fleven.server.config.settings import ServerConfig
from fleven.server.database.tables import node_tasks, nodes
from fleven.server.enrolment.model import Book, KeyRole
from fleven.server.nodes.readiness import counted_nodes
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.runs.lifecycle import SubmissionFailedError, SubmissionRefusedError
from fleven.server.runs.model import Run
from fleven.server.runs.selection import Effort, run_cars
from fleven.server.schedules.spec import Prefer
from fleven_agent.protocol.identity import IdentityStatus

LOOKS_BACK = timedelta(days=7)
"""Over which the tasks of a car are counted."""
LONGEST_TEXT = 120_000
"""Of one argument of a command: Linux takes 131,072 bytes (execve(2), MAX_ARG_STRLEN)."""


class RunCars:
    """Chooses the cars of a run.

    Args:
        register: the fleet.
        config: server.toml.
        clock: the current time in UTC.
    """

    def __init__(self, register: NodeRegistry, config: ServerConfig, clock: Callable[[], datetime]) -> None:
        self._register = register
        self._config = config
        self._clock = clock

    def __call__(self, run: Run) -> str:
        """Return the value of `cars` for a run; "" asks all nodes that are connected.

        A server in the open mode cannot tell its cars apart: there all of them are asked.

        Raises:
            SubmissionFailedError: no car is left to ask.
            SubmissionRefusedError: there are too many for one command.
        """
        if self._config.insecure:
            return ""
        now = self._clock()
        fleet = counted_nodes(self._register.fleet(now), self._config)
        conditions = run.spec.conditions
        efforts = self._efforts(now) if conditions.max_nodes and conditions.prefer in BY_EFFORT else {}
        with self._register.store.read() as connection:
            enrolled = flower_ids(self._register.directory.within(connection).book)
        cars = run_cars(conditions, fleet, enrolled, f"run-{run.id}", efforts)
        if not cars:
            # An empty value would ask everybody.
            hint = "fleven-server nodes shows who is enrolled"
            raise SubmissionFailedError("no enrolled car fits the schedule's nodes and labels", hint=hint)
        if len(cars) > LONGEST_TEXT:
            hint = "choose fewer by labels, nodes or max-nodes"
            raise SubmissionRefusedError("the run asks more cars than one command can name", hint=hint)
        return cars

    def _efforts(self, now: datetime) -> Mapping[str, Effort]:
        with self._register.store.read() as connection:
            rows = connection.execute(
                select(nodes.c.name, func.count(node_tasks.c.node_id))
                .join(node_tasks, node_tasks.c.node_id == nodes.c.id)
                .where(node_tasks.c.reported_at >= now - LOOKS_BACK)
                .group_by(nodes.c.name)
            )
            tasks = {row[0]: int(row[1]) for row in rows}
            temperature = func.json_extract(nodes.c.report, "$.resources.temperature_celsius")
            found = connection.execute(select(nodes.c.name, temperature)).all()
        return {row[0]: Effort(tasks.get(row[0], 0), row[1]) for row in found}


BY_EFFORT = frozenset({Prefer.FEWEST_TASKS, Prefer.COOLEST})


def flower_ids(book: Book) -> dict[str, tuple[str, int]]:
    """Return Flower's id and the partition of each accepted car that Flower knows, by name."""
    found = {}
    for car in book.identities.values():
        if car.status is not IdentityStatus.ACCEPTED or car.partition_id is None:
            continue
        # A car that has brought a new key works with it in a moment, and from then on no more with the one before.
        following = car.key(KeyRole.NEXT)
        known = following is not None and following.flower_node_id is not None and not following.spent
        key = following if following is not None and known else car.current
        if key.flower_node_id is not None and not key.spent:
            found[car.name] = (key.flower_node_id, car.partition_id)
    return found
