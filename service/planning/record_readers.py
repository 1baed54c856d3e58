"""Reads the records of a source within bounds of time and bytes; a bad record is a fault among the others."""

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.data import DataSource
from service.contract.records import RecordFault
from service.planning.deadline import Deadline

MAX_BYTES = 256 * 1024 * 1024
"""Of text, larger files are refused: they would take longer to look through than a person waits for a submission. Of a
table only so much is looked at, since its number of rows is known anyway."""
_ROWS_AT_ONCE = 512
_LONGEST_CSV_VALUE = 2**30

Entry = dict[str, Any] | RecordFault


class TooLarge(Exception):
    """The file goes beyond MAX_BYTES."""


class NotLookedThrough(Exception):
    """Only the run can read this source; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows whose number is known before they are read."""

    num_rows: int
    batches: Iterator[Any]
    """pyarrow record batches."""


def read_entries(source: DataSource, deadline: Deadline) -> Iterator[tuple[int, Entry]]:
    """Number (from 1) and record of each line of JSON lines or row of CSV; blank lines are passed over."""
    with fsspec.open(source.path, "rb") as file:
        lines = _bounded(file, deadline)
        yield from _csv_rows(lines) if source.type == "csv" else _json_lines(lines)


def open_table(source: DataSource, stack: ExitStack, deadline: Deadline) -> Table:
    """A Parquet file, or the split of a dataset that `save_to_disk` wrote; files stay open as long as `stack`.

    Raises NotLookedThrough for other datasets.
    """
    if source.type == "parquet":
        table = pq.ParquetFile(stack.enter_context(fsspec.open(source.path, "rb")))
        return Table(num_rows=table.metadata.num_rows, batches=table.iter_batches(batch_size=_ROWS_AT_ONCE))
    return _saved_dataset(source, stack, deadline)


def table_entries(table: Table, deadline: Deadline) -> Iterator[tuple[int, Entry]]:
    """Number (from 1) and record of each row, until MAX_BYTES have been looked at."""
    num_bytes, num_rows = 0, 0
    for batch in table.batches:
        deadline.check()
        num_bytes += batch.nbytes
        if num_bytes > MAX_BYTES:
            return
        yield from enumerate(batch.to_pylist(), start=num_rows + 1)
        num_rows += batch.num_rows


def _saved_dataset(source: DataSource, stack: ExitStack, deadline: Deadline) -> Table:
    if source.is_on_hub:
        raise NotLookedThrough(f"{source.path} lies on the hub, which only the run asks")
    filesystem, folder = fsspec.core.url_to_fs(source.path)
    if not filesystem.isdir(folder):
        raise FileNotFoundError(source.path)
    folder = folder.rstrip("/")
    if filesystem.exists(f"{folder}/dataset_dict.json"):
        split = source.split or "train"
        splits = json.loads(filesystem.cat_file(f"{folder}/dataset_dict.json"))["splits"]
        if split not in splits:
            raise ValueError(f"no split {split!r}, its splits are {', '.join(splits)}")
        folder = f"{folder}/{split}"
    if not filesystem.exists(f"{folder}/state.json"):
        raise NotLookedThrough(f"{source.path} is a dataset repository, which only the run puts together")
    names = [entry["filename"] for entry in json.loads(filesystem.cat_file(f"{folder}/state.json"))["_data_files"]]
    # Counted first, in streams of their own: an Arrow stream tells its rows only while it is read.
    counted = (_arrow_stream(filesystem, f"{folder}/{name}", stack) for name in names)
    num_rows = 0
    for batch in chain.from_iterable(counted):
        deadline.check()
        num_rows += batch.num_rows
    streams = (_arrow_stream(filesystem, f"{folder}/{name}", stack) for name in names)
    batches = (batch.slice(first, _ROWS_AT_ONCE) for stream in streams for batch in stream for first in _starts(batch))
    return Table(num_rows=num_rows, batches=batches)


def _arrow_stream(filesystem: Any, path: str, stack: ExitStack) -> Iterable[Any]:
    stream: Iterable[Any] = pa.ipc.open_stream(stack.enter_context(filesystem.open(path, "rb")))
    return stream


def _starts(batch: Any) -> range:
    return range(0, batch.num_rows, _ROWS_AT_ONCE)


def _bounded(file: IO[bytes], deadline: Deadline) -> Iterator[str]:
    """The file's lines; not every file system knows a size beforehand, so the bytes are counted."""
    num_bytes = 0
    while line := file.readline(MAX_BYTES + 1):
        num_bytes += len(line)
        if num_bytes > MAX_BYTES:
            raise TooLarge
        deadline.check()
        yield line.decode("utf-8")


def _json_lines(lines: Iterable[str]) -> Iterator[tuple[int, Entry]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Entry:
    hint = "write one JSON object a line"
    try:
        record = json.loads(line)
    except ValueError as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return RecordFault("path", f"no valid JSON ({problem})", hint)
    except RecursionError:
        return RecordFault("path", "JSON nested too deeply", hint)
    if not isinstance(record, dict):
        return RecordFault("path", f"a JSON {type(record).__name__}, no object", hint)
    return record


def _csv_rows(lines: Iterator[str]) -> Iterator[tuple[int, Entry]]:
    csv.field_size_limit(_LONGEST_CSV_VALUE)
    reader = csv.reader(lines, strict=True)
    header = [name.removeprefix("\ufeff") for name in next(reader, [])]
    for number, values in enumerate((row for row in reader if row), start=1):
        if len(values) == len(header):
            yield number, dict(zip(header, values, strict=True))
        else:
            problem = f"{len(values)} values under {len(header)} column names"
            hint = "put values with commas or line breaks into double quotes"
            yield number, RecordFault("path", problem, hint)
