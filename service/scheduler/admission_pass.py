"""One pass over the queue: read, decide, claim. Nothing here talks to Ray."""

import logging

from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, queue
from service.errors import NotAllowedNow
from service.scheduler.admission import Decisions, QueuedExperiment, Resources, admit
from service.scheduler.capacity import database_now, read_capacity
from service.scheduler.lease import Lease, hold_lease
from service.storage.database import Sessions
from service.storage.tables import Experiment

logger = logging.getLogger(__name__)


async def run_admission(sessions: Sessions, lease: Lease) -> int:
    """Opens an attempt for every experiment whose turn it is; returns how many. Raises LeaseLost.

    Only the lease's holder adds to what is taken; others only give back. So between reading and claiming the decision
    can become too careful, never too bold.
    """
    async with sessions.begin() as session:
        await hold_lease(session, lease)
        decisions = await _decide(session)
    admitted = [await _claim(sessions, lease, experiment_id) for experiment_id in decisions.admissions]
    return sum(admitted)


async def _decide(session: AsyncSession) -> Decisions:
    """Decides and writes the reasons that changed."""
    now = await database_now(session)
    rows = await queue.queued_in_order(session, now)
    taken = await queue.taken(session)
    decisions = admit(
        [_entry(row) for row in rows],
        Resources.demand(taken.num_cpus, taken.num_gpus),
        await read_capacity(session, now),
    )
    for row in rows:
        if row.id in decisions.waiting:
            await queue.set_waiting_reason(session, row, decisions.waiting[row.id])
    return decisions


async def _claim(sessions: Sessions, lease: Lease, experiment_id: str) -> bool:
    try:
        async with sessions.begin() as session:
            await hold_lease(session, lease)
            experiment = await session.get_one(Experiment, experiment_id)
            attempt = await attempts.open_attempt(session, experiment, await database_now(session))
    except NotAllowedNow:
        logger.info("experiment left the queue before its turn", extra={"experiment_id": experiment_id})
        return False
    logger.info("experiment admitted", extra={"experiment_id": experiment_id, "attempt_id": attempt.id})
    return True


def _entry(row: Experiment) -> QueuedExperiment:
    return QueuedExperiment(
        id=row.id,
        priority_rank=row.priority_rank,
        queued_at=row.queued_at,
        demand=Resources.demand(row.num_cpus, row.num_gpus),
    )
