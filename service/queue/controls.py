"""What people order: hold, release and priority of one experiment; pause, resume, drain and maintenance of the queue.

Each order on an experiment leaves an event that says who ordered what, and what was before.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.spec import PRIORITY_RANK, PriorityName
from service.contract.status import ExperimentStatus
from service.errors import InvalidRequest, NotAllowedNow, NotFound
from service.storage.identifiers import new_id
from service.storage.scheduling_tables import MaintenanceWindow, QueueEntry, QueuePause
from service.storage.tables import Experiment, Project
from service.storage.transitions import lock_experiment, notify, record_event

WHOLE_QUEUE = ""
_NAMES = {rank: name for name, rank in PRIORITY_RANK.items()}


async def hold(session: AsyncSession, experiment_id: str, *, by: str, reason: str) -> Experiment:
    """Keeps a queued experiment from starting until `release`; holding again replaces the reason.

    Raises NotFound; NotAllowedNow unless it is queued.
    """
    experiment, entry = await _queued(session, experiment_id, "held")
    before = {"held_by": entry.held_by, "reason": entry.held_reason}
    entry.held_by, entry.held_reason, entry.held_at = by, reason, await _now(session)
    await session.flush()
    detail = {"before": before, "after": {"held_by": by, "reason": reason}}
    await record_event(session, experiment_id, "held", f"held by {by}: {reason}".rstrip(": "), detail=detail)
    return experiment


async def release(session: AsyncSession, experiment_id: str, *, by: str) -> Experiment:
    """Lets a held experiment take its place again, which it has kept. Does nothing for one that is not held.

    Raises NotFound; NotAllowedNow unless it is queued.
    """
    experiment, entry = await _queued(session, experiment_id, "released")
    if entry.held_by is None:
        return experiment
    detail = {"before": {"held_by": entry.held_by, "reason": entry.held_reason}, "after": {"held_by": None}}
    entry.held_by, entry.held_reason, entry.held_at = None, "", None
    await session.flush()
    await record_event(session, experiment_id, "released", f"released by {by}", detail=detail)
    return experiment


async def set_priority(session: AsyncSession, experiment_id: str, priority: PriorityName, *, by: str) -> Experiment:
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
    message = f"priority {priority} instead of {before}, by {by}"
    await record_event(
        session, experiment_id, "priority", message, detail={"before": before, "after": priority, "by": by}
    )
    return experiment


async def pause(
    session: AsyncSession, project: Project | None, *, by: str, reason: str, drains: bool = False
) -> QueuePause:
    """Starts nothing new, anywhere or in one project; with `drains` what runs is asked to give way at a checkpoint."""
    row = {
        "scope": project.id if project else WHOLE_QUEUE,
        "drains": drains,
        "reason": reason,
        "by_user": by,
        "since": func.now(),
    }
    statement = insert(QueuePause).values(row)
    paused = await session.scalars(
        statement.on_conflict_do_update(index_elements=[QueuePause.scope], set_=row)
        .returning(QueuePause)
        .execution_options(populate_existing=True)
    )
    await _wake(session)
    return paused.one()


async def resume(session: AsyncSession, project: Project | None) -> QueuePause | None:
    """Ends a pause; returns it as it was, or None if there was none."""
    scope = project.id if project else WHOLE_QUEUE
    ended = await session.scalar(delete(QueuePause).where(QueuePause.scope == scope).returning(QueuePause))
    await _wake(session)
    return ended


async def pauses(session: AsyncSession) -> Sequence[tuple[QueuePause, str | None]]:
    """All of them, each with its project's name; that of the whole queue has none."""
    statement = select(QueuePause, Project.name).outerjoin(Project, Project.id == QueuePause.scope)
    rows = await session.execute(statement.order_by(QueuePause.scope))
    return [(row, name) for row, name in rows]


async def add_window(
    session: AsyncSession, *, starts_at: datetime, ends_at: datetime, reason: str, by: str
) -> MaintenanceWindow:
    """A time in which nothing may run: nothing is started that might still run then. Raises InvalidRequest."""
    if ends_at <= max(starts_at, await _now(session)):
        problem = "a window ends after its start, and in the future"
        raise InvalidRequest(problem, errors=[{"field": "ends_at", "problem": problem}])
    window = MaintenanceWindow(id=new_id("window"), starts_at=starts_at, ends_at=ends_at, reason=reason, by_user=by)
    session.add(window)
    await session.flush()
    await _wake(session)
    return window


async def remove_window(session: AsyncSession, window_id: str) -> MaintenanceWindow:
    """Takes a window back, also one that has begun. Raises NotFound."""
    gone = delete(MaintenanceWindow).where(MaintenanceWindow.id == window_id).returning(MaintenanceWindow)
    window = await session.scalar(gone)
    if window is None:
        raise NotFound(f"there is no maintenance window {window_id!r}; list them to find its id")
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
        raise NotFound(f"there is no experiment {experiment_id!r}; list the experiments to find its id")
    return experiment


async def _now(session: AsyncSession) -> datetime:
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def _wake(session: AsyncSession) -> None:
    """The scheduler looks at once; the payload names no experiment."""
    await notify(session, "queue")
