"""The live stream of one experiment, as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.access import ReadableExperiment
from api.deps import LiveUpdatesDep, SharedLooksDep
from api.live_stream import Position, follow
from api.problems import problem_responses

router = APIRouter(prefix="/experiments/{experiment_id}/stream", tags=["stream"])


@router.get(
    "",
    summary="Follow an experiment live",
    response_class=EventSourceResponse,
    responses=problem_responses(401, 404),
)
async def stream_experiment(
    experiment_id: ReadableExperiment,
    looks: SharedLooksDep,
    live_updates: LiveUpdatesDep,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
    start: Annotated[
        str | None,
        Query(alias="last_event_id", max_length=100, description="As the header, for a page's first connection."),
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Messages `event`, `metrics`, `progress`, `logs` and, when the experiment is over and all was sent, `end`.

    Without `Last-Event-ID` it begins with everything so far. The server closes after ten minutes; reconnect with the
    last id and nothing is lost or sent twice.
    """
    position = Position.parse(last_event_id or start or "")
    async for message in follow(looks, live_updates, experiment_id, position):
        yield message
