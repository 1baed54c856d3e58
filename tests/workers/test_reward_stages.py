"""Stages go on where a reward misbehaves, and say so."""

from pathlib import Path
from typing import Any

import pytest

from service.contract.metric_names import describe_metric
from service.contract.status import EndReason
from tests.workers.stage_world import EVALUATION, RL, World, make_spec
from workers.pipeline.endings import reason_of
from workers.rewards.samples import GoldUnreadable, RewardFailed

FUNCTION = """
def reward(prompt, completion, answer):
    while prompt == "question 3" and completion == "no":
        pass
    if prompt == "question 2":
        raise ValueError("not this one")
    return completion == answer
"""


@pytest.fixture
def reward(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "rewards_of_stages.py").write_text(FUNCTION)
    return {
        "type": "python_function",
        "function": "rewards_of_stages:reward",
        "working_dir": str(tmp_path),
        "timeout_s": 0.3,
        "num_workers": 3,
    }


def test_training_goes_on_beside_samples_that_cannot_be_judged(reward: dict[str, Any]) -> None:
    parts = [{"name": "own", "weight": 1.0, "reward": reward}]
    rl = RL | {"reward": {"type": "combined", "parts": parts}, "num_steps": 2}
    world = World(make_spec(sft=None, evaluation=None, rl=rl))
    [result] = world.run()
    assert result.steps_done == 2
    assert all(describe_metric(name) for name, _, _ in world.reports.values)
    # Four of five prompts a step, so at least one of the two steps meets each of the two bad ones.
    assert sum(value for _, value in world.reports.series("reward/num_errors")) >= 8
    assert sum(value for _, value in world.reports.series("reward/num_timeouts")) >= 1
    assert [step for step, _ in world.reports.series("rewards/own/mean")] == [1, 2]


def test_an_evaluation_leaves_out_prompts_with_dropped_samples(reward: dict[str, Any]) -> None:
    evaluation = EVALUATION | {"reward": reward | {"on_error": "drop", "timeout_s": 10.0}, "points": ["base"]}
    evaluation["num_prompts"] = 3
    world = World(make_spec(sft=None, rl=None, evaluation=evaluation))
    [result] = world.run()
    assert (result.steps_done, result.detail["num_prompts"]) == (3, 2)
    assert result.metrics["eval/test/reward/num_dropped"] == 4.0


def test_a_broken_reward_is_no_failure_of_the_infrastructure() -> None:
    assert reason_of(RewardFailed("…")) is EndReason.STAGE_FAILED
    assert reason_of(GoldUnreadable("…")) is EndReason.CONFIG_ERROR
