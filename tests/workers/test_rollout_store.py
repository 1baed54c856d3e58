"""What of a step is stored, and that it is read back to the bit."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from service.contract.spec import ExperimentSpec
from tests.workers.rollout_groups import REWARD, group_of, groups_of, step_to_store
from tests.workers.stage_world import RL, World, make_spec
from tests.workers.tiny_model import make_rl_spec, make_samples
from workers.rollouts import VersionSpan
from workers.stages.rollout_store import load_step, store_rollouts, stored_step_path


def spec_with(**rl: Any) -> ExperimentSpec:
    settings = make_rl_spec(**rl).model_dump(mode="json") | {"reward": REWARD.model_dump(mode="json")}
    return ExperimentSpec.model_validate({"name": "toy", "model": {"path": "/model"}, "rl": settings})


def table_of(output: Path, step: int, store: Any) -> Any:
    return pq.read_table(stored_step_path(str(output), step, store))


def test_what_was_trained_is_read_back_to_the_bit(tmp_path: Path) -> None:
    store_rollouts(str(tmp_path), spec_with(rollout_store_steps=1), step_to_store(3, {"actor/pg_loss": 0.1}))
    stored = load_step(str(tmp_path), 3)
    assert stored.samples == make_samples(3)
    assert (stored.step, stored.spec.name, stored.metrics) == (3, "toy", {"actor/pg_loss": 0.1})


def test_a_whole_step_is_a_table_that_anybody_can_query(tmp_path: Path) -> None:
    store_rollouts(str(tmp_path), spec_with(rollout_store_steps=1), step_to_store(2, {}))
    table = table_of(tmp_path, 2, "whole")
    assert table["prompt_uid"].to_pylist() == [uid for uid in range(3) for _ in range(4)]
    assert table["reward"].to_pylist()[:4] == [0.0, 1.0, 0.25, 1 / 3]
    assert table["rewards/form"].to_pylist()[:4] == [0.0, 1.0, 0.5, None], "the last one was dropped"
    assert set(table["step"].to_pylist()) == {2}
    assert table["policy_version"].to_pylist()[:4] == [1, 0, 1, 1]
    assert table["age"].to_pylist()[:4] == [0, 1, 0, 0]
    assert table["completion"][0].as_py() == "ü \ufffd w1"
    assert table["version_spans"][0].as_py() == [{"version": 1, "start": 0, "end": table["num_tokens"][0].as_py()}]
    assert [path.name for path in (tmp_path / "rollouts" / "rl").iterdir()] == ["step-00000002.parquet"]


def test_a_completion_of_two_policies_is_stored_with_both(tmp_path: Path) -> None:
    step = step_to_store(2, {})
    spans = (VersionSpan(version=0, start=0, end=1), VersionSpan(version=1, start=1, end=4))
    first = step.groups[0]
    mixed = replace(first.completions[0], policy_version=0, version_spans=spans)
    groups = [replace(first, completions=(mixed, *first.completions[1:])), *step.groups[1:]]
    store_rollouts(str(tmp_path), spec_with(rollout_store_steps=1), replace(step, groups=groups))
    table = table_of(tmp_path, 2, "whole")
    assert table["version_spans"][0].as_py() == [asdict(span) for span in spans]
    assert (table["policy_version"][0].as_py(), table["age"][0].as_py()) == (0, 1)


def test_the_sample_has_what_was_generated_and_not_trained_too(tmp_path: Path) -> None:
    samples = make_samples(1)
    groups = [group_of(samples[4 * uid : 4 * uid + 4], uid, version=0) for uid in range(3)]
    spec = spec_with(rollout_sample_size=100)
    store_rollouts(
        str(tmp_path), spec, step_to_store(1, {}, generated=groups, groups=groups[:1] * 2, samples=samples[:4] * 2)
    )
    table = table_of(tmp_path, 1, "sample")
    assert table["prompt_uid"].to_pylist() == [uid for uid in range(3) for _ in range(4)], "a copy is no further row"
    assert table["is_trained"].to_pylist() == [True] * 4 + [False] * 8
    assert table["advantage"].to_pylist() == [sample.advantage for sample in samples[:4]] + [None] * 8
    assert table["completion_token_ids"].to_pylist() == [list(sample.completion_token_ids) for sample in samples]
    assert table["sample_weight"].to_pylist() == [1.0] * 12


def test_a_sample_keeps_to_its_size_and_is_the_same_again(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        store_rollouts(str(tmp_path / folder), spec_with(rollout_sample_size=5), step_to_store(4, {}))
    first, second = (table_of(tmp_path / folder, 4, "sample") for folder in ("a", "b"))
    assert first.num_rows == 5
    assert first.equals(second)
    assert json.loads(first.schema.metadata[b"sedray"]) == {"format": 2, "step": 4, "num_generated": 12}


def test_all_files_of_a_run_have_the_same_columns_though_a_part_has_no_score(tmp_path: Path) -> None:
    spec = spec_with(rollout_sample_size=1)
    names = []
    for step in range(1, 9):
        store_rollouts(str(tmp_path), spec, step_to_store(step, {}))
        names.append(table_of(tmp_path, step, "sample").schema.remove_metadata())
    assert all(one.equals(names[0]) for one in names)


def test_samples_of_other_groups_are_not_stored(tmp_path: Path) -> None:
    trained = step_to_store(1, {}, groups=groups_of(make_samples(1), 0)[:2])
    with pytest.raises(ValueError, match="zip"):
        store_rollouts(str(tmp_path), spec_with(rollout_store_steps=1), trained)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    store_rollouts(str(tmp_path), spec_with(rollout_store_steps=1), step_to_store(1, {}))
    path = Path(stored_step_path(str(tmp_path), 1))
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"sedray": b'{"format": 77}'}), path)
    with pytest.raises(ValueError, match="not written as rollouts of format 2"):
        load_step(str(tmp_path), 1)


def stored_steps(folder: Path, store: str) -> list[int]:
    return sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob(f"rollouts/{store}/*.parquet"))


@pytest.mark.parametrize(("every", "steps"), [(1, [*range(1, 21)]), (8, [8, 16]), (None, [])])
def test_a_run_stores_the_steps_that_were_asked_for(tmp_path: Path, every: int | None, steps: list[int]) -> None:
    world = World(make_spec(rl=RL | {"rollout_store_steps": every}, evaluation=None), output_dir=tmp_path)
    world.run()
    assert stored_steps(tmp_path, "rl") == steps
    assert stored_steps(tmp_path, "rl-sample") == []
    if steps:
        stored = load_step(str(tmp_path), steps[-1])
        assert stored.metrics["actor/grad_norm"] == dict(world.reports.series("actor/grad_norm"))[steps[-1]]
        assert len(stored.samples) == 32


def test_every_step_leaves_a_sample_of_the_policy_that_was_trained(tmp_path: Path) -> None:
    rl = {name: value for name, value in RL.items() if name != "rollout_sample_size"}
    World(make_spec(rl=rl | {"num_generations": 16}, evaluation=None), output_dir=tmp_path).run()
    assert stored_steps(tmp_path, "rl-sample") == [*range(1, 21)]
    table = table_of(tmp_path, 7, "sample")
    assert table.num_rows == 32
    assert set(table["age"].to_pylist()) == {0}
    assert set(table["policy_version"].to_pylist()) == {7}, "the end of SFT is version 1"
