"""A model folder, data files, and what planning says of a specification over them."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.contract.spec import ExperimentSpec
from service.errors import CannotRun
from service.planning import Capacity, plan_experiment

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


async def findings_of(body: dict[str, Any], capacity: Capacity | None = ROOM) -> dict[str, str]:
    """Problem and hint by field."""
    with pytest.raises(CannotRun) as refused:
        await plan_experiment(ExperimentSpec.model_validate(body), capacity)
    return {entry["field"]: f"{entry['problem']} | {entry['hint']}" for entry in refused.value.details["errors"]}


async def warnings_of(body: dict[str, Any], capacity: Capacity | None = ROOM) -> list[str]:
    return (await plan_experiment(ExperimentSpec.model_validate(body), capacity)).warnings
