"""Numbers and findings over real files in a folder."""

import json
import os
import time
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from service.contract.spec import ExperimentSpec
from service.errors import CannotRun
from service.planning import Capacity, plan_experiment

pytestmark = pytest.mark.anyio

ROOM = Capacity(num_cpus=8, num_gpus=0)


def write_model(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    content = {"vocab_size": 50, "max_position_embeddings": 64, "eos_token_id": 2, **config}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    return folder


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pairs(count: int) -> list[Any]:
    return [{"prompt": f"p{number}", "completion": "c"} for number in range(count)]


def golds(count: int) -> list[Any]:
    return [{"prompt": f"p{number}", "answer": "3 5 7 -> 22"} for number in range(count)]


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    """A specification of all stages that can run."""
    prompts = str(write_rows(tmp_path / "prompts.jsonl", golds(10)))
    return {
        "name": "toy",
        "model": {"path": str(write_model(tmp_path / "model")), "max_model_len": 64},
        "sft": {
            "data": {"path": str(write_rows(tmp_path / "sft.jsonl", pairs(25)))},
            "objective": {"type": "sed"},
            "optimizer": {"learning_rate": 1e-3},
            "num_epochs": 3,
            "batch_size": 8,
            "max_length": 64,
        },
        "rl": {
            "data": {"path": prompts},
            "reward": {"type": "countdown"},
            "optimizer": {"learning_rate": 1e-4},
            "num_steps": 5,
            "num_prompts_per_step": 4,
            "num_generations": 8,
            "mini_batch_size": 16,
            "num_iterations": 2,
            "max_completion_length": 16,
        },
        "evaluation": {
            "data": {"path": prompts},
            "reward": {"type": "countdown"},
            "num_prompts": 6,
            "max_completion_length": 16,
        },
    }


async def findings_of(body: dict[str, Any], capacity: Capacity | None = ROOM) -> dict[str, str]:
    """Problem and hint by field."""
    with pytest.raises(CannotRun) as refused:
        await plan_experiment(ExperimentSpec.model_validate(body), capacity)
    return {entry["field"]: f"{entry['problem']} | {entry['hint']}" for entry in refused.value.details["errors"]}


async def warnings_of(body: dict[str, Any], capacity: Capacity | None = ROOM) -> list[str]:
    return (await plan_experiment(ExperimentSpec.model_validate(body), capacity)).warnings


async def test_numbers_follow_from_the_files(body: dict[str, Any]) -> None:
    plan = await plan_experiment(ExperimentSpec.model_validate(body), ROOM)
    stages = {stage.stage: stage for stage in plan.stages}
    assert list(stages) == ["sft", "evaluate_base", "evaluate_after_sft", "rl", "evaluate_after_rl"]
    assert stages["sft"].num_steps == 12
    assert stages["sft"].numbers["samples"] == 25
    assert stages["sft"].numbers["steps_per_epoch"] == 4
    assert stages["rl"].numbers == {
        "prompts": 10,
        "prompts_per_step": 4,
        "samples_per_step": 32,
        "updates_per_step": 4,
        "total_updates": 20,
        "total_samples": 160,
        "epochs_over_prompts": 2.0,
        "max_tokens_per_microbatch": 16384,
    }
    assert stages["evaluate_base"].numbers == {"prompts": 6, "samples_per_prompt": 8, "samples": 48}
    assert (plan.num_cpus, plan.num_gpus, plan.warnings) == (2.0, 0.0, [])


async def test_all_findings_come_at_once(body: dict[str, Any], tmp_path: Path) -> None:
    body["model"]["path"] = str(tmp_path / "nowhere")
    body["sft"]["data"]["path"] = str(tmp_path / "missing.jsonl")
    body["rl"]["num_prompts_per_step"] = 12
    body["resources"] = {"trainer": {"num_cpus": 6}, "rollout": {"num_cpus": 6, "num_gpus": 1}}
    found = await findings_of(body)
    assert set(found) == {
        "model.path",
        "sft.data.path",
        "rl.num_prompts_per_step",
        "resources.rollout.num_gpus",
        "resources",
    }
    assert "does not exist" in found["sft.data.path"]
    assert "needs 1 GPUs in sum, the whole cluster has 0" in found["resources"]


@pytest.mark.parametrize(
    ("removed", "problem"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "no *.safetensors"),
    ],
)
async def test_an_incomplete_model_folder_is_refused(body: dict[str, Any], removed: str, problem: str) -> None:
    Path(body["model"]["path"], removed).unlink()
    assert problem in (await findings_of(body))["model.path"]


async def test_a_model_without_end_token_is_refused(body: dict[str, Any], tmp_path: Path) -> None:
    body["model"]["path"] = str(write_model(tmp_path / "endless", eos_token_id=None))
    assert "end-of-sequence" in (await findings_of(body))["model.path"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("generation_config.json", {"eos_token_id": 2}),
        ("tokenizer_config.json", {"eos_token": {"content": "</s>"}}),
    ],
)
async def test_an_end_token_may_stand_in_other_files(
    body: dict[str, Any], tmp_path: Path, file: str, content: dict[str, Any]
) -> None:
    folder = write_model(tmp_path / "model-2", eos_token_id=None)
    (folder / file).write_text(json.dumps(content))
    body["model"]["path"] = str(folder)
    await plan_experiment(ExperimentSpec.model_validate(body), ROOM)


