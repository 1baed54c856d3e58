"""The life of one attempt, as the scheduler opens it, its driver reports it, and either of them ends it.

Locks are taken in one order, the experiment's row before the attempt's. Reports, the one frequent call, lock the
attempt alone and touch nothing else of the experiment.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import FinishReport, StageResult, WorkerReport
from service.contract.spec import ExperimentSpec
from service.contract.status import AttemptStatus, EndReason, ExperimentStatus
from service.errors import InvalidReport, NotAllowedNow, ReportGap, StaleAttempt
from service.storage.json_values import storable_model, storable_text, storable_value
from service.storage.stage_results import read_stage_results
from service.storage.tables import Attempt, Experiment, StageResultRow
from service.storage.transitions import lock_experiment, move_attempt, move_experiment, notify, record_event

FIRST_BACK_OFF = timedelta(seconds=5)
LATER_BACK_OFF = timedelta(seconds=30)
LONGEST_BACK_OFF = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a driver needs to begin, or to go on where the attempt before it stopped."""

    experiment: Experiment
    attempt: Attempt
    completed_stages: list[StageResult]


async def open_attempt(session: AsyncSession, experiment: Experiment, now: datetime) -> Attempt:
    """Admits a queued experiment: the attempt's row is written before Ray hears of it (`launching`).

    Its submission id follows from the experiment and the number alone, so that a repeated submission is recognised.
    Raises NotAllowedNow if the experiment is no longer queued or its last attempt still holds resources.
    """
    locked = await _lock_experiment(session, experiment.id)
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
    _, current = await _lock_both(session, attempt)
    facts = {"ray_session": ray_session, "submitted_at": now}
    if current.status == AttemptStatus.LAUNCHING.value:
        return await move_attempt(session, current, AttemptStatus.SUBMITTED, message="Ray has the job", values=facts)
    return await _update(session, current, facts)


async def mark_stop_requested(session: AsyncSession, attempt: Attempt, now: datetime) -> Attempt:
    """Notes when Ray was first asked to stop the job."""
    return await _update(session, attempt, {"stop_requested_at": func.coalesce(Attempt.stop_requested_at, now)})


async def start(session: AsyncSession, attempt: Attempt) -> Started:
    """The driver's first call. Repeated by the same live attempt it gives the same answer.

    A wish to cancel that came before does not hold the start back: the driver hears it in its first acknowledgement
    and ends in order. Raises StaleAttempt if the attempt is over.
    """
    experiment, current = await _lock_both(session, attempt)
    _refuse_ended(current)
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
        experiment=experiment, attempt=current, completed_stages=await read_stage_results(session, experiment.id)
    )


async def accept_report(session: AsyncSession, attempt: Attempt, report: WorkerReport) -> bool:
    """Takes the report's number and sign of life; returns whether it was stored before.

    The attempt's row stays locked until the transaction ends, so reports are stored one after the other. Raises
    StaleAttempt if the attempt is over, NotAllowedNow before `start`, ReportGap if an earlier report is missing.
    """
    current = await _lock_attempt(session, attempt)
    _refuse_ended(current)
    if current.status != AttemptStatus.RUNNING.value:
        raise NotAllowedNow(f"attempt {current.id} is {current.status}; call start before the first report")
    expected = current.last_report_seq + 1
    if report.seq > expected:
        raise ReportGap(
            f"report {report.seq} came before report {expected}; send the reports in order, each until it is "
            "acknowledged",
            expected_seq=expected,
        )
    duplicate = report.seq < expected
    values: dict[str, Any] = {"heartbeat_at": func.clock_timestamp()}
    if not duplicate:
        values["last_report_seq"] = report.seq
        if report.progress is not None:
            values["progress"] = storable_model(report.progress)
    await _update(session, current, values)
    return duplicate


async def record_stage_result(session: AsyncSession, attempt: Attempt, result: StageResult) -> bool:
    """Keeps the result of a finished stage, once per experiment and stage; returns whether it was new.

    Raises StaleAttempt if the attempt is over, InvalidReport for a stage that the specification does not have.
    """
    experiment, current = await _lock_both(session, attempt)
    _refuse_ended(current)
    planned = _stage_names(experiment)
    if result.stage not in planned:
        raise InvalidReport(f"experiment {experiment.id} has no stage {result.stage}; it has {', '.join(planned)}")
    row = {"experiment_id": experiment.id, "stage": result.stage, "attempt_id": current.id}
    new = await session.scalar(
        insert(StageResultRow)
        .values(**row, result=storable_model(result), created_at=func.clock_timestamp())
        .on_conflict_do_nothing()
        .returning(StageResultRow.stage)
    )
    if new is None:
        return False
    detail = {"stage": result.stage, "steps_done": result.steps_done, "duration_s": result.duration_s}
    message = f"stage {result.stage} finished"
    await record_event(session, experiment.id, "stage", message, attempt_id=current.id, detail=storable_value(detail))
    return True


async def finish(session: AsyncSession, attempt: Attempt, report: FinishReport) -> Experiment:
    """The driver's last word. Repeated with the same reason it changes nothing.

    `completed` is believed only if every planned step was done and every stage left its result, else it becomes
    `incomplete`. Raises StaleAttempt if the attempt was ended otherwise.
    """
    experiment, current = await _lock_both(session, attempt)
    if current.status == AttemptStatus.ENDED.value and current.evidence.get("reported_reason") == report.reason.value:
        return experiment
    reason, message = report.reason, report.message
    if reason is EndReason.COMPLETED:
        missing = await _missing(session, experiment, report)
        if missing:
            reason, message = EndReason.INCOMPLETE, f"the driver said that it was done, but {missing}"
    facts = {
        "reported_reason": report.reason.value,
        "steps_done": report.steps_done,
        "steps_planned": report.steps_planned,
    }
    return await end_attempt(session, current, reason, message, {**report.evidence, **facts})


