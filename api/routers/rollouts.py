"""Completions that an experiment kept for people to read."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.deps import CurrentUser, SessionDep
from api.problems import problem_responses
from api.routers.experiments import ExperimentId
from api.schemas import RolloutPage, RolloutSampleOut
from service import experiments, log_store
from service.contract.stages import StageName
from service.storage.tables import RolloutSampleRow

router = APIRouter(prefix="/experiments/{experiment_id}/rollouts", tags=["rollouts"])


@router.get(
    "",
    summary="Read completions, newest first",
    response_model=RolloutPage,
    responses=problem_responses(401, 404, 422),
)
async def read_rollouts(
    _: CurrentUser,
    session: SessionDep,
    experiment_id: ExperimentId,
    stage: StageName | None = None,
    step: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="`next_before` of the page before.")] = None,
) -> Response:
    """`next_before` is null on the last page."""
    await experiments.get(session, experiment_id)
    rows = await log_store.rollouts_before(
        session, experiment_id, stage=stage, step=step, before=before, limit=limit + 1
    )
    items = [_to_sample(row) for row in rows[:limit]]
    page = RolloutPage(items=items, next_before=items[-1].id if len(rows) > limit else None)
    return Response(page.model_dump_json(), media_type="application/json")


def _to_sample(row: RolloutSampleRow) -> RolloutSampleOut:
    return RolloutSampleOut.model_validate({name: getattr(row, name) for name in RolloutSampleOut.model_fields})
