"""Rollouts that are made ahead of the trainer: what is asked, how old it may be, and how it all ends."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.contract.metric_names import describe_metric
from service.contract.spec import ExperimentSpec
from tests.workers.fake_actors import FakeEngine
from tests.workers.stage_world import EVALUATION, RL, World, make_spec
from workers.rollouts import Completion, GenerationRequest, SamplingParameters, TrainingSample
from workers.stages.sampling import RolloutMismatch

FIRST_VERSION = 1
"""Of the policy that SFT leaves."""
FILTER = {"mode": "filter", "max_gen_batches": 3}
Generate = Callable[[list[GenerationRequest], SamplingParameters], list[Completion]]


def ahead(staleness: int = 1, **changes: Any) -> ExperimentSpec:
    """Without evaluations, which the engine would be asked for too."""
    return make_spec(rl=RL | {"mode": "async", "max_staleness": staleness} | changes, evaluation=None)


def wrap(engine: FakeEngine, around: Callable[[Generate, list[GenerationRequest], SamplingParameters], Any]) -> None:
    """Let `around` stand for the engine's generation, which it is given."""
    generate = engine.generate
    engine.generate = lambda requests, sampling: around(generate, requests, sampling)  # type: ignore[method-assign]


def trained_samples(world: World) -> dict[int, list[TrainingSample]]:
    """By step, to be filled by the run that follows; the policy stays as it is."""
    seen: dict[int, list[TrainingSample]] = {}
    rl_step = world.trainer.rl_step

    def noted(step: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        seen[step] = samples
        logit, metrics = world.trainer.logit, rl_step(step, samples, temperature=temperature)
        world.trainer.logit = logit
        return metrics

    world.trainer.rl_step = noted  # type: ignore[method-assign]
    return seen


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("rollouts", "reward"))] == []


@pytest.mark.parametrize("sampling", [{"mode": "none"}, FILTER, {"mode": "replace"}])
def test_with_a_policy_that_never_changes_the_same_is_trained_as_in_step(sampling: dict[str, Any]) -> None:
    in_step = World(make_spec(rl=RL | {"dynamic_sampling": sampling}, evaluation=None))
    ahead_of = World(ahead(2, dynamic_sampling=sampling))
    expected, found = trained_samples(in_step), trained_samples(ahead_of)
    in_step.run()
    ahead_of.run()
    assert found == expected and len(found) == 20
    for world in (in_step, ahead_of):
        assert len({(r.prompt.uid, r.sample_index, r.seed) for r in world.engine.requests}) == len(
            world.engine.requests
        )
    key = lambda request: (request.seed, request.prompt.uid)  # noqa: E731
    assert sorted(ahead_of.engine.requests, key=key) == sorted(in_step.engine.requests, key=key)


