"""Who runs, who waits, why and for how long; and how projects and their users stand."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import CurrentUser, SessionDep
from api.problems import problem_responses
from api.queue_schemas import StandingPage
from api.queue_shapes import to_running, to_standing, to_waiting
from api.schemas import QueueOut
from api.shapes import to_cluster
from service import experiments, queue
from service.queue import overview, standing

router = APIRouter(tags=["queue"])
MOST_QUEUED = 1000


@router.get("/queue", summary="Show the queue and the cluster", responses=problem_responses(401, 422))
async def show_queue(
    user: CurrentUser,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=MOST_QUEUED, description="So many of those who wait.")] = MOST_QUEUED,
    offset: Annotated[int, Query(ge=0, lt=10**6, description="So many of those who wait are left out first.")] = 0,
) -> QueueOut:
    """The experiments of the caller's projects; positions and taken resources count those of all projects.

    Taken resources are those of our own ledger: also those of ended runs that Ray has not yet let go.
    """
    state = await queue.cluster_state(session)
    taken = await queue.taken(session)
    live = await experiments.list_live(session, visible=user.visible)
    queued = await experiments.list_queued(session, visible=user.visible, limit=limit, offset=offset)
    running = await overview.running_facts(session, [view.experiment.id for view in live])
    waiting = await overview.waiting_facts(session, [view.experiment.id for view in queued])
    return QueueOut(
        cluster=to_cluster(state, taken) if state else None,
        decided_at=waiting.decided_at,
        running=[to_running(view, running.get(view.experiment.id)) for view in live],
        queued=[to_waiting(view, waiting.facts[view.experiment.id]) for view in queued],
        num_queued=await overview.num_waiting(session, user.visible),
    )


@router.get("/queue/standings", summary="Show use, shares and quotas", responses=problem_responses(401))
async def show_standings(user: CurrentUser, session: SessionDep) -> StandingPage:
    """Of your projects and their users: what they hold, have used, are meant to get, and may have at most."""
    return StandingPage(items=[to_standing(row) for row in await standing.standings(session, user.visible)])
