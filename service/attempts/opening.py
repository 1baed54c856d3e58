"""An attempt's beginning: the scheduler opens it, Ray takes its job, its driver starts."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.attempts.rows import lock_both, lock_known_experiment, refuse_ended, update_attempt
from service.contract.messages import StageResult
from service.contract.stages import StageName
from service.contract.status import AttemptStatus, ExperimentStatus
from service.errors import NotAllowedNow
from service.storage.scheduling_tables import AttemptHolding
from service.storage.stage_results import read_stage_results
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import move_attempt, move_experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a driver needs to begin, or to go on where the attempt before it stopped."""

    experiment: Experiment
    attempt: Attempt
    completed_stages: list[StageResult]
    nodes: list[str]
    """Where the scheduler has placed each bundle; empty where it does not know."""

    @property
    def reused_stages(self) -> dict[StageName, str]:
        """Of the completed stages those that another experiment has run, with its id."""
        lineages = ((result.stage, result.detail.get("reused_from")) for result in self.completed_stages)
        return {stage: str(lineage["experiment_id"]) for stage, lineage in lineages if lineage}


async def open_attempt(session: AsyncSession, experiment: Experiment, now: datetime) -> Attempt:
    """Admits a queued experiment: the attempt's row is written before Ray hears of it (`launching`).

    Its submission id follows from the experiment and the number alone, so that a repeated submission is recognised.
    Raises NotAllowedNow if the experiment is no longer queued or its last attempt still holds resources.
    """
    locked = await lock_known_experiment(session, experiment.id)
    holder = await session.scalar(
        select(Attempt.id).where(Attempt.experiment_id == locked.id, Attempt.released_at.is_(None))
    )
    if holder is not None:
        raise NotAllowedNow(f"attempt {holder} still holds resources; release it before opening another")
    number = locked.num_attempts + 1
    attempt_id = f"{locked.id}-a{number}"
    values = {"num_attempts": number, "waiting_reason": None, "not_before": None}
    message = f"admitted; attempt {number}"
    await move_experiment(session, locked.id, ExperimentStatus.ADMITTED, message=message, values=values)
    attempt = Attempt(
        id=attempt_id,
        experiment_id=locked.id,
        number=number,
        status=AttemptStatus.LAUNCHING.value,
        ray_submission_id=f"sedray-{attempt_id}",
        num_cpus=locked.num_cpus,
        num_gpus=locked.num_gpus,
        created_at=now,
    )
    session.add(attempt)
    await session.flush()
    await session.refresh(attempt)
    return attempt


async def mark_submitted(session: AsyncSession, attempt: Attempt, *, ray_session: str | None, now: datetime) -> Attempt:
    """Notes that Ray has the job, in the Ray session of this name.

    The driver may have called `start` before, or even ended: then only the facts are added, no status goes back.
    """
    _, current = await lock_both(session, attempt)
    facts = {"ray_session": ray_session, "submitted_at": now}
    if current.status == AttemptStatus.LAUNCHING.value:
        return await move_attempt(session, current, AttemptStatus.SUBMITTED, message="Ray has the job", values=facts)
    return await update_attempt(session, current, facts)


async def note_ray_job(session: AsyncSession, attempt: Attempt, ray_job_id: str) -> None:
    """Notes Ray's own number of the attempt's driver."""
    await update_attempt(session, attempt, {"ray_job_id": ray_job_id})


async def mark_stop_requested(session: AsyncSession, attempt: Attempt, now: datetime) -> Attempt:
    """Notes when Ray was first asked to stop the job."""
    return await update_attempt(session, attempt, {"stop_requested_at": func.coalesce(Attempt.stop_requested_at, now)})


async def start(session: AsyncSession, attempt: Attempt) -> Started:
    """The driver's first call. Repeated by the same live attempt it gives the same answer.

    A wish to cancel that came before does not hold the start back: the driver hears it in its first acknowledgement
    and ends in order. Raises StaleAttempt if the attempt is over.
    """
    experiment, current = await lock_both(session, attempt)
    refuse_ended(current)
    if current.status != AttemptStatus.RUNNING.value:
        now = {"started_at": func.now(), "heartbeat_at": func.now()}
        current = await move_attempt(session, current, AttemptStatus.RUNNING, message="the driver started", values=now)
    if experiment.status == ExperimentStatus.ADMITTED.value:
        experiment = await move_experiment(
            session,
            experiment.id,
            ExperimentStatus.RUNNING,
            message=f"attempt {current.number} runs",
            attempt_id=current.id,
            values={"started_at": func.coalesce(Experiment.started_at, func.now())},
        )
    return Started(
        experiment=experiment,
        attempt=current,
        completed_stages=await read_stage_results(session, experiment.id),
        nodes=await _nodes(session, current),
    )


async def _nodes(session: AsyncSession, attempt: Attempt) -> list[str]:
    bundles = await session.scalar(select(AttemptHolding.bundles).where(AttemptHolding.attempt_id == attempt.id))
    nodes = [str(bundle["node"]) for bundle in bundles or [] if "lent" not in bundle]
    return nodes if all(nodes) else []
