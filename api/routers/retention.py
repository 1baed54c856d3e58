"""How long what ended experiments leave behind is kept, and what would go now."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import AdminReader, ManagedProject, ReadableProject
from api.deps import CurrentUser, SessionDep, SettingsDep
from api.operation_schemas import DueRemoval, ProjectRetention, RetentionDays, RetentionOut
from api.problems import problem_responses
from service import retention
from service.settings import ApiSettings
from service.storage.tables import Project

router = APIRouter(tags=["retention"])
Limit = Annotated[int, Query(ge=1, le=1000, description="Of what would go.")]


@router.get("/retention", summary="Show all policies and what would go now", responses=problem_responses(401, 403, 422))
async def show_all_retention(
    _: AdminReader, session: SessionDep, settings: SettingsDep, limit: Limit = 100
) -> RetentionOut:
    """Days are counted from an experiment's end; null: for ever. Looking removes nothing."""
    default = retention.Policy.of_service(settings)
    policies = await retention.policies_of(session, default)
    due = await retention.due_now(session, default, most=limit)
    return RetentionOut(
        default=_days(default),
        projects=[
            ProjectRetention(
                project=name,
                is_own=is_own,
                days=_days(policy),
                due=[DueRemoval.model_validate(one, from_attributes=True) for one in due if one.project == name],
            )
            for name, (policy, is_own) in policies.items()
        ],
    )


@router.get(
    "/projects/{project}/retention",
    summary="Show a project's policy and what would go now",
    responses=problem_responses(401, 404, 422),
)
async def show_retention(
    project: ReadableProject, session: SessionDep, settings: SettingsDep, limit: Limit = 100
) -> ProjectRetention:
    """Looking removes nothing."""
    return await _read(session, settings, project, limit)


@router.put(
    "/projects/{project}/retention",
    summary="Set a project's policy",
    responses=problem_responses(401, 403, 404, 413, 422),
)
async def set_retention(
    project: ManagedProject, user: CurrentUser, session: SessionDep, settings: SettingsDep, days: RetentionDays
) -> ProjectRetention:
    """The whole policy: what is left out is kept for ever."""
    await retention.set_policy(session, user, project, retention.Policy(**days.model_dump()))
    return await _read(session, settings, project, 100)


@router.delete(
    "/projects/{project}/retention",
    summary="Take a project's own policy away",
    responses=problem_responses(401, 403, 404, 422),
)
async def unset_retention(
    project: ManagedProject, user: CurrentUser, session: SessionDep, settings: SettingsDep
) -> ProjectRetention:
    """The service's settings hold again."""
    await retention.set_policy(session, user, project, None)
    return await _read(session, settings, project, 100)


async def _read(session: SessionDep, settings: ApiSettings, project: Project, limit: int) -> ProjectRetention:
    default = retention.Policy.of_service(settings)
    policy, is_own = (await retention.policies_of(session, default))[project.name]
    due = await retention.due_now(session, default, most=limit, project=project.name)
    return ProjectRetention(
        project=project.name,
        is_own=is_own,
        days=_days(policy),
        due=[DueRemoval.model_validate(one, from_attributes=True) for one in due],
    )


def _days(policy: retention.Policy) -> RetentionDays:
    return RetentionDays.model_validate(policy, from_attributes=True)
