"""How long what ended experiments leave behind is kept, and what would go now."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.deps import CurrentUser, SessionDep, SettingsDep
from api.operation_schemas import DueRemoval, RetentionDays, RetentionOut, RetentionPolicyOut
from api.problems import problem_responses
from service import retention
from service.settings import ApiSettings

router = APIRouter(prefix="/retention", tags=["retention"])
ProjectName = Annotated[str, Path(max_length=63, description="A project's name.")]


@router.get("", summary="Show the policies and what would go now", responses=problem_responses(401, 422))
async def show_retention(
    _: CurrentUser,
    session: SessionDep,
    settings: SettingsDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="Of what would go.")] = 100,
) -> RetentionOut:
    """Days are counted from an experiment's end; null: for ever. Looking removes nothing."""
    return await _read(session, settings, limit)


@router.put("/{project}", summary="Set a project's policy", responses=problem_responses(401, 403, 404, 422))
async def set_retention(
    _: CurrentUser, session: SessionDep, settings: SettingsDep, project: ProjectName, days: RetentionDays
) -> RetentionOut:
    """The whole policy: what is left out is kept for ever."""
    await retention.set_policy(session, project, retention.Policy(**days.model_dump()))
    return await _read(session, settings, 100)


@router.delete(
    "/{project}", summary="Take a project's own policy away", responses=problem_responses(401, 403, 404, 422)
)
async def unset_retention(
    _: CurrentUser, session: SessionDep, settings: SettingsDep, project: ProjectName
) -> RetentionOut:
    """The service's settings hold again."""
    await retention.set_policy(session, project, None)
    return await _read(session, settings, 100)


async def _read(session: SessionDep, settings: ApiSettings, limit: int) -> RetentionOut:
    default = retention.Policy.of_service(settings)
    policies = await retention.policies_of(session, default)
    due = await retention.due_now(session, default, most=limit)
    return RetentionOut(
        default=_days(default),
        projects=[
            RetentionPolicyOut(project=name, is_own=is_own, days=_days(policy))
            for name, (policy, is_own) in policies.items()
        ],
        due=[DueRemoval.model_validate(one, from_attributes=True) for one in due],
    )


def _days(policy: retention.Policy) -> RetentionDays:
    return RetentionDays.model_validate(policy, from_attributes=True)
