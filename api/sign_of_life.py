"""The API's sign of life in the database, by which the scheduler knows when drivers could have reported."""

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from service.storage.database import Sessions
from service.storage.processes import new_instance, record_life
from service.versions import sedray_version

logger = logging.getLogger(__name__)
INTERVAL_S = 5.0


async def keep_recording_life(sessions: Sessions) -> None:
    """Writes a sign of life every 5 s until cancelled; while the database is away it goes on trying."""
    instance = new_instance()
    while True:
        try:
            async with asyncio.timeout(INTERVAL_S), sessions.begin() as session:
                await record_life(session, "api", instance, detail={"version": sedray_version()})
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            logger.warning("sign of life not written", extra={"error": str(error)})
        await asyncio.sleep(INTERVAL_S)
