"""An attempt's end, by its driver's word or somebody else's, and what becomes of its experiment."""

import random
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.attempts.lasting_progress import made_lasting_progress
from service.attempts.rows import lock_both, refuse_ended, stage_names, update_attempt
from service.contract.failures import LEAST_JITTER, MOST_JITTER, FailureClass, Retry, class_of, retry_after
from service.contract.messages import FinishReport
from service.contract.status import AttemptStatus, EndReason, ExperimentStatus
from service.errors import NotAllowedNow
from service.storage.json_values import storable_text, storable_value
from service.storage.scheduling_tables import AttemptHolding
from service.storage.stage_results import read_stage_results
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import move_attempt, move_experiment, notify, record_event

_LOSES_PROCESSES = frozenset({FailureClass.INFRA_NODE, FailureClass.INFRA_ENGINE, FailureClass.OUT_OF_MEMORY})
"""Failures after which a driver that reports cannot know what still runs."""


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


async def add_evidence(session: AsyncSession, attempt: Attempt, facts: Mapping[str, Any]) -> None:
    """Adds what became known after the end, such as the exit code; what is known already stays as it was told."""
    _, current = await lock_both(session, attempt)
    evidence = {**storable_value(dict(facts)), **current.evidence}
    if evidence != current.evidence:
        await update_attempt(session, current, {"evidence": evidence})


def ended_hard(attempt: Attempt) -> bool:
    """Whether an ended attempt may have left processes behind: its driver could not clean up, or lost an actor.

    A driver that never called `start` has made nothing; one that Ray had not even started may still come.
    """
    if attempt.end_reason is None:
        return False
    reason = EndReason(attempt.end_reason)
    if attempt.started_at is None:
        return reason is EndReason.START_TIMEOUT
    return "reported_reason" not in attempt.evidence or class_of(reason) in _LOSES_PROCESSES


async def mark_swept(session: AsyncSession, attempt_id: str, now: datetime, note: str) -> None:
    """Notes that the nodes were searched for what an ended attempt left, with what people should know of it."""
    attempt = await session.get_one(Attempt, attempt_id)
    if note:
        await record_event(session, attempt.experiment_id, "note", note, attempt_id=attempt.id)
    await update_attempt(session, attempt, {"swept_at": now})


async def _move_on(
    session: AsyncSession, experiment: Experiment, attempt: Attempt, reason: EndReason, message: str
) -> Experiment:
    counts: Mapping[str, int] = experiment.failure_counts
    if counts and await made_lasting_progress(session, attempt):
        counts = {}
    to, retry = next_status(ExperimentStatus(experiment.status), reason, counts, experiment.max_retries)
    values: dict[str, Any] = {}
    if retry is not None:
        values = _retry_values(attempt, counts, experiment.num_failed_attempts if counts else 0, reason, retry)
        message = f"attempt {attempt.number} ended ({reason.value}); {retry}"
    if to is ExperimentStatus.QUEUED and reason is EndReason.PREEMPTED:
        # No failure: no back-off, none of its retries used, and `queued_at` as it was.
        values |= {"not_before": None, "waiting_reason": f"waits until Ray let go of attempt {attempt.number}"}
        message = f"attempt {attempt.number} gave way: {message}"
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
    current: ExperimentStatus, reason: EndReason, counts: Mapping[str, int], max_retries: int
) -> tuple[ExperimentStatus, Retry | None]:
    """Where an experiment goes when its attempt ends, with the retry that brings it back into the queue.

    `counts` are the failures in a row by kind, without this one.
    """
    if reason is EndReason.COMPLETED:
        return ExperimentStatus.SUCCEEDED, None
    if current is ExperimentStatus.CANCELLING:
        return ExperimentStatus.CANCELLED, None
    retry = retry_after(reason, counts, max_retries, random.uniform(LEAST_JITTER, MOST_JITTER))
    return (ExperimentStatus.QUEUED, retry) if retry else (reason.to_status(), None)


def _retry_values(
    attempt: Attempt, counts: Mapping[str, int], num_failed: int, reason: EndReason, retry: Retry
) -> dict[str, Any]:
    """The columns of an experiment that goes back into the queue, to the place that it had."""
    wait = f"waits {retry.wait.total_seconds():.0f} s and until Ray let go of it"
    return {
        "failure_counts": {**counts, retry.failure.value: retry.number},
        "num_failed_attempts": num_failed + retry.counts,
        "not_before": func.now() + retry.wait,
        "waiting_reason": f"attempt {attempt.number} ended ({reason.value}): {wait}",
    }


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
