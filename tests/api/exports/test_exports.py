"""What leaves for other tools: read back with those tools, in their own formats."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from api.client import SedrayClient
from api.exports.checkpoint_folder import CannotExport, export_checkpoint, trained_stage
from api.exports.extras import MissingExtra, require
from api.exports.gathered_run import Series, read_series
from api.exports.mlflow_run import RunExists, export_mlflow
from api.exports.model_card import model_card
from api.exports.tensorboard_files import FolderInUse, export_tensorboard
from api.schemas import Experiment, MetricName, MetricNamePage, MetricPointOut, MetricSeriesOut, MetricSeriesPage
from service.contract.plan import ExperimentPlan
from service.contract.spec import ExperimentSpec
from tests.factories import NOW, make_stage_result, spec_body

EVALUATION = {"data": {"path": "/data/t.jsonl"}, "reward": {"type": "countdown"}, "max_completion_length": 8}
PLAN = ExperimentPlan(stages=[], num_cpus=2, num_gpus=0, warnings=[])


def an_experiment(**changes: Any) -> Experiment:
    objective = {"type": "sed", "lambda": 2.0}
    body = spec_body(seed=7, tags=["maths"], evaluation={**EVALUATION, "points": ["after_sft"], "pass_at_k": [1]})
    body["sft"] |= {"objective": objective}
    detail = {"data_sha256": "ab" * 32, "num_samples": 80, "code": {"torch": "2.13.0"}, "tau": 0.9}
    judged = {"num_prompts": 64, "prompts_sha256": "cd" * 32}
    results = [
        make_stage_result(checkpoint="/out/models/sft", detail=detail),
        make_stage_result("evaluate_after_sft", metrics={"eval/test/pass@1": 0.25}, detail=judged),
    ]
    facts = {
        "id": "exp-1", "name": "toy", "project": "default", "user": "ada", "tags": [], "status": "succeeded",
        "end_reason": None, "message": "", "waiting_reason": None, "queue_position": None, "priority": "normal",
        "num_cpus": 2.0, "num_gpus": 0.0, "submitted_at": NOW, "started_at": NOW, "ended_at": NOW,
        "cancel_requested_at": None, "description": "", "spec": ExperimentSpec.model_validate(body), "plan": PLAN,
        "attempts": [], "stage_results": results, "progress": None,
    }  # fmt: skip
    return Experiment.model_validate({**facts, **changes})


def a_series(name: str, *values: float) -> Series:
    points = [MetricPointOut(step=step, ts=NOW + timedelta(seconds=step), value=v) for step, v in enumerate(values)]
    return Series(name=name, points=points)


class LongSeries:
    """A service with one series of 30,000 points, of which it gives 10,000 at once."""

    def metric_names(self, _: str) -> MetricNamePage:
        fields = {"unit": "", "better": "neither", "stage": "any", "meaning": ""}
        one = MetricName(
            name="rl/x", num_points=30_000, last_step=29_999, last_value=0.0, last_ts=NOW, **cast(Any, fields)
        )
        return MetricNamePage(items=[one])

    def metrics(
        self, _: str, names: list[str], *, max_points: int, from_step: int = 0, to_step: int = 29_999
    ) -> MetricSeriesPage:
        fits = to_step - from_step < max_points
        steps = range(from_step, to_step + 1) if fits else ()
        points = [MetricPointOut(step=step, ts=NOW, value=float(step)) for step in steps]
        fields: Any = {"unit": "", "better": "neither", "stage": "any", "meaning": ""}
        kind: Any = "points" if fits else "envelope"
        one = MetricSeriesOut(name=names[0], num_points=to_step - from_step + 1, kind=kind, points=points, **fields)
        return MetricSeriesPage(series=[one])


def test_every_point_of_a_long_series_is_read() -> None:
    [found] = read_series(cast(SedrayClient, LongSeries()), an_experiment())
    assert [point.step for point in found.points] == list(range(30_000))


def test_a_run_in_mlflow_has_its_points_times_parameters_and_documents(tmp_path: Path) -> None:
    series = [a_series("sft/loss", 3.0, 2.0, float("nan")), a_series("eval/test/pass@8", 0.5)]
    run_id = export_mlflow(an_experiment(), series, {"spec.yaml": "a: 1"}, place=str(tmp_path / "runs"), name="team")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"file://{tmp_path}/runs")
    run = client.get_run(run_id)
    history = client.get_metric_history(run_id, "sft/loss")
    assert [(one.step, one.timestamp) for one in history][1] == (1, int((NOW.timestamp() + 1) * 1000))
    assert run.data.metrics["eval/test/pass_at_8"] == 0.5
    assert run.data.params["sft.objective.lambda"] == "2.0" and run.data.tags["sedray.experiment_id"] == "exp-1"
    assert (run.info.status, run.info.end_time) == ("FINISHED", int(NOW.timestamp() * 1000))
    assert [one.path for one in client.list_artifacts(run_id)] == ["spec.yaml"]
    with pytest.raises(RunExists, match=run_id):
        export_mlflow(an_experiment(), [], {}, place=str(tmp_path / "runs"), name="team")


def test_event_files_have_every_point_with_its_time(tmp_path: Path) -> None:
    target = export_tensorboard(an_experiment(), [a_series("sft/loss", 3.0, 2.0)], tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(target))
    read.Reload()
    scalars = read.Scalars("sft/loss")
    assert [(one.step, one.value) for one in scalars] == [(0, 3.0), (1, 2.0)]
    assert datetime.fromtimestamp(scalars[1].wall_time, UTC) == NOW + timedelta(seconds=1)
    with pytest.raises(FolderInUse):
        export_tensorboard(an_experiment(), [], tmp_path)


def test_the_card_says_what_the_model_is_made_of_and_names_no_license() -> None:
    card = model_card(an_experiment(), "sft", base_model="team/base")
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "team/base" and "license" not in head and {"sed", "maths"} <= set(head["tags"])
    [result] = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "pass@1", "value": 0.25, "name": "pass@1"}]
    for fact in ("ab" * 32, "cd" * 32, "objective.lambda", "n = 64", "| seeds | 7 |", "2.13.0", "0.25", "tau (found)"):
        assert fact in card, fact


class OneFile:
    """A service with a model of one file."""

    def download_model(self, experiment_id: str, stage: str, folder: Path, *, on_file: object = None) -> None:
        (folder / "config.json").write_text("{}")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    client = cast(SedrayClient, OneFile())
    export_checkpoint(client, an_experiment(), "sft", tmp_path / "new")
    export_checkpoint(client, an_experiment(), "sft", tmp_path / "new")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "README.md",
        "config.json",
        "sedray_spec.yaml",
    ]
    with pytest.raises(CannotExport, match="something else"):
        export_checkpoint(client, an_experiment(id="exp-2"), "sft", tmp_path / "new")


def test_a_model_that_is_not_there_is_told_with_what_is() -> None:
    assert trained_stage(an_experiment(), None) == "sft"
    with pytest.raises(CannotExport, match="no finished stage rl; finished: sft"):
        trained_stage(an_experiment(), "rl")


def test_a_missing_tool_is_told_with_what_to_install() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'sedray\[mirrors\]'"):
        require("no_such_module", "MLflow")
