"""Whether the service and all that it stands on are well."""

from typing import Annotated

from fastapi import APIRouter, Depends

from api.access import AdminReader
from api.deps import SessionsDep, SettingsDep
from api.operation_schemas import CheckOut, Diagnosis
from api.problems import problem_responses
from api.routers.health import head_revision
from service import diagnosis

router = APIRouter(tags=["health"])


@router.get(
    "/diagnosis", summary="Look into the service and all that it stands on", responses=problem_responses(401, 403)
)
async def show_diagnosis(
    _: AdminReader, sessions: SessionsDep, settings: SettingsDep, head: Annotated[str, Depends(head_revision)]
) -> Diagnosis:
    """Database, migrations, scheduler, Ray, auth, storage, disk, versions, clock; takes up to a quarter of a minute."""
    checks = await diagnosis.diagnose(sessions, settings, head)
    return Diagnosis(items=[CheckOut.model_validate(check, from_attributes=True) for check in checks])
