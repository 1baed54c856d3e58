"""The API's sign of life in the database, by which the scheduler knows when drivers could have reported."""

import asyncio
import logging
import os
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from service.storage.database import Sessions
from service.storage.processes import record_life

logger = logging.getLogger(__name__)
INTERVAL_S = 5.0


async def keep_recording_life(sessions: Sessions) -> None:
    """Writes a sign of life every 5 s until cancelled; while the database is away it goes on trying."""
    started_at = datetime.now(UTC)
    while True:
        try:
            async with asyncio.timeout(INTERVAL_S), sessions.begin() as session:
                now = datetime.now(UTC)
                await record_life(session, "api", started_at=started_at, now=now, detail={"pid": os.getpid()})
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            logger.warning("sign of life not written", extra={"error": str(error)})
        await asyncio.sleep(INTERVAL_S)
