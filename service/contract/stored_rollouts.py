"""The rollouts of reinforcement learning below an experiment's folder: where they lie, and how they are asked for.

    OUTPUT/rollouts/rl/step-00000007.parquet          whole: all that step 7 trained
    OUTPUT/rollouts/rl-sample/step-00000007.parquet   sample: some of all that was generated for step 7

Workers write, the service reads, and the client asks in the same terms.
"""

from re import fullmatch
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from service.contract.strict_model import WireModel

StoreName = Literal["sample", "whole"]
RolloutOrder = Literal["step", "-step", "reward", "-reward", "num_tokens", "-num_tokens"]
RolloutColumn = Literal[
    "step",
    "prompt_uid",
    "sample_index",
    "policy_version",
    "age",
    "prompt",
    "answer",
    "completion",
    "finish_reason",
    "num_tokens",
    "reward",
    "reward_parts",
    "advantage",
    "is_trained",
    "sample_weight",
    "prompt_token_ids",
    "completion_token_ids",
    "rollout_logprobs",
    "version_spans",
]
COLUMNS: tuple[RolloutColumn, ...] = get_args(RolloutColumn)
TOKEN_COLUMNS: frozenset[RolloutColumn] = frozenset(
    ("prompt_token_ids", "completion_token_ids", "rollout_logprobs", "version_spans")
)
"""One value per token or stretch of tokens: left out of JSON unless they are asked for."""
MAX_LIMIT = 500
PART_PREFIX = "rewards/"
"""Begins the names of the columns that a file has for `reward_parts`."""

_RANGES = (("from_step", "to_step"), ("min_reward", "max_reward"), ("min_tokens", "max_tokens"), ("min_age", "max_age"))
_FOLDERS: dict[StoreName, str] = {"sample": "rl-sample", "whole": "rl"}


class RolloutFilter(WireModel):
    """Which stored completions are meant. What is left out excludes none; all else must hold together."""

    store: StoreName = "sample"
    """`sample`: some of every step, by `rl.rollout_sample_size`; `whole`: all of the steps that
    `rl.rollout_store_steps` keeps."""
    from_step: int | None = Field(default=None, ge=1, lt=2**53)
    to_step: int | None = Field(default=None, ge=1, lt=2**53)
    """The last one itself included, as in all ranges."""
    min_reward: float | None = Field(default=None, allow_inf_nan=False)
    max_reward: float | None = Field(default=None, allow_inf_nan=False)
    min_tokens: int | None = Field(default=None, ge=0, lt=2**53)
    max_tokens: int | None = Field(default=None, ge=0, lt=2**53)
    policy_version: int | None = Field(default=None, ge=0, lt=2**53)
    """Of the completion's oldest token."""
    min_age: int | None = Field(default=None, ge=0, lt=2**53)
    max_age: int | None = Field(default=None, ge=0, lt=2**53)
    """Versions between the oldest token's policy and the one that was trained; 0 in step."""
    prompt_uid: int | None = Field(default=None, ge=0, lt=2**53)
    finish_reason: Literal["stop", "length"] | None = None
    contains: str | None = Field(default=None, min_length=1, max_length=500)
    """Text of the completion, in whatever case."""
    prompt_contains: str | None = Field(default=None, min_length=1, max_length=500)

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> Self:
        for low_name, high_name in _RANGES:
            low, high = getattr(self, low_name), getattr(self, high_name)
            if low is not None and high is not None and low > high:
                raise ValueError(f"{low_name} {low} lies above {high_name} {high}, so nothing could be found")
        return self


class RolloutQuery(RolloutFilter):
    """What to find, in which order, and how much of it."""

    order: RolloutOrder = "-step"
    """A minus means falling; completions of one step, or of one value, stay in the order in which they were stored."""
    limit: int | None = Field(default=None, ge=1, lt=2**53)
    """Completions on a page, at most 500 and 50 if left out; of an export all."""
    columns: list[RolloutColumn] | None = Field(default=None, min_length=1)
    """Left out: all that people read, and in an export all there are."""
    cursor: str | None = Field(default=None, min_length=1, max_length=500)
    """`next_cursor` of the page before."""
    format: Literal["json", "parquet"] = "json"

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if self.format == "json" and (self.limit or 1) > MAX_LIMIT:
            raise ValueError(f"limit {self.limit}: a page has at most {MAX_LIMIT}; go on with its next_cursor")
        if self.format == "parquet" and self.order.lstrip("-") != "step" and (self.limit or MAX_LIMIT + 1) > MAX_LIMIT:
            raise ValueError(
                f"order {self.order!r} must see everything before its first row, so an export in it needs a limit of "
                f"at most {MAX_LIMIT}; or take order 'step' and sort the file"
            )
        return self

    @model_validator(mode="after")
    def _columns_are_there(self) -> Self:
        if self.store == "whole" and "sample_weight" in (self.columns or ()):
            raise ValueError("sample_weight belongs to store 'sample': a whole step has every completion")
        return self

    @property
    def wanted_columns(self) -> list[RolloutColumn]:
        """Those that were asked for, each once, or all that fit the format."""
        if self.columns is not None:
            return list(dict.fromkeys(self.columns))
        return [
            column
            for column in COLUMNS
            if not (self.format == "json" and column in TOKEN_COLUMNS)
            and not (self.store == "whole" and column == "sample_weight")
        ]

    def as_parameters(self) -> dict[str, Any]:
        """The query string's values: what is not left out."""
        return self.model_dump(exclude_defaults=True)


def stored_rollouts_folder(output_dir: str, store: StoreName) -> str:
    """The folder or fsspec URL of the steps' files."""
    return f"{output_dir.rstrip('/')}/rollouts/{_FOLDERS[store]}"


def stored_rollouts_name(step: int) -> str:
    """The name of a step's file; names sort by step."""
    return f"step-{step:08d}.parquet"


def step_of_stored_rollouts(name: str) -> int | None:
    """The step of a file, None for what is no such file: one that is being written, or somebody else's."""
    found = fullmatch(r"step-(\d{8,})\.parquet", name)
    return int(found[1]) if found else None
