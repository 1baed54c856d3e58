"""Giving way to another experiment: where a run stops, and that nothing in it changes by that."""

import pytest

from service.contract.messages import PREEMPTION_ACKNOWLEDGED
from tests.workers.stage_world import RL, World, make_spec
from workers.checkpoints import DamagedCheckpoint
from workers.reporter.give_way import GiveWay, Preempted

NAMES = ("sft/loss", "reward/mean", "actor/grad_norm", "eval/test/pass@1", "training/num_tokens")


def series_of(*worlds: World) -> dict[str, dict[int, float]]:
    """Each metric over all attempts, the first value of a step counting, as the service keeps it."""
    merged: dict[str, dict[int, float]] = {name: {} for name in NAMES}
    for world in worlds:
        for name in NAMES:
            for step, value in world.reports.series(name):
                merged[name].setdefault(step, value)
    return merged


def acknowledged(world: World) -> list[tuple[object, object]]:
    return [
        (detail["stage"], detail["step"]) for kind, detail in world.reports.events if kind == PREEMPTION_ACKNOWLEDGED
    ]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_sft_that_gave_way_ends_with_the_metrics_of_one_that_did_not(step: int) -> None:
    undisturbed = World(make_spec())
    undisturbed.run()
    first = World(make_spec(), preempt_in_sft_step=step)
    with pytest.raises(Preempted):
        first.run()
    second = World(make_spec(), first.disk)
    second.run(first.finished)
    assert series_of(first, second) == series_of(undisturbed)
    assert second.trainer.logit == undisturbed.trainer.logit


@pytest.mark.parametrize("step", [1, 7, 13, 19])
def test_rl_that_gave_way_twice_ends_with_the_metrics_of_one_that_did_not(step: int) -> None:
    undisturbed = World(make_spec())
    undisturbed.run()
    first = World(make_spec(), preempt_in_rl_step=step)
    with pytest.raises(Preempted):
        first.run()
    second = World(make_spec(), first.disk, preempt_in_rl_step=step + 1)
    if step < 19:
        with pytest.raises(Preempted):
            second.run(first.finished)
    last = World(make_spec(), first.disk)
    last.run(first.finished)
    assert series_of(first, second, last) == series_of(undisturbed)
    assert last.trainer.logit == undisturbed.trainer.logit


def test_the_driver_says_where_it_stops_and_verifies_what_it_saved() -> None:
    world = World(make_spec(), preempt_in_rl_step=5)
    with pytest.raises(Preempted, match="after step 5 of 20 of stage rl"):
        world.run()
    assert acknowledged(world) == [("rl", 5)]
    assert world.verified == ["/out/checkpoints/rl/5"]


def test_after_the_last_step_the_stage_ends_by_itself_and_the_run_before_the_next_one() -> None:
    world = World(make_spec(), preempt_in_rl_step=20)
    results = world.run()
    assert results[-1].stage == "evaluate_after_rl"
    assert acknowledged(world) == []


def test_a_damaged_checkpoint_is_told_and_the_run_stops_all_the_same() -> None:
    world = World(make_spec(), preempt_in_sft_step=2)

    def find_damage(location: str) -> None:
        raise DamagedCheckpoint(f"{location} is short")

    object.__setattr__(world.context, "verify_checkpoint", find_damage)
    with pytest.raises(Preempted):
        world.run()
    assert [kind for kind, _ in world.reports.events][-1] == "checkpoint_damaged"


def test_between_stages_a_run_stops_at_once() -> None:
    give_way = GiveWay()
    give_way.ask()
    with give_way.postponed():
        give_way.check()
    with pytest.raises(Preempted):
        give_way.check()


def test_rl_that_works_ahead_gives_way_too_and_does_every_step_once() -> None:
    spec = make_spec(rl=RL | {"mode": "async", "max_staleness": 1})
    first = World(spec, preempt_in_rl_step=5)
    with pytest.raises(Preempted):
        first.run()
    second = World(spec, first.disk)
    second.run(first.finished)
    steps = [step for world in (first, second) for step, _ in world.reports.series("reward/mean")]
    assert steps == list(range(1, RL["num_steps"] + 1))
