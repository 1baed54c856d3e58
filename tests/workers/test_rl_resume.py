"""Reinforcement learning taken up again: what was trained, what is not generated twice, and what is forgotten."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from service.contract.spec import ExperimentSpec
from tests.workers.fake_actors import Disk
from tests.workers.stage_world import RL, Crash, World, make_spec
from workers.config_error import ConfigError
from workers.data.prompt_dataset import prompt_indices_for_step
from workers.rewards.reward import Verdict
from workers.rewards.reward_counts import RewardTally
from workers.rewards.samples import RewardSample
from workers.rollouts import Completion, Prompt, TrainingSample, VersionSpan
from workers.stages.rollouts_ahead import RolloutsAhead, rollouts_ahead
from workers.stages.sampling import JudgedGroup
from workers.stages.step_rollouts import FinishedGroups, StepRolloutMaker, StepRollouts
from workers.stages.untrained_groups import decode_groups, encode_groups

ROOT = "/out/checkpoints/rl"
PROMPTS = [Prompt(uid=uid, text=f"question {uid}", token_ids=(3, 4), answer="yes") for uid in range(5)]


def make_rl_spec(staleness: int = 2, **changes: Any) -> ExperimentSpec:
    rl = RL | {"mode": "async", "max_staleness": staleness} | changes
    return make_spec(sft=None, rl=rl, evaluation=None)


def asked_uids(step: int) -> list[int]:
    """The prompts of a step, which follow from its number."""
    return prompt_indices_for_step(len(PROMPTS), 4, step, make_rl_spec().seed)


def note_seeds(world: World) -> list[int]:
    """Of the requests, as they come."""
    seeds: list[int] = []
    generate = world.engine.generate

    def noted(requests: Any, sampling: Any) -> list[Completion]:
        seeds.extend(request.seed for request in requests)
        return generate(requests, sampling)

    world.engine.generate = noted  # type: ignore[method-assign]
    return seeds


def wait_for_rollouts_before(world: World, *, step: int, seeds: list[int], of_steps: int) -> None:
    """Train `step` only when the rollouts of so many steps have been generated."""
    rl_step = world.trainer.rl_step

    def late(now: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        limit = time.monotonic() + 10.0
        while now == step and len(seeds) < of_steps * 32:
            assert time.monotonic() < limit
            time.sleep(0.005)
        time.sleep(0.05)  # to be judged
        return rl_step(now, samples, temperature=temperature)

    world.trainer.rl_step = late  # type: ignore[method-assign]


def test_finished_groups_are_trained_after_a_crash_and_not_generated_again() -> None:
    first = World(make_rl_spec(), crash_in_rl_step=9)
    seeds = note_seeds(first)
    wait_for_rollouts_before(first, step=7, seeds=seeds, of_steps=9)
    with pytest.raises(Crash):
        first.run()
    carried = decode_groups(first.disk.carried[ROOT, 7].untrained_groups, PROMPTS)
    assert sorted((part.step, len(part.groups)) for part in carried) == [(8, 4), (9, 4)]
    assert [group.prompt.uid for part in carried if part.step == 8 for group in part.groups.values()] == asked_uids(8)

    second = World(make_rl_spec(), first.disk)
    again = note_seeds(second)
    second.run()
    done_before = {request.seed for request in first.engine.requests[: 9 * 32]}
    assert not done_before & set(again)
    assert len(set(seeds[: 9 * 32]) | set(again)) == 20 * 32 == len(seeds[: 9 * 32]) + len(again)
    trained = [step for step, _ in second.reports.series("reward/mean")]
    assert trained == list(range(8, 21))
    assert dict(second.reports.series("async/staleness/max"))[8] <= 2.0
    assert second.engine.versions_used[0] == 7, "the checkpoint's weights before the first rollout"


@pytest.mark.parametrize("sampling", [{"mode": "none"}, {"mode": "filter", "max_gen_batches": 2}])
def test_after_any_number_of_crashes_every_step_has_trained_its_own_prompts(sampling: dict[str, Any]) -> None:
    """In the lineage of the final policy each step stands once, with prompts that follow from its number."""
    spec = make_rl_spec(dynamic_sampling=sampling, save_steps=3)
    assert spec.rl is not None
    disk, lineage = Disk(), {}
    for crash_at in (2, 5, 6, 11, 14, 20, None):
        world = World(spec, disk, crash_in_rl_step=crash_at)
        with note_taken() as taken, pytest.raises(Crash) if crash_at else nullcontext():
            world.run()
        lineage |= taken
    assert sorted(lineage) == list(range(1, 21))
    most = spec.rl.dynamic_sampling.max_gen_batches
    for step, uids in lineage.items():
        owned = [uid for place in range((step - 1) * most + 1, step * most + 1) for uid in asked_uids(place)]
        assert uids == owned[: len(uids)] and len(uids) in range(4, len(owned) + 1, 4)


@contextmanager
def note_taken() -> Iterator[dict[int, list[int]]]:
    """The prompts of each step that the trainer was given."""
    taken: dict[int, list[int]] = {}
    take = RolloutsAhead.take

    def noted(source: RolloutsAhead, step: int) -> StepRollouts:
        rollouts = take(source, step)
        taken[step] = [group.prompt.uid for group in rollouts.groups]
        return rollouts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutsAhead, "take", noted)
        yield taken


def test_other_prompts_than_the_checkpoint_has_consumed_are_refused() -> None:
    first = World(make_rl_spec(), crash_in_rl_step=9)
    with pytest.raises(Crash):
        first.run()
    second = World(make_rl_spec(), first.disk)
    changed = [replace(prompt, answer="no") for prompt in PROMPTS]
    context = replace(second.context, load_prompts=lambda data, longest, limit: changed)
    second.context = context
    with pytest.raises(ConfigError, match="other data than"):
        second.run()


def test_groups_come_back_from_a_checkpoint_to_the_bit() -> None:
    completion = Completion(
        prompt_uid=3,
        sample_index=1,
        token_ids=(5, 2),
        logprobs=(-0.1 - 1e-17, -1 / 3),
        finish_reason="stop",
        text="ü \ud800",
        policy_version=4,
        version_spans=(VersionSpan(version=4, start=0, end=1), VersionSpan(version=5, start=1, end=2)),
    )
    group = JudgedGroup(
        prompt=PROMPTS[3],
        completions=(completion, replace(completion, sample_index=2)),
        rewards=(0.1 + 0.2, 0.0),
        reward_parts=({"form": 1.0}, {}),
        num_dropped=1,
    )
    part = FinishedGroups(
        step=6, batch=1, groups={2: group}, tally=RewardTally(num_errors=1, part_scores={"form": [1.0]})
    )
    assert decode_groups(encode_groups([part]), PROMPTS) == [part]
    assert (encode_groups([]), decode_groups(b"", PROMPTS)) == (b"", [])


class YesIsRight:
    """A reward that counts nothing."""

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        return [Verdict(score=float(sample.completion == "yes")) for sample in samples]

    def take_tally(self) -> RewardTally:
        return RewardTally()


def set_version(world: World, version: int) -> None:
    """Of trainer and engine."""
    world.engine.version = world.context.versions.trainer = version


def wait_finished(source: RolloutsAhead, num_groups: int) -> None:
    limit = time.monotonic() + 10.0
    while sum(len(part.groups) for part in source.finished_groups()) < num_groups:
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_trainer_that_goes_back_keeps_what_policies_that_exist_have_made() -> None:
    world = World(make_rl_spec(staleness=2, num_steps=9))
    assert world.context.spec.rl is not None
    maker = StepRolloutMaker(world.context, world.context.spec.rl, PROMPTS, YesIsRight())  # type: ignore[arg-type]
    world.engine.begin_start()
    with rollouts_ahead(maker, world.context.spec.rl, world.context.check) as ahead:
        set_version(world, 0)
        ahead.begin(1, [])
        ahead.take(1)
        wait_finished(ahead, 8)  # steps 2 and 3, by policy 0
        set_version(world, 1)
        ahead.weights_taken(1)
        wait_finished(ahead, 12)  # and step 4, by policy 1
        before = len(world.engine.requests)

        set_version(world, 0)
        ahead.begin(1, [])  # no checkpoint was written since
        taken = {step: ahead.take(step) for step in (1, 2, 3)}
        asked = Counter(request.seed for request in world.engine.requests[before:])
        assert sum(asked.values()) == 32, "only step 1, which had been trained"
        assert {c.policy_version for step in taken.values() for group in step.groups for c in group.completions} == {0}
        set_version(world, 1)
        ahead.weights_taken(1)
        assert ahead.take(4).num_dropped == 4, "that policy 1 is another one now"
        assert len(world.engine.requests) == before + 2 * 32
