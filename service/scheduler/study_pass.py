"""The scheduler's look at open studies: stopping rule, end, and holds of what came back to the queue meanwhile."""

import logging

from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import LeaseLost
from service.scheduler.lease import Lease, hold_lease
from service.storage.database import Sessions
from service.studies import look_after, open_studies

logger = logging.getLogger(__name__)


async def watch_studies(sessions: Sessions, lease: Lease) -> int:
    """One look at each; returns how many came to their end. Raises LeaseLost.

    A study that cannot be judged is told of in the log and keeps no other from being looked at.
    """

    async def fence(session: AsyncSession, alone: bool) -> None:
        await hold_lease(session, lease, alone=alone)

    async with sessions() as session:
        study_ids = await open_studies(session)
    ended = 0
    for study_id in study_ids:
        try:
            ended += await look_after(sessions, study_id, fence) is not None
        except LeaseLost:
            raise
        except Exception:
            logger.exception("study not judged, the next pass tries again", extra={"study_id": study_id})
    return ended
