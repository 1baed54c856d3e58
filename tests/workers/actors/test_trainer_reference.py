"""Objectives with a frozen reference model through the trainer, and twins that must train alike to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from service.contract.objectives import ObjectiveSpec
from service.contract.spec import LoraSpec, ModelSpec
from service.contract.stages import OptimizerSpec
from tests.workers.tiny_model import (
    assert_same_weights,
    make_pairs,
    make_sft_spec,
    make_trainer,
    weights_of,
    write_lines,
)
from workers.actors.policy_model import PolicyModel
from workers.actors.reference_model import ReferenceModel
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import StepMetrics
from workers.data.token_sequence import TokenSequence

EKSFT = {"type": "eksft", "entropy_fraction": 0.3, "kl_fraction": 0.3, "kl_coef": 0.5}
REFERENCED: list[dict[str, Any]] = [{"type": "asft"}, {"type": "gift", "beta": 2.0}, EKSFT]
referenced = pytest.mark.parametrize("body", REFERENCED, ids=lambda body: body["type"])


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_lines(tmp_path / "pairs.jsonl", make_pairs(10))


def prepared(model_folder: Path, data: str, root: Path, body: dict[str, Any], **changes: Any) -> Trainer:
    objective = TypeAdapter[Any](ObjectiveSpec).validate_python(body)
    trainer = make_trainer(model_folder, dtype=changes.pop("dtype", "float32"), lora=changes.pop("lora", None))
    trainer.prepare_sft(make_sft_spec(data, objective=objective, **changes), str(root))
    return trainer


def run(trainer: Trainer, max_steps: int = 1000) -> list[StepMetrics]:
    return list(trainer.sft_steps(max_steps=max_steps, max_seconds=1000.0).steps)


@referenced
@pytest.mark.parametrize("packing", [False, True])
def test_the_divergence_begins_at_zero_and_grows(
    model_folder: Path, data: str, tmp_path: Path, body: dict[str, Any], packing: bool
) -> None:
    metrics = run(prepared(model_folder, data, tmp_path / "sft", body, packing=packing))
    assert metrics[0].values["sft/reference/kl"] == 0.0
    assert metrics[-1].values["sft/reference/kl"] > metrics[1].values["sft/reference/kl"] > 0.0


@pytest.mark.parametrize(
    ("dtype", "lora", "first"),
    [("float32", LoraSpec(), 0.0), ("bfloat16", LoraSpec(), 0.0), ("bfloat16", None, 1e-3)],
)
def test_the_reference_is_the_model_without_adapters_in_its_own_dtype(
    model_folder: Path, data: str, tmp_path: Path, dtype: str, lora: LoraSpec | None, first: float
) -> None:
    metrics = run(prepared(model_folder, data, tmp_path / "sft", {"type": "asft"}, dtype=dtype, lora=lora))
    assert metrics[0].values["sft/reference/kl"] <= first
    assert metrics[-1].values["sft/reference/kl"] > 10 * first


def test_an_anchor_holds_the_model_near_its_reference(model_folder: Path, data: str, tmp_path: Path) -> None:
    last = [
        run(prepared(model_folder, data, tmp_path / str(kl_coef), {"type": "asft", "kl_coef": kl_coef}))[-1]
        for kl_coef in (0.01, 10.0)
    ]
    assert last[1].values["sft/reference/kl"] < 0.2 * last[0].values["sft/reference/kl"]


@referenced
def test_a_resumed_run_compares_with_the_model_that_the_stage_began_with(
    model_folder: Path, data: str, tmp_path: Path, body: dict[str, Any]
) -> None:
    whole = prepared(model_folder, data, tmp_path / "a", body, save_steps=2)
    expected = run(whole)
    found = run(prepared(model_folder, data, tmp_path / "b", body, save_steps=2), max_steps=4)
    resumed = prepared(model_folder, data, tmp_path / "b", body, save_steps=2)
    assert found + run(resumed) == expected
    assert_same_weights(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "sed", "lambda": 0.0, "calibration_samples": 5}, {"type": "ce"}),
        ({"type": "sed", "tau": 0.0}, {"type": "ce"}),
        ({"type": "asft", "kl_coef": 0.0}, {"type": "dft"}),
        ({"type": "eksft", "entropy_fraction": 0.0, "kl_fraction": 0.0}, {"type": "ce"}),
        ({"type": "sed", "preset": "paper"}, {"type": "sed"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_twins_train_alike_bit_for_bit(
    model_folder: Path, data: str, tmp_path: Path, one: dict[str, Any], other: dict[str, Any], dtype: str
) -> None:
    trainers = [
        prepared(model_folder, data, tmp_path / name, body, dtype=dtype, max_tokens_per_microbatch=12)
        for name, body in (("one", one), ("other", other))
    ]
    first, second = (run(trainer) for trainer in trainers)
    for name in ("sft/loss", "sft/nll", "sft/entropy", "sft/grad_norm"):
        assert [step.values[name] for step in first] == [step.values[name] for step in second]
    assert_same_weights(*(weights_of(trainer) for trainer in trainers))


def test_no_split_of_a_noisy_step_changes_the_sets_of_eksft(model_folder: Path, data: str, tmp_path: Path) -> None:
    changes = {"neftune_alpha": 5.0, "optimizer": OptimizerSpec(learning_rate=1e-2, adam_epsilon=1.0)}
    whole, cut, packed = (
        run(prepared(model_folder, data, tmp_path / name, EKSFT, **changes, **more))
        for name, more in (
            ("whole", {}),
            ("cut", {"max_tokens_per_microbatch": 1}),
            ("packed", {"packing": True}),
        )
    )
    for one, other, another in zip(whole, cut, packed, strict=True):
        assert other.values == pytest.approx(one.values, abs=1e-6, rel=1e-5)
        assert another.values == pytest.approx(one.values, abs=1e-6, rel=1e-5)


SAMPLES = [TokenSequence(prompt_token_ids=(3, 4), completion_token_ids=(5, 6, 1))]


def policy_of(model_folder: Path, **model: Any) -> PolicyModel:
    return PolicyModel(ModelSpec(path=str(model_folder), max_model_len=32, **model), torch.device("cpu"))


def test_the_reference_is_frozen_in_the_dtype_of_the_forward_pass(model_folder: Path) -> None:
    rows = ReferenceModel(policy_of(model_folder, dtype="bfloat16")).rows(SAMPLES)
    assert rows.hidden_NH.shape == (3, 16)
    assert rows.head.weight_VH.dtype == rows.hidden_NH.dtype == torch.bfloat16
    assert not rows.hidden_NH.requires_grad
    assert not rows.head.weight_VH.requires_grad


def test_with_adapters_off_the_model_is_the_one_that_they_were_put_on(model_folder: Path) -> None:
    adapted, bare = policy_of(model_folder, lora=LoraSpec(rank=2)), policy_of(model_folder)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert torch.equal(ReferenceModel(adapted).rows(SAMPLES).hidden_NH, bare.label_rows(SAMPLES).hidden_NH)
    assert not torch.equal(adapted.label_rows(SAMPLES).hidden_NH, bare.label_rows(SAMPLES).hidden_NH)


def test_held_out_samples_are_measured_with_a_reference_too(model_folder: Path, data: str, tmp_path: Path) -> None:
    held_out = {"eval_data": make_sft_spec(data).data, "eval_steps": 4}
    trainer = prepared(model_folder, data, tmp_path / "sft", EKSFT, **held_out)
    evaluations = trainer.sft_steps(max_steps=1000, max_seconds=1000.0).evaluations
    assert evaluations[-1].values["sft/eval/nll"] < evaluations[0].values["sft/eval/nll"]
