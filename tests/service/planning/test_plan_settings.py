"""Settings against each other, the data and the cluster: what is refused, warned of, counted."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from service.contract.spec import ExperimentSpec
from service.planning import Capacity, plan_experiment
from tests.service.planning.toy_experiment import ROOM, findings_of, pairs, warnings_of, write_model, write_rows

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"lambda": 2.0}, f"{(2 + sqrt(20)) / 8:.3f}"),
        ({"lambda": 0.0}, "plain cross entropy"),
        ({"mask_ratio": 1.0}, "plain cross entropy"),
        ({"mask_ratio": 0.0}, "nearly every token"),
        ({"tau": 0.0}, "plain cross entropy"),
    ],
)
async def test_odd_objectives_are_warned_of(body: dict[str, Any], change: dict[str, Any], warning: str) -> None:
    body["sft"]["objective"].update(change)
    [only] = await warnings_of(body)
    assert warning in only


@pytest.mark.parametrize(
    ("objective", "warning"),
    [
        ({"type": "gem", "beta": 1.0}, "plain cross entropy"),
        ({"type": "eaft", "alpha": 0.0}, "plain cross entropy"),
        ({"type": "profit", "threshold": 0.0}, "plain cross entropy"),
        ({"type": "profit", "threshold": 0.9}, "already predicts"),
        ({"type": "focal", "gamma": 0.0}, "plain cross entropy"),
        ({"type": "label_smoothing", "epsilon": 0.0}, "plain cross entropy"),
        ({"type": "entropy_regularised", "lambda": 0.0}, "plain cross entropy"),
        ({"type": "asft", "kl_coef": 0.0}, "this is dft"),
        ({"type": "eksft", "entropy_fraction": 0.0, "kl_fraction": 0.0}, "plain cross entropy"),
        ({"type": "eksft", "entropy_fraction": 1.0}, "no label is learned"),
    ],
)
async def test_objectives_that_are_cross_entropy_by_another_name_are_warned_of(
    body: dict[str, Any], objective: dict[str, Any], warning: str
) -> None:
    body["sft"]["objective"] = objective
    [only] = await warnings_of(body)
    assert warning in only


@pytest.mark.parametrize(
    "objective",
    [
        *({"type": name} for name in ("ce", "gem", "dft", "deft", "eaft", "profit", "focal", "label_smoothing")),
        {"type": "power", "q": 0.5},
        {"type": "entropy_regularised", "lambda": 0.05},
        {"type": "gem", "h": "logsigmoid", "beta": 1.0},
        {"type": "eaft", "top_k": 50},
    ],
)
async def test_the_usual_settings_of_an_objective_need_no_warning(
    body: dict[str, Any], objective: dict[str, Any]
) -> None:
    body["sft"]["objective"] = objective
    assert await warnings_of(body) == []


@pytest.mark.parametrize("objective", [{"type": "eaft"}, {"type": "sed", "mask": "none"}])
async def test_a_top_k_beyond_the_vocabulary_is_refused(body: dict[str, Any], objective: dict[str, Any]) -> None:
    body["sft"]["objective"] = objective | {"top_k": 51}
    assert "has 50 tokens" in (await findings_of(body))["sft.objective.top_k"]


async def test_a_single_update_per_step_is_warned_of(body: dict[str, Any]) -> None:
    body["rl"] |= {"mini_batch_size": None, "num_iterations": 1}
    [only] = await warnings_of(body)
    assert "never act" in only


async def test_too_small_an_evaluation_set_is_warned_of(body: dict[str, Any]) -> None:
    body["evaluation"]["num_prompts"] = 100
    [only] = await warnings_of(body)
    assert "10 prompts" in only


async def test_an_unknown_cluster_is_said_to_be_unknown(body: dict[str, Any]) -> None:
    [only] = await warnings_of(body, None)
    assert "not known" in only


async def test_held_out_samples_and_measurements_are_counted(body: dict[str, Any], tmp_path: Path) -> None:
    held_out = str(write_rows(tmp_path / "held_out.jsonl", pairs(7)))
    body["sft"] |= {"eval_data": {"path": held_out}, "eval_steps": 5, "num_eval_samples": 4, "save_steps": 5}
    plan = await plan_experiment(ExperimentSpec.model_validate(body), ROOM)
    numbers = plan.stages[0].numbers
    # Before the first step, after steps 5 and 10, after the last one, 12.
    assert (numbers["held_out"], numbers["held_out_measured"], numbers["measurements"]) == (7, 4, 4)
    assert numbers["checkpoints"] == 3


async def test_a_held_out_share_is_not_trained(body: dict[str, Any]) -> None:
    body["sft"]["holdout_fraction"] = 0.2
    numbers = (await plan_experiment(ExperimentSpec.model_validate(body), ROOM)).stages[0].numbers
    assert (numbers["samples"], numbers["held_out"], numbers["steps"], numbers["measurements"]) == (20, 5, 9, 2)


@pytest.mark.parametrize(
    ("num_ranks", "budget", "microbatches"), [(1, 8192, 1), (1, 126, 4), (2, 126, 2), (4, 63, 2), (8, 1, 1)]
)
async def test_micro_batches_of_a_rank_are_counted_at_full_length(
    body: dict[str, Any], num_ranks: int, budget: int, microbatches: int
) -> None:
    body["sft"]["max_tokens_per_microbatch"] = budget
    body["resources"] = {"trainer": {"num_ranks": num_ranks}}
    plan = await plan_experiment(ExperimentSpec.model_validate(body), Capacity(num_cpus=16, num_gpus=0))
    numbers = plan.stages[0].numbers
    assert (numbers["ranks"], numbers["max_microbatches_per_step"]) == (num_ranks, microbatches)


async def test_evaluations_beyond_the_last_step_of_sft_are_refused(body: dict[str, Any]) -> None:
    body["evaluation"]["sft_steps"] = [4, 12, 13]
    assert "13: SFT has 12 steps at most" in (await findings_of(body))["evaluation.sft_steps"]


@pytest.mark.parametrize(
    ("sft", "warning"),
    [
        ({"eval_steps": 9, "holdout_fraction": 0.2}, "sft.eval_steps 9 is not reached before the end of 9 steps"),
        ({"holdout_fraction": 0.01}, "sft.holdout_fraction 0.01 of 25 records is less than one record"),
        ({"optimizer": {"learning_rate": 1e-3, "warmup_steps": 12}}, "warmup_steps 12 covers all 12 steps"),
    ],
)
async def test_settings_of_sft_that_come_to_nothing_are_warned_of(
    body: dict[str, Any], sft: dict[str, Any], warning: str
) -> None:
    body["sft"] |= sft
    [only] = await warnings_of(body)
    assert warning in only


async def test_a_warm_up_of_the_whole_of_rl_is_warned_of(body: dict[str, Any]) -> None:
    body["rl"]["optimizer"]["warmup_steps"] = 5
    [only] = await warnings_of(body)
    assert only.startswith("rl.optimizer.warmup_steps 5 covers all 5 steps")


async def test_evaluations_between_steps_of_rl_that_never_come_are_warned_of(body: dict[str, Any]) -> None:
    body["evaluation"]["rl_eval_steps"] = 5
    [only] = await warnings_of(body)
    assert only.startswith("evaluation.rl_eval_steps 5 is not reached before the end of 5 steps")


async def test_adapters_of_unknown_layers_are_refused(body: dict[str, Any]) -> None:
    folder = Path(body["model"]["path"])
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = json.loads((folder / "config.json").read_text()) | sizes
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps(
        {"layers.0.q_proj.weight": {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    body["model"]["lora"] = {"target_modules": ["q_prj"]}
    assert "did you mean 'q_proj'?" in (await findings_of(body))["model.lora.target_modules"]


@pytest.mark.parametrize(
    ("config", "why"), [({"model_type": "mamba"}, "mamba"), ({"layer_types": ["full_attention", "conv"]}, "conv")]
)
async def test_packing_for_a_model_that_cannot_keep_samples_apart_is_refused(
    body: dict[str, Any], tmp_path: Path, config: dict[str, Any], why: str
) -> None:
    body["model"]["path"] = str(write_model(tmp_path / "strange", **config))
    body["sft"]["packing"] = True
    assert why in (await findings_of(body))["sft.packing"]


@pytest.mark.parametrize(("num_gpus", "num_ranks"), [(0.5, 2), (1.5, 1)])
async def test_gpus_that_nobody_can_hand_out_are_refused(body: dict[str, Any], num_gpus: float, num_ranks: int) -> None:
    body["resources"] = {"trainer": {"num_gpus": num_gpus, "num_ranks": num_ranks}}
    assert "resources.trainer.num_gpus" in await findings_of(body, Capacity(num_cpus=8, num_gpus=8))


async def test_more_gpus_than_a_rank_uses_are_warned_of(body: dict[str, Any]) -> None:
    body["resources"] = {"trainer": {"num_gpus": 4.0}}
    [only] = await warnings_of(body, Capacity(num_cpus=8, num_gpus=8))
    assert "num_ranks 4 with num_gpus 1" in only


async def test_ranks_without_work_are_warned_of(body: dict[str, Any]) -> None:
    body["resources"] = {"trainer": {"num_ranks": 10}}
    [only] = await warnings_of(body, Capacity(num_cpus=16, num_gpus=0))
    assert "sft.batch_size gives only 8 sequences" in only


async def test_an_actor_that_fits_on_no_machine_is_refused(body: dict[str, Any]) -> None:
    body["resources"] = {"trainer": {"num_cpus": 6.0}}
    small_machines = Capacity(num_cpus=8, num_gpus=0, node_num_cpus=4, node_num_gpus=0)
    found = await findings_of(body, small_machines)
    assert "needs 6 CPUs on one machine, none has more than 4" in found["resources.trainer.num_cpus"]
    assert set(found) == {"resources.trainer.num_cpus"}


async def test_ranks_are_counted_in_the_sum(body: dict[str, Any]) -> None:
    body["resources"] = {"trainer": {"num_ranks": 8}}
    assert "needs 9 CPUs in sum" in (await findings_of(body))["resources"]


def write_sizes(folder: Path, **config: int) -> None:
    """So that the model's shape is known; its weights then follow from its sizes."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 12, **config}
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | sizes))


