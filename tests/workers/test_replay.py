"""Stored rollouts: read back to the bit, and trained again to the same metrics."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from service.contract.spec import ExperimentSpec
from tests.workers.stage_world import RL, World, make_spec
from tests.workers.tiny_model import (
    make_model_folder,
    make_pairs,
    make_rl_spec,
    make_samples,
    make_sft_spec,
    make_trainer,
    write_lines,
)
from workers.replay import CannotReplay, main, replay
from workers.rollouts import Completion, Prompt, TrainingSample
from workers.stages.rollout_store import load_step, store_step, stored_step_path
from workers.stages.sampling import JudgedGroup

PARTS = ({"form": 0.0, "value": 0.0}, {"form": 1.0, "value": 1.0}, {"form": 0.5, "value": 0.0}, {})


def groups_of(samples: list[TrainingSample], step: int) -> list[JudgedGroup]:
    """Four completions a prompt."""
    groups = []
    for uid in range(len(samples) // 4):
        own = samples[4 * uid : 4 * uid + 4]
        completions = tuple(
            Completion(
                prompt_uid=uid,
                sample_index=index,
                token_ids=sample.completion_token_ids,
                logprobs=sample.rollout_logprobs,
                finish_reason="length",
                text="ü \ud800 w1",
                policy_version=step - 1,
            )
            for index, sample in enumerate(own)
        )
        prompt = Prompt(uid=uid, text="w0 w1", token_ids=own[0].prompt_token_ids, answer="w2")
        groups.append(
            JudgedGroup(prompt=prompt, completions=completions, rewards=(0.0, 1.0, 0.25, 1 / 3), reward_parts=PARTS)
        )
    return groups


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of four steps without SFT, all stored, with a checkpoint after step 2."""
    return make_run(tmp_path_factory.mktemp("run"), [1, 2, 3, 4])


def make_run(folder: Path, stored_steps: list[int], *, sft: bool = False, **model_changes: Any) -> Path:
    model = make_model_folder(folder / "model")
    output = folder / "output"
    rl_spec = make_rl_spec(mini_batch_size=6, num_iterations=2).model_dump(mode="json")
    body = {"name": "toy", "model": {"path": str(model), "max_model_len": 32} | model_changes, "rl": rl_spec}
    if sft:
        data = write_lines(folder / "sft.jsonl", make_pairs(10))
        body["sft"] = make_sft_spec(data, num_epochs=1).model_dump(mode="json")
    spec = ExperimentSpec.model_validate(body)
    assert spec.rl is not None
    trainer = make_trainer(model, **model_changes)
    if spec.sft is not None:
        trainer.prepare_sft(spec.sft, str(output / "checkpoints" / "sft"))
        trainer.sft_steps(max_steps=100, max_seconds=60.0)
        trainer.end_sft()
        trainer.export(str(output / "models" / "sft"))
    trainer.prepare_rl(spec.rl, str(output / "checkpoints" / "rl"))
    for step in range(1, 5):
        samples = make_samples(step)
        metrics = trainer.rl_step(step, samples, temperature=spec.rl.temperature)
        if step in stored_steps:
            store_step(str(output), step, spec, groups_of(samples, step), samples, metrics)
        if step == 2:
            trainer.save_rl(2, policy_version=2)
    return output


def test_what_was_trained_is_read_back_to_the_bit(run: Path) -> None:
    stored = load_step(str(run), 3)
    assert stored.samples == make_samples(3)
    assert stored.step == 3 and stored.spec.name == "toy" and "actor/pg_loss" in stored.metrics


def test_a_file_is_a_table_that_anybody_can_query(run: Path) -> None:
    table = pq.read_table(stored_step_path(str(run), 2))
    assert table["prompt_uid"].to_pylist() == [uid for uid in range(3) for _ in range(4)]
    assert table["reward"].to_pylist()[:4] == [0.0, 1.0, 0.25, 1 / 3]
    assert table["rewards/form"].to_pylist()[:4] == [0.0, 1.0, 0.5, None], "the last one was dropped"
    assert set(table["policy_version"].to_pylist()) == {1}
    assert table["completion"][0].as_py() == "ü \ufffd w1"
    assert [path.name for path in (run / "rollouts" / "rl").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_replayed_step_gives_what_was_logged_to_the_bit(run: Path, step: int) -> None:
    before = sorted(run.rglob("*"))
    found = replay(str(run), step)
    assert {metric.name for metric in found} >= {"actor/pg_loss", "actor/grad_norm", "sampling/mismatch_kl"}
    assert [metric.again for metric in found] == [metric.logged for metric in found]
    assert sorted(run.rglob("*")) == before, "nothing is written"


def test_without_a_checkpoint_the_model_that_sft_exported_is_the_beginning(tmp_path: Path) -> None:
    output = make_run(tmp_path, [1, 2], sft=True)
    found = replay(str(output), 2)
    assert [metric.again for metric in found] == [metric.logged for metric in found]


def test_a_rounded_model_is_no_beginning(tmp_path: Path) -> None:
    output = make_run(tmp_path, [1], sft=True, dtype="bfloat16")
    with pytest.raises(CannotReplay, match="bfloat16 it is merged or rounded"):
        replay(str(output), 1)


def test_the_command_says_whether_all_agree(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(run), "3"]) == 0
    assert "actor/pg_loss" in capsys.readouterr().out
    output = make_run(tmp_path, [3])
    stored = load_step(str(output), 3)
    wrong = stored.metrics | {"actor/grad_norm": stored.metrics["actor/grad_norm"] * 1.01}
    store_step(str(output), 3, stored.spec, groups_of(stored.samples, 3), stored.samples, wrong)
    assert main([str(output), "3"]) == 1
    assert capsys.readouterr().out.count("differs") == 1


def test_a_step_whose_rollouts_are_missing_cannot_be_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = make_run(tmp_path, [4])
    assert main([str(output), "4"]) == 2
    assert "RL step 3 are not stored" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(run: Path, tmp_path: Path) -> None:
    output = make_run(tmp_path, [3])
    next((output / "checkpoints" / "rl" / "step-00000002").glob("*.bin")).write_bytes(b"")
    with pytest.raises(CannotReplay, match="step-00000002 is not whole"):
        replay(str(output), 3)


def test_samples_of_other_groups_are_not_stored(run: Path, tmp_path: Path) -> None:
    stored = load_step(str(run), 1)
    with pytest.raises(ValueError, match="zip"):
        store_step(str(tmp_path), 1, stored.spec, groups_of(stored.samples, 1)[:2], stored.samples, {})


def stored_steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob("rollouts/rl/*.parquet"))


@pytest.mark.parametrize(("every", "steps"), [(1, [*range(1, 21)]), (8, [8, 16]), (None, [])])
def test_a_run_stores_the_steps_that_were_asked_for(tmp_path: Path, every: int | None, steps: list[int]) -> None:
    world = World(make_spec(rl=RL | {"rollout_store_steps": every}, evaluation=None), output_dir=tmp_path)
    world.run()
    assert stored_steps(tmp_path) == steps
    if steps:
        stored = load_step(str(tmp_path), steps[-1])
        assert stored.metrics["actor/grad_norm"] == dict(world.reports.series("actor/grad_norm"))[steps[-1]]
        assert len(stored.samples) == 32