async def end_attempt(
    session: AsyncSession, attempt: Attempt, reason: EndReason, message: str, evidence: dict[str, Any]
) -> Experiment:
    """Ends a live attempt and moves its experiment on; returns the experiment.

    The attempt's resources still count as taken until `release`. An ended attempt is never changed: StaleAttempt.
    """
    experiment, current = await _lock_both(session, attempt)
    _refuse_ended(current)
    if reason is EndReason.CANCELLED_BY_USER and experiment.status != ExperimentStatus.CANCELLING.value:
        # Somebody stopped the job in Ray itself, so to us it was lost.
        reason = EndReason.RAY_JOB_FAILED
        message = f"the driver was stopped, but nobody asked the service for it; {message}".rstrip("; ")
    message = storable_text(message)
    values = {"evidence": storable_value(evidence)}
    current = await move_attempt(
        session, current, AttemptStatus.ENDED, message=message or reason.value, reason=reason, values=values
    )
    return await _move_on(session, experiment, current, reason, message or reason.value)


async def release(session: AsyncSession, attempt: Attempt, now: datetime) -> Attempt:
    """Notes that Ray holds nothing of an ended attempt any more: its resources are free from now on.

    Releasing again changes nothing. Raises NotAllowedNow while the attempt lives.
    """
    _, current = await _lock_both(session, attempt)
    if current.status != AttemptStatus.ENDED.value:
        raise NotAllowedNow(f"attempt {current.id} is {current.status}; end it before releasing its resources")
    if current.released_at is not None:
        return current
    await notify(session, current.experiment_id)
    return await _update(session, current, {"released_at": now})


def back_off(num_failed: int) -> timedelta:
    """How long to wait after `num_failed` failures in a row (1 or more): 5 s, 30 s, then doubling up to 15 minutes.

    The first wait is short because most failures of the infrastructure are a restart that is already over.
    """
    if num_failed <= 1:
        return FIRST_BACK_OFF
    return min(LATER_BACK_OFF * (1 << min(num_failed - 2, 10)), LONGEST_BACK_OFF)


async def _move_on(
    session: AsyncSession, experiment: Experiment, attempt: Attempt, reason: EndReason, message: str
) -> Experiment:
    to = next_status(
        ExperimentStatus(experiment.status), reason, experiment.num_failed_attempts, experiment.max_retries
    )
    values: dict[str, Any] = {}
    if to is ExperimentStatus.QUEUED:
        num_failed = experiment.num_failed_attempts + 1
        wait = back_off(num_failed)
        values = {
            "num_failed_attempts": num_failed,
            "not_before": func.now() + wait,
            "waiting_reason": f"attempt {attempt.number} ended ({reason.value}): waits {wait.seconds} s "
            "and until Ray let go of it",
        }
        message = f"attempt {attempt.number} ended ({reason.value}); retry {num_failed} of {experiment.max_retries}"
    elif to is ExperimentStatus.SUCCEEDED:
        message = "all stages are done"
    end = EndReason.CANCELLED_BY_USER if to is ExperimentStatus.CANCELLED else reason
    return await move_experiment(
        session,
        experiment.id,
        to,
        message=message,
        reason=end if to.is_terminal else None,
        attempt_id=attempt.id,
        values=values,
    )


def next_status(
    current: ExperimentStatus, reason: EndReason, num_failed_attempts: int, max_retries: int
) -> ExperimentStatus:
    """Where an experiment goes when its attempt ends; `num_failed_attempts` does not count this one."""
    if reason is EndReason.COMPLETED:
        return ExperimentStatus.SUCCEEDED
    if current is ExperimentStatus.CANCELLING:
        return ExperimentStatus.CANCELLED
    if reason.is_retryable and num_failed_attempts < max_retries:
        return ExperimentStatus.QUEUED
    return reason.to_status()


async def _missing(session: AsyncSession, experiment: Experiment, report: FinishReport) -> str:
    done = {result.stage for result in await read_stage_results(session, experiment.id)}
    stages = [stage for stage in _stage_names(experiment) if stage not in done]
    if stages:
        return f"no result arrived of {', '.join(stages)}"
    if report.steps_done != report.steps_planned:
        return f"{report.steps_done} of {report.steps_planned} planned steps were done"
    return ""


def _stage_names(experiment: Experiment) -> list[str]:
    return [*ExperimentSpec.model_validate(experiment.spec).stage_names()]


async def _lock_both(session: AsyncSession, attempt: Attempt) -> tuple[Experiment, Attempt]:
    experiment = await _lock_experiment(session, attempt.experiment_id)
    return experiment, await _lock_attempt(session, attempt)


async def _lock_experiment(session: AsyncSession, experiment_id: str) -> Experiment:
    experiment = await lock_experiment(session, experiment_id)
    assert experiment is not None, "experiments are never deleted"
    return experiment


async def _lock_attempt(session: AsyncSession, attempt: Attempt) -> Attempt:
    return (
        await session.scalars(
            select(Attempt)
            .where(Attempt.id == attempt.id)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
    ).one()


async def _update(session: AsyncSession, attempt: Attempt, values: dict[str, Any]) -> Attempt:
    updated = update(Attempt).where(Attempt.id == attempt.id).values(values).returning(Attempt)
    return (await session.scalars(updated.execution_options(populate_existing=True))).one()


def _refuse_ended(attempt: Attempt) -> None:
    if attempt.status == AttemptStatus.ENDED.value:
        raise StaleAttempt(
            f"attempt {attempt.id} ended ({attempt.end_reason}); its driver must stop and write nothing more",
            attempt_id=attempt.id,
            end_reason=attempt.end_reason,
        )
