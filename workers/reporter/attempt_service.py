"""The four calls of a driver, with their retries.

200/204             done
409                 the attempt is over        -> AttemptOver: write nothing more
401 403 404 422 …   nothing a repeat can mend  -> ServiceRefused
408 425 429 5xx, no connection, no answer in time -> Unreachable: the same body again, later
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from service.contract.messages import FinishReport, ReportAck, StartReply

logger = logging.getLogger(__name__)

CallName = Literal["start", "reports", "stage-results", "finish"]

_TIMEOUT = httpx.Timeout(20.0, connect=5.0)
_WORTH_REPEATING = frozenset({408, 425, 429})
_SHOWN_CHARACTERS = 2000

Reply = TypeVar("Reply", bound=BaseModel)


class AttemptOver(Exception):
    """The service has ended this attempt (409): whoever goes on writing would harm its successor."""


class ServiceRefused(Exception):
    """The service refuses a call, and would refuse it again."""


class Unreachable(Exception):
    """No answer, or one that says to try again."""


class AttemptService:
    """The service as one attempt sees it. Safe to use from several threads."""

    def __init__(self, *, service_url: str, attempt_id: str, token: str, timeout: httpx.Timeout = _TIMEOUT) -> None:
        self._http = httpx.Client(
            base_url=f"{service_url.rstrip('/')}/api/v1/attempts/{attempt_id}/",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=timeout,
        )

    def start(self, *, deadline_s: float, check: Callable[[], None]) -> StartReply:
        """Tell that the driver runs and get its orders; repeats until the deadline."""
        answer = self._persist("start", b"{}", deadline_s, check)
        return _read(StartReply, answer)

    def finish(self, report: FinishReport, *, deadline_s: float, check: Callable[[], None]) -> None:
        """Say the last word; repeats until the deadline."""
        self._persist("finish", report.model_dump_json().encode(), deadline_s, check)

    def send_report(self, body: bytes) -> ReportAck:
        """One try to deliver a `WorkerReport`."""
        return _read(ReportAck, self.post("reports", body))

    def send_stage_result(self, body: bytes) -> None:
        """One try to deliver a `StageResult`."""
        self.post("stage-results", body)

    def post(self, call: CallName, body: bytes) -> bytes:
        """One try. Raises AttemptOver, ServiceRefused or Unreachable."""
        try:
            response = self._http.post(call, content=body)
        except httpx.TransportError as error:
            raise Unreachable(f"{call}: {type(error).__name__}: {error}") from error
        if response.is_success:
            return response.content
        shown = response.text[:_SHOWN_CHARACTERS]
        if response.status_code == 409:
            raise AttemptOver(f"the service says that this attempt is over ({call}): {shown}")
        if response.is_server_error or response.status_code in _WORTH_REPEATING:
            raise Unreachable(f"{call}: status {response.status_code}: {shown}")
        raise ServiceRefused(
            f"the service refused {call} with status {response.status_code}: {shown}; "
            "check that the driver's attempt id, token file and service address belong together and that both sides "
            "run the same version"
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _persist(self, call: CallName, body: bytes, deadline_s: float, check: Callable[[], None]) -> bytes:
        limit = time.monotonic() + deadline_s
        delays = backoff_delays(first_s=0.25, most_s=15.0)
        while True:
            check()
            try:
                return self.post(call, body)
            except Unreachable as error:
                delay = next(delays)
                if time.monotonic() + delay > limit:
                    raise Unreachable(f"the service did not take {call} within {deadline_s:.0f} s: {error}") from error
                logger.warning("service unreachable", extra={"call": call, "error": str(error), "retry_in_s": delay})
            sleep_checked(delay, check)


def _read(model: type[Reply], answer: bytes) -> Reply:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        raise ServiceRefused(
            f"the service's answer is no {model.__name__}: {error}; run the same version of service and workers"
        ) from error


def backoff_delays(*, first_s: float, most_s: float) -> Iterator[float]:
    """Doubling delays in seconds, each drawn from its upper half, so that many drivers do not return at once."""
    delay_s = first_s
    while True:
        yield delay_s * random.uniform(0.5, 1.0)
        delay_s = min(delay_s * 2, most_s)


def sleep_checked(delay_s: float, check: Callable[[], None]) -> None:
    """Sleep in slices and call `check` between them; it may raise to end the wait."""
    limit = time.monotonic() + delay_s
    while (left := limit - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
        check()
