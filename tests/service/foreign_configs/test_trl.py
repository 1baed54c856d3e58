"""Configurations of TRL become specifications, and every option is accounted for."""

from typing import Any

import pytest

from service.contract.imports import ConfigImport, ImportedSetting, ImportRequest
from service.contract.spec import ExperimentSpec
from service.foreign_configs import UnreadableConfig, read_configs

SFT: dict[str, Any] = {
    "model_name_or_path": "/models/base",
    "dataset_name": "/data/sft.jsonl",
    "output_dir": "out/math-sft",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": "2e-5",
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "max_length": 512,
    "num_train_epochs": 2,
    "loss_type": "dft",
    "seed": 3,
}
GRPO: dict[str, Any] = {
    "model_name_or_path": "out/math-sft",
    "dataset_name": "/data/rl.parquet",
    "reward_funcs": ["accuracy_reward", "think_format_reward"],
    "reward_weights": [0.9, 0.1],
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "max_completion_length": 256,
    "max_steps": 100,
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "use_vllm": True,
    "vllm_mode": "colocate",
    "seed": 5,
}


def imported(*configs: dict[str, Any], **options: Any) -> ConfigImport:
    files = [{"name": f"{number}.yaml", "settings": settings} for number, settings in enumerate(configs)]
    return read_configs(ImportRequest.model_validate({"system": "trl", "configs": files, **options}))


def entry(found: ConfigImport, key: str, outcome: str) -> ImportedSetting:
    return next(one for one in found.settings if one.key == key and one.outcome == outcome)


def test_sft_is_taken_with_trls_own_defaults() -> None:
    found = imported(SFT, num_devices=2)
    spec = ExperimentSpec.model_validate(found.spec)
    assert found.is_valid and spec.sft is not None
    assert (spec.name, spec.seed, spec.model.dtype) == ("math-sft", 3, "bfloat16")
    assert (spec.sft.batch_size, spec.sft.num_epochs, spec.sft.overlong) == (16, 2, "truncate")
    assert spec.sft.objective.type == "dft"
    assert (spec.sft.optimizer.lr_schedule, spec.sft.optimizer.warmup_ratio) == ("cosine", 0.1)
    assert entry(found, "max_grad_norm", "default").becomes == 1.0
    assert spec.model.gradient_checkpointing and spec.resources.trainer.num_ranks == 2


def test_two_files_become_one_experiment_whose_rl_goes_on_from_its_sft() -> None:
    found = imported(GRPO, SFT, num_devices=1)
    spec = ExperimentSpec.model_validate(found.spec)
    assert spec.sft is not None and spec.rl is not None and found.problems == []
    assert (spec.seed, spec.rl.seed, spec.model.path) == (3, 5, "/models/base")
    # 8 x 4 completions are one generation and one update: 4 prompts of 8, and TRL's steps are ours.
    assert (spec.rl.num_prompts_per_step, spec.rl.mini_batch_size, spec.rl.num_steps) == (4, 32, 100)
    assert (spec.rl.epsilon_low, spec.rl.epsilon_high, spec.rl.loss_agg_mode) == (0.2, 0.28, "token-mean")
    assert (spec.rl.rollout_correction.mode, spec.rl.rollout_correction.aggregate) == ("sequence_mask", "sum")
    assert spec.rl.reward.type == "combined" and spec.rl.data.answer_field == "solution"
    assert spec.resources.placement == "colocated"


def test_what_two_files_say_otherwise_of_the_shared_model_is_told() -> None:
    found = imported(SFT, {**GRPO, "gradient_checkpointing": False, "use_peft": True}, num_devices=1)
    assert found.is_valid and found.spec["model"]["gradient_checkpointing"] is True
    assert "by the other file" in entry(found, "gradient_checkpointing", "no_equivalent").reason
    assert "in both stages or in none" in entry(found, "use_peft", "no_equivalent").reason


def test_a_step_is_a_round_of_rollouts_with_all_its_updates() -> None:
    changed = {**GRPO, "steps_per_generation": 8, "num_iterations": 2, "max_steps": 100}
    assert imported(changed).spec["rl"]["num_steps"] == 25


def test_epochs_of_rl_need_the_number_of_rows() -> None:
    by_epochs = {key: value for key, value in GRPO.items() if key != "max_steps"} | {"num_train_epochs": 2}
    without = imported(by_epochs)
    assert not without.is_valid and [one.field for one in without.problems] == ["rl.num_steps"]
    assert "--rl-rows" in entry(without, "num_train_epochs", "no_equivalent").remedy
    assert imported(by_epochs, num_rl_rows=1000).spec["rl"]["num_steps"] == 500


@pytest.mark.parametrize(
    ("option", "value", "outcome"),
    [
        ("top_p", 0.9, "no_equivalent"),
        ("top_p", 1.0, "not_needed"),
        ("sync_ref_model", True, "no_equivalent"),
        ("loss_type", "vespo", "no_equivalent"),
        ("logging_steps", 5, "not_needed"),
        ("epsilom", 0.3, "unknown"),
        ("deepspeed", {"stage": 3}, "not_needed"),
    ],
)
def test_options_without_a_field_are_told_with_a_reason(option: str, value: object, outcome: str) -> None:
    found = imported({**GRPO, option: value})
    [told] = [one for one in found.settings if one.key.split(".")[0] == option]
    assert told.outcome == outcome and told.reason


def test_no_option_of_a_file_goes_without_a_word() -> None:
    odd = {
        **SFT,
        "report_to": ["wandb", "comet_ml"],
        "lora_r": 8,
        "use_peft": True,
        "foo": {"bar": 1},
        "max_steps": None,
    }
    told = {one.key for one in imported(odd).settings}
    assert (odd.keys() - {"foo"}) | {"foo.bar", "lora_dropout"} <= told


def test_secrets_are_starred_out() -> None:
    found = imported({**SFT, "hub_token": "hf_secret"})
    assert "hf_secret" not in found.model_dump_json()


def test_overrides_are_set_last() -> None:
    found = imported(SFT, overrides={"sft.num_epochs": 7, "model.path": "/models/other"})
    assert (found.spec["sft"]["num_epochs"], found.spec["model"]["path"]) == (7, "/models/other")


def test_fields_that_nothing_speaks_of_are_listed_with_their_values() -> None:
    left = {one.field: one.value for one in imported(SFT).left_at_default}
    assert left["sft.packing"] is False and "sft.batch_size" not in left


@pytest.mark.parametrize(
    ("configs", "problem"),
    [
        ([{"hidden_size": 8}], "tells trl configurations"),
        ([SFT, SFT], "2 configurations for sft"),
        ([{**SFT, "learning_rate": "fast"}], "learning_rate: 'fast' is no number"),
        ([{**GRPO, "num_generations": 0}], "would refuse"),
    ],
)
def test_what_cannot_be_read_is_said(configs: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(UnreadableConfig, match=problem):
        imported(*configs)
