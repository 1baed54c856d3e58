"""Stored completions as rows of a Parquet table: text for people, token ids and log-probs as they were trained."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from service.contract.stored_rollouts import PART_PREFIX
from workers.reporter.text import storable
from workers.rollouts import Completion, Prompt, TrainingSample
from workers.stages.sampling import JudgedGroup

_SPAN = pa.struct([("version", pa.int64()), ("start", pa.int32()), ("end", pa.int32())])
_FIELDS: Mapping[str, Any] = {
    "step": pa.int64(),
    "prompt_uid": pa.int64(),
    "sample_index": pa.int64(),
    "policy_version": pa.int64(),
    "age": pa.int64(),
    "prompt": pa.string(),
    "answer": pa.string(),
    "completion": pa.string(),
    "finish_reason": pa.string(),
    "num_tokens": pa.int64(),
    "reward": pa.float64(),
    "advantage": pa.float64(),
    "is_trained": pa.bool_(),
    "prompt_token_ids": pa.list_(pa.int32()),
    "completion_token_ids": pa.list_(pa.int32()),
    # In double precision, as they come from the engine: what is trained again must be the same to the bit.
    "rollout_logprobs": pa.list_(pa.float64()),
    "version_spans": pa.list_(_SPAN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCompletion:
    """One row's source."""

    group: JudgedGroup
    index: int
    """In the group."""
    sample: TrainingSample | None
    """What the trainer got; None for a completion that was generated but is no part of the step."""

    @property
    def prompt(self) -> Prompt:
        """What was asked."""
        return self.group.prompt

    @property
    def completion(self) -> Completion:
        """What was answered."""
        return self.group.completions[self.index]

    @property
    def reward(self) -> float:
        """As judged, before penalties for length."""
        return self.group.rewards[self.index]


def rows_table(
    rows: Sequence[StoredCompletion],
    *,
    step: int,
    trained_version: int,
    part_names: Sequence[str],
    weights: Sequence[float] | None = None,
) -> Any:
    """A pyarrow table; its columns depend on the reward's parts and on whether there are `weights`, never on the rows.

    `trained_version` is that of the policy before the step's first update, from which ages are counted.
    """
    fields = dict(_FIELDS) | {PART_PREFIX + name: pa.float64() for name in part_names}
    values = [_values(row, step, trained_version, part_names) for row in rows]
    if weights is not None:
        fields["sample_weight"] = pa.float64()
        values = [one | {"sample_weight": weight} for one, weight in zip(values, weights, strict=True)]
    return pa.Table.from_pylist(values, schema=pa.schema(list(fields.items())))


def _values(row: StoredCompletion, step: int, trained_version: int, part_names: Sequence[str]) -> dict[str, Any]:
    completion, sample = row.completion, row.sample
    parts = row.group.reward_parts[row.index] if row.group.reward_parts else {}
    return {
        "step": step,
        "prompt_uid": row.prompt.uid,
        "sample_index": completion.sample_index,
        "policy_version": completion.policy_version,
        "age": trained_version - completion.policy_version,
        "prompt": storable(row.prompt.text),
        "answer": storable(row.prompt.answer),
        "completion": storable(completion.text),
        "finish_reason": completion.finish_reason,
        "num_tokens": len(completion.token_ids),
        "reward": row.reward,
        "advantage": None if sample is None else sample.advantage,
        "is_trained": sample is not None and sample.is_trained,
        "prompt_token_ids": row.prompt.token_ids if sample is None else sample.prompt_token_ids,
        "completion_token_ids": completion.token_ids if sample is None else sample.completion_token_ids,
        "rollout_logprobs": completion.logprobs if sample is None else sample.rollout_logprobs,
        "version_spans": [asdict(span) for span in completion.spans],
        **{PART_PREFIX + name: parts.get(name) for name in part_names},
    }
