"""Low-rank adapters: what is trained, what is frozen, and what leaves the trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from service.contract.objectives import SedObjective
from service.contract.spec import LoraSpec
from tests.workers.architectures import CONFIGS, make_folder
from tests.workers.tiny_model import (
    assert_same_weights,
    make_rl_spec,
    make_samples,
    make_sft_spec,
    make_trainer,
    weights_of,
)
from workers.actors.trainer import Trainer
from workers.config_error import ConfigError

CPU = torch.device("cpu")
LORA = LoraSpec(rank=4, alpha=8.0)
IDS_BT = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10]])


def train(trainer: Trainer, data: str, root: Path, **changes: Any) -> None:
    trainer.prepare_sft(make_sft_spec(data, **changes), str(root))
    trainer.sft_steps(max_steps=1000, max_seconds=1000.0)


def logits_of(folder: str | Path) -> Tensor:
    # The fused attention of transformers would leave Gemma 2's cap out.
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        logits: Tensor = model(IDS_BT).logits
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_trained_adapters_merge_into_a_folder_and_load_beside_the_base(
    name: str, ten_pairs: str, tmp_path: Path
) -> None:
    base = make_folder(name, tmp_path / "base")
    trainer = make_trainer(base, lora=LORA)
    train(trainer, ten_pairs, tmp_path / "sft")
    folder = trainer.export(str(tmp_path / "out"))
    with torch.no_grad():
        trained = trainer._loaded().model(IDS_BT).logits
    torch.testing.assert_close(logits_of(folder), trained, rtol=0, atol=1e-4)
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    with torch.no_grad():
        beside = PeftModel.from_pretrained(model, f"{folder}/adapter")(IDS_BT).logits
    torch.testing.assert_close(beside, trained, rtol=0, atol=1e-4)
    assert float((trained - logits_of(base)).abs().max()) > 0.01


def test_the_base_stays_as_it_was_bit_for_bit(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder, lora=LORA)
    train(trainer, ten_pairs, tmp_path / "sft")
    state = trainer._loaded().model.state_dict()
    for name, weight in load_file(model_folder / "model.safetensors").items():
        layer, _, kind = name.rpartition(".")
        frozen = state.get(f"{layer}.base_layer.{kind}", state.get(name))
        assert frozen is not None and torch.equal(frozen, weight)


def test_weights_for_the_rollout_engine_have_the_names_and_shapes_of_the_base(model_folder: Path) -> None:
    weights = weights_of(make_trainer(model_folder, lora=LORA))
    assert_same_weights(weights, load_file(model_folder / "model.safetensors"))


def test_only_adapters_are_trained_and_saved(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder, lora=LORA)
    policy = trainer._loaded()
    # Seven layers in each of two blocks, two matrices each.
    assert len(policy.parameters()) == len(policy.state()) == 28
    assert all(".lora_" in name for name in policy.state())
    assert policy.model.lm_head.weight.requires_grad is False


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_float32_and_the_frozen_base_has_the_dtype_of_the_pass(model_folder: Path, dtype: str) -> None:
    policy = make_trainer(model_folder, dtype=dtype, lora=LORA)._loaded()
    assert {str(parameter.dtype) for parameter in policy.state().values()} == {"torch.float32"}
    assert str(policy.model.lm_head.weight.dtype) == f"torch.{dtype}"


def test_a_seed_gives_its_adapters(model_folder: Path) -> None:
    first, again, other = (make_trainer(model_folder, lora=LORA, seed=seed)._loaded().state() for seed in (1, 1, 2))
    assert_same_weights(first, again)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    model_folder: Path, ten_pairs: str, tmp_path: Path, dtype: str
) -> None:
    spec = make_sft_spec(ten_pairs, objective=SedObjective(calibration_samples=5), save_steps=4)
    whole = make_trainer(model_folder, dtype=dtype, lora=LORA)
    whole.prepare_sft(spec, str(tmp_path / "whole"))
    whole.sft_steps(max_steps=100, max_seconds=100.0)
    killed = make_trainer(model_folder, dtype=dtype, lora=LORA)
    killed.prepare_sft(spec, str(tmp_path / "killed"))
    killed.sft_steps(max_steps=5, max_seconds=100.0)
    resumed = make_trainer(model_folder, dtype=dtype, lora=LORA)
    assert resumed.prepare_sft(spec, str(tmp_path / "killed")).first_step == 5
    resumed.sft_steps(max_steps=100, max_seconds=100.0)
    assert_same_weights(weights_of(resumed), weights_of(whole))


def test_reinforcement_learning_goes_on_with_the_adapters(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder, lora=LORA)
    train(trainer, ten_pairs, tmp_path / "sft")
    after_sft = weights_of(trainer)
    trainer.prepare_rl(make_rl_spec(), str(tmp_path / "rl"))
    trainer.rl_step(1, make_samples(1), temperature=1.0)
    after_rl = weights_of(trainer)
    changed = {
        name.rpartition(".")[0].rpartition(".")[2]
        for name in after_rl
        if not torch.equal(after_rl[name], after_sft[name])
    }
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_adapters_sit_on_the_named_layers_only(model_folder: Path) -> None:
    trainer = make_trainer(model_folder, lora=LoraSpec(target_modules=["q_proj", "self_attn.o_proj"]))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trainer._loaded().state()} == {"q_proj", "o_proj"}


@pytest.mark.parametrize(
    ("target", "message"),
    [("q_porj", "did you mean 'q_proj'"), ("xyz", "its linear layers are down_proj"), ("lm_head", "the output layer")],
)
def test_layers_that_are_not_there_are_refused(model_folder: Path, target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_trainer(model_folder, lora=LoraSpec(target_modules=[target]))


def test_a_checkpoint_of_another_rank_is_refused(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    train(make_trainer(model_folder), ten_pairs, tmp_path / "sft")
    with pytest.raises(ConfigError, match="another model"):
        train(make_trainer(model_folder, lora=LORA), ten_pairs, tmp_path / "sft")
