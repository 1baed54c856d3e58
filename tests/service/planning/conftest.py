"""What the tests of planning share."""

from pathlib import Path
from typing import Any

import pytest

from tests.service.planning.toy_experiment import golds, pairs, write_model, write_rows


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
