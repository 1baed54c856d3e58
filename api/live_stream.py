"""What one watcher of an experiment still has to hear.

Each look at the tables is one short transaction that ends before anything is sent; nothing is held while waiting. The
status is read first: what it says is terminal has no event, point or line after it, so once everything read behind a
terminal status is sent, the stream is complete.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from fastapi.sse import ServerSentEvent
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.schemas import Event
from api.shapes import to_event
from api.stream_schemas import End, LastLogLine, MetricValue, MetricValues
from service import experiments, log_store, metric_store
from service.contract.messages import Progress
from service.contract.status import EndReason, ExperimentStatus
from service.contract.strict_model import WireModel
from service.live_updates import LiveUpdates, read_live_state
from service.storage.database import Sessions

logger = logging.getLogger(__name__)

CLOSES_AFTER_S = 600.0
_EVENTS_PER_LOOK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Up to where a watcher has heard; `<event id>.<metric change>.<log id>` on the wire."""

    event_id: int = 0
    metric_change: int = 0
    log_id: int = 0

    @classmethod
    def parse(cls, text: str) -> "Position":
        """The position behind a message with this id; the beginning, if it is none of ours."""
        found = re.fullmatch(r"(\d{1,18})\.(\d{1,18})\.(\d{1,18})", text, re.ASCII)
        if found is None:
            return cls()
        return cls(event_id=int(found[1]), metric_change=int(found[2]), log_id=int(found[3]))

    def __str__(self) -> str:
        return f"{self.event_id}.{self.metric_change}.{self.log_id}"


@dataclass(frozen=True, kw_only=True)
class _News:
    """What one look at the tables found; as text, too, since many watchers are told the same."""

    status: ExperimentStatus
    end_reason: EndReason | None
    progress: Progress | None
    events: list[Event]
    values: list[metric_store.ChangedValue]
    log_id: int

    @cached_property
    def event_texts(self) -> list[str]:
        """Data of each event."""
        return [_text(event) for event in self.events]

    @cached_property
    def values_text(self) -> str:
        """Data of `metrics`."""
        values = [MetricValue(name=value.name, step=value.step, value=value.value) for value in self.values]
        return _text(MetricValues(values=values))

    @cached_property
    def progress_text(self) -> str:
        """Data of `progress`."""
        return _text(self.progress)

    @property
    def is_last(self) -> bool:
        """Whether nothing can follow."""
        return self.status.is_terminal and len(self.events) < _EVENTS_PER_LOOK


class SharedLooks:
    """One look at the tables for all who stand at the same position and were hinted together, as most watchers do."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._under_way: dict[tuple[str, Position, int], asyncio.Task[_News | None]] = {}

    async def look(self, experiment_id: str, position: Position, num_hints: int) -> _News | None:
        """What lies behind `position`; None if the experiment is gone or the database does not answer.

        A look that began after the newest hint has seen what the hint was about, whoever asked for it.
        """
        key = (experiment_id, position, num_hints)
        if key not in self._under_way:
            task = asyncio.create_task(_look(self._sessions, experiment_id, position))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        # Who leaves does not take the look away from the others.
        return await asyncio.shield(self._under_way[key])


async def follow(
    looks: SharedLooks,
    live_updates: LiveUpdates,
    experiment_id: str,
    position: Position,
    *,
    closes_after_s: float = CLOSES_AFTER_S,
) -> AsyncIterator[ServerSentEvent]:
    """Messages after `position` until the experiment has ended, `closes_after_s` have passed or the service stops.

    When the database does not answer, the stream ends early; the watcher connects again.
    """
    watcher = _Watcher(position)
    ends_at = asyncio.get_running_loop().time() + closes_after_s
    with live_updates.subscribe(experiment_id) as subscription:
        async for _ in subscription:
            news = await looks.look(experiment_id, watcher.position, live_updates.num_hints(experiment_id))
            if news is None:
                return
            for message in watcher.take(news):
                yield message
            if news.is_last:
                yield watcher.message("end", End(status=news.status, end_reason=news.end_reason))
                return
            if len(news.events) == _EVENTS_PER_LOOK:
                subscription.hint()  # there may be more at once
            if asyncio.get_running_loop().time() >= ends_at:
                return


class _Watcher:
    """Turns news into messages; each carries the position behind itself."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self._progress: Progress | None = None
        self._has_sent_progress = False

    def take(self, news: _News) -> Iterator[ServerSentEvent]:
        """The messages for what is new, in the order in which a reader wants them."""
        for event, text in zip(news.events, news.event_texts, strict=True):
            self.position = replace(self.position, event_id=event.id)
            yield self._message("event", text)
        if news.values:
            self.position = replace(self.position, metric_change=news.values[-1].change)
            yield self._message("metrics", news.values_text)
        if not self._has_sent_progress or news.progress != self._progress:
            self._progress, self._has_sent_progress = news.progress, True
            yield self._message("progress", news.progress_text)
        if news.log_id > self.position.log_id:
            self.position = replace(self.position, log_id=news.log_id)
            yield self.message("logs", LastLogLine(last_id=news.log_id))

    def message(self, event: str, data: WireModel | None) -> ServerSentEvent:
        """A message at the present position."""
        return self._message(event, _text(data))

    def _message(self, event: str, text: str) -> ServerSentEvent:
        return ServerSentEvent(event=event, raw_data=text, id=str(self.position))


def _text(data: WireModel | None) -> str:
    """As JSON. ASCII alone, because some readers end a line at U+2028 and the like."""
    return "null" if data is None else json.dumps(json.loads(data.model_dump_json()))


async def _look(sessions: Sessions, experiment_id: str, position: Position) -> _News | None:
    """What lies behind `position`; None if the experiment is gone or the database does not answer."""
    try:
        async with sessions() as session:
            state = await read_live_state(session, experiment_id)
            if state is None:
                return None
            rows = await experiments.events_after(
                session, experiment_id, after=position.event_id, limit=_EVENTS_PER_LOOK
            )
            return _News(
                status=state.status,
                end_reason=state.end_reason,
                progress=state.progress,
                events=[to_event(row) for row in rows],
                values=await metric_store.changed_since(session, experiment_id, position.metric_change),
                log_id=await log_store.last_line_id(session, experiment_id),
            )
    except (OperationalError, PoolTimeout) as error:
        logger.warning("live stream ends early", extra={"experiment_id": experiment_id, "error": str(error)})
        return None
