"""What the command line finds, shows and answers, without a service."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from api.cli.commands import app
from api.cli.tables import experiment_view, experiments_table, plan_view, results_table
from api.cli.watch import Watcher
from api.client import NoConnection, StreamMessage
from api.client.connection import Connection, find_connection
from api.schemas import Experiment, ExperimentPlanReply
from service.contract.messages import StageResult
from service.contract.plan import ExperimentPlan, MemoryPlan, StagePlan
from service.contract.stages import StageName
from service.contract.status import EndReason, ExperimentStatus
from tests.factories import make_spec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = ExperimentPlan(
    stages=[StagePlan(stage="sft", num_steps=10, numbers={"samples": 80})], num_cpus=2, num_gpus=0, warnings=["mind it"]
)


def a_result(stage: StageName, metrics: dict[str, float]) -> StageResult:
    return StageResult(
        stage=stage, started_at=NOW, finished_at=NOW, duration_s=1.5, steps_done=4, steps_planned=4, metrics=metrics
    )


def an_experiment(**changes: object) -> Experiment:
    facts = {
        "id": "exp-1", "name": "toy", "project": "default", "user": "ada", "tags": [], "status": "running",
        "end_reason": None, "message": "", "waiting_reason": None, "queue_position": None, "priority": "normal",
        "num_cpus": 2.0, "num_gpus": 0.0, "submitted_at": NOW, "started_at": NOW, "ended_at": None,
        "cancel_requested_at": None, "description": "", "spec": make_spec(), "plan": PLAN, "attempts": [],
        "stage_results": [], "progress": None,
    }  # fmt: skip
    return Experiment.model_validate({**facts, **changes})


def write_endpoint(folder: Path, *, pid: int) -> None:
    facts = {"url": "http://here", "token_file": str(folder / "token"), "ray_dashboard_url": "http://ray", "pid": pid}
    (folder / "endpoint.json").write_text(json.dumps(facts))


def shown(renderable: RenderableType) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_connection_of_a_local_stack_is_found_in_its_data_folder(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sr_1\n")
    write_endpoint(tmp_path, pid=os.getpid())

    found = find_connection(data=tmp_path)

    assert found == Connection(url="http://here", token="sr_1", ray_dashboard_url="http://ray")


def test_a_stack_that_was_killed_is_not_taken_for_one_that_is_up(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(10)
    write_endpoint(tmp_path, pid=ended.pid)

    with pytest.raises(NoConnection):
        find_connection(data=tmp_path)


def test_options_come_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEDRAY_URL", "http://elsewhere")
    monkeypatch.setenv("SEDRAY_TOKEN", "sr_other")
    (tmp_path / "token").write_text("sr_1")

    assert find_connection(url="http://here", token_file=tmp_path / "token").token == "sr_1"
    assert find_connection().url == "http://elsewhere"


def test_without_any_service_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoConnection, match="sedray up"):
        find_connection(data=tmp_path)


def test_a_command_without_a_service_ends_with_code_4(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["--data", str(tmp_path), "ls"])

    assert answer.exit_code == 4
    assert "sedray up" in answer.stderr


def test_schema_prints_what_editors_read() -> None:
    answer = CliRunner().invoke(app, ["schema"])

    assert "sft" in json.loads(answer.stdout)["properties"]


def test_results_stand_side_by_side_and_missing_ones_as_a_dash() -> None:
    results = [
        a_result("evaluate_base", {"eval/test/pass@1": 0.25, "eval/test/pass@16": 0.75, "eval/test/maj@16": 0.3125}),
        a_result("evaluate_after_rl", {"eval/test/pass@1": 0.5, "diversity/test/self_bleu": 91.25}),
    ]

    evaluation = {"data": {"path": "/test"}, "reward": {"type": "exact_match"}, "max_completion_length": 2}
    spec = make_spec(evaluation=evaluation | {"num_generations": 16, "pass_at_k": [1]})
    table = shown(results_table(an_experiment(spec=spec, stage_results=results)))

    assert "pass@1 " in table
    assert "pass@16" not in table, "only the k that were asked for"
    assert "0.312" in table
    assert "Self-BLEU" in table
    assert "0.500" in table
    assert "91.2" in table
    assert "–" in table


def test_names_of_experiments_are_no_markup() -> None:
    named = an_experiment(name="[red]x[/red]", stage_results=[a_result("evaluate_base", {"eval/test/pass@1": 0.25})])

    assert "[red]x[/red]" in shown(experiments_table([named]))
    assert "[red]x[/red]" in shown(results_table(named))


def test_an_experiment_shows_what_sft_left_behind() -> None:
    detail = {
        "num_samples": 540,
        "num_truncated": 0,
        "tau": 0.91234,
        "resumed_from": None,
        "skipped_checkpoints": [],
        "best_checkpoints": [{"step": 20, "value": 0.5}, {"step": 30, "value": 0.625}],
    }
    result = a_result("sft", {}).model_copy(update={"detail": detail})

    text = shown(experiment_view(an_experiment(stage_results=[result])))

    assert re.search(r"samples trained +540\s", text)
    assert re.search(r"tau +0.9123\s", text)
    assert "step 20 (0.5), step 30 (0.625)" in text
    assert "resumed" not in text and "damaged" not in text


def test_a_failed_experiment_says_why() -> None:
    failed = an_experiment(status="failed", end_reason=EndReason.NON_FINITE, message="loss at step 3", ended_at=NOW)

    assert "non_finite: loss at step 3" in shown(experiment_view(failed))


def test_a_dry_run_shows_numbers_and_warnings() -> None:
    text = shown(plan_view(ExperimentPlanReply(spec=make_spec(), plan=PLAN)))

    assert "samples 80" in text
    assert "warning: mind it" in text


def test_a_dry_run_shows_what_memory_each_role_needs_and_has() -> None:
    parts = {"parameters": 3 * 2**30, "loss_chunk": 2**20}
    memory = MemoryPlan(
        role="trainer", stage="sft", parts=parts, total_bytes=sum(parts.values()), available_bytes=2**30, device="cpu"
    )

    text = shown(plan_view(ExperimentPlanReply(spec=make_spec(), plan=PLAN.model_copy(update={"memory": [memory]}))))

    assert "trainer (cpu)" in text
    assert "parameters 3.0 GiB, loss chunk 1.0 MiB" in text
    assert "1.0 GiB" in text


def test_the_watcher_follows_stage_progress_metrics_and_the_end() -> None:
    watcher = Watcher(an_experiment())
    progress = {"stage": "sft", "phase": "training", "step": 4, "num_steps": 10, "since": NOW.isoformat()}
    values = [{"name": "sft/nll", "step": 4, "value": 0.5}, {"name": "x", "step": 1, "value": "NaN"}]
    for event, data in (
        ("progress", progress),
        (
            "metrics",
            {"values": values},
        ),
        ("end", {"status": "succeeded", "end_reason": "completed"}),
    ):
        assert watcher.take(StreamMessage(event=event, data=data, id=None)) is None

    assert watcher.status is ExperimentStatus.SUCCEEDED
    assert "4/10" in shown(watcher.render())
    assert "sft/nll 0.5" in watcher.line()
