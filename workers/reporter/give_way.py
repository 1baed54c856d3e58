"""Giving way to another experiment: heard from the service, and obeyed where nothing is lost.

asked ──> between stages, while loading, starting or evaluating: at once (`check` raises)
     └──> while a training stage works (`postponed`): after the step at hand, with a checkpoint
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Preempted(Exception):
    """The run stops for another experiment, and goes on later from what it has saved."""


class GiveWay:
    """Whether the service has asked, and whether the moment is good. May be used from any thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._num_postponing = 0
        self._lock = threading.Lock()

    @property
    def asked(self) -> bool:
        """Whether the service wants the run to give way."""
        return self._asked.is_set()

    def ask(self) -> None:
        """The service has said so."""
        self._asked.set()

    def check(self) -> None:
        """Raise Preempted if asked, unless somebody postpones it."""
        if self._asked.is_set() and not self._num_postponing:
            raise Preempted("gave way to another experiment")

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Within the block `check` does not raise: the block looks at `asked` itself, where it can save its work."""
        with self._lock:
            self._num_postponing += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_postponing -= 1
