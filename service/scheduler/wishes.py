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
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.queue.reading import HoldingRow
from service.scheduler import ledger
from service.scheduler.decision.outcome import Preemption, Resize
from service.scheduler.ledger import bundle_json
from service.scheduler.situation import Read
from service.storage.identifiers import new_id
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
        message = f"asked to stop at its next checkpoint: {one.reason}"
        await record_event(session, experiment_id, "preempt_requested", message, attempt_id=one.attempt_id)
        logger.info("preemption requested", extra={"attempt_id": one.attempt_id, "in_favour_of": one.in_favour_of})


async def ask_to_resize(session: AsyncSession, read: Read, resizes: Iterable[Resize], now: datetime) -> None:
    """More engines hold their bundles from now on; those that are asked back hold theirs until the driver lets go."""
    for one in resizes:
        row = read.holding[one.attempt_id]
        bundles = await _locked_bundles(session, row)
        if one.added:
            lent = [bundle_json(bundle) | {"lent": new_id("engine"), "state": "held"} for bundle in one.added]
            await _write(session, read, row, [*bundles, *lent], now)
        else:
            held = [index for index, bundle in enumerate(bundles) if bundle.get("state") == "held"]
            for index in held[max(one.count - _num_own(bundles), 0) :]:
                bundles[index] = bundles[index] | {"state": "wanted_back"}
            await _store(session, row, bundles)
        message = f"shall have {one.count} rollout engines: {one.reason}"
        detail = {"count": one.count}
        await record_event(session, row.experiment_id, "resize_requested", message, attempt_id=row.id, detail=detail)


async def settle_returned(session: AsyncSession, read: Read, now: datetime) -> None:
    """What drivers have let go of is no longer theirs."""
    for row in read.holding.values():
        if any(bundle.get("state") == "gone" for bundle in row.bundles or ()):
            bundles = await _locked_bundles(session, row)
            left = [bundle for bundle in bundles if bundle.get("state") != "gone"]
            await _write(session, read, row, left, now)


async def _locked_bundles(session: AsyncSession, row: HoldingRow) -> list[dict[str, Any]]:
    """As they are now: the driver may have let go of one meanwhile."""
    await lock_experiment(session, row.experiment_id)
    mine = select(AttemptHolding.bundles).where(AttemptHolding.attempt_id == row.id).with_for_update()
    return [dict(bundle) for bundle in await session.scalar(mine) or []]


async def _write(
    session: AsyncSession, read: Read, row: HoldingRow, bundles: list[dict[str, Any]], now: datetime
) -> None:
    kind_of = {node.id: node.gpu_type for node in read.situation.cluster.nodes}
    attempt = await session.get_one(Attempt, row.id)
    await ledger.set_bundles(session, attempt, bundles, kind_of, read.situation.policy, now)


async def _store(session: AsyncSession, row: HoldingRow, bundles: list[dict[str, Any]]) -> None:
    mine = update(AttemptHolding).where(AttemptHolding.attempt_id == row.id)
    await session.execute(mine.values(bundles=bundles).execution_options(synchronize_session=False))


def _num_own(bundles: list[dict[str, Any]]) -> int:
    return sum(bundle["role"] == "rollout" and "lent" not in bundle for bundle in bundles)
