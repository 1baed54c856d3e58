"""Pages of stored completions, bounded in memory and time.

In the order of steps a page ends when it is full or its time is over, and says where the next one goes on. In the order
of a value everything must be seen before the first row is known: if the time does not suffice for that, the question is
refused and must be narrowed.
"""

import heapq
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from service.contract.stored_rollouts import RolloutColumn, RolloutFilter, RolloutOrder
from service.errors import QueryTooSlow
from service.stored_rollouts.files import find_steps
from service.stored_rollouts.scan import RowGroup, StepFile, columns_schema, filter_expression

SCAN_S = 8.0
MAX_BYTES = 16 << 20
"""Of a page's columns; a page has one row in any case."""
_LAST = 2**62
"""Beyond every step and row."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """Behind which row the next page begins."""

    value: float = 0.0
    """By which the rows are ordered, rising; 0 in the order of steps."""
    step: int
    row: int
    """In the step's file, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPage:
    """Some of the rows."""

    table: Any
    """A pyarrow table of the wanted columns."""
    next_place: Place | None
    """None: that was all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One question to an experiment's store, with what the service knows about the experiment."""

    output_dir: str
    wanted: RolloutFilter
    columns: Sequence[RolloutColumn]
    part_names: Sequence[str]
    """Of the experiment's reward."""
    order: RolloutOrder = "step"
    start: Place | None = None

    @property
    def schema(self) -> Any:
        """Of what is found."""
        return columns_schema(self.columns, self.part_names)

    def page(self, limit: int, *, max_bytes: int | None = MAX_BYTES, within_s: float = SCAN_S) -> FoundPage:
        """Up to `limit` rows. Blocks; raises QueryTooSlow, and what the storage raises."""
        deadline = time.monotonic() + within_s
        if self.order.lstrip("-") == "step":
            return self._page_by_step(limit, max_bytes, deadline)
        return self._page_by_value(limit, max_bytes, deadline)

    def tables(self) -> Iterator[Any]:
        """All rows behind the start in the order of steps, some at a time. Blocks; raises what the storage raises."""
        expression, schema = filter_expression(self.wanted), self.schema
        for step in self._steps():
            for group in StepFile(self.output_dir, self.wanted, step).row_groups(expression, None):
                yield group.table(self._behind_start(group), schema)

    def _page_by_step(self, limit: int, max_bytes: int | None, deadline: float) -> FoundPage:
        page = _Page(self.schema, limit, max_bytes)
        expression = filter_expression(self.wanted)
        steps = self._steps()
        for step in steps:
            for group in StepFile(self.output_dir, self.wanted, step).row_groups(expression, None):
                rows = self._behind_start(group)[: limit - page.num_rows]
                taken = page.add(group.table(rows, self.schema)) if rows else 0
                if rows and (taken < len(rows) or page.num_rows == limit):
                    return page.ended(Place(step=step, row=rows[taken - 1] if taken else rows[0] - 1))
                if time.monotonic() >= deadline and self._is_behind_start(group):
                    return page.ended(Place(step=step, row=group.last_row))
            is_begun = self.start is not None and step == self.start.step
            if time.monotonic() >= deadline and not is_begun and step != steps[-1]:
                return page.ended(Place(step=step, row=_LAST))
        return page.ended(None)

    def _page_by_value(self, limit: int, max_bytes: int | None, deadline: float) -> FoundPage:
        chosen = self._first_by_value(limit, deadline)
        page = _Page(self.schema, limit, max_bytes)
        tables: dict[Place, Any] = {}
        for group in {id(group): group for _, group in chosen}.values():
            own = [place for place, of in chosen if of is group]
            table = group.table([place.row for place in own], self.schema)
            tables |= {place: table.slice(position, 1) for position, place in enumerate(own)}
        for number, (place, _) in enumerate(chosen):
            if not page.add(tables[place]):
                return page.ended(chosen[number - 1][0])
        return page.ended(chosen[-1][0] if len(chosen) == limit else None)

    def _first_by_value(self, limit: int, deadline: float) -> list[tuple[Place, RowGroup]]:
        """The first rows behind the start, in order."""
        expression, steps = filter_expression(self.wanted), self._steps()
        column: RolloutColumn = "reward" if self.order.lstrip("-") == "reward" else "num_tokens"
        best: list[tuple[Place, RowGroup]] = []
        for number, step in enumerate(steps):
            for group in StepFile(self.output_dir, self.wanted, step).row_groups(expression, column):
                if time.monotonic() >= deadline:
                    raise QueryTooSlow(
                        f"order {self.order!r} must see all {len(steps)} steps and has seen {number} in the time that "
                        "a question may take; narrow from_step and to_step, or take order 'step'"
                    )
                places = (
                    (Place(value=self._rising(value), step=step, row=row), group)
                    for row, value in zip(group.rows, group.values, strict=True)
                )
                behind = [found for found in places if self.start is None or found[0] > self.start]
                best = heapq.nsmallest(limit, [*best, *behind], key=lambda found: found[0])
        return best

    def _rising(self, value: float) -> float:
        if math.isnan(value):
            return math.inf
        return -value if self.order.startswith("-") else value

    def _steps(self) -> list[int]:
        """Those that may have rows behind the start, in order."""
        low, high = self.wanted.from_step or 0, self.wanted.to_step or _LAST
        by_step = self.order.lstrip("-") == "step"
        if by_step and self.start is not None:
            low, high = (
                (low, min(high, self.start.step)) if self.order == "-step" else (max(low, self.start.step), high)
            )
        steps = [found.step for found in find_steps(self.output_dir, self.wanted.store) if low <= found.step <= high]
        return steps[::-1] if self.order == "-step" else steps

    def _is_behind_start(self, group: RowGroup) -> bool:
        """Whether a page that ends with the group is one step further."""
        return self.start is None or group.step != self.start.step or group.last_row > self.start.row

    def _behind_start(self, group: RowGroup) -> list[int]:
        if self.start is None or group.step != self.start.step:
            return group.rows
        return [row for row in group.rows if row > self.start.row]


class _Page:
    """Rows as they are found, up to a number of them and of bytes."""

    def __init__(self, schema: Any, limit: int, max_bytes: int | None) -> None:
        self.num_rows = 0
        self._schema = schema
        self._limit = limit
        self._bytes_left = max_bytes
        self._tables: list[Any] = []

    def add(self, table: Any) -> int:
        """Take rows from the front of the table as far as there is room; returns how many."""
        taken: int = min(table.num_rows, self._limit - self.num_rows)
        if self._bytes_left is not None:
            sizes = [table.slice(row, 1).nbytes for row in range(taken)]
            taken = 0
            for size in sizes:
                if size > self._bytes_left and (self.num_rows or taken):
                    self._bytes_left = 0
                    break
                self._bytes_left -= size
                taken += 1
        self._tables.append(table.slice(0, taken))
        self.num_rows += taken
        return taken

    def ended(self, next_place: Place | None) -> FoundPage:
        """The page as it is."""
        table = pa.concat_tables(self._tables) if self._tables else self._schema.empty_table()
        return FoundPage(table=table, next_place=next_place)
