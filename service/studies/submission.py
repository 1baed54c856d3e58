"""A study stored with all its experiments, and amended with further ones: one transaction each.

The experiments go the way of every submission (`experiments.submit`): project, quotas, queue entry, event, audit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit, experiments
from service.access import EVERYTHING, Actor, project_named
from service.contract.plan import ExperimentPlan
from service.contract.status import EndReason, ExperimentStatus
from service.contract.study_changes import StudyChange, StudyState
from service.contract.study_plan import StudyPlan
from service.errors import IdempotencyConflict, NotAllowedNow
from service.storage.identifiers import new_id
from service.storage.scheduling_tables import QueueEntry
from service.storage.study_tables import Study, StudyAmendment, StudyRun
from service.storage.tables import Experiment, Project
from service.studies.drafting import StudyDraft
from service.studies.orders import hold_paused
from service.studies.rows import experiments_of, lock_study, refuse_unless, set_state, state_of, target_of

AMENDABLE = (StudyState.RUNNING, StudyState.PAUSED, StudyState.STOPPED, StudyState.FINISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDraft:
    """Experiments to be made, with what follows from them."""

    draft: StudyDraft
    plans: Mapping[str, ExperimentPlan]
    """By arm."""
    plan: StudyPlan


async def submit(
    session: AsyncSession,
    *,
    user: Actor,
    planned: PlannedDraft,
    submitted: Mapping[str, Any],
    body_sha256: str,
    idempotency_key: str | None,
) -> tuple[Study, bool]:
    """Stores the study and queues its experiments; returns it and whether it is the first answer to the key, replayed.

    Raises what `experiments.submit` raises; then nothing is stored.
    """
    spec = planned.draft.spec
    project = await project_named(session, spec.project, EVERYTHING)
    row = {
        "id": planned.draft.id,
        "project_id": project.id,
        "user_id": user.id,
        "name": spec.name,
        "spec": dict(submitted),
        "plan": planned.plan.model_dump(mode="json"),
        "idempotency_key": idempotency_key,
        "body_sha256": body_sha256,
        "state": StudyState.RUNNING.value,
    }
    unless_repeated = insert(Study).values(row).on_conflict_do_nothing(index_elements=["user_id", "idempotency_key"])
    study = await session.scalar(unless_repeated.returning(Study))
    if study is None:
        assert idempotency_key is not None, "only a key can be in conflict"
        first = await find_replay(session, user=user, idempotency_key=idempotency_key, body_sha256=body_sha256)
        assert first is not None, "studies are never deleted"
        return first, True
    await _make_runs(session, study, planned, user=user, first=0, amendment=None)
    after = {"state": study.state, "experiments": len(planned.draft.runs)}
    await audit.record(session, user, "submit", target_of(study), after=after)
    return study, False


async def find_replay(session: AsyncSession, *, user: Actor, idempotency_key: str, body_sha256: str) -> Study | None:
    """The study that this key made before, if any; raises IdempotencyConflict if that was another body."""
    mine = (Study.user_id == user.id, Study.idempotency_key == idempotency_key)
    first = await session.scalar(select(Study).where(*mine))
    if first is not None and first.body_sha256 != body_sha256:
        raise IdempotencyConflict(
            f"idempotency key {idempotency_key!r} belongs to study {first.id}, which was submitted with another body; "
            "use a new key for a new study",
            study_id=first.id,
        )
    return first


async def amend(
    session: AsyncSession, study_id: str, *, user: Actor, change: StudyChange, planned: PlannedDraft, num_before: int
) -> StudyAmendment:
    """Notes the amendment, queues the experiments that it brings, and lets a study that was over go on.

    `num_before`: amendments that `planned` rests on. Raises NotAllowedNow if there are others by now, or the study was
    cancelled; and what `experiments.submit` raises: then nothing is stored.
    """
    study = await lock_study(session, study_id)
    refuse_unless(study, AMENDABLE, "amended")
    number = await _count(session, StudyAmendment, study_id)
    if number != num_before:
        raise NotAllowedNow(f"study {study_id} was amended by somebody else at the same time; look at it and try again")
    amendment = StudyAmendment(
        id=new_id("amendment"),
        study_id=study_id,
        number=number + 1,
        by=user.name,
        kind=change.kind.value,
        change=change.model_dump(mode="json", exclude_unset=True),
        reason=change.reason,
    )
    session.add(amendment)
    await session.flush()
    first = await _count(session, StudyRun, study_id)
    await _make_runs(session, study, planned, user=user, first=first, amendment=amendment.number)
    if change.changes_max_running:
        await _limit_all(session, study, change.max_running)
    study.plan, study.last_check = planned.plan.model_dump(mode="json"), None
    before = state_of(study)
    await _go_on(session, study, user)
    after = {**state_of(study), **amendment.change, "experiments": len(planned.draft.runs)}
    await audit.record(session, user, "amend", target_of(study), before=before, after=after)
    await session.refresh(amendment)
    return amendment


async def _make_runs(
    session: AsyncSession, study: Study, planned: PlannedDraft, *, user: Actor, first: int, amendment: int | None
) -> None:
    rows = []
    project = await session.get_one(Project, study.project_id)
    for position, run in enumerate(planned.draft.runs, first):
        made = await experiments.submit(
            session,
            user=user,
            project=project,
            spec=run.spec,
            plan=planned.plans[run.arm].model_dump(mode="json"),
            body_sha256=run.spec.sha256(),
            idempotency_key=None,
        )
        rows.append(
            {
                "study_id": study.id,
                "position": position,
                "arm": run.arm,
                "sft_seed": run.sft_seed,
                "rl_seed": run.rl_seed,
                "experiment_id": made.experiment.id,
                "amendment": amendment,
            }
        )
    if rows:
        await session.execute(insert(StudyRun), rows)


async def _go_on(session: AsyncSession, study: Study, user: Actor) -> None:
    """A stopped study takes up what its stop cancelled. Whether the rule stops it again, the next look will tell."""
    match StudyState(study.state):
        case StudyState.PAUSED:
            await hold_paused(session, study.id, by=user.name)
        case StudyState.STOPPED | StudyState.FINISHED:
            for experiment_id in await _cancelled_by_stop(session, study.id):
                await experiments.retry(session, experiment_id, user=user)
            await set_state(session, study, StudyState.RUNNING)
        case _:
            pass


async def _cancelled_by_stop(session: AsyncSession, study_id: str) -> list[str]:
    rows = await session.scalars(
        select(Experiment.id)
        .join(StudyRun, StudyRun.experiment_id == Experiment.id)
        .where(
            StudyRun.study_id == study_id,
            Experiment.status == ExperimentStatus.CANCELLED.value,
            Experiment.end_reason == EndReason.STUDY_STOPPED.value,
        )
        .order_by(Experiment.id)
    )
    return list(rows)


async def _limit_all(session: AsyncSession, study: Study, max_running: int | None) -> None:
    """Those that have not ended respect the new limit too; their specifications keep saying what was submitted."""
    for experiment_id in await experiments_of(session, study.id):
        entry = await session.get_one(QueueEntry, experiment_id, populate_existing=True)
        others = [limit for limit in entry.limits if limit["group"] != study.id]
        mine = [] if max_running is None else [{"group": study.id, "max_running": max_running}]
        statement = update(QueueEntry).where(QueueEntry.experiment_id == experiment_id)
        await session.execute(statement.values(limits=[*others, *mine]))


async def _count(session: AsyncSession, table: type[StudyAmendment] | type[StudyRun], study_id: str) -> int:
    return await session.scalar(select(func.count()).select_from(table).where(table.study_id == study_id)) or 0
