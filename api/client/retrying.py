"""When a request is sent again: what may be repeated, after growing pauses, within a deadline for the whole."""

import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from api.client.errors import ServiceUnreachable
from api.client.requests import Request

NO_ANSWER = frozenset({502, 503, 504})
"""The service, or what stands before it, could not take the request, or we cannot know whether it did."""
NOT_TAKEN = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Nothing was sent yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, after what pauses, and for how long at most."""

    max_tries: int = 5
    first_pause_s: float = 0.25
    max_pause_s: float = 8.0
    deadline_s: float = 60.0
    """For all tries of a request together. A request with a longer limit of its own is given that."""


@dataclass(slots=True)
class Tries:
    """The tries of one request."""

    request: Request[Any]
    policy: RetryPolicy
    timeout_s: float
    base: str
    _num_failed: int = 0
    _ends_at: float = field(init=False)

    def __post_init__(self) -> None:
        own = self.request.timeout_s or self.timeout_s
        self._ends_at = time.monotonic() + max(self.policy.deadline_s, own)

    @property
    def limit_s(self) -> float:
        """Seconds for the next try: the request's own limit, or what is left of the whole."""
        own = self.request.timeout_s or self.timeout_s
        return max(0.001, min(own, self._ends_at - time.monotonic()))

    def pause_after_answer(self, response: httpx.Response) -> float | None:
        """Seconds until the next try, or None where the answer stands.

        What was told to come back later (429) has not been done, so anything may be sent again then.
        """
        again = response.status_code == 429 or (response.status_code in NO_ANSWER and self.request.may_repeat)
        return self._next_pause(_retry_after(response)) if again else None

    def pause_after_error(self, error: httpx.TransportError) -> float:
        """Seconds until the next try; raises ServiceUnreachable where there is none."""
        if self.request.may_repeat or isinstance(error, NOT_TAKEN):
            pause = self._next_pause(0.0)
            if pause is not None:
                return pause
        raise ServiceUnreachable(self._in_words(error)) from error

    def _next_pause(self, at_least: float) -> float | None:
        """With jitter, so that clients which failed together do not come back together."""
        self._num_failed += 1
        if self._num_failed >= self.policy.max_tries:
            return None
        longest = min(self.policy.first_pause_s * 2 ** (self._num_failed - 1), self.policy.max_pause_s)
        pause = max(at_least, longest * random.uniform(0.5, 1.0))
        return pause if time.monotonic() + pause < self._ends_at else None

    def _in_words(self, error: httpx.TransportError) -> str:
        reason = str(error) or type(error).__name__
        if self.request.target is not None and not isinstance(error, NOT_TAKEN):
            return f"the download from {self.base} broke off: {reason}"
        if self.request.may_repeat or isinstance(error, NOT_TAKEN):
            return f"{self.base} does not answer: {reason}"
        return (
            f"{self.base} did not answer: {reason}. Whether it has done {self.request.method} {self.request.path} is "
            "not known, so it is not sent again; look before you repeat it"
        )


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks for; it always gives a number."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0
