"""Every supervised objective through the trainer: metrics, splits, resume."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.contract.metric_names import describe_metric
from service.contract.objectives import ObjectiveSpec
from service.contract.stages import OptimizerSpec
from tests.workers.tiny_model import make_pairs, make_sft_spec, make_trainer, write_lines
from workers.actors.trainer_results import StepMetrics
from workers.config_error import ConfigError

BODIES: list[dict[str, Any]] = [
    {"type": "ce"},
    {"type": "sed", "calibration_samples": 5},
    {"type": "sed", "mask": "none"},
    {"type": "gem"},
    {"type": "gem", "h": "logsigmoid"},
    {"type": "dft"},
    {"type": "power", "q": 0.5},
    {"type": "deft"},
    {"type": "eaft"},
    {"type": "profit", "threshold": 0.01},
    {"type": "focal"},
    {"type": "label_smoothing"},
    {"type": "entropy_regularised", "lambda": 0.05},
    {"type": "asft"},
    {"type": "gift"},
    {"type": "eksft"},
]
every_objective = pytest.mark.parametrize("body", BODIES, ids=lambda body: "-".join(map(str, body.values())))


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_lines(tmp_path / "pairs.jsonl", make_pairs(10))


def train(model_folder: Path, data: str, root: Path, body: dict[str, Any], **changes: Any) -> list[StepMetrics]:
    """All steps that are left below `root`, or as many as `max_steps` says."""
    max_steps = changes.pop("max_steps", 1000)
    objective = TypeAdapter[Any](ObjectiveSpec).validate_python(body)
    trainer = make_trainer(model_folder)
    trainer.prepare_sft(make_sft_spec(data, objective=objective, **changes), str(root))
    return list(trainer.sft_steps(max_steps=max_steps, max_seconds=1000.0).steps)


@every_objective
def test_its_metrics_are_in_the_contract_and_training_lowers_the_nll(
    model_folder: Path, data: str, tmp_path: Path, body: dict[str, Any]
) -> None:
    metrics = train(model_folder, data, tmp_path / "sft", body, num_epochs=8)
    assert {"sft/loss", "sft/nll", "sft/entropy", "sft/mean_token_accuracy"} <= metrics[0].values.keys()
    assert [name for name in metrics[0].values if describe_metric(name) is None] == []
    assert metrics[-1].values["sft/nll"] < metrics[0].values["sft/nll"]


@every_objective
def test_micro_batches_change_its_metrics_by_rounding_only(
    model_folder: Path, data: str, tmp_path: Path, body: dict[str, Any]
) -> None:
    # Adam divides by the gradient's size and would blow rounding up where that is about 0.
    optimizer = OptimizerSpec(learning_rate=1e-2, adam_epsilon=1.0)
    whole, cut = (
        train(model_folder, data, tmp_path / str(budget), body, optimizer=optimizer, max_tokens_per_microbatch=budget)
        for budget in (8192, 1)
    )
    for one, other in zip(whole, cut, strict=True):
        assert other.values == pytest.approx(one.values, abs=1e-6, rel=1e-5)


@pytest.mark.parametrize("body", [{"type": "gem"}, {"type": "eaft"}], ids=lambda body: body["type"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    model_folder: Path, data: str, tmp_path: Path, body: dict[str, Any]
) -> None:
    whole = train(model_folder, data, tmp_path / "a", body, save_steps=2)
    first = train(model_folder, data, tmp_path / "b", body, save_steps=2, max_steps=4)
    assert first + train(model_folder, data, tmp_path / "b", body, save_steps=2) == whole


def test_a_top_k_beyond_the_vocabulary_is_refused(model_folder: Path, data: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the paper uses 20"):
        train(model_folder, data, tmp_path / "sft", {"type": "eaft", "top_k": 24})
