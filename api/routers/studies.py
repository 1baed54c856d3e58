"""What people do with studies."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response

from api import study_submission
from api.access import ControllableStudy, ReadableStudy
from api.cursors import PageStart, decode_cursor, encode_cursor
from api.deps import CurrentUser, PlanDep, SessionDep, SessionsDep
from api.problems import problem_responses
from api.routers.experiments import SPEC_EXAMPLES
from api.study_schemas import (
    ExclusionOrder,
    StudyOrder,
    StudyOut,
    StudyPage,
    StudyPlanReply,
    StudyRunPage,
)
from api.study_shapes import read_study, to_run, to_study_summary
from api.study_submission import StudySubmission, plan_study_now
from api.submission import digest_body
from service import studies
from service.contract.studies import StudySpec
from service.contract.study_changes import StudyChange, StudyState
from service.studies import StudyFilter, StudyPageStart

router = APIRouter(tags=["studies"])

RunExperiment = Annotated[str, Path(description="The id of one of the study's experiments.")]
_REPLAYED = {"Idempotency-Replayed": {"description": "`true`", "schema": {"type": "string"}}}
_BASE = {key: value for key, value in SPEC_EXAMPLES["all stages"]["value"].items() if key != "name"}
STUDY_EXAMPLES: dict[str, Any] = {
    "two arms": {
        "summary": "Does SED help where RL follows?",
        "value": {
            "name": "sed-or-ce",
            "question": "Does SED give RL a better start than cross-entropy?",
            "base": _BASE,
            "arms": [
                {"name": "ce", "overrides": {"sft.objective": {"type": "ce"}}},
                {"name": "sed"},
                {"name": "rl-only", "overrides": {"sft": None}},
            ],
            "baseline": "ce",
            "sft_seeds": [1, 2, 3, 4, 5, 6],
            "budget": {"max_gpu_hours": 200.0},
            "max_running": 4,
        },
    }
}
CHANGE_EXAMPLES: dict[str, Any] = {
    "more seeds": {"value": {"reason": "the interval is too wide", "add_sft_seeds": [7, 8, 9]}},
    "another budget": {"value": {"reason": "the cluster is free", "budget": {"max_gpu_hours": 400.0}}},
}


@router.post(
    "/studies",
    summary="Submit a study, or see what would follow from it",
    status_code=201,
    response_model=StudyOut | StudyPlanReply,
    responses={
        200: {
            "model": StudyOut | StudyPlanReply,
            "description": "A dry run's plan, or the study that a repeated request has made, as it is now",
            "headers": _REPLAYED,
        },
        **problem_responses(401, 403, 409, 413, 422),
    },
)
async def submit_study(
    request: Request,
    response: Response,
    user: CurrentUser,
    sessions: SessionsDep,
    planner: PlanDep,
    spec: Annotated[StudySpec, Body(openapi_examples=STUDY_EXAMPLES)],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    dry_run: Annotated[bool, Query(description="Check and plan only; store nothing.")] = False,
) -> StudyOut | StudyPlanReply:
    """Locks the study and queues all its experiments, or none. Faults are named by the arm, or the base, that has them.

    The caller is a member of the study's project, also for a dry run.
    """
    if dry_run:
        response.status_code = 200
        return StudyPlanReply(spec=spec, plan=await plan_study_now(sessions, planner, user, spec))
    body_sha256 = digest_body(await request.json())
    submission = StudySubmission(user=user, spec=spec, body_sha256=body_sha256, idempotency_key=idempotency_key)
    study_id, replayed = await study_submission.submit_study(sessions, planner, submission)
    if replayed:
        response.status_code = 200
        response.headers["Idempotency-Replayed"] = "true"
    async with sessions() as session:
        return await read_study(session, study_id)


@router.get("/studies", summary="List studies, newest first", responses=problem_responses(401, 422))
async def list_studies(
    user: CurrentUser,
    session: SessionDep,
    state: StudyState | None = None,
    project: str | None = None,
    name: Annotated[str | None, Query(description="A part of the name, in any case.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> StudyPage:
    """Those of the caller's projects."""
    start = decode_cursor(cursor) if cursor else None
    found, following = await studies.list_page(
        session,
        visible=user.visible,
        wanted=StudyFilter(state=state, project=project, name=name),
        limit=limit,
        start=StudyPageStart(created_at=start.submitted_at, id=start.id) if start else None,
    )
    next_start = PageStart(submitted_at=following.created_at, id=following.id) if following else None
    return StudyPage(
        items=[to_study_summary(view) for view in found],
        next_cursor=encode_cursor(next_start) if next_start else None,
    )


