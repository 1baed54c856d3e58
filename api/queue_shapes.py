"""From the queue's rows to what the API answers."""

from sqlalchemy.ext.asyncio import AsyncSession

from api.queue_schemas import (
    MaintenanceOut,
    PauseOut,
    PriorityOut,
    QueueOrdersOut,
    QuotaOut,
    RoleHoldingOut,
    ShareTermOut,
    StandingOut,
    StartEstimateOut,
)
from api.schemas import RunningExperiment, WaitingExperiment
from api.shapes import PRIORITY_NAME, summary_fields
from service.access import Visible
from service.contract.messages import Progress
from service.contract.status import ExperimentStatus
from service.contract.waiting import WaitCode
from service.experiments import ExperimentView
from service.queue import controls
from service.queue.explain import Explanation, ShareTerm, StartEstimate
from service.queue.limits import QuotaView
from service.queue.overview import RoleHolding, RunningFacts, WaitingFacts
from service.queue.standing import Standing
from service.storage.scheduling_tables import MaintenanceWindow, QueuePause


def to_priority(found: Explanation) -> PriorityOut:
    """Every term."""
    row, entry = found.experiment, found.entry
    queued = row.status == ExperimentStatus.QUEUED.value
    return PriorityOut(
        id=row.id,
        status=ExperimentStatus(row.status),
        priority=PRIORITY_NAME[row.priority_rank],
        queue_position=found.place,
        num_queued=found.num_queued,
        decided_at=found.decided_at,
        waiting_code=WaitCode(entry.wait_code) if queued and entry.wait_code else None,
        waiting_reason=row.waiting_reason if queued else None,
        waits_for=entry.waits_for if queued else None,
        unblocked_when=found.unblocks,
        project=_to_term(found.project),
        user=_to_term(found.user),
        queued_at=row.queued_at,
        max_runtime_s=entry.max_runtime_s,
        preemptible=entry.preemptible,
        reservation_at=found.reservation_at,
        start=_to_estimate(found.start) if found.start else None,
    )


def to_quota(view: QuotaView) -> QuotaOut:
    """Limits and what is used of them."""
    row = view.quota
    return QuotaOut(
        project=view.project,
        user=view.user,
        shares=row.shares,
        max_running=row.max_running,
        max_queued=row.max_queued,
        max_cpus=row.max_cpus,
        max_gpus=row.max_gpus,
        max_gpu_hours=row.max_gpu_hours,
        window_days=row.window_days,
        max_storage_bytes=row.max_storage_bytes,
        default_max_runtime_s=row.default_max_runtime_s,
        num_running=view.num_running,
        num_queued=view.num_queued,
        num_cpus=view.num_cpus,
        num_gpus=view.num_gpus,
        num_storage_bytes=view.num_bytes,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )


def to_pause(row: QueuePause, project: str | None) -> PauseOut:
    """A pause with the name of its project."""
    return PauseOut(project=project, drain=row.drains, reason=row.reason, by=row.by_user, since=row.since)


def to_maintenance(row: MaintenanceWindow) -> MaintenanceOut:
    """A window."""
    return MaintenanceOut(id=row.id, starts_at=row.starts_at, ends_at=row.ends_at, reason=row.reason, by=row.by_user)


async def read_orders(session: AsyncSession, visible: Visible) -> QueueOrdersOut:
    """Pauses that concern the visible projects, and coming windows."""
    return QueueOrdersOut(
        pauses=[to_pause(row, project) for row, project in await controls.pauses(session, visible)],
        maintenance=[to_maintenance(row) for row in await controls.windows(session)],
    )


def to_running(view: ExperimentView, facts: RunningFacts | None) -> RunningExperiment:
    """One that was admitted."""
    if facts is None:
        return RunningExperiment(**summary_fields(view))
    return RunningExperiment(
        **summary_fields(view),
        attempt_number=facts.attempt_number,
        attempt_since=facts.since,
        heartbeat_at=facts.heartbeat_at,
        progress=Progress.model_validate(facts.progress) if facts.progress else None,
        roles=[to_role(role) for role in facts.roles],
        max_runtime_s=facts.max_runtime_s,
        preempt_requested_at=facts.preempt_requested_at,
        preempt_reason=facts.preempt_reason,
    )


def to_waiting(view: ExperimentView, facts: WaitingFacts) -> WaitingExperiment:
    """One in the queue."""
    return WaitingExperiment(
        **summary_fields(view),
        waiting_code=WaitCode(facts.wait_code) if facts.wait_code else None,
        waits_for=facts.waits_for,
        unblocked_when=facts.unblocked_when,
        held_by=facts.held_by,
        held_reason=facts.held_reason,
        roles=[to_role(role) for role in facts.roles],
        max_runtime_s=facts.max_runtime_s,
        start=_to_estimate(facts.start) if facts.start else None,
    )


def to_role(role: RoleHolding) -> RoleHoldingOut:
    """Sums over one role's actors."""
    return RoleHoldingOut(role=role.role, num_actors=role.num_actors, num_cpus=role.num_cpus, num_gpus=role.num_gpus)


def to_standing(row: Standing) -> StandingOut:
    """Beside its siblings, with its quota's limits."""
    quota = row.quota
    return StandingOut(
        project=row.project,
        user=row.user,
        shares=row.shares,
        share_part=row.share_part,
        usage=row.usage,
        usage_part=row.usage_part,
        num_running=row.num_running,
        num_queued=row.num_queued,
        num_cpus=row.num_cpus,
        num_gpus=row.num_gpus,
        gpu_hours=row.gpu_hours,
        max_running=quota.max_running if quota else None,
        max_queued=quota.max_queued if quota else None,
        max_cpus=quota.max_cpus if quota else None,
        max_gpus=quota.max_gpus if quota else None,
        max_gpu_hours=quota.max_gpu_hours if quota else None,
        window_days=quota.window_days if quota else None,
    )


def _to_term(term: ShareTerm) -> ShareTermOut:
    return ShareTermOut(
        name=term.name,
        usage=term.usage,
        shares=term.shares,
        usage_part=term.usage_part,
        share_part=term.share_part,
        factor=term.factor,
    )


def _to_estimate(start: StartEstimate) -> StartEstimateOut:
    return StartEstimateOut(
        at_the_latest=start.at_the_latest,
        likely=start.likely,
        earliest=start.earliest,
        latest=start.latest,
        num_records=start.num_records,
    )
