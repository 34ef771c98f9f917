"""GET /v1/model/{sha256}: an enrolled car fetches the model that it was told of, whole or in parts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import FileResponse, Response

from fleven.server.api.reports import ERRORS, Gate
from fleven.server.enrolment.model import EnrolmentError
from fleven.server.errors import NotFoundError
from fleven.server.http.rate_limit import limit
from fleven.server.nodes.binding import sender_of
from fleven_agent.protocol.codes import MODEL_PATH
from fleven_agent.protocol.identity import IdentityStatus, Refusal

if TYPE_CHECKING:
    from fleven.server.http.context import ApiContext


def model_routes(context: ApiContext) -> APIRouter:
    """The route by which models reach cars."""
    router = APIRouter()
    gate = Gate(context)

    @router.get(
        MODEL_PATH + "/{sha256}",
        summary="Fetch a model that is, or was last, in use",
        response_class=FileResponse,
        responses={status: ERRORS[status] for status in (401, 403, 429)},
        tags=["agents"],
    )
    async def get_model(
        request: Request, sha256: Annotated[str, Path(min_length=64, max_length=64, pattern="^[0-9a-f]{64}$")]
    ) -> Response:
        """Send the file whose SHA-256 the answer to a report named; `Range` asks for a part of it.

        Only enrolled cars get models, also from a server in the open mode. What has this name never changes: its ETag
        is the name.
        """
        _signed, car = gate.enter(request)
        if car is None or car.status is not IdentityStatus.ACCEPTED:
            raise EnrolmentError(Refusal.IDENTITY_REQUIRED, "models are for enrolled cars", hint="let the car join")
        limit(context.by_sender.wait_seconds(sender_of(car)), "this node")
        found = await asyncio.to_thread(context.offers.file, sha256)
        if found is None:
            hint = "the next report's answer names the one that is in use now"
            raise NotFoundError("no model in use has this SHA-256", hint=hint, code="model-unknown")
        tag = f'"{sha256}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-transform"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return FileResponse(found.path, media_type="application/octet-stream", headers=headers)

    return router
