"""What a step of reinforcement learning trained, kept as one Parquet file: to be queried, and to be trained again.

    OUTPUT/rollouts/rl/step-00000007.parquet
        a row per sample     prompt and completion as text, uid, index, reward and its parts, policy version, and the
                             sample as the trainer got it: token ids, log-probs of the engine, advantage
        its metadata         the step, the specification, and the metrics that training on it gave

A file is whole or not there. A step that is trained again after a crash replaces its file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.spec import ExperimentSpec
from service.contract.stored_rollouts import stored_rollouts_folder, stored_rollouts_name
from workers.reporter.text import storable
from workers.rollouts import TrainingSample
from workers.stages.sampling import JudgedGroup

FORMAT = 1
_METADATA = b"sedray"
_ASIDE = ".writing-"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """One step as it was trained."""

    step: int
    spec: ExperimentSpec
    samples: list[TrainingSample]
    metrics: dict[str, float]
    """The trainer's own, as logged."""


def stored_step_path(output_dir: str, step: int) -> str:
    """Where a step's file lies: a path or fsspec URL."""
    return f"{stored_rollouts_folder(output_dir)}/{stored_rollouts_name(step)}"


def store_step(
    output_dir: str,
    step: int,
    spec: ExperimentSpec,
    groups: Sequence[JudgedGroup],
    samples: Sequence[TrainingSample],
    metrics: Mapping[str, float],
) -> None:
    """Write what `step` trained; `samples` are those of the groups, in their order.

    Raises ValueError if their numbers differ.
    """
    judged = [(group, index) for group in groups for index in range(len(group.completions))]
    part_names = sorted({name for group in groups for parts in group.reward_parts for name in parts})
    rows = [
        _readable(group, index, part_names) | _columns(sample)
        for (group, index), sample in zip(judged, samples, strict=True)
    ]
    facts = {"format": FORMAT, "step": step, "spec": spec.model_dump(mode="json"), "metrics": dict(metrics)}
    table = pa.Table.from_pylist(rows).replace_schema_metadata({_METADATA: json.dumps(facts).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    _write_whole(stored_step_path(output_dir, step), sink.getvalue().to_pybytes())


def load_step(output_dir: str, step: int) -> StoredStep:
    """Read what a step trained, to the last bit.

    Raises FileNotFoundError, and ValueError if the file is of another kind.
    """
    path = stored_step_path(output_dir, step)
    with fsspec.open(path, "rb") as file:
        table = pq.read_table(file)
    found = (table.schema.metadata or {}).get(_METADATA)
    facts: dict[str, Any] = json.loads(found) if found else {}
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path} was not written as rollouts of format {FORMAT}; use the version that wrote it")
    # What a later version has added to a sample has its default in older files.
    names = [field.name for field in fields(TrainingSample) if field.name in table.column_names]
    return StoredStep(
        step=facts["step"],
        spec=ExperimentSpec.model_validate(facts["spec"]),
        samples=[_sample(row) for row in table.select(names).to_pylist()],
        metrics=facts["metrics"],
    )


def _readable(group: JudgedGroup, index: int, part_names: Sequence[str]) -> dict[str, Any]:
    completion = group.completions[index]
    parts = group.reward_parts[index] if group.reward_parts else {}
    return {
        "prompt_uid": group.prompt.uid,
        "sample_index": completion.sample_index,
        "policy_version": completion.policy_version,
        "prompt": storable(group.prompt.text),
        "answer": storable(group.prompt.answer),
        "completion": storable(completion.text),
        "finish_reason": completion.finish_reason,
        "num_tokens": len(completion.token_ids),
        "reward": group.rewards[index],
        **{f"rewards/{name}": parts.get(name) for name in part_names},
    }


def _columns(sample: TrainingSample) -> dict[str, Any]:
    return {field.name: getattr(sample, field.name) for field in fields(TrainingSample)}


def _sample(columns: Mapping[str, Any]) -> TrainingSample:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in columns.items()
    }
    return TrainingSample(**values)


def _write_whole(url: str, content: bytes) -> None:
    filesystem, path = fsspec.core.url_to_fs(url)
    folder, name = path.rsplit("/", 1)
    filesystem.makedirs(folder, exist_ok=True)
    filesystem.pipe_file(f"{folder}/{_ASIDE}{name}", content)
    filesystem.mv(f"{folder}/{_ASIDE}{name}", path)
