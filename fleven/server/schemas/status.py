"""The server's state in one value: SuperLink, fleet, queue, next fire, disk. For `status`, the API and the page.

Reads the register and the file system, decides nothing. Must not import FastAPI or typer.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import func, select

from fleven import __version__
from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store
from fleven.server.database.facts import (
    BACKUP_FACT,
    SERVICE_FACT,
    SUPERLINK_FACT,
    TRUST_FACT,
    backup_failures,
    service_alive,
)
from fleven.server.database.tables import runs
from fleven.server.nodes import drift
from fleven.server.nodes.model import Node, NodeHealth
from fleven.server.nodes.readiness import readiness
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.runs import store as run_store
from fleven.server.runs.model import RunState
from fleven.server.schedules import store as schedule_store
from fleven.server.schemas.nodes import Answer
from fleven.server.schemas.runs import RunAnswer, run_answer
from fleven.server.trust.ends import End, Outlook, ends_of_fact

LOW_FREE_PERCENT = 5.0
LOW_FREE_BYTES = 500_000_000


class ServiceAnswer(Answer):
    """The scheduler and API process."""

    running: bool
    version: str
    pid: int | None
    heartbeat_at: datetime | None


class SuperLinkAnswer(Answer):
    """The SuperLink, as the scheduler sees it."""

    reachable: bool | None
    """None while nobody has looked, or the service that looks is not running."""
    since: datetime | None
    fleet_address: str
    control_address: str
    nodes_online: int
    flower_list_read_at: datetime | None


class FleetAnswer(Answer):
    """Counts of the nodes."""

    nodes: int
    ready: int
    by_health: dict[str, int]
    conditions: dict[str, int]
    """How many nodes have each condition of severity warning or error."""
    drifts: bool = False
    """Whether the champion no longer fits half of the cars that can tell."""


class QueueAnswer(Answer):
    """Counts of the runs, and those that are open."""

    by_state: dict[str, int]
    open: list[RunAnswer]
    last_ended: RunAnswer | None


class NextFireAnswer(Answer):
    """What fires next."""

    schedule: str
    at: datetime


class DiskAnswer(Answer):
    """The file system of the server's state."""

    path: str
    total_bytes: int
    free_bytes: int
    register_bytes: int
    low: bool


class EndAnswer(Answer):
    """Something that the fleet trusts, and its end."""

    name: str
    ends_at: datetime
    outlook: str
    """`fine`, `soon` or `ended`."""
    message: str
    hint: str

    @classmethod
    def of(cls, end: End, now: datetime) -> EndAnswer:
        """Return the answer about one end."""
        return cls(
            name=end.name, ends_at=end.ends, outlook=end.outlook(now).value, message=end.text(now), hint=end.hint
        )


class TrustAnswer(Answer):
    """Who gets in, and what ends when."""

    insecure: bool
    """Strangers may join and report, and transport may be plain."""
    ends: list[EndAnswer]


class StatusAnswer(Answer):
    """The server on one screen."""

    server_time: datetime
    version: str
    flwr_version: str | None
    service: ServiceAnswer
    superlink: SuperLinkAnswer
    fleet: FleetAnswer
    queue: QueueAnswer
    next_fire: NextFireAnswer | None
    schedules: int
    schedules_paused: int
    disk: DiskAnswer
    last_backup_at: datetime | None
    backup_failures: list[str] = Field(default_factory=list)
    """Why the nightly backups failed at their last try."""
    trust: TrustAnswer
    problems: list[str]


def service_answer(store: Store, now: datetime) -> ServiceAnswer:
    """Whether the service runs: by its heartbeat in the register."""
    fact = store.fact(SERVICE_FACT)
    value: dict[str, Any] = fact[0] if fact and isinstance(fact[0], dict) else {}
    at = fact[1] if fact else None
    return ServiceAnswer(
        running=service_alive(store, now), version=str(value.get("version", "")), pid=value.get("pid"), heartbeat_at=at
    )


def disk_answer(paths: Paths) -> DiskAnswer:
    """Space of the state folder's file system."""
    usage = shutil.disk_usage(paths.state)
    size = sum(
        os.stat(file).st_size  # noqa: PTH116  (the names are made from one path by adding a suffix)
        for file in (f"{paths.register}{suffix}" for suffix in ("", "-wal"))
        if os.path.exists(file)  # noqa: PTH110
    )
    low = usage.free < LOW_FREE_BYTES or 100 * usage.free / usage.total < LOW_FREE_PERCENT
    return DiskAnswer(
        path=str(paths.state), total_bytes=usage.total, free_bytes=usage.free, register_bytes=size, low=low
    )


