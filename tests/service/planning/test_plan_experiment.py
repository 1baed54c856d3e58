"""Numbers and findings over real files in a folder."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from service.contract.spec import ExperimentSpec
from service.errors import CannotRun
from service.planning import plan_experiment
from tests.service.planning.toy_experiment import ROOM, findings_of, golds, write_model, write_rows

pytestmark = pytest.mark.anyio


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
        "max_tokens_per_microbatch": 2048,
        "engines": 1,
    }
    assert stages["evaluate_base"].numbers == {"prompts": 6, "samples_per_prompt": 8, "samples": 48, "engines": 1}
    assert (plan.num_cpus, plan.num_gpus, plan.warnings) == (2.0, 0.0, [])


async def test_a_filter_owns_the_prompts_of_all_its_generations(body: dict[str, Any]) -> None:
    body["rl"]["dynamic_sampling"] = {"mode": "filter", "max_gen_batches": 3}
    plan = await plan_experiment(ExperimentSpec.model_validate(body), ROOM)
    numbers = next(stage.numbers for stage in plan.stages if stage.stage == "rl")
    assert (numbers["max_gen_batches_per_step"], numbers["epochs_over_prompts"]) == (3, 6.0)


async def test_a_run_ahead_says_how_far(body: dict[str, Any]) -> None:
    body["rl"] |= {"mode": "async", "max_staleness": 2}
    plan = await plan_experiment(ExperimentSpec.model_validate(body), ROOM)
    numbers = next(stage.numbers for stage in plan.stages if stage.stage == "rl")
    assert {name: numbers[name] for name in ("mode", "max_staleness", "max_samples_ahead")} == {
        "mode": "async",
        "max_staleness": 2,
        "max_samples_ahead": 64,
    }
    assert plan.warnings == []


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
