"""Which queued experiments have stages that others have too, and whether the files behind them hold the same.

    pending ──no other of its project has these settings──> none: nothing has to be read
        └──some other has──> the files of both are digested, in a thread ──> known

Most experiments differ in their settings, so their files are never read for this. An experiment that has begun counts
with the present content of its files only if they were last changed before it began.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.spec import ExperimentSpec
from service.contract.stage_keys import StageIngredients, reusable_stages
from service.contract.stages import StageName
from service.contract.status import ExperimentStatus
from service.scheduler.content import Stamp, Unreadable, read_digest, read_stamp
from service.scheduler.lease import Lease, hold_lease
from service.storage.database import Sessions
from service.storage.scheduling_tables import ContentDigest, QueueEntry, StageKey
from service.storage.tables import Attempt, Experiment, StageResultRow

logger = logging.getLogger(__name__)

_AT_ONCE = 200
_MOST_RELATIVES = 20
_PATIENCE_S = 0.3
"""A pass over the queue waits so long for files; what takes longer is looked at in the next one."""
_GIVE_UP_S = 900.0
"""Whoever waits longer for his files runs his stages himself."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What is at a path; the digest is None where it cannot be read."""

    digest: str | None
    changed_at: float


@dataclass(slots=True)
class StageContents:
    """One for the time in which this process holds the lease: it remembers what is being read."""

    _reading: dict[str, "asyncio.Task[_Content]"] = field(default_factory=dict)
    _waiting_since: dict[str, float] = field(default_factory=dict)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    async def settle(self, sessions: Sessions, lease: Lease) -> None:
        """Decides for those that are pending, as far as their files have been read. Raises LeaseLost."""
        async with sessions.begin() as session:
            await hold_lease(session, lease)
            pending = await _pending(session)
            if not pending:
                self._waiting_since.clear()
                return
            await _write_settings(session, pending)
            relatives = await _relatives(session, pending)
        compared = {one.id: one for name in relatives for one in relatives[name]}
        compared |= {one.id: one for one in pending if relatives[one.id]}
        paths = {path for one in compared.values() for path in one.paths}
        contents = await self._contents(sessions, paths)
        alone = [one.id for one in pending if not relatives[one.id]]
        known = [one.id for one in pending if relatives[one.id] and self._is_settled(one, relatives, contents)]
        async with sessions.begin() as session:
            await hold_lease(session, lease)
            touched = {other.id for name in known for other in relatives[name]} | set(known)
            for name in sorted(touched):
                await _write_content(session, compared[name], contents)
            await _set_state(session, alone, "none")
            await _set_state(session, known, "known")

    def _is_settled(
        self, one: "_Compared", relatives: Mapping[str, Sequence["_Compared"]], contents: Mapping[str, _Content]
    ) -> bool:
        """Whether all files have been read, or have been waited for long enough."""
        now = time.monotonic()
        waiting_s = now - self._waiting_since.setdefault(one.id, now)
        missing = any(path not in contents for other in (one, *relatives[one.id]) for path in other.paths)
        if missing and waiting_s < _GIVE_UP_S:
            return False
        self._waiting_since.pop(one.id, None)
        if missing:
            logger.warning("files could not be read in time, nothing is reused", extra={"experiment_id": one.id})
        return True

    async def _contents(self, sessions: Sessions, wanted: set[str]) -> dict[str, _Content]:
        """What is known of the paths after a moment's patience; the others go on being read."""
        for path in wanted:
            if path not in self._reading:
                self._reading[path] = asyncio.create_task(self._read(sessions, path))
        tasks = [self._reading[path] for path in wanted]
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE_S)
        # Each look at a path is a new one: it may have changed since.
        done = {path: self._reading.pop(path) for path in wanted if self._reading[path].done()}
        return {path: task.result() for path, task in done.items()}

    async def _read(self, sessions: Sessions, path: str) -> _Content:
        async with self._places:
            try:
                stamp = await asyncio.to_thread(read_stamp, path)
                digest = await self._known(sessions, path, stamp)
                if digest is None:
                    digest = await asyncio.to_thread(read_digest, path)
                    await self._remember(sessions, path, stamp, digest)
            except Unreadable as error:
                logger.info("content unknown", extra={"path": path, "error": str(error)})
                return _Content(None, 0.0)
            return _Content(digest, stamp.changed_at)

    async def _known(self, sessions: Sessions, path: str, stamp: Stamp) -> str | None:
        async with sessions() as session:
            found = select(ContentDigest.sha256).where(ContentDigest.path == path, ContentDigest.stamp == stamp.text)
            return await session.scalar(found)

    async def _remember(self, sessions: Sessions, path: str, stamp: Stamp, digest: str) -> None:
        row = {"stamp": stamp.text, "sha256": digest, "made_at": func.now()}
        statement = insert(ContentDigest).values(path=path, **row)
        async with sessions.begin() as session:
            await session.execute(statement.on_conflict_do_update(index_elements=[ContentDigest.path], set_=row))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """An experiment whose stages are compared with others'."""

    id: str
    project_id: str
    stages: Mapping[StageName, StageIngredients]
    began_at: float | None
    """When its first attempt began, in seconds since the epoch; None while it has none."""

    @property
    def paths(self) -> set[str]:
        """All files and folders behind its stages."""
        return {path for ingredients in self.stages.values() for path in ingredients.paths}


