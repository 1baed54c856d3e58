"""Housekeeping beside the scheduling: what nobody waits for, done by whoever leads. Every step may be done twice."""

import logging
from datetime import timedelta

from service import metric_store
from service.log_archive import Keep, ship_logs
from service.retention import Policy, remove_due
from service.settings import SchedulerSettings
from service.storage.database import Sessions

logger = logging.getLogger(__name__)

_FOLD_AFTER = timedelta(minutes=1)


class Upkeep:
    """One for a process."""

    def __init__(self, sessions: Sessions, settings: SchedulerSettings) -> None:
        self._sessions = sessions
        self._settings = settings

    async def run_once(self) -> None:
        """One pass."""
        async with self._sessions.begin() as session:
            folded = await metric_store.fold_finished(session, ended_for=_FOLD_AFTER)
        if folded:
            logger.info("series of finished runs folded", extra={"series": folded})
        shipped = await ship_logs(self._sessions, self._settings.output_dir, Keep())
        if shipped:
            logger.info("log lines shipped", extra={"files": shipped})
        removed = await remove_due(self._sessions, self._settings.output_dir, Policy.of_service(self._settings))
        if removed:
            logger.info("leftovers removed", extra={"things": len(removed)})
