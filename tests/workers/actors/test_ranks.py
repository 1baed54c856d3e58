"""Two ranks train as one does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.data import SupervisedData
from service.contract.objectives import CrossEntropyObjective, EksftObjective, GemObjective, SedObjective
from service.contract.rl import RolloutCorrection
from service.contract.spec import LoraSpec
from service.contract.stages import OptimizerSpec
from tests.workers.actors.rank_processes import TrainerRanks, make_settings, trainer_ranks
from tests.workers.tiny_model import (
    assert_same_weights,
    make_model_folder,
    make_pairs,
    make_rl_spec,
    make_samples,
    make_sft_spec,
    make_trainer,
    weights_of,
    write_lines,
)
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import StepMetrics

pytestmark = pytest.mark.slow

OPTIMIZER = OptimizerSpec(learning_rate=1e-3, lr_schedule="cosine", warmup_ratio=0.1, weight_decay=0.01)
ALL = {"max_steps": 1000, "max_seconds": 1000.0}


@pytest.fixture(scope="module")
def two() -> Iterator[TrainerRanks]:
    with trainer_ranks(2) as ranks:
        yield ranks


def train_one(trainer: Trainer, spec: Any, root: Path) -> tuple[StepMetrics, ...]:
    trainer.prepare_sft(spec, str(root))
    return trainer.sft_steps(**ALL).steps


def train_two(ranks: TrainerRanks, spec: Any, root: Path) -> tuple[StepMetrics, ...]:
    first, second = ranks.call("prepare_sft", spec, str(root))
    assert first == second
    slices = ranks.call("sft_steps", **ALL)
    assert slices[0] == slices[1]
    steps: tuple[StepMetrics, ...] = slices[0].steps
    return steps


def assert_same_course(one: tuple[StepMetrics, ...], two: tuple[StepMetrics, ...]) -> None:
    assert [metrics.step for metrics in two] == [metrics.step for metrics in one]
    for expected, found in zip(one, two, strict=True):
        assert found.values == pytest.approx(expected.values, rel=1e-5, abs=1e-5)


def assert_close_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)


# Ten samples in batches of four: an epoch's last batch has two. One token a micro-batch: all samples by themselves.
@pytest.mark.parametrize(
    "changes",
    [
        {"objective": CrossEntropyObjective()},
        {"objective": SedObjective(calibration_samples=5), "max_tokens_per_microbatch": 13},
        {"objective": GemObjective(), "max_tokens_per_microbatch": 1},
        {"objective": CrossEntropyObjective(), "batch_size": 1, "num_epochs": 3},
        {"objective": CrossEntropyObjective(), "packing": True, "neftune_alpha": 5.0},
        {"objective": EksftObjective(), "max_tokens_per_microbatch": 13},
    ],
    ids=["ce", "sed in micro-batches", "gem one by one", "a rank without samples", "packed with noise", "eksft"],
)
def test_two_ranks_take_the_same_course_as_one(
    two: TrainerRanks, model_folder: Path, ten_pairs: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    spec = make_sft_spec(ten_pairs, **({"optimizer": OPTIMIZER, "num_epochs": 10} | changes))
    alone = make_trainer(model_folder)
    expected = train_one(alone, spec, tmp_path / "one")
    assert len(expected) >= 30
    two.load(**make_settings(model_folder))
    assert_same_course(expected, train_two(two, spec, tmp_path / "two"))
    assert_close_weights(weights_of(alone), two.call("weights")[0])


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        ({"gradient_checkpointing": True}, CrossEntropyObjective()),
        ({"lora": LoraSpec(rank=4)}, CrossEntropyObjective()),
        ({"lora": LoraSpec(rank=4)}, EksftObjective()),
        ({"lora": LoraSpec(rank=4), "dtype": "bfloat16"}, CrossEntropyObjective()),
    ],
    ids=["gradient checkpointing", "adapters", "adapters and a reference", "adapters beside bfloat16"],
)
def test_settings_of_the_model_hold_on_two_ranks(
    two: TrainerRanks, model_folder: Path, ten_pairs: str, tmp_path: Path, model: dict[str, Any], objective: Any
) -> None:
    spec = make_sft_spec(ten_pairs, optimizer=OPTIMIZER, objective=objective)
    settings = make_settings(model_folder, **model)
    alone = Trainer(**settings)
    alone.load()
    expected = train_one(alone, spec, tmp_path / "one")
    two.load(**settings)
    found = train_two(two, spec, tmp_path / "two")
    if model.get("dtype") == "bfloat16":
        assert found[-1].values["sft/nll"] == pytest.approx(expected[-1].values["sft/nll"], abs=2e-2)
        return
    assert_same_course(expected, found)
    assert_close_weights(weights_of(alone), two.call("weights")[0])
    again = Trainer(**settings)
    again.load()
    again.prepare_sft(spec, str(tmp_path / "two"))
    assert_close_weights(weights_of(again), two.call("weights")[0])


def test_untied_output_layer_and_held_out_samples_are_shared_too(
    two: TrainerRanks, ten_pairs: str, tmp_path: Path
) -> None:
    folder = make_model_folder(tmp_path / "untied", tied=False)
    held_out = SupervisedData(path=write_lines(tmp_path / "held_out.jsonl", make_pairs(3)))
    spec = make_sft_spec(ten_pairs, optimizer=OPTIMIZER, eval_data=held_out, eval_steps=3)
    alone = make_trainer(folder)
    alone.prepare_sft(spec, str(tmp_path / "one"))
    expected = alone.sft_steps(**ALL)
    two.load(**make_settings(folder))
    two.call("prepare_sft", spec, str(tmp_path / "two"))
    found = two.call("sft_steps", **ALL)[0]
    assert_same_course(expected.steps, found.steps)
    assert_same_course(expected.evaluations, found.evaluations)
    assert [view.token_ids for view in found.token_views] == [view.token_ids for view in expected.token_views]


def test_ranks_read_what_another_number_of_ranks_wrote(
    two: TrainerRanks, model_folder: Path, ten_pairs: str, tmp_path: Path
) -> None:
    spec = make_sft_spec(ten_pairs, optimizer=OPTIMIZER, save_steps=2)
    expected = train_one(make_trainer(model_folder), spec, tmp_path / "whole")
    root = str(tmp_path / "both")

    alone = make_trainer(model_folder)
    alone.prepare_sft(spec, root)
    alone.sft_steps(max_steps=2, max_seconds=1000.0)
    two.load(**make_settings(model_folder))
    assert two.call("prepare_sft", spec, root)[0].first_step == 3
    assert_same_weights(two.call("weights")[0], weights_of(alone))
    middle = two.call("sft_steps", max_steps=2, max_seconds=1000.0)[0].steps
    written = two.call("weights")[0]
    again = make_trainer(model_folder)
    assert again.prepare_sft(spec, root).first_step == 5
    assert_same_weights(weights_of(again), written)
    assert_same_course(expected[2:], middle + again.sft_steps(**ALL).steps)


def test_two_ranks_resume_bit_for_bit(two: TrainerRanks, model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    spec = make_sft_spec(ten_pairs, objective=SedObjective(calibration_samples=5), save_steps=4)
    two.load(**make_settings(model_folder))
    expected = train_two(two, spec, tmp_path / "whole")
    final = two.call("weights")[0]
    two.load(**make_settings(model_folder))
    two.call("prepare_sft", spec, str(tmp_path / "killed"))
    two.call("sft_steps", max_steps=6, max_seconds=1000.0)
    two.load(**make_settings(model_folder))
    resumed = train_two(two, spec, tmp_path / "killed")
    assert resumed == expected[4:]
    assert_same_weights(two.call("weights")[0], final)


def test_a_flipped_byte_of_one_rank_is_survived(
    two: TrainerRanks, model_folder: Path, ten_pairs: str, tmp_path: Path
) -> None:
    spec = make_sft_spec(ten_pairs, save_steps=3)
    two.load(**make_settings(model_folder))
    expected = train_two(two, spec, tmp_path / "sft")
    damaged = tmp_path / "sft" / "step-00000009" / "tensors-00001.bin"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    two.load(**make_settings(model_folder))
    plan = two.call("prepare_sft", spec, str(tmp_path / "sft"))[0]
    assert [skipped.name for skipped in plan.skipped_checkpoints] == ["step-00000009"]
    assert two.call("sft_steps", **ALL)[0].steps == expected[6:]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mini_batch_size": 3, "num_iterations": 2, "max_tokens_per_microbatch": 17},
        {
            "policy_loss": "gspo",
            "loss_agg_mode": "seq-mean-token-mean",
            "mini_batch_size": 6,
            "beta": 0.1,
            "entropy_coef": 0.05,
            "rollout_correction": RolloutCorrection(mode="sequence_truncate", aggregate="mean", max=1.2),
        },
    ],
    ids=["one update", "mini-batches", "all terms of gspo"],
)
def test_reinforcement_learning_takes_the_same_course(
    two: TrainerRanks, model_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    spec = make_rl_spec(optimizer=OptimizerSpec(learning_rate=3e-4), num_steps=30, **changes)
    alone = make_trainer(model_folder)
    alone.prepare_rl(spec, str(tmp_path / "one"))
    two.load(**make_settings(model_folder))
    two.call("prepare_rl", spec, str(tmp_path / "two"))
    for step in range(1, 31):
        samples = make_samples(step)
        expected = alone.rl_step(step, samples, temperature=0.8)
        first, second = two.call("rl_step", step, samples, temperature=0.8)
        assert first == second
        assert first == pytest.approx(expected, rel=1e-5, abs=1e-5)
    two.call("save_rl", 30, 30)
    resumed = make_trainer(model_folder)
    assert resumed.prepare_rl(spec, str(tmp_path / "two")).policy_version == 30
    assert_same_weights(weights_of(resumed), two.call("weights")[0])


def test_results_leave_by_the_first_rank(two: TrainerRanks, model_folder: Path, tmp_path: Path) -> None:
    two.load(**make_settings(model_folder))
    alone = make_trainer(model_folder)
    sequences = [([3, 4], [5, 6, 7]), ([8], [9])]
    first, second = two.call("logprobs", sequences, temperature=1.0)
    assert first == second
    for values, expected in zip(first, alone.logprobs(sequences, temperature=1.0), strict=True):
        assert values == pytest.approx(expected, abs=1e-6)
    manifests = two.call("write_weights", str(tmp_path / "weights.safetensors"))
    assert manifests == [alone.write_weights(str(tmp_path / "alone.safetensors"))] * 2
    two.call("export", str(tmp_path / "exported"))
    assert_same_weights(weights_of(make_trainer(tmp_path / "exported")), weights_of(alone))


def test_what_fails_on_the_first_rank_fails_on_all(two: TrainerRanks, model_folder: Path, tmp_path: Path) -> None:
    two.load(**make_settings(model_folder))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        two.call("write_weights", str(tmp_path / "file" / "weights"))
    # Nobody waits for anybody: both answer the next call.
    assert len(two.call("logprobs", [([3], [4])], temperature=1.0)) == 2


def test_bfloat16_on_two_ranks_stays_near_one(
    two: TrainerRanks, model_folder: Path, ten_pairs: str, tmp_path: Path
) -> None:
    spec = make_sft_spec(ten_pairs, optimizer=OPTIMIZER, num_epochs=10)
    expected = train_one(make_trainer(model_folder, dtype="bfloat16"), spec, tmp_path / "one")
    two.load(**make_settings(model_folder, dtype="bfloat16"))
    found = train_two(two, spec, tmp_path / "two")
    gaps = [abs(b.values["sft/nll"] - a.values["sft/nll"]) for a, b in zip(expected, found, strict=True)]
    assert 0.0 < max(gaps) < 2e-3
