"""`sedray import` and the operation behind its twin."""

import json
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from api.cli.commands import app

SFT = {
    "model_name_or_path": "/models/base",
    "dataset_name": "/data/sft.jsonl",
    "output_dir": "out/one",
    "max_length": 64,
}
GRPO = {"model_name_or_path": "out/one", "dataset_name": "/data/rl.jsonl", "num_generations": 4, "epsilon": 0.1}


def test_a_folder_of_files_becomes_one_specification(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(SFT))
    (tmp_path / "grpo.json").write_text(json.dumps({**GRPO, "max_steps": 8, "reward_funcs": ["accuracy_reward"]}))
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    target = tmp_path / "spec.out"
    found = CliRunner().invoke(app, ["import", "trl", str(tmp_path), "-o", str(target), "--num-devices", "1"])
    assert found.exit_code == 0, found.output
    assert "passed over, no configuration of trl" in found.stderr
    spec = yaml.safe_load(target.read_text())
    assert spec["sft"]["max_length"] == 64 and spec["rl"]["num_steps"] == 8
    assert "valid" in found.stdout


def test_what_is_missing_is_told_and_can_be_set(tmp_path: Path) -> None:
    file = tmp_path / "grpo.yaml"
    file.write_text(yaml.safe_dump(GRPO))
    missing = CliRunner().invoke(app, ["import", "trl", str(file)])
    assert missing.exit_code == 1
    assert yaml.safe_load(missing.stdout)["rl"]["num_generations"] == 4
    assert "rl.num_steps" in missing.stderr and "rl.reward" in missing.stderr
    mended = ["--set", "rl.reward={type: exact_match}", "--set", "rl.num_steps=3", "--num-devices", "2", "--json"]
    found = CliRunner().invoke(app, ["import", "trl", str(file), *mended])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["is_valid"]


@pytest.mark.anyio
async def test_the_service_reads_the_same(client: httpx.AsyncClient) -> None:
    body = {"system": "trl", "configs": [{"name": "sft.yaml", "settings": SFT}]}
    found = (await client.post("/api/v1/import", json=body)).json()
    assert found["is_valid"] and found["spec"]["sft"]["max_length"] == 64
    odd = json.dumps({**body, "configs": [{"settings": {**SFT, "foo": "\ud800"}}]}).encode()
    headers = {"Content-Type": "application/json"}
    assert (await client.post("/api/v1/import", content=odd, headers=headers)).status_code == 422
    refused = await client.post("/api/v1/import", json={**body, "configs": [{"settings": {"a": 1}}]})
    assert refused.status_code == 422 and "tells trl configurations" in refused.json()["detail"]