@pytest.mark.parametrize("staleness", [1, 3])
def test_no_token_is_older_than_the_bound_and_rollouts_use_it(staleness: int) -> None:
    world = World(ahead(staleness))
    rl_step = world.trainer.rl_step

    def late(step: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        limit = time.monotonic() + 10.0
        while step == 1 and len(world.engine.requests) < 32 * (1 + staleness):
            assert time.monotonic() < limit
            time.sleep(0.005)
        return rl_step(step, samples, temperature=temperature)

    world.trainer.rl_step = late  # type: ignore[method-assign]
    world.run()
    ages = [value for _, value in world.reports.series("async/staleness/max")]
    assert max(ages) == staleness and ages[0] == 0.0
    assert [value for _, value in world.reports.series("training/policy_version")] == list(range(2, 22))


def test_a_step_begins_only_when_the_weights_of_the_bound_are_there() -> None:
    world = World(ahead(2))
    begun: list[tuple[int, int]] = []

    def noted(generate: Generate, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        begun.append((world.engine.version, int(threading.current_thread().name.removeprefix("rollouts-"))))
        return generate(requests, sampling)

    wrap(world.engine, noted)
    world.run()
    assert sorted(step for _, step in begun) == list(range(1, 21))
    assert all(version >= max(FIRST_VERSION, FIRST_VERSION + step - 1 - 2) for version, step in begun)


def test_the_reward_rises_and_every_metric_is_registered() -> None:
    world = World(ahead())
    world.run()
    rewards = [value for _, value in world.reports.series("reward/mean")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3
    names = {name for name, _, _ in world.reports.values}
    assert [name for name in names if describe_metric(name) is None] == []
    timings = {"wait_for_rollouts", "rollout_idle", "trainer_idle", "gen", "reward"}
    assert names >= {"async/staleness/mean", "async/dropped_stale", *(f"timing_s/{name}" for name in timings)}


def test_evaluations_see_the_policy_of_their_step() -> None:
    spec = make_spec(
        rl=RL | {"mode": "async", "max_staleness": 3}, evaluation=EVALUATION | {"rl_eval_steps": 4, "num_prompts": 3}
    )
    world = World(spec, output_dir="memory://ahead")
    results = {result.stage: result for result in world.run()}
    asked = [version for version, number in world.engine.calls if number == 3 * 4]
    assert asked == [0, 1, 5, 9, 13, 17, 21]
    assert results["evaluate_after_rl"].detail["policy_version"] == 21


def answer_with_old_weights(world: World, *, times: int) -> None:
    """For the first prompt of step 5, as an engine that has missed its updates."""
    left = [times]

    def old(generate: Generate, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        completions = generate(requests, sampling)
        if threading.current_thread().name == "rollouts-5" and left[0]:
            left[0] -= 1
            kept, world.engine.version = world.engine.version, 2
            stale = generate(requests[:8], sampling)
            world.engine.version = kept
            return [*stale, *completions[8:]]
        return completions

    wrap(world.engine, old)


def test_groups_beyond_the_bound_are_counted_and_made_again() -> None:
    world = World(ahead(1, num_steps=6))
    found = trained_samples(world)
    answer_with_old_weights(world, times=2)
    world.run()
    assert world.reports.series("async/dropped_stale") == [(step, 2.0 if step == 5 else 0.0) for step in range(1, 7)]
    assert dict(world.reports.series("async/staleness/max"))[5] <= 1.0
    assert len(found[5]) == 32


def test_an_engine_that_stays_behind_ends_the_run() -> None:
    world = World(ahead(1, num_steps=6))
    answer_with_old_weights(world, times=100)
    with pytest.raises(RolloutMismatch, match="before policy version 4"):
        world.run()


def test_an_engine_with_weights_that_nobody_has_made_ends_the_run() -> None:
    world = World(ahead())

    def too_new(generate: Generate, *asked: Any) -> list[Completion]:
        world.engine.version += 1
        return generate(*asked)

    wrap(world.engine, too_new)
    with pytest.raises(RolloutMismatch, match="version"):
        world.run()


class Busy:
    """A trainer that is at work until its check ends that."""

    def __init__(self, world: World, *, from_step: int) -> None:
        self.world, self.from_step = world, from_step
        self.since: float | None = None
        self._rl_step = world.trainer.rl_step
        world.trainer.rl_step = self.rl_step  # type: ignore[method-assign]

    def rl_step(self, step: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        if step < self.from_step:
            return self._rl_step(step, samples, temperature=temperature)
        self.since = time.monotonic()
        while time.monotonic() < self.since + 20.0:
            self.world.context.check()
            time.sleep(0.01)
        raise AssertionError("nobody ended the wait")


def wait_in_engine(world: World, *, from_step: int, until: threading.Event) -> None:
    """Generations of these steps wait as remote calls do: they ask the check."""

    def waiting(generate: Generate, *asked: Any) -> list[Completion]:
        if int(threading.current_thread().name.removeprefix("rollouts-")) >= from_step:
            limit = time.monotonic() + 20.0
            while not until.is_set():
                world.context.check()
                assert time.monotonic() < limit
                time.sleep(0.01)
        return generate(*asked)

    wrap(world.engine, waiting)


def test_what_a_thread_raises_ends_the_trainers_wait_at_once() -> None:
    world = World(ahead())
    busy = Busy(world, from_step=3)

    def fail(generate: Generate, *asked: Any) -> list[Completion]:
        if threading.current_thread().name == "rollouts-4":
            while busy.since is None:
                time.sleep(0.01)
            raise ValueError("the engine is gone")
        return generate(*asked)

    wrap(world.engine, fail)
    with pytest.raises(ValueError, match="the engine is gone"):
        world.run()
    assert busy.since is not None and time.monotonic() - busy.since < 5.0


def test_a_cancellation_ends_all_threads() -> None:
    class Cancelled(Exception):
        pass

    world = World(ahead(2))
    busy = Busy(world, from_step=2)
    wait_in_engine(world, from_step=3, until=threading.Event())

    def cancel_in_time() -> None:
        if busy.since is not None and time.monotonic() > busy.since + 0.1:
            raise Cancelled

    with world.context.check.extended_by(cancel_in_time), pytest.raises(Cancelled):
        world.run()


def test_a_failing_trainer_ends_the_threads_that_wait_for_the_engine() -> None:
    world = World(ahead(2))
    wait_in_engine(world, from_step=3, until=threading.Event())

    def die(step: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        raise RuntimeError("a rank died")

    world.trainer.rl_step = die  # type: ignore[method-assign]
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="a rank died"):
        world.run()
    assert time.monotonic() - began < 5.0
