"""From rows of studies to what the API answers."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from api.study_schemas import AmendmentOut, StudyOut, StudyRunOut, StudySummary
from service import studies
from service.contract.status import EndReason
from service.contract.studies import StudySpec
from service.contract.study_changes import AmendmentKind, StudyReason, StudyState
from service.contract.study_plan import StudyPlan
from service.storage.study_tables import StudyAmendment
from service.studies import RunView, StudyView


async def read_study(session: AsyncSession, study_id: str) -> StudyOut:
    """The whole study as the database has it now. Raises NotFound."""
    view = await studies.view(session, study_id)
    spec, changes = await studies.spec_and_amendments(session, view.study)
    gpu_hours, cpu_hours = await studies.used_hours(session, study_id)
    row = view.study
    return StudyOut(
        **_summary_fields(view),
        spec=spec,
        submitted_spec=StudySpec.model_validate(row.spec),
        amendments=[to_amendment(one) for one in changes],
        plan=StudyPlan.model_validate(row.plan),
        evidence=row.evidence,
        gpu_hours=gpu_hours,
        cpu_hours=cpu_hours,
        half_widths=(row.last_check or {}).get("half_widths"),
    )


def to_study_summary(view: StudyView) -> StudySummary:
    """One row of a list."""
    return StudySummary(**_summary_fields(view))


def to_amendment(row: StudyAmendment) -> AmendmentOut:
    """One amendment."""
    return AmendmentOut(
        number=row.number, at=row.at, by=row.by, kind=AmendmentKind(row.kind), change=row.change, reason=row.reason
    )


def to_run(view: RunView) -> StudyRunOut:
    """One run."""
    row = view.run
    return StudyRunOut(
        position=row.position,
        arm=row.arm,
        sft_seed=row.sft_seed,
        rl_seed=row.rl_seed,
        experiment_id=row.experiment_id,
        amendment=row.amendment,
        status=view.status,
        end_reason=EndReason(view.end_reason) if view.end_reason else None,
        message=view.message,
        waiting_reason=view.waiting_reason,
        started_at=view.started_at,
        ended_at=view.ended_at,
        excluded_at=row.excluded_at,
        excluded_by=row.excluded_by,
        excluded_reason=row.excluded_reason,
    )


def _summary_fields(view: StudyView) -> dict[str, Any]:
    row = view.study
    return {
        "id": row.id,
        "name": row.name,
        "project": view.project,
        "user": view.user,
        "question": row.spec["question"],
        "state": StudyState(row.state),
        "state_reason": StudyReason(row.state_reason) if row.state_reason else None,
        "message": row.message,
        "created_at": row.created_at,
        "state_at": row.state_at,
        "num_runs": sum(view.num_by_status.values()),
        "runs": view.num_by_status,
        "num_excluded": view.num_excluded,
    }
