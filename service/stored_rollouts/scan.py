"""Reading one step's file: which of its rows a filter lets pass, and the columns of chosen rows.

    file ──> groups of rows that may have some, by their statistics ──> rows that pass, by the filter's columns alone
         ──> wanted columns of the chosen ones

One group of rows is held at a time; the store writes them small.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from service.contract.stored_rollouts import (
    PART_PREFIX,
    RolloutColumn,
    RolloutFilter,
    stored_rollouts_folder,
    stored_rollouts_name,
)

_SPAN = pa.struct([("version", pa.int64()), ("start", pa.int32()), ("end", pa.int32())])
_TYPES: dict[RolloutColumn, Any] = {
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
    "sample_weight": pa.float64(),
    "prompt_token_ids": pa.list_(pa.int32()),
    "completion_token_ids": pa.list_(pa.int32()),
    "rollout_logprobs": pa.list_(pa.float64()),
    "version_spans": pa.list_(_SPAN),
}
_FORMAT = ds.ParquetFileFormat()


def columns_schema(columns: Sequence[RolloutColumn], part_names: Sequence[str]) -> Any:
    """The pyarrow schema of chosen columns; `reward_parts` are as many columns as the reward has parts."""
    fields: list[tuple[str, Any]] = []
    for column in columns:
        if column == "reward_parts":
            fields += [(PART_PREFIX + name, pa.float64()) for name in part_names]
        else:
            fields.append((column, _TYPES[column]))
    return pa.schema(fields)


def filter_expression(wanted: RolloutFilter) -> Any:
    """What a row must fulfil, as a pyarrow expression; None if all pass. Steps are chosen by their files."""
    conditions = [
        *_bounds("reward", wanted.min_reward, wanted.max_reward),
        *_bounds("num_tokens", wanted.min_tokens, wanted.max_tokens),
        *_bounds("policy_version", wanted.policy_version, wanted.policy_version),
        *_bounds("age", wanted.min_age, wanted.max_age),
        *_bounds("prompt_uid", wanted.prompt_uid, wanted.prompt_uid),
        *_bounds("finish_reason", wanted.finish_reason, wanted.finish_reason),
        *_texts("completion", wanted.contains),
        *_texts("prompt", wanted.prompt_contains),
    ]
    return reduce(and_, conditions) if conditions else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Some neighbouring rows of a file."""

    step: int
    rows: list[int]
    """Numbers of those that pass, in their file, rising."""
    values: list[float]
    """Theirs by which they are ordered; none in the order of steps."""
    first_row: int
    num_rows: int
    """Of the group, those that do not pass too."""
    fragment: Any

    @property
    def last_row(self) -> int:
        """The number of the group's last row."""
        return self.first_row + self.num_rows - 1

    def table(self, rows: Sequence[int], schema: Any) -> Any:
        """The schema's columns of some of the rows, in the order given; a column that the file lacks is null."""
        if not rows:
            return schema.empty_table()
        with _naming(self.step):
            held = self.fragment.to_table(schema=schema, use_threads=False)
            taken = held.take([row - self.first_row for row in rows])
        if "step" in schema.names:
            # Files of the first format do not say it.
            steps = pa.array([self.step] * len(rows), pa.int64())
            taken = taken.set_column(schema.get_field_index("step"), "step", steps)
        return taken


class StepFile:
    """The file of one step. Raises FileNotFoundError and ValueError where it is read."""

    def __init__(self, output_dir: str, wanted: RolloutFilter, step: int) -> None:
        self.step = step
        filesystem, path = fsspec.core.url_to_fs(
            f"{stored_rollouts_folder(output_dir, wanted.store)}/{stored_rollouts_name(step)}"
        )
        self._fragment = _FORMAT.make_fragment(path, filesystem=_arrow_filesystem(filesystem))

    def row_groups(self, expression: Any, order_column: RolloutColumn | None) -> Iterator[RowGroup]:
        """Those that may have rows that pass, in order."""
        with _naming(self.step):
            firsts, total = [], 0
            for group in self._fragment.row_groups:
                firsts.append(total)
                total += group.num_rows
            candidates = self._fragment.split_by_row_group(expression, schema=_EVERYTHING)
        for fragment in candidates:
            [group] = fragment.row_groups
            yield self._passing(fragment, firsts[group.id], expression, order_column)

    def _passing(self, fragment: Any, first_row: int, expression: Any, order_column: RolloutColumn | None) -> RowGroup:
        # Constants have as many rows as the group.
        columns = {"passes": ds.scalar(True) if expression is None else expression}
        if order_column is not None:
            columns["value"] = ds.field(order_column).cast(pa.float64())
        with _naming(self.step):
            seen = fragment.to_table(schema=_EVERYTHING, columns=columns, use_threads=False)
        places = pc.indices_nonzero(pc.fill_null(seen["passes"].combine_chunks(), False))
        values = seen["value"].take(places).to_pylist() if order_column is not None else []
        return RowGroup(
            step=self.step,
            rows=[first_row + place for place in places.to_pylist()],
            values=[float("nan") if value is None else value for value in values],
            first_row=first_row,
            num_rows=seen.num_rows,
            fragment=fragment,
        )


_EVERYTHING = pa.schema(list(_TYPES.items()))


def _bounds(column: str, low: Any, high: Any) -> Iterator[Any]:
    if low is not None and low == high:
        yield ds.field(column) == low
        return
    if low is not None:
        yield ds.field(column) >= low
    if high is not None:
        yield ds.field(column) <= high


def _texts(column: str, pattern: str | None) -> Iterator[Any]:
    if pattern is not None:
        yield pc.match_substring(ds.field(column), pattern, ignore_case=True)


def _arrow_filesystem(filesystem: Any) -> Any:
    protocol = filesystem.protocol
    is_local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)
    return LocalFileSystem() if is_local else PyFileSystem(FSSpecHandler(filesystem))


@contextmanager
def _naming(step: int) -> Iterator[None]:
    """What pyarrow cannot read is said to be the step's file."""
    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(f"the file of step {step} is damaged or none of this store's: {error}") from error
