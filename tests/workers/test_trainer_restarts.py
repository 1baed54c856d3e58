"""A trainer that is lost within a stage, in a world without Ray."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.stage_world import EVALUATION, RL, World, make_spec
from workers.pipeline.trainer_restarts import MOST_RESTARTS
from workers.placement import ActorDied, DeadlineExceeded, Role

LOST = ActorDied(Role.TRAINER, "killed", rank=1)


def losing(world: World, stage: str, losses: Iterator[tuple[int, Exception]]) -> World:
    """The world, in which the trainer is lost as it begins the given steps, one loss after the other."""
    step, error = next(losses)

    def lose(begun: int) -> None:
        nonlocal step, error
        if begun == step:
            lost = error
            step, error = next(losses, (0, error))
            raise lost

    setattr(world.trainer, f"_before_{stage}_step", lose)
    return world


def first_values(world: World) -> dict[tuple[str, int], float]:
    """What the service keeps: the first value of each step, times left out."""
    kept: dict[tuple[str, int], float] = {}
    for name, step, value in world.reports.values:
        if not name.startswith(("timing_s/", "perf/")):
            kept.setdefault((name, step), value)
    return kept


@pytest.mark.parametrize(("stage", "step"), [("sft", 2), ("sft", 6), ("rl", 3), ("rl", 12), ("rl", 20)])
def test_a_run_that_lost_its_trainer_equals_one_that_did_not(tmp_path: Path, stage: str, step: int) -> None:
    undisturbed = World(make_spec(), output_dir=tmp_path / "a")
    undisturbed.run()
    world = losing(World(make_spec(), output_dir=tmp_path / "b"), stage, iter([(step, LOST)]))
    results = world.run()
    assert [result.steps_done for result in results] == [result.steps_planned for result in results]
    assert first_values(world) == first_values(undisturbed)
    assert world.trainer.logit == undisturbed.trainer.logit
    assert world.engine.logit == undisturbed.engine.logit
    assert _restarts(world) == [{"stage": stage, "restarts_left": MOST_RESTARTS - 1}]


def test_a_trainer_that_hangs_is_replaced_as_well(tmp_path: Path) -> None:
    hung = DeadlineExceeded("an RL step", Role.TRAINER, 3600.0)
    world = losing(World(make_spec(), output_dir=tmp_path), "rl", iter([(9, hung)]))
    world.run()
    assert len(_restarts(world)) == 1


def test_after_sft_a_lost_trainer_begins_rl_with_what_sft_ended_with(tmp_path: Path) -> None:
    world = losing(World(make_spec(), output_dir=tmp_path), "rl", iter([(2, LOST)]))
    world.run()
    undisturbed = World(make_spec(), output_dir=tmp_path / "other")
    undisturbed.run()
    assert world.trainer.logit == undisturbed.trainer.logit


def test_rollouts_made_ahead_by_a_lost_policy_are_not_trained(tmp_path: Path) -> None:
    spec = make_spec(rl={**RL, "mode": "async", "max_staleness": 2}, evaluation=None)
    world = losing(World(spec, output_dir=tmp_path), "rl", iter([(12, LOST), (19, LOST)]))
    results = world.run()
    assert results[-1].steps_done == 20
    assert len(_restarts(world)) == 2


@pytest.mark.parametrize(
    "arrange",
    [
        lambda world: setattr(world.trainer, "has_place", False),
        lambda world: None,
    ],
    ids=["its place is gone", "too often"],
)
def test_the_attempt_ends_where_no_replacement_helps(tmp_path: Path, arrange: Callable[[World], None]) -> None:
    losses = iter([(step, LOST) for step in (3, 4, 5, 6, 7)])
    world = losing(World(make_spec(), output_dir=tmp_path), "rl", losses)
    arrange(world)
    with pytest.raises(ActorDied):
        world.run()
    assert world.trainer.restarts <= MOST_RESTARTS


@pytest.mark.parametrize(
    "error",
    [
        ActorDied(Role.TRAINER, "oom", out_of_memory=True),
        ActorDied(Role.ROLLOUT, "killed"),
        DeadlineExceeded("a generation", Role.ROLLOUT, 1.0),
    ],
    ids=str,
)
def test_what_a_new_trainer_would_not_mend_ends_the_attempt(tmp_path: Path, error: Exception) -> None:
    world = losing(World(make_spec(), output_dir=tmp_path), "rl", iter([(3, error)]))
    with pytest.raises(type(error)):
        world.run()
    assert world.trainer.restarts == 0


def test_evaluations_on_the_way_are_not_sampled_twice(tmp_path: Path) -> None:
    spec = make_spec(evaluation={**EVALUATION, "rl_eval_steps": 5})
    world = losing(World(spec, output_dir=tmp_path), "rl", iter([(12, LOST)]))
    world.run()
    undisturbed = World(spec, output_dir=tmp_path / "other")
    undisturbed.run()
    assert first_values(world) == first_values(undisturbed)


def _restarts(world: World) -> list[dict[str, Any]]:
    return [
        {name: detail[name] for name in ("stage", "restarts_left")}
        for kind, detail in world.reports.events
        if kind == "trainer_restarted"
    ]
