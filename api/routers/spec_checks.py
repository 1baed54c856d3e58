"""What an editor asks while a specification is written: findings at their lines, a dry run, something to begin with."""

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel

from api.deps import CurrentUser, PlanDep, SessionsDep
from api.problems import problem_responses
from api.spec_check_schemas import ExperimentCheck, SpecTemplate, SpecTextIn, StudyCheck
from api.spec_checks import check_experiment, check_study
from api.spec_templates import spec_templates

router = APIRouter()


class SpecTemplatePage(BaseModel):
    """All of them."""

    items: list[SpecTemplate]


@router.post(
    "/experiments/validate",
    tags=["experiments"],
    summary="Check a specification's text, with a dry run",
    responses=problem_responses(401, 403, 413, 422),
)
async def validate_experiment(
    user: CurrentUser, sessions: SessionsDep, planner: PlanDep, text: Annotated[SpecTextIn, Body()]
) -> ExperimentCheck:
    """YAML in, findings at their lines out; without findings the plan, and when it would start. Stores nothing."""
    return await check_experiment(sessions, planner, user, text.text)


@router.post(
    "/studies/validate",
    tags=["studies"],
    summary="Check a study's text, with a dry run",
    responses=problem_responses(401, 403, 413, 422),
)
async def validate_study(
    user: CurrentUser, sessions: SessionsDep, planner: PlanDep, text: Annotated[SpecTextIn, Body()]
) -> StudyCheck:
    """The same for a study."""
    return await check_study(sessions, planner, user, text.text)


@router.get(
    "/spec-templates",
    tags=["experiments"],
    summary="List specifications to begin with",
    responses=problem_responses(401),
)
async def list_templates(_: CurrentUser) -> SpecTemplatePage:
    """As text, with comments."""
    return SpecTemplatePage(items=list(spec_templates()))
