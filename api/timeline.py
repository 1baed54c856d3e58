"""The course of an experiment, put together from its attempts, the results of its stages and its events. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from api.schemas import Attempt, Event, Experiment
from api.timeline_schemas import AttemptSpan, Incident, StageSpan, TakenOver, Timeline, WaitSpan, Weight
from service.contract.messages import StageResult
from service.contract.status import AttemptStatus, EndReason, ExperimentStatus

_ROUTINE = frozenset({"status", "attempt", "stage"})
"""Told by spans, unless an attempt failed."""
_WEIGHTS: Mapping[str, Weight] = {
    "checkpoint_damaged": "problem",
    "checkpoint_skipped": "problem",
    "engine_lost": "problem",
    "engine_replaced": "problem",
    "events_left_out": "problem",
    "sentinel": "problem",
    "stalled": "problem",
    "trainer_restarted": "problem",
    "resumed": "milestone",
    "stage_reused": "milestone",
    "tau_calibrated": "milestone",
}
_CALM_ENDS = (EndReason.COMPLETED, EndReason.PREEMPTED)


def timeline_of(experiment: Experiment, events: Sequence[Event], now: datetime) -> Timeline:
    """`events` oldest first."""
    numbers = {attempt.id: attempt.number for attempt in experiment.attempts}
    own = [result for result in experiment.stage_results if "reused_from" not in result.detail]
    return Timeline(
        now=now,
        start=experiment.submitted_at,
        end=experiment.ended_at,
        waits=_waits(experiment),
        attempts=[
            _attempt_span(one, [result for result in own if runner_of(result, experiment.attempts) is one])
            for one in experiment.attempts
        ],
        incidents=[_incident(event, numbers) for event in events if _is_incident(event)],
        taken_over=list(_taken_over(experiment.stage_results)),
    )


def _waits(experiment: Experiment) -> list[WaitSpan]:
    """From submission, and from each attempt's end, to the next attempt; the last one may go on."""
    starts = [experiment.submitted_at, *(one.ended_at for one in experiment.attempts if one.ended_at is not None)]
    ends = [attempt.created_at for attempt in experiment.attempts]
    waits = [WaitSpan(start=start, end=max(start, end)) for start, end in zip(starts, ends, strict=False)]
    if len(starts) > len(ends):
        if experiment.status is ExperimentStatus.QUEUED:
            waits.append(WaitSpan(start=starts[-1], end=None))
        elif not ends and experiment.ended_at is not None:
            waits.append(WaitSpan(start=starts[-1], end=experiment.ended_at))
    return waits


def _attempt_span(attempt: Attempt, finished: Sequence[StageResult]) -> AttemptSpan:
    mine = sorted(finished, key=lambda result: result.started_at)
    spans = [
        StageSpan(
            stage=result.stage,
            start=result.started_at,
            end=result.finished_at,
            state="finished",
            steps_done=result.steps_done,
            steps_planned=result.steps_planned,
        )
        for result in mine
    ]
    unfinished = _unfinished(attempt, mine)
    if unfinished is not None:
        spans.append(unfinished)
    begun = spans[0].start if spans else attempt.ended_at
    starting = StageSpan(
        stage=None,
        start=attempt.created_at,
        end=begun,
        state="running" if begun is None else "finished",
        steps_done=None,
        steps_planned=None,
    )
    return AttemptSpan(
        number=attempt.number,
        status=attempt.status,
        start=attempt.created_at,
        end=attempt.ended_at,
        end_reason=attempt.end_reason,
        message=attempt.message,
        spans=[starting, *spans],
    )


def runner_of(result: StageResult, attempts: Sequence[Attempt]) -> Attempt:
    """The attempt that finished a stage: the last one that had been admitted by then.

    Its end says nothing, because the result carries the driver's clock and the end the service's.
    """
    return next((one for one in reversed(attempts) if one.created_at <= result.finished_at), attempts[0])


def _unfinished(attempt: Attempt, finished: Sequence[StageResult]) -> StageSpan | None:
    """The stage that the attempt is at, or was at when it ended; known from what it last reported."""
    at = attempt.progress
    if at is None or at.stage is None or any(result.stage == at.stage for result in finished):
        return None
    begun = finished[-1].finished_at if finished else attempt.started_at or attempt.created_at
    is_live = attempt.status is not AttemptStatus.ENDED
    return StageSpan(
        stage=at.stage,
        start=begun,
        end=attempt.ended_at,
        state="running" if is_live else "interrupted",
        steps_done=at.step,
        steps_planned=at.num_steps,
    )


def _is_incident(event: Event) -> bool:
    return event.kind not in _ROUTINE or _is_failure(event)


def _is_failure(event: Event) -> bool:
    return event.kind == "attempt" and event.detail.get("reason") not in (None, *_CALM_ENDS)


def _incident(event: Event, numbers: Mapping[str, int]) -> Incident:
    return Incident(
        event_id=event.id,
        ts=event.ts,
        kind="attempt_failed" if event.kind == "attempt" else event.kind,
        weight="problem" if _is_failure(event) else _WEIGHTS.get(event.kind, "notice"),
        message=event.message,
        attempt_number=numbers.get(event.attempt_id or ""),
    )


def _taken_over(results: Iterable[StageResult]) -> Iterable[TakenOver]:
    for result in results:
        source = result.detail.get("reused_from")
        if isinstance(source, dict):
            yield TakenOver(stage=result.stage, experiment_id=str(source.get("experiment_id", "")))
