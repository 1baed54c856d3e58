"""Reports for whoever asks: computed on read, once for equal questions, and kept while nothing of the study changes.

asked ── stamp (cheap) ── known? ──yes──> the report
                            └──no──> facts read ──> computed in a thread, while the API goes on ──> kept
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from service.contract.study_report import StudyReport
from service.storage.database import Sessions
from service.study_report.report import make_report
from service.study_report.study_reading import read_stamp, read_study

_KEPT = 16
"""Reports; a large one has some megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StampedReport:
    """A report and what it was made from."""

    stamp: str
    """Fit for an ETag."""
    report: StudyReport


@dataclass(slots=True)
class StudyReports:
    """One for each process of the API."""

    sessions: Sessions
    _kept: "OrderedDict[str, StampedReport]" = field(default_factory=OrderedDict)
    _busy: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def current(self, study_id: str) -> StampedReport:
        """The report as of now. Raises NotFound."""
        # Whoever asks for the same meanwhile waits for it instead of computing it again.
        lock = self._busy.setdefault(study_id, asyncio.Lock())
        try:
            async with lock:
                return await self._known_or_made(study_id)
        finally:
            if not lock.locked():
                self._busy.pop(study_id, None)

    async def stamp(self, study_id: str) -> str:
        """What the current report's stamp is, without making it."""
        async with self.sessions() as session:
            return await read_stamp(session, study_id)

    async def _known_or_made(self, study_id: str) -> StampedReport:
        stamp = await self.stamp(study_id)
        known = self._kept.get(study_id)
        if known is not None and known.stamp == stamp:
            self._kept.move_to_end(study_id)
            return known
        now = datetime.now(UTC)
        async with self.sessions() as session:
            facts = await read_study(session, study_id, now)
        made = StampedReport(stamp=stamp, report=await asyncio.to_thread(make_report, facts, now))
        self._kept[study_id] = made
        self._kept.move_to_end(study_id)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return made
