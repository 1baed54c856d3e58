"""Reads rows of text fields from JSON lines at any fsspec URL, with errors that name the line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

import fsspec

from workers.config_error import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The wanted fields of one line."""

    line_index: int
    """From 0; blank lines count."""
    values: tuple[str, ...]
    """In the order of the wanted fields."""


def read_rows(path: str, fields: tuple[str, ...], limit: int | None = None) -> list[Row]:
    """The first `limit` rows (all if None), blank lines passed over.

    Raises ConfigError, naming path and line (from 1), if the file cannot be read, a line is no JSON object, or a field
    is missing, no text, or blank; and if there is no row at all.
    """
    try:
        with fsspec.open(path, "rt", encoding="utf-8") as file:
            rows = list(islice(_rows(file, path, fields), limit))
    except FileNotFoundError as error:
        raise ConfigError(
            f"data file {path} does not exist for this worker; give a path or URL that all machines can read"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"data file {path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"data file {path} cannot be read: {error}; check the path and its permissions") from error
    if not rows:
        raise ConfigError(f"data file {path} holds no rows; give one JSON object a line")
    return rows


def _rows(lines: Iterator[str], path: str, fields: tuple[str, ...]) -> Iterator[Row]:
    for index, line in enumerate(lines):
        if line.strip():
            where = f"{path}, line {index + 1}"
            record = _parse(line, where)
            yield Row(line_index=index, values=tuple(_text(record, field, where) for field in fields))


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"no valid JSON ({error.msg} at column {error.colno})"
        raise ConfigError(f"{where}: {problem}; write one object a line") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{where}: a JSON {type(record).__name__}, expected an object; write one object a line")
    return record


def _text(record: dict[str, Any], field: str, where: str) -> str:
    if field not in record:
        near = get_close_matches(field, list(record), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"its keys are: {', '.join(sorted(record)) or '(none)'}"
        raise ConfigError(f"{where}: no key {field!r} for this data; {hint}")
    value = record[field]
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {field!r} is {json.dumps(value)[:40]}, which is no text; put it into quotes")
    if not value.strip():
        raise ConfigError(f"{where}: {field!r} is empty, so there is nothing to learn from; fill it or drop the row")
    return value
