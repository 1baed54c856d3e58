"""What the scheduler wants of running attempts: to stop at a checkpoint, or to have more or fewer rollout engines.

    wish written ──next report's answer──> driver hears it ──event──> says at which step it stops
                                                                          │
         attempt ends `preempted` <── checkpoint written and verified <───┘

A wish is a fact in the row; the API tells it to the driver, and the scheduler never calls one. A driver that does not
stop in time is stopped by the reconciler, and goes on from its last checkpoint all the same.
"""

import logging
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from service.scheduler import ledger
from service.scheduler.decision.outcome import Preemption, Resize
from service.scheduler.situation import Read, placement_of
from service.storage.scheduling_tables import AttemptHolding
from service.storage.tables import Attempt
from service.storage.transitions import lock_experiment, record_event

logger = logging.getLogger(__name__)


async def ask_to_stop(session: AsyncSession, read: Read, preemptions: Iterable[Preemption], now: datetime) -> None:
    """Each attempt is asked once; asking again changes nothing."""
    for one in preemptions:
        experiment_id = read.holding[one.attempt_id].experiment_id
        # Everybody takes the experiment's lock before what belongs to its attempts.
        await lock_experiment(session, experiment_id)
        asked = await session.scalar(
            update(AttemptHolding)
            .where(AttemptHolding.attempt_id == one.attempt_id, AttemptHolding.preempt_requested_at.is_(None))
            .values(preempt_requested_at=now, preempt_reason=one.reason, preempted_for=one.in_favour_of)
            .returning(AttemptHolding.attempt_id)
        )
        if asked is None:
            continue
        detail = {"in_favour_of": one.in_favour_of}
        message = f"asked to stop at its next checkpoint: {one.reason}"
        await record_event(
            session, experiment_id, "preempt_requested", message, attempt_id=one.attempt_id, detail=detail
        )
        logger.info("preemption requested", extra={"attempt_id": one.attempt_id, "in_favour_of": one.in_favour_of})


async def ask_to_resize(session: AsyncSession, read: Read, resizes: Iterable[Resize], now: datetime) -> None:
    """More engines hold their bundles from now on; fewer let go of theirs when the driver says so."""
    kind_of = {node.id: node.gpu_type for node in read.situation.cluster.nodes}
    for one in resizes:
        row = read.holding[one.attempt_id]
        await lock_experiment(session, row.experiment_id)
        attempt = await session.get_one(Attempt, one.attempt_id)
        if one.added:
            policy = read.situation.policy
            await ledger.resize(session, attempt, (*placement_of(row), *one.added), kind_of, policy, now)
        await session.execute(
            update(AttemptHolding)
            .where(AttemptHolding.attempt_id == one.attempt_id)
            .values(num_engines_wanted=one.count, resize_requested_at=now)
        )
        message = f"shall have {one.count} rollout engines: {one.reason}"
        await record_event(
            session, row.experiment_id, "resize_requested", message, attempt_id=attempt.id, detail={"count": one.count}
        )
