"""Where an experiment comes from: its specification beside its parent's, and its lineage."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import ReadableExperiment
from api.deps import CurrentUser, SessionDep
from api.lineage import read_lineage, read_specification
from api.problems import problem_responses
from api.shapes import read_experiment
from api.specification_schemas import Lineage, SpecificationOut

router = APIRouter(prefix="/experiments/{experiment_id}", tags=["experiments"])
Against = Annotated[str | None, Query(max_length=100, description="An experiment to compare with.")]


@router.get(
    "/specification",
    summary="Read a specification, and what differs from another",
    responses=problem_responses(401, 404),
)
async def show_specification(
    experiment_id: ReadableExperiment, user: CurrentUser, session: SessionDep, against: Against = None
) -> SpecificationOut:
    """As submitted, resolved, and compared: with `against`, else with what the experiment was cloned from, else with
    the run of its study's baseline that has the same seeds.
    """
    return await read_specification(session, user, experiment_id, against)


@router.get("/lineage", summary="Read where an experiment comes from", responses=problem_responses(401, 404))
async def show_lineage(experiment_id: ReadableExperiment, user: CurrentUser, session: SessionDep) -> Lineage:
    """Its pattern, its study, whose stages it took over and who took over its own, and digests of its data."""
    return await read_lineage(session, user, await read_experiment(session, experiment_id))
