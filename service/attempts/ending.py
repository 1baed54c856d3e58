"""An attempt's end, by its driver's word or somebody else's, and what becomes of its experiment."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.attempts.rows import lock_both, refuse_ended, stage_names, update_attempt
from service.contract.messages import FinishReport
from service.contract.status import AttemptStatus, EndReason, ExperimentStatus
from service.errors import NotAllowedNow
from service.storage.json_values import storable_text, storable_value
from service.storage.scheduling_tables import AttemptHolding
from service.storage.stage_results import read_stage_results
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import move_attempt, move_experiment, notify

FIRST_BACK_OFF = timedelta(seconds=5)
LATER_BACK_OFF = timedelta(seconds=30)
LONGEST_BACK_OFF = timedelta(minutes=15)


async def finish(session: AsyncSession, attempt: Attempt, report: FinishReport) -> Experiment:
    """The driver's last word. Repeated with the same reason it changes nothing.

    `completed` is believed only if every planned step was done and every stage left its result, else it becomes
    `incomplete`. Raises StaleAttempt if the attempt was ended otherwise.
    """
    experiment, current = await lock_both(session, attempt)
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
    assert reason.ends_attempts, "an attempt cannot end with it"
    experiment, current = await lock_both(session, attempt)
    refuse_ended(current)
    if reason is EndReason.CANCELLED_BY_USER and experiment.status != ExperimentStatus.CANCELLING.value:
        # Somebody stopped the job in Ray itself, so to us it was lost.
        reason = EndReason.RAY_JOB_FAILED
        message = f"the driver was stopped, but nobody asked the service for it; {message}".rstrip("; ")
    if reason is EndReason.PREEMPTED and not await _was_asked_to_give_way(session, current):
        reason = EndReason.RAY_JOB_FAILED
        message = f"the driver gave way, but nobody asked the service for it; {message}".rstrip("; ")
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
    _, current = await lock_both(session, attempt)
    if current.status != AttemptStatus.ENDED.value:
        raise NotAllowedNow(f"attempt {current.id} is {current.status}; end it before releasing its resources")
    if current.released_at is not None:
        return current
    await notify(session, current.experiment_id)
    return await update_attempt(session, current, {"released_at": now})


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
    if to is ExperimentStatus.QUEUED and reason is EndReason.PREEMPTED:
        # No failure: no back-off, none of its retries used, and `queued_at` as it was.
        values = {"not_before": None, "waiting_reason": f"waits until Ray let go of attempt {attempt.number}"}
        message = f"attempt {attempt.number} gave way: {message}"
    elif to is ExperimentStatus.QUEUED:
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
    if reason is EndReason.PREEMPTED:
        return ExperimentStatus.QUEUED
    if reason.is_retryable and num_failed_attempts < max_retries:
        return ExperimentStatus.QUEUED
    return reason.to_status()


async def _was_asked_to_give_way(session: AsyncSession, attempt: Attempt) -> bool:
    asked = select(AttemptHolding.preempt_requested_at).where(AttemptHolding.attempt_id == attempt.id)
    return await session.scalar(asked) is not None


async def _missing(session: AsyncSession, experiment: Experiment, report: FinishReport) -> str:
    done = {result.stage for result in await read_stage_results(session, experiment.id)}
    stages = [stage for stage in stage_names(experiment) if stage not in done]
    if stages:
        return f"no result arrived of {', '.join(stages)}"
    if report.steps_done != report.steps_planned:
        return f"{report.steps_done} of {report.steps_planned} planned steps were done"
    return ""
