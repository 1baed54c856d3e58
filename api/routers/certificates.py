"""What an ended attempt died of."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.access import ReadableExperiment
from api.deps import SessionDep
from api.problems import problem_responses
from service import certificates
from service.contract.certificates import DeathCertificate

router = APIRouter(tags=["experiments"])
AttemptNumber = Annotated[int, Path(ge=1, lt=2**31, description="1 for the first attempt.")]


@router.get(
    "/experiments/{experiment_id}/attempts/{attempt_number}/certificate",
    summary="Read what an ended attempt died of",
    response_model=DeathCertificate,
    responses=problem_responses(401, 404, 409, 422),
)
async def read_certificate(
    experiment_id: ReadableExperiment, attempt_number: AttemptNumber, session: SessionDep
) -> Response:
    """Reason and kind, exit code, signs of lost memory, the last lines, stacks of what hung, and what to do.

    `issued_at` is null while Ray may still hold something of the attempt; afterwards it never changes.
    """
    certificate = await certificates.read(session, experiment_id, attempt_number)
    return Response(certificate.model_dump_json(), media_type="application/json")
