"""What a running attempt tells of itself: numbered reports, events, and the results of its stages."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Table, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.attempts.rows import lock_attempt, lock_both, refuse_ended, stage_names
from service.contract.messages import (
    ENGINE_NOT_ADDED,
    ENGINE_RETURNED,
    PREEMPTION_ACKNOWLEDGED,
    SERVICE_EVENT_KINDS,
    RunEvent,
    StageResult,
    WorkerReport,
)
from service.contract.status import AttemptStatus
from service.errors import InvalidReport, NotAllowedNow, ReportGap
from service.storage.json_values import storable_model, storable_text, storable_value
from service.storage.scheduling_tables import AttemptHolding
from service.storage.tables import Attempt, ExperimentEvent, StageResultRow
from service.storage.transitions import record_event

_ATTEMPTS = cast(Table, Attempt.__table__)
MAX_RUN_EVENTS = 1_000
"""Of one attempt. Whoever tells more than that has gone round in a circle."""


async def accept_report(session: AsyncSession, attempt: Attempt, report: WorkerReport) -> bool:
    """Takes the report's number and sign of life; returns whether it was stored before.

    The attempt's row stays locked until the transaction ends, so reports are stored one after the other. Raises
    StaleAttempt if the attempt is over, NotAllowedNow before `start`, ReportGap if an earlier report is missing.
    """
    # Events are written under the experiment's lock, which has to come first.
    current = (await lock_both(session, attempt))[1] if report.events else await lock_attempt(session, attempt)
    refuse_ended(current)
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
            if _place(values["progress"]) != _place(current.progress):
                values["progress_at"] = func.clock_timestamp()
    # Nobody reads the row again here, and this runs for each report of each run.
    await session.execute(update(_ATTEMPTS).where(_ATTEMPTS.c.id == current.id).values(values))
    return duplicate


def _place(progress: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    """What makes one progress another: the driver's own clock does not."""
    return None if progress is None else (progress["stage"], progress["phase"], progress["step"])


async def record_run_events(session: AsyncSession, attempt: Attempt, events: Sequence[RunEvent]) -> None:
    """Puts what the driver wants a person to know among the experiment's events, with the driver's times.

    An attempt may tell `MAX_RUN_EVENTS`; a last one says that more are left out. Belongs behind the `accept_report` of
    the report that holds them, in the same transaction.
    """
    if not events:
        return
    of_driver = (ExperimentEvent.attempt_id == attempt.id, ExperimentEvent.kind.not_in(SERVICE_EVENT_KINDS))
    num_told = await session.scalar(select(func.count()).select_from(ExperimentEvent).where(*of_driver)) or 0
    kept = [*events[: max(MAX_RUN_EVENTS - num_told, 0)]]
    if num_told <= MAX_RUN_EVENTS < num_told + len(events):
        message = f"attempt {attempt.number} tells of more than {MAX_RUN_EVENTS:,} events; the rest is left out"
        kept.append(RunEvent(ts=events[-1].ts, kind="events_left_out", message=message))
    await _note_answers(session, attempt, events)
    for event in kept:
        await record_event(
            session,
            attempt.experiment_id,
            event.kind,
            storable_text(event.message),
            attempt_id=attempt.id,
            detail=storable_value(event.detail),
            ts=event.ts,
        )


async def _note_answers(session: AsyncSession, attempt: Attempt, events: Sequence[RunEvent]) -> None:
    """What the driver says to the scheduler's wishes: where it gives way, and which lent engines it has no more."""
    mine = AttemptHolding.attempt_id == attempt.id
    for event in events:
        if event.kind == PREEMPTION_ACKNOWLEDGED:
            heard = {"preempt_heard_at": func.clock_timestamp(), "preempt_step": storable_value(event.detail)}
            await session.execute(update(AttemptHolding).where(mine).values(heard))
        elif event.kind in (ENGINE_RETURNED, ENGINE_NOT_ADDED):
            bundles = await session.scalar(select(AttemptHolding.bundles).where(mine).with_for_update())
            gone = [
                bundle | {"state": "gone"} if bundle.get("lent") == event.detail.get("id") else bundle
                for bundle in bundles or []
            ]
            await session.execute(update(AttemptHolding).where(mine).values(bundles=gone))


async def record_stage_result(session: AsyncSession, attempt: Attempt, result: StageResult) -> bool:
    """Keeps the result of a finished stage, once per experiment and stage; returns whether it was new.

    Raises StaleAttempt if the attempt is over, InvalidReport for a stage that the specification does not have.
    """
    experiment, current = await lock_both(session, attempt)
    refuse_ended(current)
    planned = stage_names(experiment)
    if result.stage not in planned:
        raise InvalidReport(f"experiment {experiment.id} has no stage {result.stage}; it has {', '.join(planned)}")
    row = {"experiment_id": experiment.id, "stage": result.stage, "attempt_id": current.id}
    new = await session.scalar(
        insert(StageResultRow)
        .values(**row, result=storable_model(result), created_at=func.clock_timestamp())
        # What was to be reused, and could not be, gives way to the experiment's own.
        .on_conflict_do_update(
            index_elements=[StageResultRow.experiment_id, StageResultRow.stage],
            set_={"result": storable_model(result), "attempt_id": current.id, "created_at": func.clock_timestamp()},
            where=StageResultRow.result["detail"].has_key("reused_from"),
        )
        .returning(StageResultRow.stage)
    )
    if new is None:
        return False
    detail = {"stage": result.stage, "steps_done": result.steps_done, "duration_s": result.duration_s}
    message = f"stage {result.stage} finished"
    await record_event(session, experiment.id, "stage", message, attempt_id=current.id, detail=storable_value(detail))
    return True
