"""The gate before reinforcement learning: what passes, what ends the run, and what the person is told."""

from typing import Any

import pytest

from service.contract.gate import GateSpec
from service.contract.metric_names import describe_metric
from service.contract.spec import ExperimentSpec
from service.contract.stages import RlSpec
from tests.workers.stage_world import RL, Crash, World, make_spec
from workers.stages.gate import GateClosed

YES_ALWAYS = 50.0
"""A logit with which every completion is right."""


def gated(**gate: Any) -> ExperimentSpec:
    return make_spec(rl=RL | {"gate": gate}, evaluation=None)


def run_closed(world: World) -> str:
    with pytest.raises(GateClosed) as closed:
        world.run()
    assert [result.stage for result in world.finished] == ["sft"]
    return str(closed.value)


def test_an_open_gate_changes_nothing_of_what_follows() -> None:
    with_gate, without = World(gated()), World(make_spec(evaluation=None))
    with_gate.run()
    without.run()
    rewards = without.reports.series("reward/mean")
    assert with_gate.reports.series("reward/mean") == rewards and len(rewards) == 20


def test_the_probe_is_reported_as_step_0() -> None:
    world = World(gated(num_prompts=3, num_generations=6))
    world.run()
    probe = {name: value for name, step, value in world.reports.values if step == 0}
    assert set(probe) == {f"gate/{name}" for name in ("reward", "clipped_ratio", "frac_reward_zero_std", "mean_length")}
    assert all(describe_metric(name) for name in probe)
    assert probe["gate/mean_length"] == 2.0 and probe["gate/clipped_ratio"] == 0.0
    assert world.engine.calls[0] == (1, 3 * 6), "with the weights that SFT left"
    assert {sample.stage for sample in world.reports.samples if sample.step == 0} == {"rl"}


def test_a_probe_has_no_more_prompts_than_there_are() -> None:
    world = World(gated(num_prompts=1000))
    world.run()
    assert world.engine.calls[0] == (1, 5 * 8)


def test_a_policy_that_knows_everything_is_stopped_with_all_reasons() -> None:
    world = World(gated(max_reward=0.9))
    world.trainer.logit = YES_ALWAYS
    message = run_closed(world)
    assert "100% of the prompts have completions of one reward only" in message
    assert "the mean reward is 1, and rl.gate.max_reward is 0.9" in message
    assert world.reports.series("gate/reward") == [(0, 1.0)], "people see why"


def test_a_policy_that_knows_nothing_is_stopped() -> None:
    world = World(gated(min_reward=0.05, max_frac_reward_zero_std=1.0))
    world.trainer.logit = -YES_ALWAYS
    message = run_closed(world)
    assert "the mean reward is 0, and rl.gate.min_reward is 0.05" in message
    assert "one reward only" not in message


def test_completions_that_do_not_end_close_the_gate() -> None:
    world = World(gated(max_clipped_ratio=0.25))
    world.engine.finish_reason = "length"
    message = run_closed(world)
    assert "100% of 40 completions were cut at rl.max_completion_length 2" in message


def test_an_engine_that_does_not_stop_at_the_trained_end_closes_the_gate() -> None:
    world = World(gated())
    world.engine.eos_token_ids = (1,)
    assert "does not stop at end tokens [2] that are trained (it stops at [1])" in run_closed(world)


def test_a_resumed_stage_has_passed_its_gate() -> None:
    broken = World(gated(), crash_in_rl_step=12)
    with pytest.raises(Crash):
        broken.run()
    resumed = World(gated(), broken.disk)
    resumed.run(broken.finished)
    assert resumed.reports.series("gate/reward") == []


def test_limits_that_nothing_meets_are_refused() -> None:
    with pytest.raises(ValueError, match="no reward lies between"):
        GateSpec(min_reward=0.5, max_reward=0.4)


def test_there_is_no_gate_by_default() -> None:
    assert RlSpec.model_validate(RL).gate is None