@router.get("/studies/{study_id}", summary="Show a study", responses=problem_responses(401, 404))
async def show_study(study_id: ReadableStudy, session: SessionDep) -> StudyOut:
    """Its state, runs by state, specification as it stands, amendments, and what it has used."""
    return await read_study(session, study_id)


@router.get("/studies/{study_id}/runs", summary="List a study's runs", responses=problem_responses(401, 404))
async def list_study_runs(study_id: ReadableStudy, session: SessionDep) -> StudyRunPage:
    """All of them, in the order in which they were queued."""
    return StudyRunPage(items=[to_run(view) for view in await studies.runs(session, study_id)])


@router.post(
    "/studies/{study_id}/amendments",
    summary="Amend a study: seeds, arms, budget",
    status_code=201,
    responses=problem_responses(401, 403, 404, 409, 422),
)
async def amend_study(
    study_id: ControllableStudy,
    user: CurrentUser,
    sessions: SessionsDep,
    planner: PlanDep,
    change: Annotated[StudyChange, Body(openapi_examples=CHANGE_EXAMPLES)],
) -> StudyOut:
    """What decides stays locked: base, primary, baseline and the arms that were stated. A stopped study goes on."""
    await study_submission.amend_study(sessions, planner, user, study_id, change)
    async with sessions() as session:
        return await read_study(session, study_id)


@router.post(
    "/studies/{study_id}/pause",
    summary="Hold what waits of a study",
    responses=problem_responses(401, 403, 404, 409, 422),
)
async def pause_study(
    study_id: ControllableStudy, user: CurrentUser, session: SessionDep, order: StudyOrder
) -> StudyOut:
    """What runs goes on; what waits keeps its place."""
    await studies.pause(session, study_id, user=user, reason=order.reason)
    return await read_study(session, study_id)


@router.post(
    "/studies/{study_id}/resume",
    summary="Let a paused study go on",
    responses=problem_responses(401, 403, 404, 409),
)
async def resume_study(study_id: ControllableStudy, user: CurrentUser, session: SessionDep) -> StudyOut:
    """Releases what the pause held."""
    await studies.resume(session, study_id, user=user)
    return await read_study(session, study_id)


@router.post(
    "/studies/{study_id}/cancel",
    summary="Cancel a study as a whole",
    status_code=202,
    responses=problem_responses(401, 403, 404, 409, 422),
)
async def cancel_study(
    study_id: ControllableStudy, user: CurrentUser, session: SessionDep, order: StudyOrder
) -> StudyOut:
    """What waits is cancelled at once; what runs stops with its next report. There is no way back."""
    await studies.cancel(session, study_id, user=user, reason=order.reason)
    return await read_study(session, study_id)


@router.post(
    "/studies/{study_id}/runs/{experiment_id}/exclude",
    summary="Take a run out of the study's figures",
    responses=problem_responses(401, 403, 404, 409, 422),
)
async def exclude_run(
    study_id: ControllableStudy,
    experiment_id: RunExperiment,
    user: CurrentUser,
    session: SessionDep,
    order: ExclusionOrder,
) -> StudyRunPage:
    """The run itself goes on; the report lists it with the reason."""
    await studies.exclude(session, study_id, experiment_id, user=user, reason=order.reason)
    return await list_study_runs(study_id, session)


@router.post(
    "/studies/{study_id}/runs/{experiment_id}/include",
    summary="Take an exclusion back",
    responses=problem_responses(401, 403, 404, 409),
)
async def include_run(
    study_id: ControllableStudy, experiment_id: RunExperiment, user: CurrentUser, session: SessionDep
) -> StudyRunPage:
    """The run counts again."""
    await studies.include(session, study_id, experiment_id, user=user)
    return await list_study_runs(study_id, session)
