"""POST /v1/reports: the one way in. Cheap checks first, so that refusing costs next to nothing."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from fleven import __version__
from fleven.server.enrolment.directory import Signature, looks_signed, signature, standing
from fleven.server.enrolment.model import Identity, Key
from fleven.server.enrolment.rotation import asks_for_key
from fleven.server.http.connection_guard import CONNECTION
from fleven.server.http.rate_limit import limit
from fleven.server.http.request_body import INLINE_BYTES, RequestError, read_body
from fleven.server.nodes.binding import bound, sender_of, stranger_refusal
from fleven.server.nodes.ingest import Arrival
from fleven.server.nodes.newest_reports import NOTHING, OtherReportError, Told
from fleven.server.nodes.receipts import Receipt
from fleven.server.schemas.nodes import ErrorAnswer
from fleven_agent.protocol.identity import AUTHORITIES_HEADER, authorities_text
from fleven_agent.protocol.report import REPORTS_PATH, IdentityAnswer, ModelOffer, Problem, ReportAnswer, ReportBatch

if TYPE_CHECKING:
    from datetime import datetime

    from fleven.server.http.context import ApiContext


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The body is damaged or incomplete.",
        401: "The token or the identity is missing or wrong.",
        403: "The car may not take part: it waits, was rejected or revoked, or is held.",
        408: "The body came too slowly.",
        413: "The body is too large, compressed or not.",
        415: "The body is compressed with something other than gzip.",
        422: "The body is not a batch of reports.",
        429: "Too many requests; Retry-After says when to try again.",
        503: "The register cannot be written at the moment; Retry-After says when to try again.",
    }.items()
}
BODY = {
    "description": "A batch of reports as JSON, preferably gzip-compressed (Content-Encoding: gzip).",
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ReportBatch"}}},
}
NEEDED_HINT = "set report-token in node.toml to the value of web.report-token in the server's server.toml"


def batch_schemas() -> dict[str, Any]:
    """The OpenAPI components of the request body, which the route reads by itself."""
    schema = ReportBatch.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "ReportBatch": schema}


class Gate:
    """Who may come in: by which every request of an agent is judged before anything else is looked at."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        token = context.config.web.report_token
        self._token = token.get_secret_value() if token else None

    def enter(self, request: Request) -> tuple[Signature | None, Identity | None]:
        """Return who has signed a request; nobody where the server is open.

        Raises:
            RequestError: too many requests from this address, or the report token is missing or wrong.
            EnrolmentError: the identity is missing, unknown, or may not take part.
        """
        connection = request.scope.get(CONNECTION)
        if connection is None or connection.identity is None:
            limit(self._context.by_address.wait_seconds(request.client.host if request.client else ""), "this address")
        authorization = request.headers.get("authorization", "")
        if looks_signed(authorization) or not self._context.config.insecure:
            signed, car = signature(self._context.register.directory.now(), authorization)
            if connection is not None and not connection.prove(car.car_id):
                raise RequestError(429, "rate-limited", "this node has too many connections", retry_seconds=10.0)
            return signed, car
        scheme, _, given = authorization.partition(" ")
        if self._token is not None and (
            scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode())
        ):
            raise RequestError(401, "token-invalid", "the report token is missing or wrong", hint=NEEDED_HINT)
        return None, None


def report_routes(context: ApiContext) -> APIRouter:
    """The route that accepts reports."""
    router = APIRouter()
    web = context.config.web
    gate = Gate(context)

    @router.post(
        REPORTS_PATH,
        summary="Accept a batch of reports",
        response_model=ReportAnswer,
        responses=ERRORS,
        openapi_extra={"requestBody": BODY},
        tags=["agents"],
    )
    async def post_reports(request: Request) -> Response:
        """Store reports; each (sender_id, sequence) once, however often and in whatever order it comes.

        The answer acknowledges, for each sender, the highest number of this batch: it is on the disk.
        """
        directory = context.register.directory
        signed, car = gate.enter(request)
        body = await read_body(
            request,
            limit_bytes=web.maximum_report_bytes,
            unpacked_limit_bytes=web.maximum_unpacked_report_bytes,
        )
        signer = "" if car is None else sender_of(car)
        said = await parse(body)
        before = context.newest.told(signer) if said.change is not None else None
        batch = whole(context, said, signer)
        if batch is None:
            return sent(ReportAnswer(wants_whole_report=True, server_time=context.now(), **attention(context, [])))
        senders = {report.sender_id for report in batch.reports} if car is None else {sender_of(car)}
        for sender_id in senders:
            limit(context.by_sender.wait_seconds(sender_id), "this node")
            share_bytes = len(body) / len(senders)
            limit(context.bytes_by_sender.wait_seconds(sender_id, share_bytes), "this node", "too much in its reports")
        now = context.now()
        cars = directory.now()
        if car is None and (refusal := stranger_refusal(batch.reports, cars)) is not None:
            raise refusal
        reports = batch.reports if car is None else bound(batch.reports, car, cars)
        receipt = await context.writer.store(Arrival(reports, now, signed), len(body)) if reports else Receipt()
        if receipt.refused is not None:
            directory.outdated()
            raise receipt.refused
        given, told = answer(receipt, now, context), NOTHING
        if signed is not None and car is not None:
            _, key = standing(cars, signed)
            trusts = request.headers.get(AUTHORITIES_HEADER, before.authorities if before is not None else "")
            update = identity_part(context, key, car, trusts, batch, receipt)
            told = Told(trusts, update["identity"])
            if before is not None and told == before and not asks_for_something(update["identity"]):
                update["identity"] = None
            given = given.model_copy(update=update | {"model": await offer(context, batch)})
        for report in batch.reports:
            if given.acknowledged.get(report.sender_id) == report.sequence:
                context.newest.keep(signer, report, told)
        return sent(given)

    return router


