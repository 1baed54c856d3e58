"""The rollouts of a step of reinforcement learning as Parquet files: to be queried, and to be trained again.

    OUTPUT/rollouts/rl/step-00000007.parquet          all that the step trained, every `rl.rollout_store_steps` steps
        its metadata         the step, the specification, and the metrics that training on it gave
    OUTPUT/rollouts/rl-sample/step-00000007.parquet   `rl.rollout_sample_size` of all that was generated for the step,
                                                      those that were not trained too; see rollout_sample

A row is a completion, see rollout_rows. A file is whole or not there. A step that is trained again after a crash
replaces its files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.rewards import reward_part_names
from service.contract.spec import ExperimentSpec
from service.contract.stages import RlSpec
from service.contract.stored_rollouts import StoreName, stored_rollouts_folder, stored_rollouts_name
from workers.rollouts import TrainingSample
from workers.seeds import derive_seed
from workers.stages.rollout_rows import StoredCompletion, rows_table
from workers.stages.rollout_sample import Drawn, Kind, draw_sample
from workers.stages.sampling import JudgedGroup

FORMAT = 2
_READABLE = (1, 2)
"""Format 1 had no step, age and version spans in its rows; what is trained was the same."""
_METADATA = b"sedray"
_ASIDE = ".writing-"
_ROW_GROUP_SIZE = 128
"""Rows that a reader must hold at a time."""
_STATISTICS = [
    "step",
    "prompt_uid",
    "policy_version",
    "age",
    "finish_reason",
    "num_tokens",
    "reward",
]
"""Columns whose range a file tells for each group of rows, so that a query need not read it."""
_REPEATING = ["prompt", "answer", "finish_reason"]
"""Columns that are kept as a dictionary; for values that are all different that is slow and large."""
_FLOATS = ["rollout_logprobs.list.element"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepToStore:
    """What is known of a step that has just been trained."""

    step: int
    trained_version: int
    """Of the policy before the step's first update."""
    generated: Sequence[JudgedGroup]
    """All groups."""
    groups: Sequence[JudgedGroup]
    """Those that were trained, in order; one may stand there several times."""
    samples: Sequence[TrainingSample]
    """Their completions as the trainer got them."""
    metrics: Mapping[str, float]
    """The trainer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """One step as it was trained."""

    step: int
    spec: ExperimentSpec
    samples: list[TrainingSample]
    metrics: dict[str, float]
    """The trainer's own, as logged."""


def stored_step_path(output_dir: str, step: int, store: StoreName = "whole") -> str:
    """Where a step's file lies: a path or fsspec URL."""
    return f"{stored_rollouts_folder(output_dir, store)}/{stored_rollouts_name(step)}"


def store_rollouts(output_dir: str, spec: ExperimentSpec, trained: StepToStore) -> None:
    """Write what the specification says is kept of a step.

    Raises ValueError if the samples are not those of the groups.
    """
    rl = _rl(spec)
    if rl.rollout_store_steps and trained.step % rl.rollout_store_steps == 0:
        _store_whole(output_dir, spec, trained)
    if rl.rollout_sample_size:
        _store_sample(output_dir, spec, trained)


def load_step(output_dir: str, step: int) -> StoredStep:
    """Read what a step trained, to the last bit.

    Raises FileNotFoundError, and ValueError if the file is of another kind.
    """
    path = stored_step_path(output_dir, step)
    with fsspec.open(path, "rb") as file:
        table = pq.read_table(file)
    found = (table.schema.metadata or {}).get(_METADATA)
    facts: dict[str, Any] = json.loads(found) if found else {}
    if facts.get("format") not in _READABLE:
        raise ValueError(f"{path} was not written as rollouts of format {FORMAT}; use the version that wrote it")
    # What a later version has added to a sample has its default in older files.
    names = [field.name for field in fields(TrainingSample) if field.name in table.column_names]
    return StoredStep(
        step=facts["step"],
        spec=ExperimentSpec.model_validate(facts["spec"]),
        samples=[_sample(row) for row in table.select(names).to_pylist()],
        metrics=facts["metrics"],
    )


def _store_whole(output_dir: str, spec: ExperimentSpec, trained: StepToStore) -> None:
    rows = _trained_rows(trained)
    table = rows_table(
        rows,
        step=trained.step,
        trained_version=trained.trained_version,
        part_names=reward_part_names(_rl(spec).reward),
    )
    facts = {"spec": spec.model_dump(mode="json"), "metrics": dict(trained.metrics)}
    _write(stored_step_path(output_dir, trained.step, "whole"), table, facts | {"step": trained.step})


def _store_sample(output_dir: str, spec: ExperimentSpec, trained: StepToStore) -> None:
    rows = _generated_rows(trained)
    drawn = _draw(rows, trained, spec)
    table = rows_table(
        [rows[one.index] for one in drawn],
        step=trained.step,
        trained_version=trained.trained_version,
        part_names=reward_part_names(_rl(spec).reward),
        weights=[one.weight for one in drawn],
    )
    facts = {"step": trained.step, "num_generated": len(rows)}
    _write(stored_step_path(output_dir, trained.step, "sample"), table, facts)


def _draw(rows: Sequence[StoredCompletion], trained: StepToStore, spec: ExperimentSpec) -> list[Drawn]:
    kinds = [
        Kind(
            reward=row.reward,
            num_tokens=len(row.completion.token_ids),
            age=trained.trained_version - row.completion.policy_version,
            is_cut=row.completion.finish_reason == "length",
        )
        for row in rows
    ]
    return draw_sample(kinds, _rl(spec).rollout_sample_size, derive_seed(spec.rl_seed, "rollout sample", trained.step))


def _trained_rows(trained: StepToStore) -> list[StoredCompletion]:
    """A row for each sample, in order: a copy of a group has rows of its own."""
    places = [(group, index) for group in trained.groups for index in range(len(group.completions))]
    return [
        StoredCompletion(group=group, index=index, sample=sample)
        for (group, index), sample in zip(places, trained.samples, strict=True)
    ]


def _generated_rows(trained: StepToStore) -> list[StoredCompletion]:
    """A row for each completion, whether it was trained or not."""
    by_place = {(id(row.group), row.index): row for row in reversed(_trained_rows(trained))}
    generated = chain.from_iterable(
        [StoredCompletion(group=group, index=index, sample=None) for index in range(len(group.completions))]
        for group in trained.generated
    )
    return [by_place.get((id(row.group), row.index), row) for row in generated]


def _rl(spec: ExperimentSpec) -> RlSpec:
    assert spec.rl is not None, "only such a stage stores steps"
    return spec.rl


def _sample(columns: Mapping[str, Any]) -> TrainingSample:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in columns.items()
    }
    return TrainingSample(**values)


def _write(url: str, table: Any, facts: Mapping[str, Any]) -> None:
    """Write a table with facts beside it, which appears when it is whole."""
    about = json.dumps({"format": FORMAT, **facts}).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({_METADATA: about}),
        sink,
        compression="zstd",
        row_group_size=_ROW_GROUP_SIZE,
        write_statistics=_STATISTICS,
        use_dictionary=_REPEATING,
        use_byte_stream_split=_FLOATS,
    )
    filesystem, path = fsspec.core.url_to_fs(url)
    folder, name = path.rsplit("/", 1)
    filesystem.makedirs(folder, exist_ok=True)
    filesystem.pipe_file(f"{folder}/{_ASIDE}{name}", sink.getvalue().to_pybytes())
    filesystem.mv(f"{folder}/{_ASIDE}{name}", path)