def fleet_answer(nodes: tuple[Node, ...], config: ServerConfig) -> FleetAnswer:
    """Counts of the nodes."""
    whole = readiness(nodes, config)
    outside = (NodeHealth.UNMANAGED, NodeHealth.PENDING, NodeHealth.REVOKED)
    managed = [node for node in nodes if node.health not in outside]
    conditions = Counter(c.code for node in managed for c in node.conditions if c.severity != "info")
    return FleetAnswer(
        nodes=whole.nodes,
        ready=whole.ready,
        by_health={health.value: n for health, n in Counter(node.health for node in nodes).items()},
        conditions=dict(conditions.most_common()),
        drifts=drift.of_fleet(managed).drifts,
    )


def known_ends(store: Store) -> list[End]:
    """Return what ends when, as the service saw it last."""
    fact = store.fact(TRUST_FACT)
    return ends_of_fact(fact[0]) if fact is not None else []


def trust_answer(store: Store, config: ServerConfig, now: datetime) -> TrustAnswer:
    """Who gets in, and what ends when."""
    ends = [EndAnswer.of(end, now) for end in known_ends(store)]
    return TrustAnswer(insecure=config.insecure, ends=ends)


def server_status(
    store: Store, register: NodeRegistry, config: ServerConfig, paths: Paths, now: datetime
) -> StatusAnswer:
    """Read everything once."""
    nodes = register.fleet(now)
    service = service_answer(store, now)
    superlink_fact = store.fact(SUPERLINK_FACT)
    backup = store.fact(BACKUP_FACT)
    with store.read() as connection:
        states = connection.execute(select(runs.c.state, func.count()).group_by(runs.c.state)).all()
        open_runs = run_store.open_runs(connection)
        ended = run_store.newest(connection, 1, ended=True)
        schedules = schedule_store.every(connection)
    firing = [s for s in schedules if not s.paused and s.next_fire_at is not None]
    next_fire = min(firing, key=lambda s: s.next_fire_at or now, default=None)
    reachable = None
    if superlink_fact is not None and service.running:
        reachable = bool(superlink_fact[0].get("reachable"))
    status = StatusAnswer(
        server_time=now,
        version=__version__,
        flwr_version=register.limits.server_flwr_version or None,
        service=service,
        superlink=SuperLinkAnswer(
            reachable=reachable,
            since=superlink_fact[1] if superlink_fact else None,
            fleet_address=config.superlink.fleet_address,
            control_address=config.superlink.control_address,
            nodes_online=register.online_for_flower(),
            flower_list_read_at=register.flower_list_read_at(),
        ),
        fleet=fleet_answer(nodes, config),
        queue=QueueAnswer(
            by_state={RunState(state).value: count for state, count in states},
            open=[run_answer(run, now) for run in open_runs],
            last_ended=run_answer(ended[0], now) if ended else None,
        ),
        next_fire=NextFireAnswer(schedule=next_fire.name, at=next_fire.next_fire_at)
        if next_fire is not None and next_fire.next_fire_at is not None
        else None,
        schedules=len(schedules),
        schedules_paused=sum(schedule.paused for schedule in schedules),
        disk=disk_answer(paths),
        last_backup_at=backup[1] if backup else None,
        backup_failures=backup_failures(store, sealed=bool(config.backup.recipients)),
        trust=trust_answer(store, config, now),
        problems=[],
    )
    return status.model_copy(update={"problems": problems_of(status)})


def problems_of(status: StatusAnswer) -> list[str]:
    """What an operator should look at, most important first. Pure."""
    problems: list[str] = []
    if not status.service.running:
        problems.append("fleven-server.service is not running: systemctl status fleven-server")
    elif status.superlink.reachable is False:
        problems.append("the SuperLink does not answer: systemctl status fleven-superlink")
    problems.extend(f"{end.message}: {end.hint}" for end in status.trust.ends if end.outlook != Outlook.FINE)
    problems.extend(f"{failure}: fleven-server check" for failure in status.backup_failures)
    if status.disk.low:
        problems.append(f"little space left on {status.disk.path}")
    if status.fleet.drifts:
        drifting = status.fleet.conditions.get(drift.CODE, 0)
        problems.append(f"the model in use no longer fits {drifting} cars ({drift.CODE}): fleven-server nodes")
    zombies = status.fleet.by_health.get(NodeHealth.ZOMBIE.value, 0)
    if zombies:
        count = "1 node is" if zombies == 1 else f"{zombies} nodes are"
        problems.append(f"{count} online for Flower, but will not answer: fleven-server nodes")
    return problems