def sent(answer: ReportAnswer) -> Response:
    """The answer as it is sent: what says nothing is left out."""
    empty = {name for name in ("problems", "flower_offline", "wants_whole_report") if not getattr(answer, name)}
    return Response(answer.model_dump_json(exclude_none=True, exclude=empty), media_type="application/json")


def whole(context: ApiContext, batch: ReportBatch, signer: str) -> ReportBatch | None:
    """The batch with its change put into the report that it changes; None when that one is not known here.

    Raises RequestError 422 when the change makes no report of it.
    """
    if batch.change is None:
        return batch
    try:
        report = context.newest.whole(signer, batch.change)
    except ValidationError as error:
        raise invalid(error) from error
    except OtherReportError as error:
        raise RequestError(422, "report-invalid", f"the change cannot be applied: {error}") from error
    return None if report is None else ReportBatch(reports=[report])


def attention(context: ApiContext, names: list[str]) -> dict[str, Any]:
    """What an answer says of how closely the cars of these names are followed."""
    wanted = context.attention.wanted
    level = wanted.of(names[-1]) if names else wanted.fleet
    return {"attention": level.value, "pull_floor_seconds": wanted.pull_floor_seconds}


def asks_for_something(identity: IdentityAnswer) -> bool:
    """Whether a car has to do something about its identity: then it is told each time."""
    return identity.rotate or identity.report_again or identity.ca_certificates is not None


def identity_part(
    context: ApiContext, key: Key, car: Identity, trusts: str, batch: ReportBatch, receipt: Receipt
) -> dict[str, Any]:
    """What only an enrolled car is told: how its identity stands, and its numbers under the sender ids that it uses.

    ``trusts``: fingerprints of the certificates that it trusts, as it says itself.
    """
    acknowledged = receipt.acknowledged.get(sender_of(car))
    senders = {report.sender_id for report in batch.reports}
    trusted = context.registrar.authorities.read()
    news = bool(trusted.bundle) and trusts != authorities_text(list(trusted.fingerprints))
    answer = IdentityAnswer(
        status=car.status.value,
        car_id=car.car_id,
        name=car.name,
        partition_id=car.partition_id or 0,
        num_partitions=car.num_partitions,
        node_id=None if key.spent else key.flower_node_id,
        superlink_transport=context.registrar.transport,
        rotate=asks_for_key(car, run_under_way=context.attention.wanted.under_way),
        report_again=receipt.report_again,
        ca_certificates=trusted.bundle if news else None,
    )
    numbers = {} if acknowledged is None else dict.fromkeys(senders, acknowledged)
    return {"identity": answer, "acknowledged": numbers}


async def offer(context: ApiContext, batch: ReportBatch) -> ModelOffer | None:
    """The model that an enrolled car should have; None when it has it, wants none, or there is none."""
    said = batch.reports[-1].model if batch.reports else None
    if said is None:
        return None
    found = await asyncio.to_thread(context.offers.champion, said.experiment)
    if found is None or (said.current is not None and said.current.sha256 == found.sha256):
        return None
    return ModelOffer(name=found.name, sha256=found.sha256, bytes=found.size_bytes)


async def parse(body: bytes) -> ReportBatch:
    """The batch of a body.

    Raises RequestError 422 naming up to 20 problems.
    """
    try:
        if len(body) <= INLINE_BYTES:
            return ReportBatch.model_validate_json(body)
        return await asyncio.to_thread(ReportBatch.model_validate_json, body)
    except ValidationError as error:
        raise invalid(error) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(422, "report-invalid", f"the body cannot be read: {error}") from error


def invalid(error: ValidationError) -> RequestError:
    """The refusal of what is no batch of reports, naming up to 20 problems."""
    refused = RequestError(422, "report-invalid", "the body is not a batch of reports")
    refused.problems = tuple(
        f"{'.'.join(str(part) for part in p['loc'])}: {p['msg']}"
        for p in error.errors(include_url=False, include_context=False, include_input=False)[:20]
    )
    return refused


def answer(receipt: Receipt, now: datetime, context: ApiContext) -> ReportAnswer:
    """What the node is told."""
    return ReportAnswer(
        acknowledged=receipt.acknowledged,
        server_time=now,
        server_version=__version__,
        flwr_version=context.register.limits.server_flwr_version or None,
        drain=receipt.drain,
        problems=[Problem(code=p.code, message=p.message, hint=p.hint) for p in receipt.problems[:20]],
        flower_offline=receipt.flower_offline,
        **attention(context, receipt.node_names),
    )
