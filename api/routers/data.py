"""What data become before a run."""

from typing import Annotated

from fastapi import APIRouter, Body, Query

from api.deps import CurrentUser, PreviewerDep, SessionsDep
from api.problems import problem_responses
from api.routers.experiments import SPEC_EXAMPLES
from service import access
from service.contract.preview import DataPreview, PreviewRequest
from service.contract.spec import ExperimentSpec

router = APIRouter(tags=["data"])


@router.post(
    "/data/preview",
    summary="See the samples that a specification's data become",
    responses=problem_responses(401, 403, 413, 422, 500, 501, 503),
)
async def preview_data(
    user: CurrentUser,
    sessions: SessionsDep,
    previewer: PreviewerDep,
    spec: Annotated[ExperimentSpec, Body(openapi_examples=SPEC_EXAMPLES)],
    num_samples: Annotated[int, Query(ge=0, le=20, description="Samples shown of each data set.")] = 3,
    max_records: Annotated[int, Query(ge=1, le=200_000, description="Records read of each source.")] = 20_000,
) -> DataPreview:
    """Tokens with what is trained of them, lengths, what would be held out, dropped or cut, and digests.

    Reads files of the service's machine, so it needs what a submission needs: a member of the specification's project.
    """
    async with sessions() as session:
        await access.require_submission(session, user, spec.project)
    return await previewer.preview(PreviewRequest(spec=spec, num_samples=num_samples, max_records=max_records))
