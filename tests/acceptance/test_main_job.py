"""The main job through HTTP on a real stack: real PostgreSQL, Ray job, torch trainer, vLLM engine."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from api.schemas import Experiment
from service.contract.status import EndReason, ExperimentStatus
from service.contract.stored_rollouts import RolloutQuery
from tests.acceptance.stack_under_test import (
    COUNTDOWN,
    REPOSITORY,
    Stack,
    kill_drivers,
    long_rl_spec,
    long_sft_spec,
    small_spec,
    start_stack,
    stop_stack,
    wait_for_checkpoint,
    wait_for_end,
    wait_for_stage_step,
    wait_until,
)
from tests.docs.blocks import runnable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MISMATCH_KL = 1e-8
"""Nats a token between trainer and engine without learning, in float32; docs/rl.md says what was measured."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    # Not below pytest's folder: root's PostgreSQL runs as another user, and every start of a pytest closes that one.
    with tempfile.TemporaryDirectory(prefix="sedray-acceptance-") as folder:
        stack = start_stack(Path(folder) / "data")
        yield stack
        survivors = stop_stack(stack)
        assert survivors == []


def steps_of(stack: Stack, experiment: Experiment, name: str) -> list[int]:
    series = stack.client.metrics(experiment.id, [name], max_points=10_000).series
    return [point.step for one in series for point in one.points]


def keep_killed(stack: Stack, module: str, *, seconds: float) -> None:
    """Kills the process as often as the supervisor starts it again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stack.child(module).kill()
        time.sleep(0.3)


def viewed_spec() -> dict[str, Any]:
    """The small experiment with held-out samples, whose tokens can be looked at."""
    sft = {**small_spec()["sft"], "eval_data": {"path": str(COUNTDOWN / "data" / "dev.jsonl")}}
    return small_spec(name="viewed", sft=sft)


def test_an_experiment_runs_from_rest_to_its_result(stack: Stack, tmp_path: Path) -> None:
    spec_file = tmp_path / "spec.json"
    spec_file.write_text(json.dumps(viewed_spec()))
    command = [sys.executable, "-m", "api.cli", "--data", str(stack.data), "submit", str(spec_file), "--watch"]

    finished = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "after RL" in finished.stdout
    experiment = stack.client.experiment(stack.client.experiments(limit=1).items[0].id)
    assert experiment.status is ExperimentStatus.SUCCEEDED
    assert [result.stage for result in experiment.stage_results] == experiment.spec.stage_names()
    assert steps_of(stack, experiment, "sft/nll") == list(range(1, 11))
    assert steps_of(stack, experiment, "reward/mean") == [1, 2, 3, 4]
    assert stack.client.logs(experiment.id, tail=10).items
    assert stack.client.rollouts(experiment.id).items[0].prompt
    stored = list(stack.client.search_rollouts(experiment.id, RolloutQuery(order="step")))
    assert list(dict.fromkeys(one.step for one in stored)) == [1, 2, 3, 4]
    stack.client.export_rollouts(experiment.id, tmp_path / "all.parquet")
    assert pq.read_table(tmp_path / "all.parquet").num_rows == len(stored)


def test_the_commands_of_the_tutorial_run(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the run of the test before, without the commands that start another one or the stack."""
    there = stack.client.experiments(name="viewed").items
    experiment = there[0] if there else wait_for_end(stack, stack.client.submit(viewed_spec()).id)
    assert experiment.status is ExperimentStatus.SUCCEEDED
    other = stack.client.submit(small_spec(name="other", rl=None, evaluation=None))
    (tmp_path / "my-sums").mkdir()
    (tmp_path / "my-sums" / "sed.yaml").write_text(json.dumps(viewed_spec()))
    monkeypatch.chdir(tmp_path)
    commands = runnable(REPOSITORY / "docs" / "tutorial.md", ID=experiment.id, OTHER=other.id)
    assert len(commands) > 15

    for command in commands:
        if command[0] != "up" and (command[0] != "submit" or "--dry-run" in command):
            sedray(stack, *command)

    assert pq.read_table("rollouts.parquet").num_rows > 0
    assert (tmp_path / "my-sums" / "after-rl" / "model.safetensors").exists()


