"""Where the time of a step goes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepClock:
    """Seconds by phase; what a phase takes several times adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count the block's wall time for a phase."""
        began = time.monotonic()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - began


class IdleClock:
    """How long nobody has been at work, by the blocks that say when somebody is; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_busy = 0
        self._idle_s = 0.0
        self._since = time.monotonic()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Somebody is at work as long as the block lasts."""
        self._change(+1)
        try:
            yield
        finally:
            self._change(-1)

    def idle_s(self) -> float:
        """Seconds since the clock was made in which nobody was at work."""
        with self._lock:
            return self._idle_s + (time.monotonic() - self._since if self._num_busy == 0 else 0.0)

    def _change(self, by: int) -> None:
        with self._lock:
            now = time.monotonic()
            if self._num_busy == 0:
                self._idle_s += now - self._since
            self._num_busy += by
            self._since = now
