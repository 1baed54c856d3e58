"""Which groups a step trains, and with what."""

from typing import Any, Literal

import pytest

from service.contract.metric_names import describe_metric
from tests.workers.stage_world import RL, Crash, World, make_spec
from tests.workers.tiny_model import make_rl_spec
from workers.rollouts import Completion, Prompt
from workers.stages.rl_groups import GroupSelection, StepGroups, selection_metrics
from workers.stages.sampling import JudgedGroup

FILTER = {"mode": "filter", "max_gen_batches": 3}
REPLACE = {"mode": "replace"}


def group(uid: int, rewards: list[float], cut: tuple[int, ...] = (), num_tokens: int = 2) -> JudgedGroup:
    def finish(index: int) -> Literal["stop", "length"]:
        return "length" if index in cut else "stop"

    return JudgedGroup(
        prompt=Prompt(uid=uid, text="question", token_ids=(3,), answer="yes"),
        completions=tuple(
            Completion(
                prompt_uid=uid,
                sample_index=index,
                token_ids=(5,) * num_tokens,
                logprobs=(-1.0,) * num_tokens,
                finish_reason=finish(index),
                text="yes",
                policy_version=0,
            )
            for index in range(len(rewards))
        ),
        rewards=tuple(rewards),
    )


MIXED, FLAT = [1.0, 0.0, 0.0, 0.0], [1.0] * 4


def select(groups: list[JudgedGroup], **changes: Any) -> tuple[GroupSelection, StepGroups]:
    """A step of three groups of four."""
    selection = GroupSelection(make_rl_spec(**changes))
    selection.add(groups)
    return selection, selection.result()


def uids(step: StepGroups) -> list[int]:
    return [chosen.judged.prompt.uid for chosen in step.groups]


def test_without_dynamic_sampling_every_group_is_trained() -> None:
    selection, step = select([group(0, FLAT), group(1, MIXED), group(2, FLAT)])
    assert selection.is_full
    assert uids(step) == [0, 1, 2]
    assert (step.num_without_signal, step.num_unfilled) == (2, 0)


def test_filter_asks_for_more_until_enough_groups_have_a_signal() -> None:
    selection, _ = select([group(0, FLAT), group(1, MIXED), group(2, FLAT)], dynamic_sampling=FILTER)
    assert not selection.is_full
    selection.add([group(3, MIXED), group(4, MIXED), group(5, MIXED)])
    assert selection.is_full
    assert uids(selection.result()) == [1, 3, 4]


def test_what_filter_does_not_find_is_filled_and_counted() -> None:
    selection, step = select([group(0, FLAT), group(1, MIXED), group(2, FLAT)], dynamic_sampling=FILTER)
    assert uids(step) == [1, 0, 2]
    assert step.num_unfilled == 2
    assert len(selection.samples(step.groups)) == 12


def test_replace_copies_groups_with_a_signal() -> None:
    _, step = select([group(0, FLAT), group(1, MIXED), group(2, FLAT)], dynamic_sampling=REPLACE)
    assert (uids(step), step.num_replaced, step.num_unfilled) == ([1, 1, 1], 2, 0)


def test_replace_without_any_signal_changes_nothing() -> None:
    _, step = select([group(uid, FLAT) for uid in range(3)], dynamic_sampling=REPLACE)
    assert (uids(step), step.num_replaced, step.num_unfilled) == ([0, 1, 2], 0, 3)


def test_cut_completions_count_for_the_group_but_are_not_trained() -> None:
    selection, step = select([group(0, MIXED, cut=(1, 3))] * 3, mask_truncated_completions=True)
    samples = selection.samples(step.groups)[:4]
    assert [sample.is_trained for sample in samples] == [True, False, True, False]
    assert samples[0].advantage == pytest.approx(1.5, abs=1e-3)


def test_a_group_of_cut_completions_alone_has_no_signal() -> None:
    _, step = select([group(0, MIXED, cut=(0, 1, 2, 3))] * 3, mask_truncated_completions=True)
    assert step.num_without_signal == 3


def test_long_completions_lose_reward() -> None:
    spec = {"overlong_buffer": {"len": 4, "penalty_factor": 0.5}, "max_completion_length": 6}
    _, step = select([group(0, MIXED, num_tokens=4)] * 3, **spec)
    assert step.groups[0].rewards == (0.75, -0.25, -0.25, -0.25)
    assert selection_metrics(make_rl_spec(**spec), 3, step) == {"reward/overlong_penalty": -0.25}


def test_metrics_of_the_selection_are_in_the_contract() -> None:
    settings = {"dynamic_sampling": FILTER, "mask_truncated_completions": True, "overlong_buffer": {"len": 4}}
    _, step = select([group(0, MIXED)] * 3, **settings)
    metrics = selection_metrics(make_rl_spec(**settings), 6, step)
    assert [name for name in metrics if describe_metric(name) is None] == []
    assert metrics["dynamic_sampling/num_gen_batches"] == 2.0


def test_a_step_with_filter_generates_again_and_trains_its_size() -> None:
    world = World(make_spec(rl=RL | {"dynamic_sampling": FILTER, "num_steps": 3}, sft=None, evaluation=None))
    world.run()
    generations = [value for _, value in world.reports.series("dynamic_sampling/num_gen_batches")]
    assert max(generations) > 1.0
    assert sum(generations) * 4 * 8 == len(world.engine.requests)
    assert len({request.seed for request in world.engine.requests}) == len(world.engine.requests)
    assert world.trainer._num_tokens == 3 * 4 * 8 * 2


def test_a_resumed_run_with_filter_asks_what_the_uninterrupted_one_asks() -> None:
    spec = make_spec(rl=RL | {"dynamic_sampling": FILTER, "save_steps": 2, "num_steps": 8}, sft=None, evaluation=None)
    whole = World(spec)
    whole.run()
    broken = World(spec, crash_in_rl_step=6)
    with pytest.raises(Crash):
        broken.run()
    resumed = World(spec, broken.disk)
    resumed.run()
    assert resumed.reports.series("reward/mean") == whole.reports.series("reward/mean")[4:]
    assert resumed.engine.requests == whole.engine.requests[-len(resumed.engine.requests) :]
