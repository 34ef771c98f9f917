"""GET /v1/attention: a car asks how closely it is followed; the request stays open until the answer changes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from fleven.server.api.reports import ERRORS, Gate
from fleven.server.http.rate_limit import limit
from fleven.server.nodes.binding import sender_of
from fleven_agent.protocol.codes import ATTENTION_PATH, LONGEST_ATTENTION_SECONDS, Attention
from fleven_agent.protocol.report import AttentionAnswer

if TYPE_CHECKING:
    from fleven.server.http.context import ApiContext


def attention_routes(context: ApiContext) -> APIRouter:
    """The route that keeps questions open."""
    router = APIRouter()
    gate = Gate(context)

    @router.get(
        ATTENTION_PATH,
        summary="Wait until the server follows a car more or less closely",
        response_model=AttentionAnswer,
        responses={status: ERRORS[status] for status in (401, 429)},
        tags=["agents"],
    )
    async def get_attention(
        request: Request,
        sender: Annotated[str, Query(max_length=255)],
        known: Annotated[str, Query(max_length=32)] = "",
        seconds: Annotated[float, Query(ge=0, le=3_600)] = LONGEST_ATTENTION_SECONDS,
    ) -> Response:
        """Answer as soon as the attention of this car is not `known`, and after `seconds` at the latest.

        `calm`: nothing is under way or due within ten minutes. `watched`: a run is due soon, or somebody looks at the
        car. `run`: a run is under way, or about to be submitted.
        """
        _signed, car = gate.enter(request)
        sender_id = sender if car is None else sender_of(car)
        limit(context.by_sender.wait_seconds(sender_id), "this node")
        name = await asyncio.to_thread(context.register.name_of_sender, sender_id) or ""
        question = asyncio.create_task(context.attention.wait(name, known, min(seconds, LONGEST_ATTENTION_SECONDS)))
        gone = asyncio.create_task(disconnected(request))
        await asyncio.wait({question, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (question, gone):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        wanted = context.attention.wanted
        answer = AttentionAnswer(attention=Attention(wanted.of(name)), pull_floor_seconds=wanted.pull_floor_seconds)
        return Response(answer.model_dump_json(), media_type="application/json")

    return router


async def disconnected(request: Request) -> None:
    """Return when the client has gone away: nobody waits for the answer any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
