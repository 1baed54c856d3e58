"""Held-out samples token by token: what the model thinks of each token, and what the objective makes of it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.access import ReadableExperiment
from api.deps import SessionDep
from api.problems import problem_responses
from api.schemas import TokenViewEntry, TokenViewPage
from service import token_views
from service.contract.messages import TokenView
from service.contract.stages import StageName

router = APIRouter(prefix="/experiments/{experiment_id}/token-views", tags=["token views"])
_STEP = {"ge": 0, "lt": 2**63}
_SAMPLE = {"ge": 0, "lt": 2**31}


@router.get("", summary="List which token views exist, oldest first", responses=problem_responses(401, 404, 422))
async def list_token_views(
    experiment_id: ReadableExperiment,
    session: SessionDep,
    stage: StageName | None = None,
    step: Annotated[int | None, Query(**_STEP)] = None,
    sample_index: Annotated[int | None, Query(**_SAMPLE)] = None,
    after: Annotated[int, Query(ge=0, lt=2**63, description="`next_after` of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> TokenViewPage:
    """Without the tokens themselves. `next_after` is null when there is nothing more for now."""
    found = await token_views.entries_after(
        session, experiment_id, stage=stage, step=step, sample_index=sample_index, after=after, limit=limit + 1
    )
    items = [TokenViewEntry.model_validate(entry, from_attributes=True) for entry in found[:limit]]
    return TokenViewPage(items=items, next_after=items[-1].id if len(found) > limit else None)


@router.get(
    "/{stage}/{step}/{sample_index}",
    summary="Read one sample token by token",
    response_model=TokenView,
    responses=problem_responses(401, 404, 422),
)
async def read_token_view(
    experiment_id: ReadableExperiment,
    session: SessionDep,
    stage: StageName,
    step: Annotated[int, Path(description="Optimizer steps done when it was measured.", **_STEP)],
    sample_index: Annotated[int, Path(description="Place among the held-out samples, from 0.", **_SAMPLE)],
) -> Response:
    """Values of tokens that are not trained (the prompt's) are null."""
    view = await token_views.read_view(session, experiment_id, stage=stage, step=step, sample_index=sample_index)
    return Response(view.model_dump_json(), media_type="application/json")
