"""What people order: hold, release and priority of one experiment; pause, resume, drain and maintenance of the queue.

Each order on an experiment leaves an event that says who ordered what, and what was before.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.access import Actor, Visible, no_experiment
from service.contract.spec import PRIORITY_RANK, PriorityName
from service.contract.status import ExperimentStatus
from service.errors import InvalidRequest, NotAllowedNow, NotFound
from service.storage.clock import database_now
from service.storage.identifiers import new_id
from service.storage.scheduling_tables import AttemptHolding, MaintenanceWindow, QueueEntry, QueuePause
from service.storage.tables import Attempt, Experiment, Project
from service.storage.transitions import lock_experiment, notify, record_event

WHOLE_QUEUE = ""
_NAMES = {rank: name for name, rank in PRIORITY_RANK.items()}


async def hold(session: AsyncSession, experiment_id: str, *, user: Actor, reason: str) -> Experiment:
    """Keeps a queued experiment from starting until `release`; holding again replaces the reason.

    Raises NotFound; NotAllowedNow unless it is queued.
    """
    experiment, entry = await _queued(session, experiment_id, "held")
    before = _hold_of(entry)
    entry.held_by, entry.held_reason, entry.held_at = user.name, reason, await database_now(session)
    await session.flush()
    await _note(session, experiment, user, "hold", "held", f"held by {user.name}: {reason}", before, _hold_of(entry))
    return experiment


async def hold_running(session: AsyncSession, attempt: Attempt, *, by: str, reason: str) -> None:
    """Asks a running attempt to stop at its next checkpoint, and keeps its experiment from going on until `release`.

    For the service itself; `by` says which part of it. The caller holds the experiment's lock. One that somebody holds
    already stays theirs.
    """
    now = await database_now(session)
    unheld = update(QueueEntry).where(QueueEntry.experiment_id == attempt.experiment_id, QueueEntry.held_by.is_(None))
    held = await session.scalar(
        unheld.values(held_by=by, held_reason=reason, held_at=now).returning(QueueEntry.experiment_id)
    )
    unasked = update(AttemptHolding).where(
        AttemptHolding.attempt_id == attempt.id, AttemptHolding.preempt_requested_at.is_(None)
    )
    await session.execute(unasked.values(preempt_requested_at=now, preempt_reason=reason))
    if held is not None:
        message = f"held by {by}; stops at its next checkpoint and waits to be released: {reason}"
        detail = {"after": {"held_by": by, "reason": reason}, "by": by}
        await record_event(session, attempt.experiment_id, "held", message, attempt_id=attempt.id, detail=detail)


async def release(session: AsyncSession, experiment_id: str, *, user: Actor) -> Experiment:
    """Lets a held experiment take its place again, which it has kept. Does nothing for one that is not held.

    Raises NotFound; NotAllowedNow unless it is queued.
    """
    experiment, entry = await _queued(session, experiment_id, "released")
    if entry.held_by is None:
        return experiment
    before = _hold_of(entry)
    entry.held_by, entry.held_reason, entry.held_at = None, "", None
    await session.flush()
    await _note(session, experiment, user, "release", "released", f"released by {user.name}", before, _hold_of(entry))
    return experiment


async def set_priority(session: AsyncSession, experiment_id: str, priority: PriorityName, *, user: Actor) -> Experiment:
    """Moves an experiment that has not ended to another class. Its specification keeps saying what was submitted.

    Raises NotFound; NotAllowedNow after the end.
    """
    experiment = await _locked(session, experiment_id)
    status = ExperimentStatus(experiment.status)
    if status.is_terminal:
        raise NotAllowedNow(f"experiment {experiment_id} is {status.value}; its priority means nothing any more")
    before = _NAMES[experiment.priority_rank]
    if before == priority:
        return experiment
    experiment.priority_rank = PRIORITY_RANK[priority]
    await session.flush()
    message = f"priority {priority} instead of {before}, by {user.name}"
    changed = {"priority": before}, {"priority": priority}
    await _note(session, experiment, user, "prioritise", "priority", message, *changed)
    return experiment


async def pause(
    session: AsyncSession, project: Project | None, *, user: Actor, reason: str, drains: bool = False
) -> QueuePause:
    """Starts nothing new, anywhere or in one project; with `drains` what runs is asked to give way at a checkpoint."""
    row = {
        "scope": project.id if project else WHOLE_QUEUE,
        "drains": drains,
        "reason": reason,
        "by_user": user.name,
        "since": func.now(),
    }
    before = await session.get(QueuePause, row["scope"], populate_existing=True)
    was = _pause_of(before) if before else None
    statement = insert(QueuePause).values(row)
    written = statement.on_conflict_do_update(index_elements=[QueuePause.scope], set_=row).returning(QueuePause)
    paused = (await session.scalars(written.execution_options(populate_existing=True))).one()
    verb = "drain" if drains else "pause"
    await audit.record(session, user, verb, _queue_of(project), before=was, after=_pause_of(paused))
    await _wake(session)
    return paused


async def resume(session: AsyncSession, project: Project | None, *, user: Actor) -> QueuePause | None:
    """Ends a pause; returns it as it was, or None if there was none."""
    scope = project.id if project else WHOLE_QUEUE
    ended = await session.scalar(delete(QueuePause).where(QueuePause.scope == scope).returning(QueuePause))
    if ended is not None:
        await audit.record(session, user, "resume", _queue_of(project), before=_pause_of(ended))
        await _wake(session)
    return ended


async def pauses(session: AsyncSession, visible: Visible) -> Sequence[tuple[QueuePause, str | None]]:
    """That of the whole queue, which has no project, and those of visible projects with their names."""
    statement = (
        select(QueuePause, Project.name)
        .outerjoin(Project, Project.id == QueuePause.scope)
        .where(or_(QueuePause.scope == WHOLE_QUEUE, visible.where(QueuePause.scope)))
        .order_by(QueuePause.scope)
    )
    return [(row, name) for row, name in await session.execute(statement)]


async def add_window(
    session: AsyncSession, *, starts_at: datetime, ends_at: datetime, reason: str, user: Actor
) -> MaintenanceWindow:
    """A time in which nothing may run: nothing is started that might still run then. Raises InvalidRequest."""
    if ends_at <= max(starts_at, await database_now(session)):
        problem = "a window ends after its start, and in the future"
        raise InvalidRequest(problem, errors=[{"field": "ends_at", "problem": problem}])
    window = MaintenanceWindow(
        id=new_id("window"), starts_at=starts_at, ends_at=ends_at, reason=reason, by_user=user.name
    )
    session.add(window)
    await session.flush()
    await audit.record(session, user, "plan", _target_of(window), after=_window_of(window))
    await _wake(session)
    return window


async def remove_window(session: AsyncSession, window_id: str, *, user: Actor) -> MaintenanceWindow:
    """Takes a window back, also one that has begun. Raises NotFound."""
    gone = delete(MaintenanceWindow).where(MaintenanceWindow.id == window_id).returning(MaintenanceWindow)
    window = await session.scalar(gone)
    if window is None:
        raise NotFound(f"there is no maintenance window {window_id!r}; list them to find its id")
    await audit.record(session, user, "take_back", _target_of(window), before=_window_of(window))
    await _wake(session)
    return window


async def windows(session: AsyncSession) -> Sequence[MaintenanceWindow]:
    """Those that have not ended, the next one first."""
    coming = select(MaintenanceWindow).where(MaintenanceWindow.ends_at > func.now())
    return (await session.scalars(coming.order_by(MaintenanceWindow.starts_at))).all()


async def _queued(session: AsyncSession, experiment_id: str, done: str) -> tuple[Experiment, QueueEntry]:
    experiment = await _locked(session, experiment_id)
    if experiment.status != ExperimentStatus.QUEUED.value:
        raise NotAllowedNow(
            f"experiment {experiment_id} is {experiment.status}; only a queued one can be {done}",
            status=experiment.status,
        )
    return experiment, await session.get_one(QueueEntry, experiment_id, populate_existing=True)


async def _locked(session: AsyncSession, experiment_id: str) -> Experiment:
    experiment = await lock_experiment(session, experiment_id)
    if experiment is None:
        raise no_experiment(experiment_id)
    return experiment


async def _note(
    session: AsyncSession,
    experiment: Experiment,
    user: Actor,
    verb: str,
    kind: str,
    message: str,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    """An event for those who read the experiment, and an entry in the audit log."""
    detail = {"before": before, "after": after, "by": user.name}
    await record_event(session, experiment.id, kind, message.rstrip(": "), detail=detail)
    target = audit.Target(kind="experiment", id=experiment.id, name=experiment.name, project_id=experiment.project_id)
    await audit.record(session, user, verb, target, before=before, after=after)


def _hold_of(entry: QueueEntry) -> dict[str, Any]:
    return {"held_by": entry.held_by, "reason": entry.held_reason}


def _pause_of(row: QueuePause) -> dict[str, Any]:
    return {"drain": row.drains, "reason": row.reason, "by": row.by_user}


def _window_of(window: MaintenanceWindow) -> dict[str, Any]:
    times = {"starts_at": window.starts_at.isoformat(), "ends_at": window.ends_at.isoformat()}
    return {**times, "reason": window.reason}


def _queue_of(project: Project | None) -> audit.Target:
    if project is None:
        return audit.Target(kind="queue", id="queue", name="queue", project_id=None)
    return audit.Target(kind="queue", id=project.id, name=project.name, project_id=project.id)


def _target_of(window: MaintenanceWindow) -> audit.Target:
    return audit.Target(kind="maintenance", id=window.id, name=window.reason or window.id, project_id=None)


async def _wake(session: AsyncSession) -> None:
    """The scheduler looks at once; the payload names no experiment."""
    await notify(session, "queue")
