"""All stages in order on a fake world: what is reported, what is resumed, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.contract.metric_names import describe_metric
from service.contract.stages import SftSpec
from tests.workers.fake_actors import FakeEngine
from tests.workers.stage_world import EVALUATION, RL, SFT, Crash, World, make_spec, make_view
from workers.actors.trainer_results import Histogram, SftEnd, SftSlice, StepMetrics
from workers.checkpoints import SkippedCheckpoint
from workers.pipeline.endings import Incomplete
from workers.rollouts import Completion, GenerationRequest, Prompt, SamplingParameters
from workers.stages.resume import CheckpointMissing
from workers.stages.sampling import RolloutMismatch, make_requests, shown_samples, verify_completions


def test_stages_run_in_order_and_reach_their_steps() -> None:
    world = World(make_spec())
    results = world.run()
    assert [result.stage for result in results] == make_spec().stage_names()
    assert [(result.steps_done, result.steps_planned) for result in results] == [
        (6, 6),
        (5, 5),
        (5, 5),
        (20, 20),
        (5, 5),
    ]
    assert results == world.finished
    assert world.disk.exported.keys() == {"/out/models/sft", "/out/models/rl"}


def test_reward_rises() -> None:
    world = World(make_spec())
    world.run()
    rewards = [value for _, value in world.reports.series("reward/mean")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3


def test_every_metric_is_registered_and_its_steps_rise() -> None:
    world = World(make_spec())
    world.run()
    names = {name for name, _, _ in world.reports.values}
    assert [name for name in names if describe_metric(name) is None] == []
    for name in names:
        steps = [step for step, _ in world.reports.series(name)]
        assert steps == sorted(set(steps)), name


def test_evaluations_stand_at_the_global_step_and_share_their_seeds() -> None:
    world = World(make_spec())
    world.run()
    assert [step for step, _ in world.reports.series("eval/test/pass@1")] == [0, 6, 26]
    base, after_sft, after_rl = world.engine.requests[:20], world.engine.requests[20:40], world.engine.requests[-20:]
    assert base == after_sft == after_rl
    assert len({request.seed for request in base}) == 20


def test_a_seed_of_rl_changes_what_rl_asks_and_nothing_else() -> None:
    settings = RL | {"gate": {}}
    own, other = (World(make_spec(rl=settings | {"seed": seed})) for seed in (3, 4))
    same = World(make_spec(rl=settings))
    for world in (own, other, same):
        world.run()
    assert own.engine.requests == same.engine.requests, "the experiment's seed is 3"
    asked = {name: world.engine.requests for name, world in (("own", own), ("other", other))}
    assert asked["own"][:40] == asked["other"][:40] and asked["own"][-20:] == asked["other"][-20:], "the evaluations"
    of_rl = [{request.seed for request in requests[40:-20]} for requests in asked.values()]
    assert len(of_rl[0]) > 600 and not of_rl[0] & of_rl[1]


def test_each_evaluation_sees_the_policy_of_its_point() -> None:
    world = World(make_spec())
    results = {result.stage: result for result in world.run()}
    versions = {stage: result.detail["policy_version"] for stage, result in results.items() if "evaluate" in stage}
    assert versions == {"evaluate_base": 0, "evaluate_after_sft": 1, "evaluate_after_rl": 21}
    assert world.engine.versions_used == [0, 1, *range(1, 21), 21]


def test_resumed_run_equals_the_uninterrupted_one() -> None:
    whole = World(make_spec())
    whole.run()
    broken = World(make_spec(), crash_in_rl_step=12)
    with pytest.raises(Crash):
        broken.run()
    resumed = World(make_spec(), broken.disk)
    resumed.run(broken.finished)
    assert resumed.trainer.logit == whole.trainer.logit
    for name in ("reward/mean", "training/policy_version", "training/num_tokens"):
        expected = [point for point in whole.reports.series(name) if point[0] > 7]
        assert resumed.reports.series(name) == expected
    assert [result.stage for result in resumed.finished] == ["rl", "evaluate_after_rl"]
    assert resumed.engine.versions_used == [*range(8, 21), 21], "the checkpoint's weights before the first rollout"
    assert resumed.finished[-1].metrics["eval/test/pass@1"] == whole.finished[-1].metrics["eval/test/pass@1"]


def test_only_the_last_evaluation_left_uses_the_finished_policy() -> None:
    whole = World(make_spec())
    results = whole.run()
    resumed = World(make_spec(), whole.disk)
    resumed.run(results[:-1])
    assert resumed.engine.versions_used == [21]
    assert resumed.finished[0].metrics["eval/test/avg@4"] == results[-1].metrics["eval/test/avg@4"]


def test_finished_stage_without_its_checkpoint_is_refused() -> None:
    whole = World(make_spec())
    results = whole.run()
    del whole.disk.checkpoints["/out/checkpoints/sft"][6]
    with pytest.raises(CheckpointMissing, match="step 4 of 6"):
        World(make_spec(), whole.disk).run(results[:1])


def test_metrics_that_a_checkpoint_carried_are_reported_first() -> None:
    world = World(make_spec(rl=None, evaluation=None))
    plan = world.trainer.prepare_sft(SftSpec.model_validate(SFT), "/out/checkpoints/sft")
    carried = (StepMetrics(step=5, values={"sft/loss": 0.5}), StepMetrics(step=6, values={"sft/loss": 0.25}))
    finished = replace(plan, first_step=plan.num_steps + 1, carried_metrics=carried)
    world.trainer.prepare_sft = lambda spec, root: finished  # type: ignore[method-assign]
    world.trainer.sft_steps = lambda **_: SftSlice(steps=())  # type: ignore[method-assign]
    (result,) = world.run()
    assert world.reports.series("sft/loss") == [(5, 0.5), (6, 0.25)]
    assert result.metrics["sft/loss"] == 0.25
    assert "carried_metrics" not in result.detail


def test_a_resumed_stage_says_where_it_goes_on() -> None:
    broken = World(make_spec(), crash_in_rl_step=12)
    with pytest.raises(Crash):
        broken.run()
    assert broken.reports.events == []
    resumed = World(make_spec(), broken.disk)
    resumed.run(broken.finished)
    root = "/out/checkpoints/rl"
    assert resumed.reports.events == [("resumed", {"stage": "rl", "step": 7, "checkpoint": root})]


@pytest.mark.parametrize(("resumed_from", "num_events"), [(None, 1), ("/out/checkpoints/sft", 0)])
def test_a_calibration_is_told_once(resumed_from: str | None, num_events: int) -> None:
    world = World(make_spec(sft={**SFT, "objective": {"type": "sed", "top_k": 3}}, rl=None, evaluation=None))
    plan = world.trainer.prepare_sft(SftSpec.model_validate(SFT), "/out/checkpoints/sft")
    histogram = Histogram(low=0.0, high=1.0, counts=(1, 9))
    calibrated = replace(plan, tau=0.5, tau_num_tokens=10, tau_histogram=histogram, resumed_from=resumed_from)
    world.trainer.prepare_sft = lambda spec, root: calibrated  # type: ignore[method-assign]
    world.run()
    told = [detail for kind, detail in world.reports.events if kind == "tau_calibrated"]
    facts = {"tau": 0.5, "top_k": 3, "mask_ratio": 0.7, "num_tokens": 10, "low": 0.0, "high": 1.0, "counts": (1, 9)}
    assert told == [facts] * num_events


def test_damaged_checkpoints_are_told() -> None:
    world = World(make_spec(rl=None, evaluation=None))
    plan = world.trainer.prepare_sft(SftSpec.model_validate(SFT), "/out/checkpoints/sft")
    damaged = SkippedCheckpoint(name="step-00000004", reason="model.pt is missing")
    world.trainer.prepare_sft = lambda spec, root: replace(  # type: ignore[method-assign]
        plan, skipped_checkpoints=(damaged,)
    )
    world.trainer.end_sft = lambda: SftEnd(  # type: ignore[method-assign]
        exported_step=3, skipped_best_checkpoints=(replace(damaged, name="step-00000005"),)
    )
    world.run()
    assert [kind for kind, _ in world.reports.events] == ["checkpoint_skipped"] * 2
    assert [detail["checkpoint"] for _, detail in world.reports.events] == ["step-00000004", "step-00000005"]


def test_held_out_metrics_and_token_views_are_reported() -> None:
    view = make_view(num_tokens=2)
    slices = [
        SftSlice(
            steps=(StepMetrics(step=1, values={"sft/loss": 1.0}),),
            evaluations=(
                StepMetrics(step=0, values={"sft/eval/nll": 3.0}),
                StepMetrics(step=1, values={"sft/eval/nll": 2.0}),
            ),
            token_views=(view,),
        ),
        SftSlice(steps=()),
    ]
    world = World(make_spec(rl=None, evaluation=None))
    plan = world.trainer.prepare_sft(SftSpec.model_validate(SFT), "/out/checkpoints/sft")
    world.trainer.prepare_sft = lambda spec, root: replace(plan, num_steps=1)  # type: ignore[method-assign]
    world.trainer.sft_steps = lambda **_: slices.pop(0)  # type: ignore[method-assign]
    (result,) = world.run()
    assert world.reports.series("sft/eval/nll") == [(0, 3.0), (1, 2.0)]
    assert result.metrics["sft/eval/nll"] == 2.0
    assert world.reports.views == [view]


def test_metrics_of_a_checkpoints_steps_are_sent_before_it_is_written() -> None:
    world = World(make_spec())
    world.run()
    assert set(world.disk.checkpoints["/out/checkpoints/rl"]) <= set(world.reports.settled_steps)


def test_engine_stays_off_without_a_stage_for_it() -> None:
    world = World(make_spec(rl=None, evaluation=None))
    world.run()
    assert not world.engine.started and world.trainer.loaded


def test_trainer_stays_off_for_an_evaluation_of_the_base_model() -> None:
    world = World(make_spec(sft=None, rl=None, evaluation=EVALUATION | {"points": ["base"]}))
    world.run()
    assert world.engine.started and not world.trainer.loaded


def test_reinforcement_learning_alone_begins_with_the_base_policy() -> None:
    world = World(make_spec(sft=None, evaluation=None))
    world.run()
    assert world.engine.versions_used == list(range(20))


def test_engine_that_cannot_start_ends_the_training_at_once() -> None:
    world = World(make_spec(sft=SFT | {"num_epochs": 1000}))
    world.engine.failure = ValueError("no such model")
    with pytest.raises(ValueError, match="no such model"):
        world.run()
    assert world.trainer.sft_slices == 1


def test_stage_that_stops_early_is_incomplete() -> None:
    world = World(make_spec())
    world.trainer.sft_steps = lambda **_: SftSlice(steps=())  # type: ignore[method-assign]
    with pytest.raises(Incomplete, match="0 of 6"):
        world.run()
    assert world.finished == []


def test_rollout_samples_of_a_step_are_mixed() -> None:
    world = World(make_spec())
    world.run()
    shown = [sample for sample in world.reports.samples if (sample.stage, sample.step) == ("rl", 1)]
    assert len(shown) == 8
    assert {sample.reward for sample in shown} == {0.0, 1.0}


def test_prompt_that_stands_twice_in_a_step_is_sampled_anew() -> None:
    prompt = Prompt(uid=7, text="q", token_ids=(1,), answer="a")
    requests = make_requests([prompt, prompt], 2, 3, "rl", 1)
    assert [request.sample_index for request in requests] == [0, 1, 2, 3]
    assert len({request.seed for request in requests}) == 4


@pytest.fixture
def asked() -> tuple[list[GenerationRequest], list[Completion]]:
    """Four requests with their completions."""
    requests = make_requests([Prompt(uid=0, text="q", token_ids=(1,), answer="yes")], 4, 3, "rl", 1)
    return requests, FakeEngine().generate(requests, SamplingParameters(temperature=1.0, max_completion_length=2))


def test_completions_in_another_order_are_refused(asked: tuple[list[GenerationRequest], list[Completion]]) -> None:
    requests, completions = asked
    with pytest.raises(RolloutMismatch, match="first difference"):
        verify_completions(requests, [*completions[1:], completions[0]], 0)


def test_missing_completion_is_refused(asked: tuple[list[GenerationRequest], list[Completion]]) -> None:
    requests, completions = asked
    with pytest.raises(RolloutMismatch, match="4 completions asked, 3 received"):
        verify_completions(requests, completions[:3], 0)


def test_completions_of_an_older_policy_are_refused(asked: tuple[list[GenerationRequest], list[Completion]]) -> None:
    requests, completions = asked
    with pytest.raises(RolloutMismatch, match="version"):
        verify_completions(requests, completions, 1)


def test_completion_without_tokens_is_refused(asked: tuple[list[GenerationRequest], list[Completion]]) -> None:
    requests, completions = asked
    empty = replace(completions[0], token_ids=(), logprobs=())
    with pytest.raises(RolloutMismatch, match="0 tokens"):
        verify_completions(requests, [empty, *completions[1:]], 0)


def test_nothing_is_shown_of_no_groups() -> None:
    assert shown_samples([], "rl", 1, 8) == []


def test_further_sets_are_sampled_with_the_first_at_every_point_and_step(tmp_path: Path) -> None:
    further = {**EVALUATION, "name": "hard", "num_generations": 2, "pass_at_k": [1], "num_prompts": 3}
    evaluation = {**EVALUATION, "rl_eval_steps": 10, "further_sets": [further]}
    world = World(make_spec(evaluation=evaluation), output_dir=tmp_path)
    results = {result.stage: result for result in world.run()}
    after_rl = results["evaluate_after_rl"]
    assert after_rl.steps_done == after_rl.steps_planned == 5 + 3
    assert {"eval/test/pass@4", "eval/hard/pass@1"} <= after_rl.metrics.keys()
    assert len(after_rl.detail["per_prompt"]["uid"]) == 5
    assert after_rl.detail["further_sets"]["hard"]["per_prompt"]["uid"] == [0, 1, 2]
    assert [step for step, _ in world.reports.series("eval/hard/pass@1")] == [0, 6, 16, 26]
    (sampled,) = results["rl"].detail["sampled"]
    assert sampled["further_sets"]["hard"]["num_generations"] == 2
