"""Rollout engines beyond those of the specification, lent by the scheduler while nobody else needs their resources.

    wanted (in the service's answers) ──> added on the node that the scheduler chose ──> takes part
    no longer wanted ──> gets nothing more, goes when it has nothing left to do ──> told: its resources are free

The service says which engines it wants, again and again; this makes it so. A thread of the driver does it, since adding
one can take minutes, and the training goes on meanwhile.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import JsonValue

from service.contract.messages import ENGINE_LENT, ENGINE_NOT_ADDED, ENGINE_RETURNED, LentEngine
from workers.placement import NoPlacement

logger = logging.getLogger(__name__)

_STOP_S = 10.0


class Pool(Protocol):
    """What is asked of the engines' pool."""

    def is_serving(self) -> bool:
        """Whether at least one engine generates, so that another one could join it."""

    def add(self, node: str = "") -> int:
        """Start one more; its number. Raises NoPlacement."""

    def remove(self, number: int) -> None:
        """Let one go that was added."""

    def numbers(self) -> set[int]:
        """Of all engines that are there, those that are about to go included."""


class Tell(Protocol):
    """Where it is told."""

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        """See `roles.Reports`."""


class LentEngines:
    """Keeps the pool's further engines to those that are wanted."""

    def __init__(self, pool: Pool, reports: Tell, *, poll_s: float = 1.0) -> None:
        self._pool = pool
        self._reports = reports
        self._poll_s = poll_s
        self._wanted: dict[str, LentEngine] = {}
        self._present: dict[str, int] = {}
        """Number in the pool, by the id under which an engine was lent."""
        self._leaving: dict[str, int] = {}
        self._refused: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lent-engines", daemon=True)

    def want(self, engines: Sequence[LentEngine]) -> None:
        """Which are wanted from now on. May be called from any thread."""
        self._wanted = {engine.id: engine for engine in engines}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the engines stay for whoever releases the pool."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def make_it_so(self) -> None:
        """One round: let go of what is no longer wanted, tell of what is gone, add at most one."""
        wanted = self._wanted
        for name in [name for name in self._present if name not in wanted]:
            number = self._leaving[name] = self._present.pop(name)
            self._pool.remove(number)
        there = self._pool.numbers()
        for name in [name for name, number in self._leaving.items() if number not in there]:
            number = self._leaving.pop(name)
            self._reports.event(ENGINE_RETURNED, f"lent engine {number} is given back", {"id": name, "engine": number})
        missing = [engine for engine in wanted.values() if engine.id not in {*self._present, *self._refused}]
        if missing and self._pool.is_serving():
            self._add(missing[0])

    def _add(self, engine: LentEngine) -> None:
        try:
            number = self._pool.add(engine.node)
        except NoPlacement as error:
            # The scheduler's ledger and Ray disagree; it will offer another one.
            self._refused.add(engine.id)
            detail: dict[str, JsonValue] = {"id": engine.id, "why": str(error)}
            self._reports.event(ENGINE_NOT_ADDED, f"no room for a lent engine: {error}", detail)
            return
        self._present[engine.id] = number
        detail = {"id": engine.id, "engine": number, "node": engine.node}
        self._reports.event(ENGINE_LENT, f"idle capacity lends engine {number}", detail)

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_s):
            try:
                self.make_it_so()
            except Exception as error:
                # The pool has ended, or the run has: whoever waits for it says why.
                logger.info("no more engines are lent", extra={"error": str(error)})
                return
