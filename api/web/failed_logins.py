"""How often log-ins from one address may fail: a brake on guessing, and on filling the log.

API tokens hold 256 random bits, so requests with a wrong one are only answered, not counted. The counts are this
process's own; behind a proxy all addresses are one, and a person waits a minute at most.
"""

import time
from collections import OrderedDict

from service.errors import TooManyFailures

MAX_FAILURES = 20
WINDOW_S = 60.0
_MAX_ADDRESSES = 10_000


class FailedLogins:
    """Failures by address within the last minute."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises TooManyFailures, before anything is looked up."""
        recent = self._recent(address)
        if len(recent) >= MAX_FAILURES:
            raise TooManyFailures(f"{len(recent)} log-ins from this address failed within a minute; wait a minute")

    def note(self, address: str) -> None:
        """One more failure."""
        self._failures[address] = [*self._recent(address), time.monotonic()]
        self._failures.move_to_end(address)
        while len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def _recent(self, address: str) -> list[float]:
        horizon = time.monotonic() - WINDOW_S
        return [at for at in self._failures.get(address, []) if at > horizon]
