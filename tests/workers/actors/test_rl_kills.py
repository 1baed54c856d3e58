"""A driver that is killed while it does reinforcement learning: what its successors make of what it leaves."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.workers.actors.killed_rl_runs import RlRunUnderTest
from tests.workers.actors.killed_runs import kill_after
from tests.workers.bandit_world import NUM_PROMPTS, make_spec
from workers.data.prompt_dataset import prompt_indices_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_STEPS = 24
NUM_KILLS = 6


def make_run(folder: Path, model_folder: Path, **rl: Any) -> RlRunUnderTest:
    folder.mkdir()
    spec = make_spec(num_steps=NUM_STEPS, save_steps=4, **rl)
    return RlRunUnderTest(folder=folder, model_folder=model_folder, spec=spec, delay_s=0.05)


def finish(run: RlRunUnderTest) -> None:
    process = run.start()
    process.join(120.0)
    assert process.exitcode == 0


def kill_and_finish(run: RlRunUnderTest, seed: int) -> None:
    """Several attempts that are killed on the way, and one that nobody disturbs."""
    draw = random.Random(seed)
    for _ in range(NUM_KILLS):
        begun = len(run.entries("begun"))
        process = run.start()
        while process.is_alive() and len(run.entries("begun")) == begun:
            time.sleep(0.01)
        kill_after(process, draw.uniform(0.0, 0.8))
    finish(run)


def test_in_step_kills_at_random_moments_change_nothing(model_folder: Path, tmp_path: Path) -> None:
    undisturbed = make_run(tmp_path / "whole", model_folder)
    finish(undisturbed)
    run = make_run(tmp_path / "killed", model_folder)
    kill_and_finish(run, seed=1)
    assert len(run.entries("begun")) > 3, "the kills hit a run that was over"
    assert run.reports() == undisturbed.reports() and len(run.reports()) == NUM_STEPS
    weights = "final.safetensors"
    assert (run.folder / weights).read_bytes() == (undisturbed.folder / weights).read_bytes()


def test_ahead_the_same_prompts_are_trained_and_none_twice(model_folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "killed", model_folder, mode="async", max_staleness=2)
    kill_and_finish(run, seed=2)
    assert len(run.entries("begun")) > 3
    # What an attempt trained behind its last checkpoint is no part of the policy that its successor goes on with.
    lineage = {entry["step"]: entry["uids"] for entry in run.entries("taken")}
    assert sorted(lineage) == list(range(1, NUM_STEPS + 1))
    for step, uids in lineage.items():
        assert uids == prompt_indices_for_step(NUM_PROMPTS, 4, step, run.spec.seed), step
    last = [entry["values"] for entry in run.entries("points") if "training/num_tokens" in entry["values"]][-1]
    assert last["training/num_tokens"] == NUM_STEPS * 32
