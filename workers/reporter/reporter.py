"""The thread between a training loop that must never wait and a service that may be away.

    open batch ──(interval, full, or a stage's result behind it)──> sealed: gets its seq ──> outbox ──(ack)──> gone

A sealed body never changes, so a report whose answer was lost is recognised by its seq and not stored twice. While the
service is away, batches are sealed only when they are full: memory holds a handful of them, the disk the rest.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from service.contract.messages import (
    LentEngine,
    LogLine,
    MetricPoint,
    Progress,
    ReportAck,
    RolloutSample,
    RunEvent,
    StageResult,
    TokenView,
)
from service.contract.stages import StageName
from workers.reporter.attempt_service import (
    AttemptOver,
    AttemptService,
    ServiceRefused,
    Unreachable,
    backoff_delays,
)
from workers.reporter.batch import Batch, ReportItem
from workers.reporter.give_way import GiveWay
from workers.reporter.line_source import source_of
from workers.reporter.outbox import Outbox, Parcel
from workers.reporter.text import storable

logger = logging.getLogger(__name__)

_MOST_DELAY_S = 15.0
_CHECK_S = 0.5
_MAX_LINE_CHARACTERS = 4000
_MAX_MESSAGE_CHARACTERS = 2000


class Cancelled(Exception):
    """A person wants the run to stop."""


class Reporter:
    """Buffers from construction on; sends from `start` on. All public methods may be called from any thread."""

    def __init__(self, service: AttemptService, *, spool_dir: Path, first_retry_s: float = 0.5) -> None:
        self._service = service
        self._first_retry_s = first_retry_s
        self._outbox = Outbox(spool_dir)
        self._items: deque[ReportItem | StageResult] = deque()
        self._progress: Progress | None = None
        self._open = Batch()
        self._last_seq = 0
        self._interval_s = 1.0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._delivered = threading.Condition()
        self._flushes_asked = 0
        self._flushes_done = 0
        self._retry_at = 0.0
        self._delays = backoff_delays(first_s=first_retry_s, most_s=_MOST_DELAY_S)
        self._failure: AttemptOver | ServiceRefused | None = None
        self._cancelled = threading.Event()
        self.on_lent_engines: Callable[[Sequence[LentEngine]], None] = _no_engines
        """Told with each answer which further engines the service wants; called in the reporter's thread."""
        self.on_points: Callable[[Sequence[MetricPoint]], None] = _no_mirrors
        """Given all metrics as they come, in the caller's thread; neither waits nor raises."""
        self.give_way = GiveWay()
        """Whether the service wants the run to stop for another experiment."""
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    @property
    def cancelled(self) -> bool:
        """Whether an acknowledgement has said that a person wants the run to stop."""
        return self._cancelled.is_set()

    @property
    def last_progress(self) -> Progress | None:
        """What the run was doing when it was last heard."""
        return self._progress

    def check(self) -> None:
        """Raise if the run must not go on: AttemptOver, ServiceRefused, Cancelled, or Preempted."""
        if self._failure is not None:
            raise self._failure
        if self._cancelled.is_set():
            raise Cancelled("cancelled by its user")
        self.give_way.check()

    def start(self, interval_s: float) -> None:
        """Begin to send, at least one report per interval: an empty one is the heartbeat."""
        self._interval_s = interval_s
        self._thread.start()

    def points(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of one step, by name."""
        now = datetime.now(UTC)
        points = [MetricPoint(name=name, step=step, value=value, ts=now) for name, value in values.items()]
        self._items.extend(points)
        self.on_points(points)

    def log_line(self, text: str) -> None:
        """One printed line; the rest of an overlong one is cut off."""
        shown = storable(text[:_MAX_LINE_CHARACTERS])
        self._items.append(LogLine(ts=datetime.now(UTC), source=source_of(shown), text=shown))

    def rollouts(self, samples: Iterable[RolloutSample]) -> None:
        """Completions for people to read."""
        self._items.extend(samples)

    def token_views(self, views: Iterable[TokenView]) -> None:
        """Held-out samples token by token."""
        self._items.extend(views)

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        """Something that a person should know about the run; the rest of an overlong message is cut off."""
        shown = storable(message[:_MAX_MESSAGE_CHARACTERS])
        self._items.append(RunEvent(ts=datetime.now(UTC), kind=kind, message=shown, detail=dict(detail)))

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        """What the run does now; only the latest is sent. `since` is kept while stage and phase stay the same."""
        last = self._progress
        same = last is not None and (last.stage, last.phase) == (stage, phase)
        since = last.since if last is not None and same else datetime.now(UTC)
        self._progress = Progress(stage=stage, phase=phase, step=step, num_steps=num_steps, since=since)

    def stage_result(self, result: StageResult) -> None:
        """A finished stage; it reaches the service after everything that was reported before it."""
        self._items.append(result)
        self._wake.set()

    def deliver(self, deadline_s: float, check: Callable[[], None]) -> bool:
        """Wait until the service has all that was reported before this call; False if it has not by the deadline.

        `check` is called twice a second and may raise. Raises AttemptOver if the service has said so.
        """
        limit = time.monotonic() + deadline_s
        with self._delivered:
            self._flushes_asked += 1
            wanted = self._flushes_asked
            self._wake.set()
            while self._flushes_done < wanted and self._failure is None and time.monotonic() < limit:
                self._delivered.wait(min(_CHECK_S, max(0.0, limit - time.monotonic())))
                check()
            if isinstance(self._failure, AttemptOver):
                raise self._failure
            return self._flushes_done >= wanted

    def settle(self, deadline_s: float) -> None:
        """Like `deliver`, for a caller who goes on either way: what is late arrives later."""
        if not self.deliver(deadline_s, lambda: None):
            logger.warning("reports are late", extra={"waited_s": deadline_s})

    def close(self) -> None:
        """End the thread, after the request in flight if that ends soon; what is unsent then is forgotten."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)
        self._outbox.clear()

    def _run(self) -> None:
        while not self._closing.is_set() and self._failure is None:
            try:
                self._round()
            except Exception:
                logger.exception("reporter round failed")
            self._wake.wait(self._pause_s())
            self._wake.clear()
        with self._delivered:
            self._delivered.notify_all()

    def _round(self) -> None:
        asked = self._flushes_asked
        self._collect()
        if not self._outbox:
            self._seal()
        if time.monotonic() >= self._retry_at or asked > self._flushes_done:
            self._drain()
        # What was collected while an older report stood in the way is still open.
        if not self._outbox and self._open:
            self._seal()
            self._drain()
        if not self._outbox and not self._open:
            with self._delivered:
                self._flushes_done = asked
                self._delivered.notify_all()

    def _pause_s(self) -> float:
        if not self._outbox:
            return self._interval_s
        return min(self._interval_s, max(0.05, self._retry_at - time.monotonic()))

    def _collect(self) -> None:
        while self._items:
            item = self._items.popleft()
            if isinstance(item, StageResult):
                if self._open:
                    self._seal()
                self._outbox.put(Parcel(call="stage-results", body=item.model_dump_json().encode()))
            elif not self._open.add(item):
                self._seal()
                self._open.add(item)

    def _seal(self) -> None:
        self._last_seq += 1
        self._outbox.put(self._open.seal(self._last_seq, self._progress))
        self._open = Batch()

    def _drain(self) -> None:
        while self._outbox and not self._closing.is_set():
            try:
                self._send(self._outbox.head())
            except Unreachable as error:
                delay_s = next(self._delays)
                self._retry_at = time.monotonic() + delay_s
                logger.warning("service unreachable", extra={"error": str(error), "waiting": len(self._outbox)})
                return
            except (AttemptOver, ServiceRefused) as error:
                self._failure = error
                return
            self._outbox.pop()
            self._retry_at = 0.0
            self._delays = backoff_delays(first_s=self._first_retry_s, most_s=_MOST_DELAY_S)

    def _send(self, parcel: Parcel) -> None:
        if parcel.call == "stage-results":
            self._service.send_stage_result(parcel.body)
        else:
            self._hear(self._service.send_report(parcel.body))

    def _hear(self, answer: ReportAck) -> None:
        if answer.cancel:
            self._cancelled.set()
        if answer.preempt:
            self.give_way.ask()
        self.on_lent_engines(answer.lent_engines)


def _no_engines(_: Sequence[LentEngine]) -> None:
    """Until there is a pool that could take them."""


def _no_mirrors(_: Sequence[MetricPoint]) -> None:
    """Where the specification names none."""