def test_without_learning_the_engine_and_the_trainer_agree(stack: Stack) -> None:
    rl = {**small_spec()["rl"], "optimizer": {"learning_rate": 0.0}, "num_steps": 20, "num_prompts_per_step": 2}

    experiment = stack.client.submit(small_spec(name="lr 0", sft=None, evaluation=None, rl=rl))

    assert wait_for_end(stack, experiment.id).status is ExperimentStatus.SUCCEEDED
    for statistic in ("mean", "min", "max"):
        series = stack.client.metrics(experiment.id, [f"sampling/is_ratio_raw/{statistic}"]).series[0]
        assert [point.step for point in series.points] == list(range(1, 21))
        assert all(abs(point.value - 1) <= 0.01 for point in series.points)
    divergence = stack.client.metrics(experiment.id, ["sampling/mismatch_kl"]).series[0]
    assert len(divergence.points) == 20 and all(abs(point.value) <= MISMATCH_KL for point in divergence.points)


def test_an_api_that_is_killed_for_a_while_loses_and_doubles_nothing(stack: Stack) -> None:
    experiment = stack.client.submit(long_rl_spec(60))
    wait_for_stage_step(stack, experiment.id, "rl", 3)
    keep_killed(stack, "api.server", seconds=20)

    ended = wait_for_end(stack, experiment.id)

    assert ended.status is ExperimentStatus.SUCCEEDED
    assert len(ended.attempts) == 1
    for name in ("reward/mean", "actor/pg_loss", "timing_s/step"):
        assert steps_of(stack, ended, name) == list(range(1, 61))


def test_a_killed_scheduler_starts_no_second_job(stack: Stack) -> None:
    scheduler = stack.child("service.scheduler.main")
    experiment = stack.client.submit(small_spec(name="killed scheduler", sft=None, rl=None))
    scheduler.kill()

    ended = wait_for_end(stack, experiment.id)

    assert ended.status is ExperimentStatus.SUCCEEDED
    assert len(ended.attempts) == 1


@pytest.mark.parametrize("moment", ["while the engine starts", "while it trains"])
def test_cancel_ends_a_run_within_half_a_minute(stack: Stack, moment: str) -> None:
    experiment = stack.client.submit(long_rl_spec(100_000))
    if moment == "while it trains":
        wait_for_stage_step(stack, experiment.id, "rl", 2)
    else:
        wait_until(
            lambda: stack.client.experiment(experiment.id).status is ExperimentStatus.RUNNING,
            what="the start of the run",
            deadline_s=120,
        )

    stack.client.cancel(experiment.id)

    ended = wait_for_end(stack, experiment.id, deadline_s=30)
    assert (ended.status, ended.end_reason) == (ExperimentStatus.CANCELLED, EndReason.CANCELLED_BY_USER)
    wait_until(lambda: not stack.ray_jobs_of(experiment.id), what="the end of all processes", deadline_s=30)


def test_cancel_ends_a_queued_experiment_at_once(stack: Stack) -> None:
    blocker = stack.client.submit(long_rl_spec(100_000))
    waiting = stack.client.submit(small_spec(name="waits"))

    assert stack.client.cancel(waiting.id).status is ExperimentStatus.CANCELLED

    stack.client.cancel(blocker.id)
    assert wait_for_end(stack, blocker.id, deadline_s=30).status is ExperimentStatus.CANCELLED


def test_a_killed_driver_is_followed_by_an_attempt_that_goes_on(stack: Stack) -> None:
    experiment = stack.client.submit(long_rl_spec(30))
    wait_for_stage_step(stack, experiment.id, "rl", 12)
    kill_drivers(stack, experiment.id)

    ended = wait_for_end(stack, experiment.id)

    assert ended.status is ExperimentStatus.SUCCEEDED
    assert [attempt.end_reason for attempt in ended.attempts] == [EndReason.RAY_JOB_FAILED, EndReason.COMPLETED]
    assert steps_of(stack, ended, "reward/mean") == list(range(1, 31))
    rewards = stack.client.metrics(ended.id, ["reward/mean"]).series[0]
    assert rewards.attempts[-1].first_step > 5, "the second attempt began anew instead of at the checkpoint"


