"""Which stages are the same."""

from typing import Any

import pytest

from service.contract.stage_keys import reusable_stages
from tests.workers.stage_world import EVALUATION, RL, SFT, make_spec


def key(stage: str, **changes: Any) -> str:
    return reusable_stages(make_spec(**changes))[stage].settings_key  # type: ignore[index]


def sft(**changes: Any) -> dict[str, Any]:
    return {"sft": SFT | changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other", "priority": "low", "max_runtime_s": 60},
        {"rl": RL | {"num_steps": 99}},
        {"rl": RL | {"seed": 4}},
        {"rl": None},
        sft(data={"path": "/copy/of/sft"}),
        sft(save_steps=3, save_total_limit=9),
        {"model": {"path": "/elsewhere", "max_model_len": 4096}},
        {"resources": {"trainer": {"num_cpus": 8}, "rollout": {"num_engines": 2}}},
    ],
)
def test_what_does_not_determine_sft_leaves_its_key(changes: dict[str, Any]) -> None:
    assert key("sft", **changes) == key("sft")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"model": {"path": "/model", "dtype": "bfloat16"}},
        {"model": {"path": "/model", "lora": {"rank": 4}}},
        sft(objective={"type": "sed"}),
        sft(optimizer={"learning_rate": 2e-3}),
        sft(batch_size=4),
        sft(data={"path": "/sft", "completion_field": "answer"}),
        sft(holdout_fraction=0.1, num_best_checkpoints=1, save_steps=3),
        {"resources": {"trainer": {"num_ranks": 2}}},
        {"evaluation": EVALUATION | {"sft_steps": [3]}},
    ],
)
def test_what_determines_sft_changes_its_key(changes: dict[str, Any]) -> None:
    assert key("sft", **changes) != key("sft")


def test_evaluations_after_sft_depend_on_what_was_trained_and_those_of_the_base_model_do_not() -> None:
    other = sft(batch_size=4)
    assert key("evaluate_base", **other) == key("evaluate_base")
    assert key("evaluate_after_sft", **other) != key("evaluate_after_sft")


def test_the_files_behind_a_stage_are_named() -> None:
    stages = reusable_stages(make_spec())
    assert stages["sft"].paths == ("/model", "/sft")
    assert stages["evaluate_after_sft"].paths == ("/model", "/test", "/model", "/sft")


def test_a_hub_dataset_is_named_by_its_commit() -> None:
    hub = {"type": "huggingface", "path": "owner/data", "revision": "0" * 40}
    assert reusable_stages(make_spec(**sft(data=hub)))["sft"].paths == ("/model",)
    assert key("sft", **sft(data=hub)) != key("sft", **sft(data=hub | {"revision": "1" * 40}))


def test_rl_and_what_follows_are_never_reused_nor_is_what_a_function_judges() -> None:
    assert set(reusable_stages(make_spec())) == {"evaluate_base", "sft", "evaluate_after_sft"}
    judged = EVALUATION | {"reward": {"type": "python_function", "function": "a:b"}}
    assert set(reusable_stages(make_spec(evaluation=judged))) == {"sft"}
