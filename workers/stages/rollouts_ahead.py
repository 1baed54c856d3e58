"""Rollouts that are made ahead of the trainer, at most as far as the staleness bound allows.

    the trainer's thread                               a thread for each step under way
      begin(t) ──────────────────────────────────────>   steps t ... t + S are made
      take(t) <───────────── all groups judged ───────   step t has ended
      trains step t                                       steps t + 1 ... t + S go on
      updates the engine's weights under them
      weights_taken(t) ──────────────────────────────>   step t + 1 + S is begun

S is `rl.max_staleness`. A step is begun when the engine has the weights of S steps before it, so none of its tokens is
older than the bound. What a thread raises reaches the trainer's thread in whatever it waits for.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from service.contract.stages import RlSpec
from workers.stages.run_check import RunCheck
from workers.stages.sampling import JudgedGroup
from workers.stages.step_rollouts import FinishedGroups, StepInProgress, StepRolloutMaker, StepRollouts

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_END_S = 30.0
"""What dismissed threads may need to end; their waits ask at least twice a second whether they are."""
_OWN = threading.local()
"""In a thread of this module `work` is its `_StepThread`."""


class _Dismissed(BaseException):
    """What the thread makes is not wanted any more. No `Exception`, so that nothing takes it for a failure."""


@contextmanager
def rollouts_ahead(maker: StepRolloutMaker, spec: RlSpec, check: RunCheck) -> Iterator["RolloutsAhead"]:
    """The source; its threads end with the block."""
    source = RolloutsAhead(maker, spec, check)
    with check.extended_by(source.check):
        try:
            yield source
        finally:
            source.stop()


class RolloutsAhead:
    """See `RolloutSource`."""

    def __init__(self, maker: StepRolloutMaker, spec: RlSpec, check: RunCheck) -> None:
        self._maker, self._spec, self._check = maker, spec, check
        self._changed = threading.Condition()
        self._under_way: dict[int, _StepThread] = {}
        self._waiting: list[FinishedGroups] = []
        """Of steps that have no thread."""
        self._next_step = 1
        """The first one that has not been started."""
        self._num_dropped = Counter[int]()
        """Groups of a step that has no thread which were forgotten."""

    def check(self) -> None:
        """End the calling thread's wait if it is dismissed, or if it is no thread of ours and one of these failed."""
        work: _StepThread | None = getattr(_OWN, "work", None)
        if work is not None:
            work.check()
            return
        for thread in list(self._under_way.values()):
            if thread.failure is not None:
                raise thread.failure

    def begin(self, step: int, finished: Sequence[FinishedGroups]) -> None:
        """See `RolloutSource`."""
        self.stop()
        known = {(part.step, part.batch, place) for part in finished for place in part.groups}
        self._waiting = [*finished, *self._usable(step, known)]
        self._next_step = step
        self.weights_taken(step - 1)

    def take(self, step: int) -> StepRollouts:
        """See `RolloutSource`."""
        thread = self._under_way[step]
        with self._changed:
            while thread.rollouts is None:
                self._check()
                self._changed.wait(_POLL_S)
        thread.join(_END_S)
        del self._under_way[step]
        return thread.rollouts

    def weights_taken(self, step: int) -> None:
        """See `RolloutSource`."""
        last = min(self._spec.num_steps, step + 1 + self._spec.num_steps_ahead)
        for begun in range(self._next_step, last + 1):
            known = [part for part in self._waiting if part.step == begun]
            self._waiting = [part for part in self._waiting if part.step != begun]
            state = StepInProgress(step=begun, finished=known, num_dropped=self._num_dropped.pop(begun, 0))
            self._under_way[begun] = _StepThread(self._maker, state, self._announce)
            self._next_step = begun + 1

    def finished_groups(self) -> list[FinishedGroups]:
        """See `RolloutSource`."""
        return [*(part for thread in self._under_way.values() for part in thread.finished), *self._waiting]

    def stop(self) -> None:
        """See `RolloutSource`."""
        for thread in self._under_way.values():
            thread.dismiss()
        limit = time.monotonic() + _END_S
        for thread in self._under_way.values():
            thread.join(limit - time.monotonic())
        self._waiting = self.finished_groups()
        self._under_way = {}

    def _usable(self, step: int, known: Collection[tuple[int, int, int]]) -> Iterator[FinishedGroups]:
        """What an earlier `begin` left behind, as far as its policies exist for one who trains `step` next."""
        newest = self._maker.trained_version(step)
        for part in self._waiting:
            others = {place: g for place, g in part.groups.items() if (part.step, part.batch, place) not in known}
            groups = {place: group for place, group in others.items() if _newest_version(group) <= newest}
            self._num_dropped[part.step] += len(others) - len(groups)
            if groups and part.step >= step:
                yield replace(part, groups=groups)

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _StepThread:
    """Makes one step's rollouts."""

    def __init__(self, maker: StepRolloutMaker, state: StepInProgress, announce: Callable[[], None]) -> None:
        self._maker, self._state, self._announce = maker, state, announce
        self._dismissed = threading.Event()
        self.rollouts: StepRollouts | None = None
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"rollouts-{state.step}", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> list[FinishedGroups]:
        """Groups that are judged by now."""
        return list(self._state.finished)

    def check(self) -> None:
        """To be called in the thread."""
        if self._dismissed.is_set():
            raise _Dismissed

    def dismiss(self) -> None:
        """Let the thread end with its next check."""
        self._dismissed.set()

    def join(self, deadline_s: float) -> None:
        """Wait for the thread's end."""
        self._thread.join(max(0.0, deadline_s))
        if self._thread.is_alive():
            logger.error("thread does not end", extra={"thread": self._thread.name, "waited_s": deadline_s})

    def _run(self) -> None:
        _OWN.work = self
        try:
            self.rollouts = self._maker.make(self._state)
        except _Dismissed:
            pass
        except BaseException as error:  # the trainer's thread raises it, whatever it is
            self.failure = error
        self._announce()


def _newest_version(group: JudgedGroup) -> int:
    return max(span.version for completion in group.completions for span in completion.spans)
