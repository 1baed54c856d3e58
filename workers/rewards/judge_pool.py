"""Judges samples in processes that can be killed: one sample each at a time, each sample with its own deadline.

    starting ──ready──> idle ──sample──> busy ──answer──> idle
        │                 │                └── deadline, death ──> killed and replaced; this sample alone is lost
        └── fatal: ConfigError; death or deadline: RewardFailed

One loop over pipes and no thread: the kernel ties the life of a process to the thread that started it.
"""

import logging
import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from service.contract.rewards import ProcessReward, SingleReward
from workers.config_error import ConfigError
from workers.rewards.build import deadline_s
from workers.rewards.judge_handle import JudgeHandle
from workers.rewards.judgement import Judgement
from workers.rewards.line_pipes import PipeClosed
from workers.rewards.samples import GoldUnreadable, RewardFailed, RewardSample

logger = logging.getLogger(__name__)

_POLL_S = 0.25

Check = Callable[[], None]
"""Raises when the run must end now."""


class JudgePool:
    """Judges by one reward; to be used and closed in the thread that made it."""

    def __init__(self, spec: SingleReward, check: Check) -> None:
        """Starts the processes; raises ConfigError if the reward cannot work, RewardFailed if they do not start."""
        assert isinstance(spec, ProcessReward)
        self._spec: SingleReward = spec
        self._check = check
        self._limit_s = deadline_s(spec)
        self._processes: list[JudgeHandle] = []
        try:
            for _ in range(spec.num_workers):
                self._processes.append(JudgeHandle(self._spec))
            while not all(process.ready for process in self._processes):
                self._turn({}, [])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill all processes."""
        while self._processes:
            self._processes.pop().kill()

    def judge(self, samples: Sequence[RewardSample]) -> list[Judgement]:
        """One judgement a sample, in their order. Raises GoldUnreadable, RewardFailed, and what `check` raises.

        A call that was broken off leaves its processes at work; the pool is only fit to be closed then.
        """
        self._replace_dead()
        waiting = deque(range(len(samples)))
        found: dict[int, Judgement] = {}
        while len(found) < len(samples):
            for process in self._processes:
                if waiting and process.ready and process.place is None:
                    place = waiting.popleft()
                    process.give(place, samples[place], self._limit_s)
            self._turn(found, samples)
        return [found[place] for place in range(len(samples))]

    def _replace_dead(self) -> None:
        """A process that was killed between two batches, by the kernel perhaps, would take a sample along."""
        for process in [one for one in self._processes if not one.is_alive()]:
            self._replace(process)

    def _turn(self, found: dict[int, Judgement], samples: Sequence[RewardSample]) -> None:
        """Wait for the next thing to happen, a fraction of a second at most, and take note of it."""
        self._check()
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                process.pipes.register(selector, process)
            next_end = min(process.ends_at for process in self._processes if self._has_deadline(process))
            events = selector.select(max(0.0, min(_POLL_S, next_end - time.monotonic())))
        for process in {id(key.data): key.data for key, _ in events}.values():
            self._listen(process, found, samples)
        for process in [one for one in self._processes if self._has_deadline(one)]:
            if time.monotonic() > process.ends_at:
                self._lose(process, "timeout", f"no verdict within {self._limit_s:g} s", found, samples)

    @staticmethod
    def _has_deadline(process: JudgeHandle) -> bool:
        return not process.ready or process.place is not None

    def _listen(self, process: JudgeHandle, found: dict[int, Judgement], samples: Sequence[RewardSample]) -> None:
        try:
            replies = process.pipes.exchange()
        except PipeClosed:
            self._lose(process, "crash", "the process that judged it died", found, samples)
            return
        for reply in replies:
            self._take(process, reply, found)

    def _take(self, process: JudgeHandle, reply: dict[str, Any], found: dict[int, Judgement]) -> None:
        if "fatal" in reply:
            raise ConfigError(reply["fatal"])
        if "gold" in reply:
            raise GoldUnreadable(reply["gold"])
        if not process.ready:
            process.ready = True
            return
        assert process.place is not None, "an answer without a question"
        score = reply.get("score")
        failure: Literal["error"] | None = "error" if score is None else None
        found[process.place] = Judgement(score=score, failure=failure, message=str(reply.get("error", "")))
        process.place = None

    def _lose(
        self,
        process: JudgeHandle,
        failure: Literal["timeout", "crash"],
        message: str,
        found: dict[int, Judgement],
        samples: Sequence[RewardSample],
    ) -> None:
        """Replace a process; its sample goes without a score."""
        if not process.ready:
            raise RewardFailed(
                f"a process for the reward {self._spec.type!r} did not start ({process.last_words()}); look for "
                "missing packages, and at max_memory_mb and the node's memory"
            )
        place = process.place
        self._replace(process)
        if place is not None:
            found[place] = Judgement(score=None, failure=failure, message=message)
            facts = {"prompt_uid": samples[place].prompt_uid, "sample_index": samples[place].sample_index}
            logger.warning("reward process replaced", extra={"reason": failure, **facts})

    def _replace(self, process: JudgeHandle) -> None:
        process.kill()
        self._processes[self._processes.index(process)] = JudgeHandle(self._spec)
