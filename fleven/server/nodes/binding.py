"""What an enrolment binds, laid over what reports say: a signed batch never names its car or its partition itself.

And what an unsigned batch must not touch: any of an enrolled car's name, partition, Flower ids or numbering. Pure; must
not import SQLAlchemy or a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fleven.server.enrolment.directory import SENDER_PREFIX, Picture
from fleven.server.enrolment.model import EnrolmentError, Identity
from fleven.server.formatting import clean_name
from fleven_agent.protocol.identity import Refusal
from fleven_agent.protocol.report import Report

JOIN_HINT = "let it join: on the server `fleven-server nodes invite {}`, on the car the line that it prints"


def sender_of(car: Identity) -> str:
    """Return the sender under which a car's signed reports are numbered, whatever state folder they come from."""
    return f"{SENDER_PREFIX}{car.car_id}"


def bound(reports: Iterable[Report], car: Identity, found: Picture) -> list[Report]:
    """Return a signed batch with all that its enrolment binds in the place of what it says.

    Args:
        reports: as they came.
        car: who signed them.
        found: all cars: an id that Flower gave to another car's key is not believed.
    """

    def own(node_id: str | None) -> bool:
        holder = found.flower_ids.get(node_id or "")
        return node_id is not None and (holder is None or holder.car_id == car.car_id)

    made = []
    for report in reports:
        said = report.node
        node = said.model_copy(
            update={
                "name": car.name,
                "partition_id": car.partition_id,
                "num_partitions": car.num_partitions or said.num_partitions,
                "node_id": said.node_id if own(said.node_id) else None,
                "previous_node_ids": [one for one in said.previous_node_ids if own(one)],
            }
        )
        made.append(report.model_copy(update={"sender_id": sender_of(car), "node": node}))
    return made


def stranger_refusal(reports: Sequence[Report], found: Picture) -> EnrolmentError | None:
    """Return why an unsigned batch is refused: it would touch an enrolled car. None when it touches none."""
    if not found.book.identities:
        return None
    for report in reports:
        name = clean_name(report.node.name)
        if report.sender_id.startswith(SENDER_PREFIX):
            return _refusal(name, "its sender id is not one of an agent")
        if name in found.names:
            return _refusal(name, f"{name} is an enrolled car")
        if name in found.revoked:
            message = f"{name} was revoked"
            hint = f"on the server: `fleven-server nodes invite {name}` lets it in again"
            return EnrolmentError(Refusal.IDENTITY_REVOKED, message, hint=hint)
        holder = found.partitions.get(report.node.partition_id)
        if holder is not None:
            return _refusal(name, f"partition-id {report.node.partition_id} belongs to {holder.name}, an enrolled car")
        for node_id in (report.node.node_id, *report.node.previous_node_ids):
            owner = found.flower_ids.get(node_id or "")
            if owner is not None:
                return _refusal(name, f"Flower's node {node_id} is that of {owner.name}, an enrolled car")
    return None


def _refusal(name: str, why: str) -> EnrolmentError:
    message = f"{why}: reports that touch it need its identity"
    return EnrolmentError(Refusal.IDENTITY_REQUIRED, message, hint=JOIN_HINT.format(name))
