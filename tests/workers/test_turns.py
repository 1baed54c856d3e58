"""Trainer and engines by turns: who is awake when, and with which weights."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.workers.fake_actors import FakeEngine, FakeSync, FakeTrainer
from tests.workers.stage_world import EVALUATION, World, make_spec
from workers.rollouts import Completion, GenerationRequest, SamplingParameters
from workers.stages.stage_context import NO_WEIGHTS
from workers.stages.turns import by_turns

WORK = ("begin_load", "prepare_sft", "sft_steps", "end_sft", "prepare_rl", "rl_step", "save_rl", "export")


class SleepingEngine(FakeEngine):
    """Counts its sleeps by level; a generation must find it awake and with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.level: int | None = None
        self.levels: list[int] = []
        self.is_disturbed = True

    def wait_settled(self) -> None:
        assert self.started

    def sleep(self, level: int) -> None:
        assert self.level is None and not self.is_disturbed
        self.level = level
        self.levels.append(level)

    def wake_up(self) -> None:
        assert self.level == 1, "its weights were dropped"
        self.level = None

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        self.is_disturbed = False
        yield
        self.is_disturbed = True

    def generate(self, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        assert self.level is None and self.is_disturbed
        return super().generate(requests, sampling)


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def make_world(ending: ExitStack, **changes: Any) -> tuple[World, SleepingEngine]:
    world, engine = World(make_spec(resources={"placement": "colocated"}, **changes)), SleepingEngine()
    world.engine = engine
    share_bundles(world.trainer, engine)
    inner = FakeSync(world.trainer, engine)

    def sync(version: int) -> dict[str, float]:
        engine.level = None
        return inner(version)

    turns = by_turns(replace(world.context, engine=engine, sync_weights=sync), engine)
    world.context = ending.enter_context(turns)
    return world, engine


def share_bundles(trainer: FakeTrainer, engine: SleepingEngine) -> None:
    """Let the trainer's work fail where a started engine is awake."""
    for name in WORK:
        setattr(trainer, name, guarded(getattr(trainer, name), engine))


def guarded(work: Callable[..., Any], engine: SleepingEngine) -> Callable[..., Any]:
    def begin(*args: Any, **kwargs: Any) -> Any:
        assert engine.level is not None or not engine.started
        return work(*args, **kwargs)

    return begin


def test_all_stages_run_by_turns_to_the_same_end(ending: ExitStack, tmp_path: Path) -> None:
    evaluation = EVALUATION | {"rl_eval_steps": 5}
    world, engine = make_world(ending, evaluation=evaluation)
    world.context = replace(world.context, output_dir=str(tmp_path / "turns"))
    world.run()
    apart = World(make_spec(evaluation=evaluation), output_dir=tmp_path / "apart")
    apart.run()
    assert world.trainer.logit == apart.trainer.logit
    assert engine.versions_used == apart.engine.versions_used
    assert engine.levels.count(2) == 20, "before each step of reinforcement learning, and only there"
    assert engine.levels[0] == 1, "the base model's weights are still needed"


def test_dropped_weights_come_again_even_if_the_version_has_not_changed(ending: ExitStack) -> None:
    world, engine = make_world(ending, evaluation=None)

    def die(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a rank died")

    world.trainer.rl_step = die  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a rank died"):
        world.run()
    assert (engine.level, world.context.versions.engine) == (2, NO_WEIGHTS)
    world.context.bring_engine_up_to_date()
    assert (engine.level, engine.is_disturbed, world.context.versions.engine) == (None, True, 1)


def test_without_an_engine_the_trainer_waits_for_nobody(ending: ExitStack) -> None:
    world, engine = make_world(ending, rl=None, evaluation=None)
    world.run()
    assert engine.levels == []