async def _pending(session: AsyncSession) -> list[_Compared]:
    queued = Experiment.status == ExperimentStatus.QUEUED.value
    entries = select(QueueEntry.experiment_id).where(QueueEntry.content_state == "pending")
    chosen = (queued, Experiment.id.in_(entries))
    return await _load(session, *chosen)


async def _load(session: AsyncSession, *chosen: ColumnElement[bool]) -> list[_Compared]:
    began_at = select(func.min(Attempt.created_at)).where(Attempt.experiment_id == Experiment.id).scalar_subquery()
    rows = await session.execute(
        select(Experiment.id, Experiment.project_id, Experiment.spec, began_at.label("began_at"))
        .where(*chosen)
        .order_by(Experiment.submitted_at)
        .limit(_AT_ONCE)
    )
    return [
        _Compared(
            id=row.id,
            project_id=row.project_id,
            stages=reusable_stages(ExperimentSpec.model_validate(row.spec)),
            began_at=row.began_at.timestamp() if row.began_at is not None else None,
        )
        for row in rows
    ]


async def _write_settings(session: AsyncSession, pending: Sequence[_Compared]) -> None:
    rows = [
        {
            "experiment_id": one.id,
            "project_id": one.project_id,
            "stage": stage,
            "settings_key": ingredients.settings_key,
        }
        for one in pending
        for stage, ingredients in one.stages.items()
    ]
    if rows:
        await session.execute(insert(StageKey).values(rows).on_conflict_do_nothing())


async def _relatives(session: AsyncSession, pending: Sequence[_Compared]) -> dict[str, list[_Compared]]:
    """Of each, others of its project with the same settings of a stage. Of many some of each sort are enough:
    with and without a result, compared before or never."""
    keys = {ingredients.settings_key for one in pending for ingredients in one.stages.values()}
    result = (StageResultRow.experiment_id == StageKey.experiment_id) & (StageResultRow.stage == StageKey.stage)
    place = func.row_number().over(
        partition_by=(
            StageKey.project_id,
            StageKey.settings_key,
            StageResultRow.stage.is_(None),
            StageKey.content_key.is_(None),
        ),
        order_by=StageKey.experiment_id,
    )
    ranked = (
        select(StageKey.project_id, StageKey.settings_key, StageKey.experiment_id, place.label("place"))
        .outerjoin(StageResultRow, result)
        .where(StageKey.settings_key.in_(keys))
        .subquery()
    )
    rows = (await session.execute(select(ranked).where(ranked.c.place <= _MOST_RELATIVES))).all()
    members: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        members.setdefault((row.project_id, row.settings_key), set()).add(row.experiment_id)
    loaded = {one.id: one for one in await _load(session, Experiment.id.in_({row.experiment_id for row in rows}))}
    return {
        one.id: [
            loaded[name]
            for name in sorted(
                {
                    name
                    for ingredients in one.stages.values()
                    for name in members.get((one.project_id, ingredients.settings_key), ())
                }
            )
            if name != one.id and name in loaded
        ]
        for one in pending
    }


async def _write_content(session: AsyncSession, one: _Compared, contents: Mapping[str, _Content]) -> None:
    for stage, ingredients in one.stages.items():
        found = [contents.get(path) for path in ingredients.paths]
        mine = (StageKey.experiment_id == one.id, StageKey.stage == stage)
        await session.execute(update(StageKey).where(*mine).values(content_key=_content_key(found, one.began_at)))


def _content_key(found: Sequence[_Content | None], began_at: float | None) -> str:
    """Empty where the content that the experiment had, or would have, cannot be told."""
    digests = []
    for content in found:
        if content is None or content.digest is None or (began_at is not None and content.changed_at >= began_at):
            return ""
        digests.append(content.digest)
    return sha256(" ".join(digests).encode()).hexdigest()


async def _set_state(session: AsyncSession, experiment_ids: Sequence[str], state: str) -> None:
    if experiment_ids:
        await session.execute(
            update(QueueEntry).where(QueueEntry.experiment_id.in_(experiment_ids)).values(content_state=state)
        )
