"""Axes for series: from steps to time, tokens and device-hours."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import ReadableExperiment
from api.axis_schemas import AxisOut, AxisPage
from api.deps import SessionDep
from api.problems import problem_responses
from service import metric_store

router = APIRouter(prefix="/experiments/{experiment_id}/metrics", tags=["metrics"])


@router.get(
    "/axes", summary="Read what steps are in time, tokens and hours", responses=problem_responses(401, 404, 422)
)
async def read_metric_axes(
    experiment_id: ReadableExperiment,
    session: SessionDep,
    max_knots: Annotated[int, Query(ge=2, le=5_000, description="Steps of each axis.")] = 500,
) -> AxisPage:
    """A metric's `stage` says which axis its steps belong to. No axis yet where no step was done."""
    axes = await metric_store.read_axes(session, experiment_id, max_knots)
    return AxisPage(axes=[AxisOut.model_validate(axis, from_attributes=True) for axis in axes])