async def test_engines_are_counted_in_the_sum_and_in_the_numbers(body: dict[str, Any]) -> None:
    body["resources"] = {"rollout": {"num_engines": 3, "num_cpus": 2}}
    plan = await plan_experiment(ExperimentSpec.model_validate(body), ROOM)
    assert plan.num_cpus == 7.0
    assert {stage.numbers["engines"] for stage in plan.stages if stage.stage != "sft"} == {3}
    body["resources"]["rollout"]["num_engines"] = 4
    assert "needs 9 CPUs in sum" in (await findings_of(body))["resources"]


async def test_gpus_that_an_engine_would_leave_idle_are_refused(body: dict[str, Any]) -> None:
    body["resources"] = {"rollout": {"num_gpus": 2}}
    found = await findings_of(body, Capacity(num_cpus=8, num_gpus=8))
    assert "set tensor_parallel_size 2" in found["resources.rollout.num_gpus"]


@pytest.mark.parametrize(
    ("parts", "config", "problem"),
    [
        (4, {}, "6 attention heads"),
        (4, {"num_attention_heads": 8, "num_key_value_heads": 6}, "6 key-value heads"),
        (8, {"num_attention_heads": 8, "num_key_value_heads": 2}, "feed-forward layers of width 12"),
    ],
)
async def test_layers_that_cannot_be_divided_are_refused(
    body: dict[str, Any], parts: int, config: dict[str, int], problem: str
) -> None:
    write_sizes(Path(body["model"]["path"]), **config)
    body["resources"] = {"rollout": {"num_gpus": parts, "tensor_parallel_size": parts}}
    found = await findings_of(body, Capacity(num_cpus=8, num_gpus=8))
    assert problem in found["resources.rollout.tensor_parallel_size"]


