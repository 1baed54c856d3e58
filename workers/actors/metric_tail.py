"""The newest steps' metrics, kept with each checkpoint.

A driver that is killed takes along what it had not yet told the service, and its successor begins behind the
checkpoint's steps: nobody would ever report them. So a checkpoint carries its last steps' metrics, and whoever resumes
from it reports those first. The service keeps one value per step, and theirs are the same.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from workers.actors.trainer_results import StepMetrics

KEPT_S = 60.0
"""Reports reach the service within seconds; what was unreported at a checkpoint is younger than this, unless the
service is away. Since the checkpoint before, everything is kept."""
MAX_STEPS = 500
"""Bounds a manifest to less than 1 MB."""


class MetricTail:
    """Steps since the last checkpoint, and older ones that may not have been reported yet."""

    def __init__(self, carried: Iterable[StepMetrics] = (), *, now: Callable[[], float] = time.monotonic) -> None:
        """Begin with what the checkpoint carried: its report may be lost in turn."""
        self._now = now
        self._steps: deque[tuple[float, StepMetrics]] = deque(((now(), step) for step in carried), maxlen=MAX_STEPS)

    def add(self, step: StepMetrics) -> None:
        """Note a step that was trained; the oldest gives way beyond `MAX_STEPS`."""
        self._steps.append((self._now(), step))

    def as_facts(self) -> list[list[Any]]:
        """For a checkpoint's manifest: [step, {name: value}] each, NaN and infinities as text, which JSON lacks."""
        return [
            [
                step.step,
                {name: value if abs(value) < float("inf") else str(value) for name, value in step.values.items()},
            ]
            for _, step in self._steps
        ]

    def checkpointed(self) -> None:
        """A checkpoint has taken the tail along; drop what has surely been reported by now."""
        while self._steps and self._steps[0][0] < self._now() - KEPT_S:
            self._steps.popleft()


def carried_metrics(facts: Iterable[tuple[int, dict[str, Any]]]) -> tuple[StepMetrics, ...]:
    """What `MetricTail.as_facts` gave."""
    return tuple(
        StepMetrics(step=step, values={name: float(value) for name, value in values.items()}) for step, values in facts
    )
