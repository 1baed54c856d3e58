"""A stored step trained again: where the replay begins, what it says, and what it misses."""

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from service.contract.spec import ExperimentSpec
from tests.workers.rollout_groups import step_to_store
from tests.workers.tiny_model import (
    make_model_folder,
    make_pairs,
    make_rl_spec,
    make_samples,
    make_sft_spec,
    make_trainer,
    write_lines,
)
from workers.replay import CannotReplay, replay
from workers.replay.command import main
from workers.stages.rollout_store import load_step, store_rollouts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of four steps without SFT, all stored, with a checkpoint after step 2."""
    return make_run(tmp_path_factory.mktemp("run"), [1, 2, 3, 4])


def make_run(folder: Path, stored_steps: list[int], *, sft: dict[str, Any] | None = None, **model: Any) -> Path:
    folder_of_model, output = make_model_folder(folder / "model"), folder / "output"
    spec = spec_of(folder, folder_of_model, sft, model)
    assert spec.rl is not None
    trainer = make_trainer(folder_of_model, **{"lora": spec.model.lora, "dtype": spec.model.dtype})
    if spec.sft is not None:
        trainer.prepare_sft(spec.sft, str(output / "checkpoints" / "sft"))
        trainer.sft_steps(max_steps=100, max_seconds=60.0)
        trainer.end_sft()
        trainer.export(str(output / "models" / "sft"))
    trainer.prepare_rl(spec.rl, str(output / "checkpoints" / "rl"))
    for step in range(1, 5):
        metrics = trainer.rl_step(step, make_samples(step), temperature=spec.rl.temperature)
        if step in stored_steps:
            store_rollouts(str(output), spec, step_to_store(step, metrics))
        if step == 2:
            trainer.save_rl(2, policy_version=2)
    return output


def spec_of(folder: Path, model_folder: Path, sft: dict[str, Any] | None, model: dict[str, Any]) -> ExperimentSpec:
    rl = make_rl_spec(mini_batch_size=6, num_iterations=2, beta=0.1, rollout_store_steps=1).model_dump(mode="json")
    body = {"name": "toy", "model": {"path": str(model_folder), "max_model_len": 32} | model, "rl": rl}
    if sft is not None:
        data = write_lines(folder / "sft.jsonl", make_pairs(10))
        body["sft"] = make_sft_spec(data, **({"num_epochs": 1} | sft)).model_dump(mode="json")
    return ExperimentSpec.model_validate(body)


def assert_equal_to_the_bit(output: Path | str, step: int) -> None:
    found = replay(str(output), step)
    assert [metric.again for metric in found] == [metric.logged for metric in found]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_replayed_step_gives_what_was_logged_to_the_bit_and_writes_nothing(run: Path, step: int) -> None:
    before = sorted(run.rglob("*"))
    assert_equal_to_the_bit(run, step)
    assert sorted(run.rglob("*")) == before


BEST = {"num_epochs": 4, "save_steps": 2, "holdout_fraction": 0.3, "num_best_checkpoints": 2, "export": "best"}


@pytest.mark.parametrize(
    ("sft", "model"),
    [
        ({}, {}),
        ({}, {"dtype": "bfloat16"}),
        ({}, {"lora": {"rank": 2}, "dtype": "bfloat16"}),
        (BEST, {"dtype": "bfloat16"}),
    ],
    ids=["float32", "bfloat16", "adapters", "the best checkpoint"],
)
def test_without_a_checkpoint_of_rl_what_sft_ended_with_is_the_beginning(
    tmp_path: Path, sft: dict[str, Any], model: dict[str, Any]
) -> None:
    assert_equal_to_the_bit(make_run(tmp_path, [1, 2], sft=sft, **model), 2)


def test_a_float32_model_that_sft_exported_is_the_beginning_too(tmp_path: Path) -> None:
    output = make_run(tmp_path, [1, 2], sft={})
    shutil.rmtree(output / "checkpoints" / "sft")
    assert_equal_to_the_bit(output, 2)
    shutil.rmtree(output / "models")
    with pytest.raises(CannotReplay, match="models/sft is not there"):
        replay(str(output), 2)


def test_a_rounded_model_is_no_beginning(tmp_path: Path) -> None:
    output = make_run(tmp_path, [1], sft={}, dtype="bfloat16")
    next((output / "checkpoints" / "sft" / "step-00000003").glob("*.bin")).write_bytes(b"")
    with pytest.raises(CannotReplay, match=r"(?s)checkpoints/sft does not hold .* bfloat16 it is merged or rounded"):
        replay(str(output), 1)


def test_outputs_may_lie_at_a_url(run: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{run}/", "/replayed/", recursive=True)
    assert_equal_to_the_bit("memory://replayed", 3)
    assert_equal_to_the_bit("memory://replayed/", 1)


def test_the_command_says_whether_all_agree(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(run), "3"]) == 0
    assert "actor/pg_loss" in capsys.readouterr().out
    output = make_run(tmp_path, [3])
    stored = load_step(str(output), 3)
    wrong = stored.metrics | {"actor/grad_norm": stored.metrics["actor/grad_norm"] * 1.01}
    store_rollouts(str(output), stored.spec, step_to_store(3, wrong))
    assert main([str(output), "3", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows if not row["agrees"]] == ["actor/grad_norm"]


def test_all_steps_that_are_missing_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = make_run(tmp_path, [4])
    assert main([str(output), "3"]) == 2
    assert "the rollouts of RL step 3 are not stored" in capsys.readouterr().err
    assert main([str(output), "4"]) == 2
    assert "RL step 3 are not stored" in capsys.readouterr().err
    shutil.rmtree(output / "checkpoints")
    with pytest.raises(CannotReplay, match=r"RL step 1-3 are not stored .* starts from RL's beginning"):
        replay(str(output), 4)
    assert main([str(output), "0"]) == 2


def test_a_damaged_checkpoint_is_passed_over_or_named(run: Path, tmp_path: Path) -> None:
    output = make_run(tmp_path, [2, 3])
    next((output / "checkpoints" / "rl" / "step-00000002").glob("*.bin")).write_bytes(b"")
    with pytest.raises(CannotReplay, match=r"RL step 1 are not stored .*step-00000002 is not whole"):
        replay(str(output), 3)
    shutil.copy(run / "rollouts" / "rl" / "step-00000001.parquet", output / "rollouts" / "rl")
    assert_equal_to_the_bit(output, 3)
