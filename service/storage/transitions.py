"""The only writers of a status. Each move: a guarded UPDATE, an event row, deliveries for webhooks, a NOTIFY; one
transaction.

The UPDATE comes first: it takes the experiment's row lock, so that the ids of an experiment's events rise in the order
in which they are committed and a live reader never misses one.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import (
    ATTEMPT_MOVES,
    EXPERIMENT_MOVES,
    AttemptStatus,
    EndReason,
    ExperimentStatus,
)
from service.errors import NotAllowedNow
from service.storage.tables import Attempt, Experiment
from service.storage.webhook_outbox import enqueue_status

CHANNEL = "sedray_experiments"
"""NOTIFY channel; the payload is an experiment's id. A hint only: readers poll as well."""


async def move_experiment(
    session: AsyncSession,
    experiment_id: str,
    to: ExperimentStatus,
    *,
    message: str,
    reason: EndReason | None = None,
    attempt_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Experiment:
    """Moves an experiment to `to`, with further column `values`.

    Raises NotAllowedNow from a status that cannot go there. A terminal status needs its reason;
    every other clears the end.
    """
    assert to.is_terminal == (reason is not None), "a terminal status and only it has a reason"
    sources = [status.value for status, following in EXPERIMENT_MOVES.items() if to in following]
    columns: dict[str, Any] = {
        "status": to.value,
        "end_reason": reason.value if reason else None,
        "ended_at": func.now() if to.is_terminal else None,
        "message": message if to.is_terminal else "",
        **(values or {}),
    }
    moved = await session.scalar(
        update(Experiment)
        .where(Experiment.id == experiment_id, Experiment.status.in_(sources))
        .values(columns)
        .returning(Experiment)
        .execution_options(populate_existing=True)
    )
    if moved is None:
        current = await session.scalar(select(Experiment.status).where(Experiment.id == experiment_id))
        raise NotAllowedNow(f"experiment {experiment_id} is {current}; it cannot become {to.value}", status=current)
    await _record(
        session, experiment_id, attempt_id, "status", message, {"to": to.value, **_reason(reason), **(detail or {})}
    )
    return moved


async def move_attempt(
    session: AsyncSession,
    attempt: Attempt,
    to: AttemptStatus,
    *,
    message: str,
    reason: EndReason | None = None,
    values: Mapping[str, Any] | None = None,
) -> Attempt:
    """Moves an attempt to `to`, with further column `values`; raises NotAllowedNow if it cannot go there."""
    assert (to is AttemptStatus.ENDED) == (reason is not None), "an ended attempt and only it has a reason"
    await lock_experiment(session, attempt.experiment_id)
    sources = [status.value for status, following in ATTEMPT_MOVES.items() if to in following]
    columns: dict[str, Any] = {"status": to.value, **(values or {})}
    if reason is not None:
        columns |= {"end_reason": reason.value, "ended_at": func.now(), "message": message}
    moved = await session.scalar(
        update(Attempt)
        .where(Attempt.id == attempt.id, Attempt.status.in_(sources))
        .values(columns)
        .returning(Attempt)
        .execution_options(populate_existing=True)
    )
    if moved is None:
        raise NotAllowedNow(f"attempt {attempt.id} cannot become {to.value}", attempt_id=attempt.id)
    await _record(session, attempt.experiment_id, attempt.id, "attempt", message, {"to": to.value, **_reason(reason)})
    return moved


async def lock_experiment(session: AsyncSession, experiment_id: str) -> Experiment | None:
    """The experiment's row, locked against other writers until the transaction ends; None if there is none."""
    return await session.scalar(
        select(Experiment)
        .where(Experiment.id == experiment_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )


async def record_event(
    session: AsyncSession,
    experiment_id: str,
    kind: str,
    message: str,
    *,
    attempt_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
    ts: datetime | None = None,
    is_held: bool = False,
) -> None:
    """An event that changes no status; without `ts` it happened now. `is_held`: the caller has the row's lock."""
    if not is_held:
        await lock_experiment(session, experiment_id)
    await _record(session, experiment_id, attempt_id, kind, message, dict(detail or {}), ts)


async def notify(session: AsyncSession, experiment_id: str) -> None:
    """Tells live readers, when this transaction commits, that something of the experiment changed."""
    await session.execute(text("SELECT pg_notify(:channel, :id)"), {"channel": CHANNEL, "id": experiment_id})


async def _record(
    session: AsyncSession,
    experiment_id: str,
    attempt_id: str | None,
    kind: str,
    message: str,
    detail: dict[str, Any],
    ts: datetime | None = None,
) -> None:
    values = {"experiment_id": experiment_id, "attempt_id": attempt_id, "kind": kind, "message": message, "ts": ts}
    written = await session.execute(_EVENT, {**values, "detail": json.dumps(detail), "channel": CHANNEL})
    if kind == "status":
        event_id, at, has_listeners = written.one()
        if has_listeners:
            await enqueue_status(session, experiment_id, str(detail.get("to", "")), message, sequence=event_id, at=at)


# The row, the hint to readers, and whether any webhook might want to hear of it, in one statement.
_EVENT = text("""
    WITH event AS (
        INSERT INTO experiment_events (experiment_id, attempt_id, ts, kind, message, detail)
        VALUES (:experiment_id, :attempt_id, coalesce(CAST(:ts AS timestamptz), clock_timestamp()), :kind, :message,
                CAST(:detail AS jsonb))
        RETURNING id, ts
    )
    SELECT id, ts, EXISTS (
        SELECT FROM webhooks JOIN experiments USING (project_id)
        WHERE experiments.id = :experiment_id AND webhooks.is_active
    )
    FROM event, (SELECT pg_notify(:channel, :experiment_id)) AS told
""")


def _reason(reason: EndReason | None) -> dict[str, str]:
    return {"reason": reason.value} if reason else {}
