"""`fleven-server trust status`: who gets in, car by car, and what is left to do before the open mode can be ended.

The answer is made of plain values; `trust_status` reads the register. Must not import FastAPI or typer.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from fleven.server.nodes.model import Node, NodeHealth
from fleven.server.schemas.nodes import Answer
from fleven.server.schemas.status import EndAnswer
from fleven_agent.protocol.identity import IdentityStatus


class Stage(StrEnum):
    """How far a car has come from the open mode to TLS with an identity of its own."""

    OPEN = "open"  # believed without proof
    ENROLLED = "enrolled"  # it has an identity; its SuperNode still goes without TLS, since the server is open
    TLS = "tls"


class CarTrustAnswer(Answer):
    """One car."""

    name: str
    stage: Stage
    health: str
    last_seen_at: datetime | None


class WaitingAnswer(Answer):
    """A car that an operator has to decide about."""

    name: str
    status: IdentityStatus


class TrustStatusAnswer(Answer):
    """Who gets in, and what ends when."""

    insecure: bool
    insecure_files: list[str]
    """Files that say so; the last one decides."""
    fingerprint: str | None
    """SHA-256 of the authority's certificate; None before the server's first start."""
    names: list[str]
    """Names and addresses that the server's certificate holds for."""
    given_names: list[str]
    ends: list[EndAnswer]
    cars: list[CarTrustAnswer]
    waiting: list[WaitingAnswer]


def car_trust(nodes: Iterable[Node], *, insecure: bool) -> list[CarTrustAnswer]:
    """Return each car's stage, those that are furthest behind first. Pure."""
    enrolled = Stage.ENROLLED if insecure else Stage.TLS
    cars = [
        CarTrustAnswer(
            name=node.name,
            stage=enrolled if node.enrolled else Stage.OPEN,
            health=node.health.value,
            last_seen_at=node.last_seen_at,
        )
        for node in nodes
    ]
    order = list(Stage)
    return sorted(cars, key=lambda car: (order.index(car.stage), car.name))


def shut_out(cars: Iterable[CarTrustAnswer]) -> list[str]:
    """Return the cars that take part now and would not any more, if the open mode were ended. Pure."""
    away = {NodeHealth.OFFLINE.value}
    return [car.name for car in cars if car.stage is Stage.OPEN and car.health not in away]


def next_step(status: TrustStatusAnswer) -> str:
    """Return what the operator does next, or "". Pure."""
    if status.waiting:
        return f"decide about {status.waiting[0].name}: fleven-server nodes accept {status.waiting[0].name}"
    if not status.insecure:
        return ""
    still_open = shut_out(status.cars)
    if still_open:
        return f"let {still_open[0]} join: fleven-server nodes invite {still_open[0]}"
    return "end the open mode: sudo fleven-server trust enforce"
