"""Blocking file access with an end: a share that hangs must hang neither the event loop nor the process."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")

_GRACE_S = 1.0
"""The work looks at its own deadline between reads; only when it cannot, because a read hangs, is it left behind."""
_MOST_IDLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """A moment on the monotonic clock."""

    ends_at_s: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """So many seconds from now."""
        return cls(ends_at_s=time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        """Seconds left, 0 when it has passed."""
        return max(0.0, self.ends_at_s - time.monotonic())

    def check(self) -> None:
        """Raises TimeoutError once the moment has passed."""
        if not self.remaining_s:
            raise TimeoutError


async def in_thread(work: Callable[[], Result], deadline: Deadline) -> Result:
    """Runs `work` in a thread that has nothing else to do; raises TimeoutError if it is not done in time.

    The thread is a daemon and takes other work only after this, so that one which hangs for ever in a read blocks
    neither others nor the end of the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if done.cancelled():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    _hand_over(run)
    return await asyncio.wait_for(done, deadline.remaining_s + _GRACE_S)


_Orders = SimpleQueue[Callable[[], None]]
_idle: list[_Orders] = []
"""Of the threads that wait for work. To start one stops the event loop until it runs, so some are kept."""


def _hand_over(work: Callable[[], None]) -> None:
    try:
        orders = _idle.pop()
    except IndexError:
        orders = SimpleQueue()
        threading.Thread(target=_serve, args=(orders,), name="file inspection", daemon=True).start()
    orders.put(work)


def _serve(orders: _Orders) -> None:
    while True:
        orders.get()()
        if len(_idle) >= _MOST_IDLE:
            return
        _idle.append(orders)
