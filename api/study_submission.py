"""A study from body to rows: its experiments drafted in a thread, planned arm by arm without a session, then stored.

access, replay ──> draft (pure, a thread) ──> plans by arm (files) ──> estimate ──> one transaction
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from api.submission import PlanExperiment, capacity_now
from service import access, studies
from service.access import Principal
from service.contract.plan import ExperimentPlan
from service.contract.studies import StudySpec
from service.contract.study_changes import StudyChange
from service.contract.study_plan import StudyPlan
from service.errors import CannotRun
from service.planning import Capacity
from service.storage.database import Sessions
from service.storage.identifiers import new_id
from service.storage.study_tables import Study
from service.studies import PlannedDraft, StudyDraft
from service.studies.costs import Room, plan_study, read_pace
from service.studies.drafting import RunKey, by_arm, in_words


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySubmission:
    """A request to run a study."""

    user: Principal
    spec: StudySpec
    body_sha256: str
    idempotency_key: str | None


async def submit_study(sessions: Sessions, plan: PlanExperiment, submission: StudySubmission) -> tuple[str, bool]:
    """The id of the study, and whether it answers a repeated request.

    Raises InvalidSpec, Forbidden, CannotRun, QuotaExceeded, IdempotencyConflict; then nothing is stored.
    """
    spec = submission.spec
    async with sessions() as session:
        await access.require_submission(session, submission.user, spec.project)
        first = await _find_replay(session, submission)
        if first is not None:
            return first.id, True
    planned = await _planned(sessions, plan, await _draft(new_id("study"), spec))
    async with sessions.begin() as session:
        study, replayed = await studies.submit(
            session,
            user=submission.user,
            planned=planned,
            submitted=spec.model_dump(mode="json"),
            body_sha256=submission.body_sha256,
            idempotency_key=submission.idempotency_key,
        )
        return study.id, replayed


async def plan_study_now(sessions: Sessions, plan: PlanExperiment, user: Principal, spec: StudySpec) -> StudyPlan:
    """What would follow from the study; stores nothing. Raises InvalidSpec, Forbidden, CannotRun."""
    async with sessions() as session:
        await access.require_submission(session, user, spec.project)
    return (await _planned(sessions, plan, await _draft("study-dry-run", spec))).plan


async def amend_study(
    sessions: Sessions, plan: PlanExperiment, user: Principal, study_id: str, change: StudyChange
) -> None:
    """Applies an amendment. Raises NotFound, InvalidRequest, InvalidSpec, CannotRun, NotAllowedNow, QuotaExceeded."""
    async with sessions() as session:
        view = await studies.view(session, study_id)
        await access.require_submission(session, user, view.project)
        spec, before = await studies.spec_and_amendments(session, view.study)
        made = {(one.run.arm, one.run.sft_seed, one.run.rl_seed) for one in await studies.runs(session, study_id)}
    draft = await _draft(study_id, studies.apply_change(spec, change), made)
    planned = await _planned(sessions, plan, draft)
    async with sessions.begin() as session:
        await studies.amend(session, study_id, user=user, change=change, planned=planned, num_before=len(before))


async def _draft(study_id: str, spec: StudySpec, made: set[RunKey] | None = None) -> StudyDraft:
    return await asyncio.to_thread(studies.draft_study, study_id, spec, made or set())


async def _planned(sessions: Sessions, plan: PlanExperiment, draft: StudyDraft) -> PlannedDraft:
    async with sessions() as session:
        capacity = await capacity_now(session)
    plans = await _plans(plan, draft, capacity)
    async with sessions() as session:
        pace, num_records = await read_pace(session, draft.spec.project, draft)
    room = None if capacity is None else Room(num_cpus=capacity.num_cpus, num_gpus=capacity.num_gpus)
    whole = await asyncio.to_thread(plan_study, draft, plans, pace, num_records, room)
    return PlannedDraft(draft=draft, plans=plans, plan=whole)


async def _plans(plan: PlanExperiment, draft: StudyDraft, capacity: Capacity | None) -> dict[str, ExperimentPlan]:
    """By arm: seeds change no plan. Files are looked at one arm after the other, and remembered for the next."""
    plans: dict[str, ExperimentPlan] = {}
    refused: dict[str, list[Mapping[str, Any]]] = {}
    for arm, run in draft.representatives().items():
        try:
            plans[arm] = await plan(run.spec, capacity)
        except CannotRun as error:
            refused[arm] = error.details.get("errors") or [{"field": "(experiment)", "problem": error.message}]
    if refused:
        found = by_arm(draft.spec, refused)
        raise CannotRun(in_words(found), errors=found)
    return plans


async def _find_replay(session: AsyncSession, submission: StudySubmission) -> Study | None:
    if submission.idempotency_key is None:
        return None
    return await studies.find_replay(
        session,
        user=submission.user,
        idempotency_key=submission.idempotency_key,
        body_sha256=submission.body_sha256,
    )
