"""Two processes guard each other, so that a kill -9 of either leaves nothing behind.

    front   what the user started; owns the terminal; forwards Ctrl-C, SIGTERM and SIGHUP as SIGTERM
      └─ keeper   own session; starts and supervises the services; every orphan comes to it
           └─ services, their children, Ray's drivers, actors, vLLM …

If the front is killed, the keeper sees its end of a pipe close and shuts everything down in order. If the keeper is
killed, its orphans come to the front, which ends them. If both are killed at once, the kernel signals the services
(`process_tree.die_with_parent`), and the next start on the same folder ends what is left (`leftovers`).
"""

import logging
import os
import select
import signal
from collections.abc import Callable
from types import FrameType

from service.embedded import process_tree

logger = logging.getLogger(__name__)
_ORPHAN_GRACE_S = 8.0


class StopRequested(Exception):
    """Somebody wants the stack to stop; raised where waiting has become pointless."""


class StopRequest:
    """The keeper's ear: SIGTERM, or the death of the front. A second SIGTERM means: at once, without grace."""

    def __init__(self, front_alive: int) -> None:
        self._front_alive = front_alive
        self._times = 0
        self._front_gone = False
        signal.signal(signal.SIGTERM, self._hear)
        # A handler, not SIG_IGN: children would inherit that one.
        signal.signal(signal.SIGINT, lambda number, frame: None)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._times += 1

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._times > 0 or self._front_gone

    @property
    def urgent(self) -> bool:
        """Whether to kill instead of asking."""
        return self._times > 1

    def wait(self, seconds: float) -> None:
        """Sleeps, at most until the front dies. Nothing is ever written to the pipe: readable means closed."""
        readable, _, _ = select.select([] if self._front_gone else [self._front_alive], [], [], seconds)
        self._front_gone = self._front_gone or bool(readable)

    def check(self, seconds: float) -> None:
        """Sleeps, then raises StopRequested if a stop was requested."""
        self.wait(seconds)
        if self.requested:
            raise StopRequested


def run_guarded(body: Callable[[StopRequest], int]) -> int:
    """Runs `body` in a keeper process and returns its exit code; when it returns, no descendant is left.

    Must be called before any thread is started.
    """
    process_tree.become_subreaper()
    closes_with_keeper, closes_with_front = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(closes_with_front)
        os._exit(_run_keeper(body, closes_with_keeper))
    os.close(closes_with_keeper)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: _forward(keeper))
    _, status = os.waitpid(keeper, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        logger.error("the keeper was killed; ending its services", extra={"signal": -code})
        _sweep(_ORPHAN_GRACE_S)
        return 128 - code
    return code


def _forward(keeper: int) -> None:
    try:
        os.kill(keeper, signal.SIGTERM)
    except ProcessLookupError:
        return


def _run_keeper(body: Callable[[StopRequest], int], front_alive: int) -> int:
    """The keeper's whole life; never raises."""
    os.setsid()
    process_tree.become_subreaper()
    code = 1
    try:
        code = body(StopRequest(front_alive))
    except Exception:
        logger.exception("the stack failed unexpectedly")
    finally:
        _sweep(1.0)
        logging.shutdown()
    return code


def _sweep(grace_s: float) -> None:
    left = process_tree.end(process_tree.descendants, grace_s=grace_s)
    if left:
        logger.error("processes could not be killed", extra={"pids": left})
