"""One way to read records, whatever holds them: JSON lines, CSV, Parquet, or a Hugging Face dataset."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, assert_never

import fsspec
import pyarrow.parquet as pq

from service.contract.data import DataSource
from workers.config_error import ConfigError, first_line
from workers.data.hub_datasets import dataset_rows

Fields = dict[str, Any]

_LONGEST_CSV_VALUE = 2**30
"""Characters; Python's own limit of 131,072 would refuse long documents."""
_PARQUET_ROWS = 1024
"""Read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a source."""

    place: int
    """From 0. Blank lines of a JSON lines file count, so that the place names the line."""
    fields: Fields


def read_records(source: DataSource, keys: tuple[str, ...]) -> Iterator[Record]:
    """The records that the source's window leaves, one after the other. Of a table with all these `keys` only they
    are read.

    Raises ConfigError, naming the path and where it can the row, if the source cannot be read or holds no such record,
    and at its end if it has another number of rows than it should.
    """
    end = None if source.num_rows is None else source.skip_rows + source.num_rows
    num_read = 0
    try:
        for place, fields in _rows(source, keys):
            if num_read == end:
                return
            num_read += 1
            if num_read > source.skip_rows:
                yield Record(place=place, fields=fields)
    except FileNotFoundError as error:
        raise ConfigError(
            f"data file {source.path} does not exist for this worker; give a path or URL that all machines can read"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"data file {source.path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except (OSError, ValueError, ImportError, csv.Error) as error:
        # pyarrow's own errors are ValueErrors and OSErrors.
        raise ConfigError(
            f"data file {source.path} cannot be read as {source.type}: {first_line(error)}; check data.type, the path "
            "and its permissions"
        ) from error
    if num_read <= source.skip_rows:
        beyond = f" beyond the {source.skip_rows} that are passed over" if source.skip_rows else ""
        raise ConfigError(f"data file {source.path} holds no rows{beyond}; give at least one")
    if source.expected_rows not in (None, num_read):
        raise ConfigError(
            f"data file {source.path} holds {num_read} rows, not the {source.expected_rows} of expected_rows, so it is "
            "not the data that was meant; check it, or set expected_rows to null"
        )


def where(source: DataSource, place: int) -> str:
    """How an error names a record."""
    return f"{source.path}, {'line' if source.type == 'jsonl' else 'row'} {place + 1}"


def _rows(source: DataSource, keys: tuple[str, ...]) -> Iterator[tuple[int, Fields]]:
    match source.type:
        case "huggingface":
            yield from enumerate(dataset_rows(source))
        case "parquet":
            with fsspec.open(source.path, "rb") as file:
                yield from enumerate(_parquet_rows(file, keys))
        case "csv":
            with fsspec.open(source.path, "rt", encoding="utf-8-sig", newline="") as file:
                yield from _csv_rows(file, source)
        case "jsonl":
            with fsspec.open(source.path, "rt", encoding="utf-8") as file:
                yield from _json_lines(file, source)
        case _:
            assert_never(source.type)


def _json_lines(lines: Iterator[str], source: DataSource) -> Iterator[tuple[int, Fields]]:
    for place, line in enumerate(lines):
        if line.strip():
            yield place, _parsed(line, where(source, place))


def _parsed(line: str, place: str) -> Fields:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"no valid JSON ({error.msg} at column {error.colno})"
        raise ConfigError(f"{place}: {problem}; write one object a line") from error
    except RecursionError as error:
        raise ConfigError(f"{place}: JSON nested too deeply; write one flat object a line") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{place}: a JSON {type(record).__name__}, expected an object; write one object a line")
    return record


def _csv_rows(file: IO[str], source: DataSource) -> Iterator[tuple[int, Fields]]:
    """Values are text, whatever they look like. The first line names the columns and is no row."""
    csv.field_size_limit(_LONGEST_CSV_VALUE)
    reader = csv.reader(file, strict=True)
    header = next(reader, [])
    for place, values in enumerate(row for row in reader if row):
        if len(values) != len(header):
            raise ConfigError(
                f"{where(source, place)}: {len(values)} values under {len(header)} column names; put values with "
                "commas or line breaks into double quotes"
            )
        yield place, dict(zip(header, values, strict=True))


def _parquet_rows(file: IO[bytes], keys: tuple[str, ...]) -> Iterator[Fields]:
    table = pq.ParquetFile(file)
    complete = set(keys) <= set(table.schema_arrow.names)
    for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=list(keys) if complete else None):
        yield from batch.to_pylist()
