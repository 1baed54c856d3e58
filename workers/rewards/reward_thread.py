"""A reward in a thread of its own, for callers that are themselves threads which come and go.

Processes of judges live only as long as the thread that started them (see `judge_pool`), and one that dies is replaced
in the middle of a batch. So one thread opens the reward, judges everything, and closes it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from service.contract.rewards import RewardSpec
from workers.rewards.judge_pool import Check
from workers.rewards.reward import Reward, Verdict, open_reward
from workers.rewards.reward_counts import RewardTally
from workers.rewards.samples import RewardSample

_POLL_S = 0.25

Value = TypeVar("Value")


class _Closing(BaseException):
    """Nobody waits for the judge any more."""


@contextmanager
def open_reward_in_thread(spec: RewardSpec, check: Check) -> Iterator[Reward]:
    """As `open_reward`. What is being judged when the block ends is broken off."""
    closing = threading.Event()

    def check_within() -> None:
        if closing.is_set():
            raise _Closing
        check()

    with ThreadPoolExecutor(1, thread_name_prefix="reward") as thread, ExitStack() as opened:
        try:
            making = _Turns(thread, check)
            reward = making.take(lambda: opened.enter_context(open_reward(spec, check_within)))
            yield _RewardInThread(reward, making)
        finally:
            closing.set()
            thread.submit(opened.close).result()


class _Turns:
    """Runs what callers bring in the one thread."""

    def __init__(self, thread: ThreadPoolExecutor, check: Check) -> None:
        self._thread, self._check = thread, check

    def take(self, call: Callable[[], Value]) -> Value:
        """Its result or what it raises, or what `check` raises meanwhile."""
        future = self._thread.submit(call)
        while not future.done():
            self._check()
            with suppress(FutureTimeout):
                future.exception(_POLL_S)
        return future.result()


class _RewardInThread:
    """See `Reward`; the wrapped one is touched in its thread alone."""

    def __init__(self, reward: Reward, turns: _Turns) -> None:
        self._reward, self._turns = reward, turns

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        """See `Reward`."""
        return self._turns.take(lambda: self._reward.judge(samples))

    def answer_key(self, completion_text: str) -> str:
        """See `Reward`."""
        return self._turns.take(lambda: self._reward.answer_key(completion_text))

    def take_tally(self) -> RewardTally:
        """See `Reward`."""
        return self._turns.take(self._reward.take_tally)

    def metrics_of(self, tally: RewardTally) -> dict[str, float]:
        """See `Reward`. Nothing is judged, so it need not wait for a turn."""
        return self._reward.metrics_of(tally)
