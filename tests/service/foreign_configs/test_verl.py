"""Configurations of verl become specifications."""

from typing import Any

import yaml

from service.contract.imports import ConfigImport, ImportRequest
from service.contract.spec import ExperimentSpec
from service.foreign_configs import read_configs

PPO = """
data:
  train_files: /data/train.parquet
  val_files: [/data/test.parquet]
  train_batch_size: 64
  max_prompt_length: 256
  max_response_length: 512
actor_rollout_ref:
  model: {path: /models/base, lora_rank: 8, lora_alpha: 16, target_modules: all-linear}
  actor:
    ppo_mini_batch_size: 16
    clip_ratio_high: 0.28
    use_kl_loss: true
    kl_loss_coef: 0.01
    optim: {lr: 1e-6, lr_warmup_steps: 10, weight_decay: 0.1}
    rollout_n: ${oc.select:actor_rollout_ref.rollout.n,1}
  rollout: {name: vllm, n: 8, tensor_model_parallel_size: 1, gpu_memory_utilization: 0.4}
algorithm: {adv_estimator: grpo, norm_adv_by_std_in_grpo: false, use_kl_in_reward: false}
reward: {custom_reward_function: {path: /code/my_reward.py, name: score}}
trainer:
  project_name: study
  experiment_name: dr-grpo
  logger: [console, mlflow]
  n_gpus_per_node: 4
  nnodes: 1
  total_epochs: 2
  test_freq: 5
  save_freq: 20
"""


def imported(settings: Any, **options: Any) -> ConfigImport:
    config = {"name": "ppo.yaml", "settings": settings}
    return read_configs(ImportRequest.model_validate({"system": "verl", "configs": [config], **options}))


def test_an_rl_configuration_is_taken_in_our_units() -> None:
    found = imported(yaml.safe_load(PPO), num_rl_rows=640)
    assert found.problems == []
    spec = ExperimentSpec.model_validate(found.spec)
    assert spec.rl is not None and spec.evaluation is not None and spec.model.lora is not None
    assert (spec.name, spec.mirrors[0].type, spec.model.max_model_len) == ("dr-grpo", "mlflow", 768)
    # verl counts prompts in a mini-batch, here they are sequences.
    assert (spec.rl.num_prompts_per_step, spec.rl.mini_batch_size, spec.rl.num_steps) == (64, 128, 20)
    assert (spec.rl.adv_estimator, spec.rl.scale_rewards, spec.rl.delta) == ("dr_grpo", "none", 3.0)
    assert (spec.rl.epsilon_low, spec.rl.epsilon_high, spec.rl.beta, spec.rl.kl_estimator) == (0.2, 0.28, 0.01, "k3")
    assert (spec.rl.optimizer.warmup_steps, spec.rl.optimizer.weight_decay) == (10, 0.1)
    assert spec.rl.reward.type == "python_function" and spec.rl.reward.working_dir == "/code"
    assert spec.rl.data.answer_field == "reward_model.ground_truth"
    assert (spec.evaluation.rl_eval_steps, spec.evaluation.points) == (5, ["base", "after_rl"])
    assert (spec.resources.trainer.num_gpus, spec.resources.rollout.num_gpus) == (0.6, 0.4)


def test_no_option_of_a_file_goes_without_a_word() -> None:
    settings = yaml.safe_load(PPO)
    settings["actor_rollout_ref"]["actor"]["made_up"] = 1
    found = imported(settings)
    assert "made_up" in " ".join(one.key for one in found.settings if one.outcome == "unknown")
    told = {one.key for one in found.settings}
    assert {"trainer.nnodes", "algorithm.use_kl_in_reward", "actor_rollout_ref.actor.rollout_n"} <= told


def test_overrides_of_hydra_are_read_and_a_missing_reward_is_told() -> None:
    lines = [
        "algorithm.adv_estimator=gae",
        "+data.train_files=/data/train.parquet",
        "actor_rollout_ref.model.path=/models/base",
        "actor_rollout_ref.rollout.n=4",
        "trainer.total_training_steps=10",
    ]
    found = imported(lines)
    assert [one.field for one in found.problems] == ["rl.reward"]
    reasons = {one.key: one.reason for one in found.settings if one.outcome == "no_equivalent"}
    assert "without a critic" in reasons["algorithm.adv_estimator"]
    assert "data_source" in reasons["data.reward_fn_key"]
    assert "rl.reward" in found.spec_yaml.split("name:")[0]


def test_a_supervised_configuration_is_taken() -> None:
    settings = {
        "data": {"train_files": "/data/train.parquet", "train_batch_size": 32, "max_length": 512, "truncation": "left"},
        "model": {"partial_pretrain": "/models/base"},
        "optim": {"lr": 1e-5, "warmup_steps_ratio": 0.1, "clip_grad": 0.5, "lr_scheduler": "cosine"},
        "trainer": {"total_epochs": 2, "experiment_name": "sft"},
    }
    found = imported(settings)
    spec = ExperimentSpec.model_validate(found.spec)
    assert spec.sft is not None
    assert (spec.sft.batch_size, spec.sft.optimizer.max_grad_norm, spec.sft.data.records) == (32, 0.5, "messages")
    assert (spec.sft.optimizer.lr_schedule, spec.sft.optimizer.warmup_ratio) == ("cosine", 0.1)
    assert [one.key for one in found.settings if one.outcome == "no_equivalent"] == ["data.truncation"]