async def test_a_missing_shard_is_refused(body: dict[str, Any]) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    Path(body["model"]["path"], "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors" in (await findings_of(body))["model.path"]


async def test_lengths_beyond_the_model_are_refused(body: dict[str, Any]) -> None:
    body["model"]["max_model_len"] = 65
    body["sft"]["max_length"] = 100
    assert set(await findings_of(body)) == {"model.max_model_len", "sft.max_length"}


async def test_a_top_k_of_the_whole_vocabulary_is_refused(body: dict[str, Any]) -> None:
    body["sft"]["objective"]["top_k"] = 50
    assert "always 1" in (await findings_of(body))["sft.objective.top_k"]


async def test_a_missing_field_is_answered_with_the_nearest(body: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completions": "c"}]
    body["sft"]["data"]["path"] = str(write_rows(tmp_path / "rows.jsonl", rows))
    assert "did you mean 'completions'?" in (await findings_of(body))["sft.data.completion_field"]


async def test_bad_lines_are_named_and_counted(body: dict[str, Any], tmp_path: Path) -> None:
    rows = ["{", "", "[1]", {"prompt": "p", "completion": " "}, *["no"] * 7, {"prompt": 1, "completion": "c"}]
    body["sft"]["data"]["path"] = str(write_rows(tmp_path / "rows.jsonl", rows))
    found = await findings_of(body)
    assert found["sft.data.path"].startswith("line 1: no valid JSON")
    assert "line 3: a JSON list" in found["sft.data.path"]
    assert "9 bad lines in all" in found["sft.data.path"]
    assert "line 4: 'completion' is empty" in found["sft.data.completion_field"]
    assert "line 12: 'prompt' is 1, which is no text" in found["sft.data.prompt_field"]


async def test_gold_answers_that_do_not_parse_are_named_and_counted(body: dict[str, Any], tmp_path: Path) -> None:
    rows = [*golds(3), *[{"prompt": "p", "answer": f"3 5 -> {number}"} for number in range(7)]]
    body["rl"]["data"]["path"] = str(write_rows(tmp_path / "rows.jsonl", rows))
    found = (await findings_of(body))["rl.data.answer_field"]
    assert "line 4: gold answer '3 5 -> 0' is no Countdown problem" in found
    assert "line 9" not in found
    assert "7 bad lines in all" in found


async def test_rows_that_an_evaluation_does_not_use_are_not_judged(body: dict[str, Any], tmp_path: Path) -> None:
    body["evaluation"]["data"]["path"] = str(write_rows(tmp_path / "rows.jsonl", [*golds(6), "broken"]))
    await plan_experiment(ExperimentSpec.model_validate(body), ROOM)


async def test_an_empty_file_is_refused(body: dict[str, Any], tmp_path: Path) -> None:
    body["sft"]["data"]["path"] = str(write_rows(tmp_path / "rows.jsonl", ["", " "]))
    assert "holds no rows" in (await findings_of(body))["sft.data.path"]


@pytest.mark.parametrize("path", ["rows.jsonl", "../rows.jsonl"])
async def test_a_relative_path_is_refused(body: dict[str, Any], path: str) -> None:
    body["sft"]["data"]["path"] = path
    assert "relative path" in (await findings_of(body))["sft.data.path"]


@pytest.mark.parametrize("url", ["nosuch://host/rows.jsonl", "file:///nowhere/rows.jsonl"])
async def test_a_url_that_cannot_be_read_is_refused(body: dict[str, Any], url: str) -> None:
    body["sft"]["data"]["path"] = url
    assert set(await findings_of(body)) == {"sft.data.path"}


@pytest.mark.parametrize("url", ["http://127.0.0.1/rows.jsonl", "simplecache::https://host/rows.jsonl"])
async def test_the_service_opens_no_address_that_a_user_names(body: dict[str, Any], url: str) -> None:
    body["sft"]["data"]["path"] = url
    assert "data is not read through" in (await findings_of(body))["sft.data.path"]


async def test_a_folder_or_binary_file_is_no_data(body: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n")
    body["sft"]["data"]["path"] = str(tmp_path / "binary")
    body["rl"]["data"]["path"] = str(tmp_path)
    found = await findings_of(body)
    assert "not UTF-8" in found["sft.data.path"]
    assert "cannot be read" in found["rl.data.path"]


async def test_storage_that_hangs_is_given_up(body: dict[str, Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it for reading waits for a writer that never comes
    body["sft"]["data"]["path"] = str(tmp_path / "pipe")
    started = time.monotonic()
    with pytest.raises(CannotRun, match="could not be looked through in time"):
        await plan_experiment(ExperimentSpec.model_validate(body), ROOM, inspection_s=0.2)
    assert time.monotonic() - started < 10


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
