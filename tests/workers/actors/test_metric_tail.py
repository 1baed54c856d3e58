import json
import math

from workers.actors.metric_tail import KEPT_S, MAX_STEPS, MetricTail, carried_metrics
from workers.actors.trainer_results import StepMetrics


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def metrics_of(step: int) -> StepMetrics:
    return StepMetrics(step=step, values={"sft/loss": step / 7})


def steps_in(tail: MetricTail) -> list[int]:
    return [step for step, _ in tail.as_facts()]


def test_metrics_come_back_from_json_bit_for_bit() -> None:
    tail = MetricTail()
    values = {"a": 0.1 + 0.2, "b": math.inf, "c": -math.inf, "d": 5e-324}
    tail.add(StepMetrics(step=3, values=values))
    facts = json.loads(json.dumps(tail.as_facts(), allow_nan=False))
    assert carried_metrics(facts) == (StepMetrics(step=3, values=values),)


def test_a_value_that_is_no_number_survives() -> None:
    tail = MetricTail()
    tail.add(StepMetrics(step=1, values={"a": math.nan}))
    assert math.isnan(carried_metrics(tail.as_facts())[0].values["a"])


def test_the_tail_keeps_all_steps_since_the_last_checkpoint_and_those_of_a_minute() -> None:
    clock = Clock()
    tail = MetricTail(now=clock)
    for step in range(1, 6):
        clock.seconds = step * KEPT_S / 2
        tail.add(metrics_of(step))
    assert steps_in(tail) == [1, 2, 3, 4, 5]
    tail.checkpointed()
    assert steps_in(tail) == [3, 4, 5]


def test_what_a_checkpoint_carried_is_carried_on() -> None:
    tail = MetricTail([metrics_of(4)])
    tail.add(metrics_of(5))
    tail.checkpointed()
    assert steps_in(tail) == [4, 5]


def test_the_tail_is_bounded() -> None:
    tail = MetricTail()
    for step in range(MAX_STEPS + 5):
        tail.add(metrics_of(step))
    assert steps_in(tail) == list(range(5, MAX_STEPS + 5))
