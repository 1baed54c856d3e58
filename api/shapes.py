"""From rows to what the API answers."""

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from api.schemas import Attempt, ClusterOut, Event, Experiment, ExperimentSummary
from service import experiments
from service.contract.headline import Headline, headline_of
from service.contract.messages import Progress
from service.contract.plan import ExperimentPlan
from service.contract.spec import PRIORITY_RANK, ExperimentSpec
from service.contract.status import AttemptStatus, EndReason, ExperimentStatus
from service.experiments import ExperimentHistory, ExperimentView
from service.queue import Taken
from service.storage import tables

PRIORITY_NAME = {rank: name for name, rank in PRIORITY_RANK.items()}


def to_summary(view: ExperimentView, headline: Headline | None = None) -> ExperimentSummary:
    """One row of a list."""
    return ExperimentSummary(**summary_fields(view), headline=headline)


async def read_experiment(session: AsyncSession, experiment_id: str) -> Experiment:
    """The whole experiment as the database has it now. Raises NotFound."""
    return to_experiment(
        await experiments.view(session, experiment_id), await experiments.history(session, experiment_id)
    )


def to_experiment(view: ExperimentView, history: ExperimentHistory) -> Experiment:
    """The whole experiment."""
    spec = ExperimentSpec.model_validate(view.experiment.spec)
    attempts = [_to_attempt(attempt) for attempt in history.attempts]
    live = [attempt.progress for attempt in attempts if attempt.status is not AttemptStatus.ENDED]
    return Experiment(
        **summary_fields(view),
        description=spec.description,
        spec=spec,
        plan=ExperimentPlan.model_validate(view.experiment.plan),
        attempts=attempts,
        stage_results=history.stage_results,
        headline=headline_of({result.stage: result.metrics for result in history.stage_results}),
        progress=live[-1] if live else None,
    )


def to_event(row: tables.ExperimentEvent) -> Event:
    """One event."""
    return Event(id=row.id, ts=row.ts, kind=row.kind, message=row.message, attempt_id=row.attempt_id, detail=row.detail)


def to_cluster(state: tables.ClusterState, taken: Taken) -> ClusterOut:
    """The cluster as last seen, beside our own ledger."""
    return ClusterOut(
        observed_at=state.observed_at,
        reachable=state.reachable,
        num_cpus=state.num_cpus,
        num_gpus=state.num_gpus,
        num_cpus_taken=taken.num_cpus,
        num_gpus_taken=taken.num_gpus,
        message=state.message,
    )


def summary_fields(view: ExperimentView) -> dict[str, Any]:
    """The values of `ExperimentSummary`, which others add to."""
    row = view.experiment
    times: dict[str, datetime | None] = {
        "submitted_at": row.submitted_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "cancel_requested_at": row.cancel_requested_at,
    }
    return times | {
        "id": row.id,
        "name": row.name,
        "project": view.project,
        "user": view.user,
        "tags": row.tags,
        "objective": row.objective,
        "status": ExperimentStatus(row.status),
        "end_reason": EndReason(row.end_reason) if row.end_reason else None,
        "message": row.message,
        "waiting_reason": row.waiting_reason,
        "queue_position": view.queue_position,
        "priority": PRIORITY_NAME[row.priority_rank],
        "num_cpus": row.num_cpus,
        "num_gpus": row.num_gpus,
    }


def _to_attempt(row: tables.Attempt) -> Attempt:
    return Attempt(
        id=row.id,
        number=row.number,
        status=AttemptStatus(row.status),
        end_reason=EndReason(row.end_reason) if row.end_reason else None,
        message=row.message,
        evidence=row.evidence,
        ray_submission_id=row.ray_submission_id,
        progress=Progress.model_validate(row.progress) if row.progress else None,
        created_at=row.created_at,
        submitted_at=row.submitted_at,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        ended_at=row.ended_at,
        released_at=row.released_at,
    )