async def test_key_value_heads_may_be_copied_to_more_gpus_than_there_are_heads(body: dict[str, Any]) -> None:
    write_sizes(Path(body["model"]["path"]), num_attention_heads=8, num_key_value_heads=2)
    body["resources"] = {"rollout": {"num_gpus": 4, "tensor_parallel_size": 4}}
    await plan_experiment(ExperimentSpec.model_validate(body), Capacity(num_cpus=8, num_gpus=8))


async def test_engines_without_work_are_warned_of(body: dict[str, Any]) -> None:
    body["resources"] = {"rollout": {"num_engines": 6}}
    [only] = await warnings_of(body)
    assert "2 engines have none" in only
    del body["rl"], body["evaluation"]
    [only] = await warnings_of(body)
    assert "no stage samples" in only


async def test_weights_that_do_not_sum_to_one_are_warned_of(body: dict[str, Any]) -> None:
    part = {"name": "a", "weight": 0.5, "reward": {"type": "countdown"}}
    body["rl"]["reward"] = {"type": "combined", "parts": [part]}
    [only] = await warnings_of(body)
    assert "sum to 0.5" in only
    body["rl"]["reward"]["parts"].append(part | {"name": "b"})
    assert await warnings_of(body) == []


async def test_programs_without_walls_are_warned_of(body: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "answer": "assert True"} for number in range(10)]
    body["rl"] |= {"data": {"path": str(write_rows(tmp_path / "code.jsonl", rows))}, "reward": {"type": "code_tests"}}
    [only] = await warnings_of(body)
    assert "require_isolation" in only
