"""From NOTIFY to everybody who watches: hints that something of an experiment changed.

    transaction ──NOTIFY──> one LISTEN connection ──at once, ≤ 1 hint / 200 ms──> subscriptions of that experiment
                                 (reconnects)        and one every 2 s, whether or not anything was heard

A hint holds no data and may be wrong or late; subscribers read the tables behind their own cursor. So a notification
that is lost, with its connection or otherwise, costs two seconds and never a message.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql
from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import Progress
from service.contract.status import AttemptStatus, EndReason, ExperimentStatus
from service.storage.database import libpq_url
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import CHANNEL

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10
_PROBE_S = 30.0
"""A connection that was silent for so long is asked for a sign of life; a half-open one would stay silent for ever."""
_LONGEST_BACK_OFF_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """Where an experiment stands at this moment."""

    status: ExperimentStatus
    end_reason: EndReason | None
    progress: Progress | None
    """Of the live attempt; None without one or before its first report."""


async def read_live_state(session: AsyncSession, experiment_id: str) -> LiveState | None:
    """The state, in one cheap statement; None if there is no such experiment."""
    is_live = and_(Attempt.experiment_id == Experiment.id, Attempt.status != AttemptStatus.ENDED.value)
    rows = await session.execute(
        select(Experiment.status, Experiment.end_reason, Attempt.progress)
        .outerjoin(Attempt, is_live)
        .where(Experiment.id == experiment_id)
    )
    row = rows.one_or_none()
    if row is None:
        return None
    return LiveState(
        status=ExperimentStatus(row.status),
        end_reason=EndReason(row.end_reason) if row.end_reason else None,
        progress=Progress.model_validate(row.progress) if row.progress else None,
    )


class Subscription:
    """One watcher of one experiment. Holds at most one hint: several before the next look are one."""

    def __init__(self, poll_s: float) -> None:
        self._hinted = asyncio.Event()
        self._poll_s = poll_s
        self.is_closed = False

    def hint(self) -> None:
        """Something may have changed."""
        self._hinted.set()

    def close(self) -> None:
        """No hint will follow."""
        self.is_closed = True
        self._hinted.set()

    async def wait(self) -> None:
        """Returns at the next hint, or after the polling interval without one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._hinted.wait()
        self._hinted.clear()

    async def __aiter__(self) -> AsyncIterator[None]:
        """One hint at once, then one for each wait, until the service stops."""
        while not self.is_closed:
            yield
            await self.wait()


class LiveUpdates:
    """The subscriptions of one process and the connection that wakes them. Belongs to one event loop."""

    def __init__(self, database_url: str, *, debounce_s: float = 0.2, poll_s: float = 2.0) -> None:
        """`database_url` is SQLAlchemy's, as for the engine."""
        self._conninfo = libpq_url(database_url)
        self._debounce_s = debounce_s
        self._poll_s = poll_s
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._flushes: dict[str, asyncio.TimerHandle] = {}
        self._hinted_at: dict[str, float] = {}
        self._num_hints: dict[str, int] = {}
        self._listener: asyncio.Task[None] | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Begins to listen; call it from the event loop that serves."""
        assert self._listener is None, "started once"
        self._listener = asyncio.create_task(self.run(), name="live-updates")

    async def stop(self) -> None:
        """Ends all subscriptions and the connection."""
        self._is_stopped = True
        for subscription in self._all():
            subscription.close()
        for flush in self._flushes.values():
            flush.cancel()
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None

    @contextmanager
    def subscribe(self, experiment_id: str) -> Iterator[Subscription]:
        """Hints about one experiment until the block is left."""
        subscription = Subscription(self._poll_s)
        if self._is_stopped:
            subscription.close()
        watchers = self._subscriptions.setdefault(experiment_id, set())
        watchers.add(subscription)
        try:
            yield subscription
        finally:
            watchers.discard(subscription)
            if not watchers:
                self._subscriptions.pop(experiment_id, None)
                self._hinted_at.pop(experiment_id, None)
                self._num_hints.pop(experiment_id, None)

    def watched(self) -> list[str]:
        """The experiments that somebody watches."""
        return sorted(self._subscriptions)

    def num_hints(self, experiment_id: str) -> int:
        """How many hints there were: what is read after the newest of them is as new for all who watch."""
        return self._num_hints.get(experiment_id, 0)

    @property
    def num_subscriptions(self) -> int:
        """Of all experiments."""
        return sum(1 for _ in self._all())

    async def run(self) -> None:
        """Listens until cancelled and connects again, with back-off, whenever the connection breaks."""
        failures = 0
        while True:
            try:
                async for _ in self._listen():
                    failures = 0
            except (psycopg.Error, OSError, TimeoutError) as error:
                failures += 1
                pause_s = random.uniform(0.5, 1.0) * min(0.5 * 2**failures, _LONGEST_BACK_OFF_S)
                logger.warning("live updates lost their connection", extra={"error": str(error), "retry_in_s": pause_s})
                await asyncio.sleep(pause_s)

    async def _listen(self) -> AsyncIterator[None]:
        """Takes notifications; yields at each sign of life."""
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S
        )
        async with connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            logger.info("live updates listen", extra={"channel": CHANNEL})
            for experiment_id in list(self._subscriptions):
                self._note(experiment_id)  # what was notified before LISTEN took effect
            while True:
                yield
                async for notification in connection.notifies(timeout=_PROBE_S):
                    self._note(notification.payload)
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await connection.execute("SELECT 1")

    def _note(self, experiment_id: str) -> None:
        """Hints at once, or as soon as the last hint is long enough ago; several notifications then are one hint."""
        if experiment_id not in self._subscriptions or experiment_id in self._flushes:
            return
        loop = asyncio.get_running_loop()
        due = self._hinted_at.get(experiment_id, -self._debounce_s) + self._debounce_s
        self._flushes[experiment_id] = loop.call_at(max(due, loop.time()), self._hint, experiment_id)

    def _hint(self, experiment_id: str) -> None:
        self._flushes.pop(experiment_id, None)
        watchers = self._subscriptions.get(experiment_id)
        if not watchers:
            return
        self._hinted_at[experiment_id] = asyncio.get_running_loop().time()
        self._num_hints[experiment_id] = self.num_hints(experiment_id) + 1
        for subscription in watchers:
            subscription.hint()

    def _all(self) -> Iterator[Subscription]:
        for watchers in self._subscriptions.values():
            yield from watchers
