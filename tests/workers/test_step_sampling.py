"""Sampling the evaluation's set within a stage: where it stands, which policy it sees, and how often it is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.contract.evaluation import EvaluationSpec
from service.contract.spec import ExperimentSpec
from tests.workers.fake_actors import FakeEngine
from tests.workers.stage_world import EVALUATION, SFT, Crash, World, make_spec
from workers.config_error import ConfigError
from workers.rollouts import Completion, GenerationRequest, SamplingParameters

NAME = "eval/test/pass@1"
SAMPLED = [2, 4, 5]


def make_sampled_spec(**changes: Any) -> ExperimentSpec:
    return make_spec(evaluation=EVALUATION | {"sft_steps": SAMPLED}, **changes)


def make_rl_spec(every: int, *, points: list[str] | None = None, **changes: Any) -> ExperimentSpec:
    between = {"rl_eval_steps": every, "points": points or ["base", "after_sft", "after_rl"]}
    return make_spec(evaluation=EVALUATION | between, **changes)


def evaluated_steps(world: World) -> list[int]:
    """Steps of reinforcement learning after which the engine was asked for the set; versions begin with 1 there."""
    return [version - 1 for version, num_asked in world.engine.calls if num_asked == 20 and version > 0]


def points_of(world: World) -> list[tuple[int, float]]:
    return world.reports.series(NAME)


def die_in_call(engine: FakeEngine, number: int) -> None:
    """The attempt ends within the engine's `number`-th generation."""
    generate: Callable[[list[GenerationRequest], SamplingParameters], list[Completion]] = engine.generate

    def generate_or_die(requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        if len(engine.versions_used) == number - 1:
            raise Crash
        return generate(requests, sampling)

    engine.generate = generate_or_die  # type: ignore[method-assign]


def test_the_set_is_sampled_after_the_chosen_steps_and_at_the_usual_points(tmp_path: Path) -> None:
    world = World(make_sampled_spec(), output_dir=tmp_path)
    results = {result.stage: result for result in world.run()}
    assert list(results) == ["evaluate_base", "sft", "evaluate_after_sft", "rl", "evaluate_after_rl"]
    assert [step for step, _ in points_of(world)] == [0, *SAMPLED, 6, 26]
    sampled = results["sft"].detail["sampled"]
    assert [(entry["step"], entry["metrics"][NAME]) for entry in sampled] == points_of(world)[1:4]
    for entry in sampled:
        assert sum(entry["per_prompt"]["num_correct"]) == pytest.approx(5 * 4 * entry["metrics"][NAME])


def test_each_sampling_sees_its_own_policy_under_the_same_draws(tmp_path: Path) -> None:
    world = World(make_sampled_spec(rl=None), output_dir=tmp_path)
    logits = []
    generate = world.engine.generate

    def noted(requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        logits.append(world.engine.logit)
        return generate(requests, sampling)

    world.engine.generate = noted  # type: ignore[method-assign]
    world.run()
    assert world.engine.versions_used == [0, 1, 2, 3, 4]
    assert logits == pytest.approx([-2.0, -1.8, -1.6, -1.5, -1.4])
    base = world.engine.requests[:20]
    assert all(world.engine.requests[first : first + 20] == base for first in range(0, 100, 20))


def test_versions_of_reinforcement_learning_follow_those_of_sft(tmp_path: Path) -> None:
    world = World(make_sampled_spec(), output_dir=tmp_path)
    world.run()
    assert world.engine.versions_used == [0, 1, 2, 3, 4, *range(4, 24), 24]


def test_the_last_step_is_left_to_the_evaluation_after_sft(tmp_path: Path) -> None:
    world = World(make_spec(rl=None, evaluation=EVALUATION | {"sft_steps": [3, 6]}), output_dir=tmp_path)
    world.run()
    assert [step for step, _ in points_of(world)] == [0, 3, 6]


def test_without_an_evaluation_after_sft_the_last_step_is_sampled(tmp_path: Path) -> None:
    evaluation = EVALUATION | {"sft_steps": [3, 6], "points": ["base"]}
    world = World(make_spec(rl=None, evaluation=evaluation), output_dir=tmp_path)
    world.run()
    assert [step for step, _ in points_of(world)] == [0, 3, 6]
    assert world.engine.versions_used == [0, 1, 2]


# Checkpoints follow steps 4 and 6. Killed before step 5, the fourth generation is that of step 5.
@pytest.mark.parametrize("crash_in_sft_step", [1, 2, 3, 4, 5, 6])
def test_a_resumed_run_repeats_and_skips_no_sampling(tmp_path: Path, crash_in_sft_step: int) -> None:
    whole = World(make_sampled_spec(rl=None), output_dir=tmp_path / "whole")
    whole.run()
    broken = World(make_sampled_spec(rl=None), output_dir=tmp_path / "b", crash_in_sft_step=crash_in_sft_step)
    with pytest.raises(Crash):
        broken.run()
    resumed = World(make_sampled_spec(rl=None), broken.disk, output_dir=tmp_path / "b")
    results = resumed.run(broken.finished)
    assert points_of(resumed) == points_of(whole)[1:], "those of the attempt before are reported again"
    assert broken.engine.versions_used + resumed.engine.versions_used == whole.engine.versions_used
    assert results[1].detail["sampled"] == whole.finished[1].detail["sampled"]


def test_the_set_is_sampled_between_steps_of_reinforcement_learning(tmp_path: Path) -> None:
    world = World(make_rl_spec(5), output_dir=tmp_path)
    results = {result.stage: result for result in world.run()}
    assert [step for step, _ in points_of(world)] == [0, 6, 11, 16, 21, 26]
    sampled = results["rl"].detail["sampled"]
    assert [entry["step"] for entry in sampled] == [5, 10, 15], "the last step is left to the evaluation after RL"
    assert [entry["metrics"][NAME] for entry in sampled] == [value for _, value in points_of(world)[2:5]]
    assert evaluated_steps(world) == [0, 5, 10, 15, 20]


def test_between_steps_of_reinforcement_learning_only_its_own_completions_are_shown(tmp_path: Path) -> None:
    world = World(make_rl_spec(5), output_dir=tmp_path)
    world.run()
    shown = [sample for sample in world.reports.samples if sample.stage == "rl"]
    assert {(sample.step, sample.policy_version) for sample in shown} == {(step, step) for step in range(1, 21)}


# Checkpoints follow steps 7, 14 and 20; evaluations steps 5, 10, 15 and 20.
@pytest.mark.parametrize("crash_in_rl_step", [3, 6, 8, 11, 15, 17])
def test_resumed_reinforcement_learning_repeats_and_skips_no_sampling(tmp_path: Path, crash_in_rl_step: int) -> None:
    spec = make_rl_spec(5, points=["base"])
    whole = World(spec, output_dir=tmp_path / "whole")
    whole.run()
    broken = World(spec, output_dir=tmp_path / "b", crash_in_rl_step=crash_in_rl_step)
    with pytest.raises(Crash):
        broken.run()
    resumed = World(spec, broken.disk, output_dir=tmp_path / "b")
    results = resumed.run(broken.finished)
    assert points_of(resumed) == points_of(whole)[1:], "those of the attempt before are reported again"
    assert set(evaluated_steps(broken)).isdisjoint(evaluated_steps(resumed))
    assert results[-1].detail["sampled"] == whole.finished[-1].detail["sampled"]


def test_rl_eval_steps_need_reinforcement_learning() -> None:
    with pytest.raises(ValueError, match=r"evaluation.rl_eval_steps: there is no rl stage"):
        make_rl_spec(5, rl=None)


@pytest.mark.parametrize("call", [2, 3, 4])
def test_a_run_that_died_while_sampling_samples_again(tmp_path: Path, call: int) -> None:
    whole = World(make_sampled_spec(rl=None), output_dir=tmp_path / "whole")
    whole.run()
    broken = World(make_sampled_spec(rl=None), output_dir=tmp_path / "b")
    die_in_call(broken.engine, call)
    with pytest.raises(Crash):
        broken.run()
    resumed = World(make_sampled_spec(rl=None), broken.disk, output_dir=tmp_path / "b")
    resumed.run(broken.finished)
    assert points_of(resumed) == points_of(whole)[1:]
    assert broken.engine.versions_used + resumed.engine.versions_used == whole.engine.versions_used


def test_an_unreadable_result_is_sampled_again(tmp_path: Path) -> None:
    broken = World(make_sampled_spec(rl=None), output_dir=tmp_path, crash_in_sft_step=5)
    with pytest.raises(Crash):
        broken.run()
    (tmp_path / "evaluations" / "sft" / "step-00000004.json").write_text('{"eval/te')
    resumed = World(make_sampled_spec(rl=None), broken.disk, output_dir=tmp_path)
    resumed.run(broken.finished)
    assert resumed.engine.versions_used == [2, 3, 4]


def test_a_step_beyond_the_last_is_refused(tmp_path: Path) -> None:
    world = World(make_spec(rl=None, evaluation=EVALUATION | {"sft_steps": [7]}), output_dir=tmp_path)
    with pytest.raises(ConfigError, match="7 lies beyond the 6 steps"):
        world.run()


def test_steps_must_rise() -> None:
    with pytest.raises(ValueError, match=r"must rise, each step once: \[3, 6\]"):
        EvaluationSpec.model_validate(EVALUATION | {"sft_steps": [6, 3, 3]})


def test_the_engine_runs_for_sampling_alone(tmp_path: Path) -> None:
    evaluation = EVALUATION | {"sft_steps": [3], "points": ["after_rl"]}
    world = World(make_spec(rl=None, evaluation=evaluation), output_dir=tmp_path)
    world.run()
    assert world.engine.versions_used == [1]


def test_what_follows_sft_begins_with_the_best_checkpoint(tmp_path: Path) -> None:
    best = {"eval_data": {"path": "/eval"}, "num_best_checkpoints": 1, "export": "best"}
    spec = make_spec(rl=None, sft=SFT | best)
    whole = World(spec, output_dir=tmp_path)
    sft, *_, after_sft = whole.run()
    assert sft.detail["exported_step"] == 4
    assert whole.disk.exported[f"{tmp_path}/models/sft"] == pytest.approx(-1.6)
    resumed = World(spec, whole.disk, output_dir=tmp_path)
    assert resumed.run([sft])[-1].metrics[NAME] == after_sft.metrics[NAME]
    assert resumed.trainer.logit == pytest.approx(-1.6)
