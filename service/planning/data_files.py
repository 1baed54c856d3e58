"""Looks through a data file: JSON lines with the wanted text fields, and gold answers that the reward can read."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec

from service.contract.data import CountdownReward, ExactMatchReward, RewardSpec
from service.contract.gold_answers import parse_countdown_gold, parse_exact_match_gold
from service.planning.deadline import Deadline
from service.planning.findings import BadLines, Finding, nearest

MAX_BYTES = 256 * 1024 * 1024
"""Larger files are refused: they would take longer to look through than a person waits for a submission."""

PROTOCOLS = frozenset({"file", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory"})
"""Stores that need credentials of their own, and files. No plain HTTP: it would reach whatever the service reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataQuestion:
    """What to ask of one data file."""

    where: str
    """Dotted path of the data in the specification, such as `rl.data`."""
    path: str
    text_fields: Mapping[str, str]
    """Key in a row by its name in the specification: {"prompt_field": "prompt", …}."""
    reward: RewardSpec | None = None
    """Reads the rows' gold answers, if they have one."""
    limit: int | None = None
    """Rows beyond so many are not used and not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What is known of a data file."""

    num_rows: int
    """Blank lines left out."""
    findings: list[Finding]


@dataclass(slots=True, kw_only=True)
class _Faults:
    question: DataQuestion
    by_kind: dict[str, BadLines] = field(default_factory=dict)

    def add(self, line: int, part: str, problem: str, hint: str) -> None:
        """`part` of the data is at fault: `path`, or the name of a field."""
        kind = f"{part} {hint}"
        if kind not in self.by_kind:
            self.by_kind[kind] = BadLines(field=f"{self.question.where}.{part}", hint=hint)
        self.by_kind[kind].add(line, problem)


def inspect_data(question: DataQuestion, deadline: Deadline) -> DataFacts:
    """Reads the file once. Blocks; raises TimeoutError when the deadline passes between two lines."""
    if not question.path.startswith("/") and "://" not in question.path:
        return _refused(
            question,
            f"{question.path!r} is a relative path, and the service runs in another folder than you",
            "give an absolute path or a URL; the command line makes paths absolute that are relative to the "
            "specification's file",
        )
    if strange := [protocol for protocol in _protocols(question.path) if protocol not in PROTOCOLS]:
        return _refused(
            question,
            f"data is not read through {strange[0]}://: the service would open any address that a user names",
            f"copy the file to a folder or a store that the team shares ({', '.join(sorted(PROTOCOLS))})",
        )
    try:
        with fsspec.open(question.path, "rb") as file:
            return _inspect_lines(question, _bounded(file, deadline))
    except FileNotFoundError:
        hint = "give a path or URL that the service and all workers can read"
        return _refused(question, f"{question.path} does not exist for the service", hint)
    except _TooLarge:
        hint = "split the file, or leave rows out that no stage needs"
        return _refused(question, f"{question.path} is larger than {MAX_BYTES // 2**20} MiB", hint)
    except UnicodeDecodeError as error:
        return _refused(question, f"{question.path} is not UTF-8 text ({error.reason})", "save it as UTF-8")
    except ImportError as error:
        hint = "install that package beside the service and the workers, or copy the file to a shared folder"
        return _refused(question, f"{question.path} needs a package that is not installed: {error}", hint)
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:
        hint = "check the path and that the service may read it"
        return _refused(question, f"{question.path} cannot be read: {error}", hint)


def _protocols(path: str) -> list[str]:
    """Of each link of a chain such as `simplecache::s3://…`."""
    return [
        link.split("://")[0] if "://" in link else "file" if link.startswith("/") else link for link in path.split("::")
    ]


class _TooLarge(Exception):
    """The file goes beyond MAX_BYTES."""


def _refused(question: DataQuestion, problem: str, hint: str) -> DataFacts:
    return DataFacts(num_rows=0, findings=[Finding(field=f"{question.where}.path", problem=problem, hint=hint)])


def _bounded(file: IO[bytes], deadline: Deadline) -> Iterator[str]:
    """The file's lines; not every file system knows a size beforehand, so the bytes are counted."""
    num_bytes = 0
    while line := file.readline(MAX_BYTES + 1):
        num_bytes += len(line)
        if num_bytes > MAX_BYTES:
            raise _TooLarge
        deadline.check()
        yield line.decode("utf-8")


def _inspect_lines(question: DataQuestion, lines: Iterator[str]) -> DataFacts:
    faults = _Faults(question=question)
    num_rows = 0
    for number, line in enumerate(lines, start=1):
        if num_rows == question.limit:
            break
        if line.strip():
            num_rows += 1
            _inspect_line(question, number, line, faults)
    if not num_rows:
        return _refused(question, f"{question.path} holds no rows", "give one JSON object a line")
    return DataFacts(num_rows=num_rows, findings=[bad.as_finding() for bad in faults.by_kind.values()])


def _inspect_line(question: DataQuestion, number: int, line: str, faults: _Faults) -> None:
    hint = "write one JSON object a line"
    try:
        row = json.loads(line)
    except ValueError as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        faults.add(number, "path", f"no valid JSON ({problem})", hint)
        return
    except RecursionError:
        faults.add(number, "path", "JSON nested too deeply", hint)
        return
    if not isinstance(row, dict):
        faults.add(number, "path", f"a JSON {type(row).__name__}, no object", hint)
        return
    for name, key in question.text_fields.items():
        if _is_text(row, name, key, number, faults) and name == "answer_field" and question.reward is not None:
            _inspect_gold(row[key], question.reward, number, faults)


def _is_text(row: dict[str, Any], name: str, key: str, number: int, faults: _Faults) -> bool:
    if key not in row:
        faults.add(number, name, f"no key {key!r}", nearest(key, row))
    elif not isinstance(row[key], str):
        problem = f"{key!r} is a JSON {type(row[key]).__name__}, no text"
        faults.add(number, name, problem, "put the value into quotes")
    elif not row[key].strip():
        faults.add(number, name, f"{key!r} is empty", "fill it or drop the row")
    else:
        return True
    return False


def _inspect_gold(answer: str, reward: RewardSpec, number: int, faults: _Faults) -> None:
    parse: Callable[[str], object]
    match reward:
        case CountdownReward():
            parse, hint = parse_countdown_gold, "a Countdown gold answer looks like '3 5 7 -> 22', all of them 0..36"
        case ExactMatchReward():
            parse, hint = parse_exact_match_gold, "give the expected text"
    try:
        parse(answer)
    except ValueError as error:
        faults.add(number, "answer_field", str(error).rpartition(": ")[0], hint)
