"""The course of an experiment: waiting, attempts, stages, incidents."""

from fastapi import APIRouter

from api.access import ReadableExperiment
from api.deps import SessionDep
from api.problems import problem_responses
from api.shapes import read_experiment, to_event
from api.timeline import timeline_of
from api.timeline_schemas import Timeline
from service import experiments
from service.storage.clock import database_now

router = APIRouter(prefix="/experiments/{experiment_id}/timeline", tags=["experiments"])
_MOST_EVENTS = 2_000


@router.get("", summary="Read the course of an experiment", responses=problem_responses(401, 404))
async def show_timeline(experiment_id: ReadableExperiment, session: SessionDep) -> Timeline:
    """When it waited and ran, which attempt was at which stage, and what happened on the way."""
    experiment = await read_experiment(session, experiment_id)
    rows = await experiments.events_after(session, experiment_id, after=0, limit=_MOST_EVENTS)
    return timeline_of(experiment, [to_event(row) for row in rows], await database_now(session))
