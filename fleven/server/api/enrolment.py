"""How a car comes in: who signs this server, `POST /v1/enrol`, `POST /v1/rotate`. Cheap checks first, as for reports.

`enrolment.decisions` and `enrolment.rotation` decide; nothing here tells a waiting car about the fleet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from fleven import __version__
from fleven.server.enrolment.directory import signature
from fleven.server.errors import NotFoundError
from fleven.server.http.rate_limit import limit
from fleven.server.http.request_body import RequestError, read_body
from fleven.server.schemas.nodes import ErrorAnswer
from fleven_agent.protocol.enrolment import (
    MAXIMUM_REQUEST_BYTES,
    EnrolAnswer,
    EnrolRequest,
    RotateRequest,
    TrustAnswer,
)
from fleven_agent.protocol.identity import ENROL_PATH, ROTATE_PATH, TRUST_PATH

if TYPE_CHECKING:
    from fleven.server.http.context import ApiContext

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The body is damaged or incomplete.",
        401: "The identity is missing or wrong.",
        403: "It is refused; the code says why.",
        408: "The body came too slowly.",
        409: "The name or the partition-id belongs to another car.",
        413: "The body is too large.",
        415: "The body is compressed with something other than gzip.",
        422: "The body is not a request of this kind.",
        429: "Too many requests, or too many cars that wait; Retry-After says when to try again.",
        503: "The register cannot be written at the moment; Retry-After says when to try again.",
    }.items()
}
NO_AUTHORITY: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "It has no authority."}}
REQUESTS = (EnrolRequest, RotateRequest)
Asked = TypeVar("Asked", bound=BaseModel)


def request_schemas() -> dict[str, Any]:
    """The OpenAPI components of the request bodies, which the routes read by themselves."""
    found: dict[str, Any] = {}
    for model in REQUESTS:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= {**schema.pop("$defs", {}), model.__name__: schema}
    return found


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body of this kind."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    return {"requestBody": {"required": True, "content": content}}


def enrolment_routes(context: ApiContext) -> APIRouter:
    """All routes of joining."""
    router = APIRouter(responses=ERRORS, tags=["agents"])
    registrar = context.registrar

    def peer(request: Request) -> str:
        address = request.client.host if request.client else ""
        limit(context.by_address.wait_seconds(address), "this address")
        return address

    async def read(request: Request, model: type[Asked]) -> Asked:
        body = await read_body(
            request, limit_bytes=MAXIMUM_REQUEST_BYTES, unpacked_limit_bytes=2 * MAXIMUM_REQUEST_BYTES
        )
        return parse(body, model)

    @router.get(TRUST_PATH, summary="Who signs this server's certificate", responses=NO_AUTHORITY)
    async def get_trust(request: Request) -> TrustAnswer:
        """Everybody may ask: a car that was not invited pins what it hears first, and shows its fingerprint."""
        peer(request)
        bundle = registrar.authorities.read().bundle
        if not bundle:
            hint = "on the server: `fleven-server trust status`"
            raise NotFoundError("this server has no authority of its own", hint=hint, code="authority-missing")
        return TrustAnswer(ca_certificates=bundle, server_time=context.now(), server_version=__version__)

    @router.post(
        ENROL_PATH, summary="Ask to join the fleet", response_model=EnrolAnswer, openapi_extra=body_of(EnrolRequest)
    )
    async def post_enrol(request: Request) -> Response:
        """Join by an invitation, or wait until an operator accepts; the same request again asks how it stands."""
        address = peer(request)
        limit(context.by_joining.wait_seconds(address), "this address")
        wanted = await read(request, EnrolRequest)
        # An address in brackets is one of IPv6.
        host = (request.url.hostname or "")[:255]
        answer = await asyncio.to_thread(registrar.enrol, wanted, address, host, context.now())
        return Response(answer.model_dump_json(), media_type="application/json")

    @router.post(
        ROTATE_PATH, summary="Bring a new key", response_model=EnrolAnswer, openapi_extra=body_of(RotateRequest)
    )
    async def post_rotate(request: Request) -> Response:
        """Sent with the present secret; the new key takes over with the first report that its own secret signs."""
        peer(request)
        signed, _ = signature(context.register.directory.now(), request.headers.get("authorization", ""))
        limit(context.by_joining.wait_seconds(signed.car_id), "this car")
        wanted = await read(request, RotateRequest)
        answer = await asyncio.to_thread(registrar.rotate, signed, wanted, context.now())
        return Response(answer.model_dump_json(), media_type="application/json")

    return router


def parse(body: bytes, model: type[Asked]) -> Asked:
    """The request of a body.

    Raises RequestError 422 naming up to 20 problems.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        refused = RequestError(422, "request-invalid", "the body is not a request of this kind")
        refused.problems = tuple(
            f"{'.'.join(str(part) for part in p['loc'])}: {p['msg']}"
            for p in error.errors(include_url=False, include_context=False, include_input=False)[:20]
        )
        raise refused from error
