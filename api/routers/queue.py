"""Who runs, who waits, and why."""

from fastapi import APIRouter

from api.deps import CurrentUser, SessionDep
from api.problems import problem_responses
from api.schemas import QueueOut
from api.shapes import to_cluster, to_summary
from service import experiments, queue

router = APIRouter(tags=["queue"])


@router.get("/queue", summary="Show the queue and the cluster", responses=problem_responses(401))
async def show_queue(user: CurrentUser, session: SessionDep) -> QueueOut:
    """The experiments of the caller's projects; positions and taken resources count those of all projects.

    Taken resources are those of our own ledger: also those of ended runs that Ray has not yet let go.
    """
    state = await queue.cluster_state(session)
    taken = await queue.taken(session)
    return QueueOut(
        cluster=to_cluster(state, taken) if state else None,
        running=[to_summary(view) for view in await experiments.list_live(session, visible=user.visible)],
        queued=[to_summary(view) for view in await experiments.list_queued(session, visible=user.visible)],
    )
