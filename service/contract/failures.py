"""What kind of failure ended an attempt, and what follows from the kind: another attempt or none, how often, when.

    kind                            another attempt?      at most                 wait before it
    user_code, config, oom,
    sentinel, timeout               no                    –                       –
    infra_node, infra_engine, lost  yes                   max_retries, each kind  growing
    preempted                       yes, it costs nothing –                       none
    capacity                        yes, it is no retry   20 in a row             always the same

Counts begin anew once an attempt has worked for an hour and left a checkpoint that its successor could go on from.
Every wait is drawn from half to one and a half times its length, so that what fell together does not rise together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from service.contract.status import EndReason


class FailureClass(StrEnum):
    """Kinds of failure, each with one policy."""

    USER_CODE = "user_code"
    """An exception in the experiment's own work; it would come again."""
    CONFIG = "config"
    """Model, data or settings cannot work."""
    OUT_OF_MEMORY = "oom"
    """A GPU's memory or a node's; it would run out again."""
    INFRA_NODE = "infra_node"
    """A process or node died under the run, or Ray did not start its driver."""
    INFRA_ENGINE = "infra_engine"
    """vLLM, or the way of the weights to it."""
    LOST = "lost"
    """Nobody knows what became of it: the cluster was restarted, the driver vanished or hangs."""
    PREEMPTED = "preempted"
    """It had to make room for another."""
    CAPACITY = "capacity"
    """The resources that were set aside for it were not there after all."""
    SENTINEL = "sentinel"
    """A limit on the run's own metrics stopped it."""
    TIMEOUT = "timeout"
    """Its time was over."""


_CLASS_OF: dict[EndReason, FailureClass] = {
    EndReason.CONFIG_ERROR: FailureClass.CONFIG,
    EndReason.STAGE_FAILED: FailureClass.USER_CODE,
    EndReason.INCOMPLETE: FailureClass.USER_CODE,
    EndReason.NON_FINITE: FailureClass.SENTINEL,
    EndReason.GATE_CLOSED: FailureClass.SENTINEL,
    EndReason.SENTINEL: FailureClass.SENTINEL,
    EndReason.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    EndReason.MAX_RUNTIME_EXCEEDED: FailureClass.TIMEOUT,
    EndReason.START_TIMEOUT: FailureClass.INFRA_NODE,
    EndReason.SUBMIT_FAILED: FailureClass.INFRA_NODE,
    EndReason.ACTOR_DIED: FailureClass.INFRA_NODE,
    EndReason.ENGINE_FAILED: FailureClass.INFRA_ENGINE,
    EndReason.WEIGHT_SYNC_FAILED: FailureClass.INFRA_ENGINE,
    EndReason.RAY_JOB_FAILED: FailureClass.LOST,
    EndReason.RAY_JOB_LOST: FailureClass.LOST,
    EndReason.HEARTBEAT_LOST: FailureClass.LOST,
    EndReason.NO_PROGRESS: FailureClass.LOST,
    EndReason.NO_CAPACITY: FailureClass.CAPACITY,
    EndReason.PREEMPTED: FailureClass.PREEMPTED,
}
NO_FAILURE = frozenset(
    {EndReason.COMPLETED, EndReason.CANCELLED_BY_USER, EndReason.DEPENDENCY_FAILED, EndReason.STUDY_STOPPED}
)


def class_of(reason: EndReason) -> FailureClass | None:
    """The kind of failure; None for an end that is none."""
    return None if reason in NO_FAILURE else _CLASS_OF[reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What follows a failure of one kind."""

    retried: bool
    budget: Literal["max_retries", "own", "none"] = "max_retries"
    """What bounds the attempts that follow failures of this kind; `none`: nothing does."""
    num_own: int = 0
    """The bound, where it is the kind's own."""
    wait: Literal["growing", "same", "none"] = "growing"


_NEVER = RetryPolicy(retried=False)
_INFRASTRUCTURE = RetryPolicy(retried=True)
POLICIES: dict[FailureClass, RetryPolicy] = {
    FailureClass.USER_CODE: _NEVER,
    FailureClass.CONFIG: _NEVER,
    FailureClass.OUT_OF_MEMORY: _NEVER,
    FailureClass.SENTINEL: _NEVER,
    FailureClass.TIMEOUT: _NEVER,
    FailureClass.INFRA_NODE: _INFRASTRUCTURE,
    FailureClass.INFRA_ENGINE: _INFRASTRUCTURE,
    FailureClass.LOST: _INFRASTRUCTURE,
    FailureClass.PREEMPTED: RetryPolicy(retried=True, budget="none", wait="none"),
    FailureClass.CAPACITY: RetryPolicy(retried=True, budget="own", num_own=20, wait="same"),
}

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(minutes=15)
PROGRESS_THAT_RESETS = timedelta(hours=1)
LEAST_JITTER, MOST_JITTER = 0.5, 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Another attempt follows."""

    failure: FailureClass
    number: int
    """Failures of this kind in a row, this one included."""
    budget: int | None
    """Of how many at most; None: any number."""
    wait: timedelta

    @property
    def counts(self) -> bool:
        """Whether it is a retry in people's sense; room for somebody else and waiting for room are none."""
        return POLICIES[self.failure].budget == "max_retries"

    def __str__(self) -> str:
        of = "" if self.budget is None else f" of {self.budget}"
        return f"retry {self.number}{of} after a failure of kind {self.failure.value}"


def retry_after(reason: EndReason, counts: Mapping[str, int], max_retries: int, jitter: float) -> Retry | None:
    """The attempt that follows an end, if one does.

    `counts` are the failures in a row before this one by kind, `jitter` a number from `LEAST_JITTER` to `MOST_JITTER`.
    """
    failure = class_of(reason)
    if failure is None or not POLICIES[failure].retried:
        return None
    policy, number = POLICIES[failure], counts.get(failure.value, 0) + 1
    budget = {"max_retries": max_retries, "own": policy.num_own, "none": None}[policy.budget]
    if budget is not None and number > budget:
        return None
    return Retry(failure=failure, number=number, budget=budget, wait=_wait(policy, number) * jitter)


def _wait(policy: RetryPolicy, number: int) -> timedelta:
    """30 s before the first, doubling up to a quarter of an hour, where the policy lets it grow."""
    match policy.wait:
        case "none":
            return timedelta(0)
        case "same":
            return FIRST_WAIT
        case "growing":
            return min(FIRST_WAIT * (1 << min(number - 1, 10)), LONGEST_WAIT)