def test_an_urgent_experiment_takes_the_place_of_a_preemptible_one_and_its_finished_sft(stack: Stack) -> None:
    rl = {**small_spec()["rl"], "num_steps": 12}
    # A seed of their own: no other experiment of the stack has run this SFT.
    seed = 4711
    low = stack.client.submit(small_spec(name="gives way", seed=seed, priority="backfill", evaluation=None, rl=rl))
    wait_for_stage_step(stack, low.id, "rl", 2)
    shared = {"seed": seed, "priority": "urgent", "evaluation": None, "reuse": "auto"}
    urgent = stack.client.submit(small_spec(name="urgent", rl={**rl, "num_steps": 2}, **shared))

    first = wait_for_end(stack, urgent.id)
    last = wait_for_end(stack, low.id)

    assert (first.status, last.status) == (ExperimentStatus.SUCCEEDED, ExperimentStatus.SUCCEEDED)
    assert first.stage_results[0].detail["reused_from"]["experiment_id"] == low.id
    assert steps_of(stack, first, "sft/nll") == [], "its SFT did not run again"
    assert steps_of(stack, first, "reward/mean") == [1, 2]
    assert [attempt.end_reason for attempt in last.attempts] == [EndReason.PREEMPTED, EndReason.COMPLETED]
    assert first.ended_at is not None and last.ended_at is not None and first.ended_at < last.ended_at
    assert steps_of(stack, last, "reward/mean") == list(range(1, 13))
    kinds = [event.kind for event in stack.client.events(low.id).items]
    assert kinds.index("preempt_requested") < kinds.index("preemption_acknowledged")


def sedray(stack: Stack, *arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "api.cli", "--data", str(stack.data), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_queue_is_ordered_about_from_the_command_line(stack: Stack) -> None:
    assert "the queue is paused by local" in sedray(stack, "pause", "--reason", "disks")
    experiment = stack.client.submit(small_spec(name="waits"))
    try:
        wait_until(lambda: stack.client.priority(experiment.id).waiting_code, what="a reason", deadline_s=30)
        why = sedray(stack, "why", experiment.id)
        assert "the queue is paused: disks (local) (paused)" in why and "1. class" in why
        assert "is held" in sedray(stack, "hold", experiment.id)
        assert "is released" in sedray(stack, "release", experiment.id)
        assert "is of class high" in sedray(stack, "priority", experiment.id, "high")
        window = sedray(stack, "maintenance", "add", "2099-01-01T00:00", "2099-01-02T00:00").split()[0]
        assert "disks" in sedray(stack, "queue") and window in sedray(stack, "queue")
        assert "is taken back" in sedray(stack, "maintenance", "cancel", window)
        sedray(stack, "quota", "set", "default", "--max-running", "5")
        assert "0 of 5" in sedray(stack, "quota", "ls")
        sedray(stack, "quota", "set", "default")
    finally:
        stack.client.cancel(experiment.id)
        sedray(stack, "resume")
    assert stack.client.queue_orders().pauses == []


def test_the_notebook_of_first_steps_runs(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEDRAY_DATA", str(stack.data))
    notebook = REPOSITORY / "examples" / "notebook" / "first_steps.ipynb"
    execute = [Path(sys.executable).with_name("jupyter-execute"), "--timeout=300", f"--output={tmp_path / 'executed'}"]

    done = subprocess.run([*execute, notebook], capture_output=True, text=True, timeout=400, check=False)

    assert done.returncode == 0, done.stderr[-4000:]
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    shown = [data for cell in cells for output in cell.get("outputs", []) for data in output.get("data", {})]
    assert "application/vnd.plotly.v1+json" in shown and shown.count("text/html") == 2, "a plot and two frames"


def test_a_driver_killed_right_after_a_checkpoint_of_sft_takes_no_metric_along(stack: Stack) -> None:
    experiment = stack.client.submit(long_sft_spec(40))
    wait_for_checkpoint(stack, experiment.id, "sft", 100)
    kill_drivers(stack, experiment.id)

    ended = wait_for_end(stack, experiment.id)

    assert ended.status is ExperimentStatus.SUCCEEDED
    assert [attempt.end_reason for attempt in ended.attempts] == [EndReason.RAY_JOB_FAILED, EndReason.COMPLETED]
    assert ended.stage_results[0].detail["resumed_from"] is not None
    for name in ("sft/loss", "sft/sed/penalised_fraction", "sft/learning_rate"):
        assert steps_of(stack, ended, name) == list(range(1, 401))
