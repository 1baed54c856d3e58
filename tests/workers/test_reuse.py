"""Stages that another experiment has run: what a run takes over, and when it rather runs them itself."""

from typing import Any

import pytest

from service.contract.messages import ReusedStage, StageResult
from service.contract.stages import StageName
from tests.workers.stage_world import RL, World, make_spec
from workers.checkpoints import DamagedCheckpoint

SOURCE = "/other/"


def a_finished_run(**changes: Any) -> World:
    world = World(make_spec(rl=None, **changes), output_dir=SOURCE)
    world.run()
    return world


def taken(source: World, *stages: StageName) -> list[StageResult]:
    """Results as the service hands them to another experiment."""
    lineage = {"experiment_id": "exp-1"}
    return [
        result.model_copy(update={"detail": result.detail | {"reused_from": lineage}})
        for result in source.finished
        if result.stage in stages
    ]


def successor(source: World, *stages: StageName, **changes: Any) -> World:
    world = World(make_spec(rl=RL | {"num_steps": 3}, **changes), source.disk)
    places = {stage: ReusedStage(stage=stage, experiment_id="exp-1", output_dir=SOURCE) for stage in stages}
    object.__setattr__(world.context, "reused", places)
    return world


def test_rl_begins_with_the_weights_of_the_other_experiments_sft() -> None:
    source = a_finished_run()
    alone = World(make_spec(rl=RL | {"num_steps": 3}))
    alone.run()
    world = successor(source, "sft", "evaluate_base", "evaluate_after_sft")
    results = world.run(taken(source, "sft", "evaluate_base", "evaluate_after_sft"))
    assert [result.stage for result in world.finished] == ["rl", "evaluate_after_rl"]
    assert [result.stage for result in results] == make_spec().stage_names()
    assert world.reports.series("reward/mean") == alone.reports.series("reward/mean")
    assert world.trainer.logit == alone.trainer.logit
    assert world.verified == ["/other/checkpoints/sft/step-00000006"]
    assert not [root for root in world.disk.checkpoints if root.startswith("/out/checkpoints/sft")]


def test_the_best_checkpoint_is_taken_where_sft_ended_with_it() -> None:
    best = {"holdout_fraction": 0.1, "num_best_checkpoints": 1, "export": "best"}
    sft = make_spec().model_dump(mode="json")["sft"] | best
    source = a_finished_run(sft=sft)
    world = successor(source, "sft", sft=sft, evaluation=None)
    world.run(taken(source, "sft"))
    assert world.verified == ["/other/checkpoints/sft/step-00000004"]


@pytest.mark.parametrize("reason", ["other code", "damaged checkpoint"])
def test_what_cannot_be_taken_over_is_run_and_told(reason: str) -> None:
    source = a_finished_run()
    world = successor(source, "sft", "evaluate_after_sft")
    if reason == "other code":
        object.__setattr__(world.context, "code", {"sha256": "0" * 64})
    else:

        def find_damage(location: str) -> None:
            raise DamagedCheckpoint(f"{location} is gone")

        object.__setattr__(world.context, "verify_checkpoint", find_damage)
    world.run(taken(source, "sft", "evaluate_after_sft"))
    assert [result.stage for result in world.finished] == make_spec().stage_names()
    assert [detail["stages"] for kind, detail in world.reports.events if kind == "reuse_declined"] == [
        ["sft", "evaluate_after_sft"]
    ]


def test_every_result_says_which_code_made_it() -> None:
    source = a_finished_run()
    assert all(len(result.detail["code"]["sha256"]) == 64 for result in source.finished)
