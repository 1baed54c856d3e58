"""Looks through the data: records that can be read as the specification says, gold answers that the reward can read."""

import csv
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from service.contract.data import PromptData, SupervisedData
from service.contract.records import RecordFault, lacks_answer, read_prompt, read_supervised
from service.contract.rewards import MathAnswerReward, RewardSpec, SingleReward, single_rewards
from service.planning.deadline import Deadline
from service.planning.findings import BadLines, Finding
from service.planning.gold_forms import MATH_HINT, gold_form
from service.planning.math_golds import MAX_PARSED, parse_math_golds
from service.planning.record_readers import (
    MAX_BYTES,
    Entry,
    NotLookedThrough,
    TooLarge,
    open_table,
    read_entries,
    table_entries,
)
from service.planning.row_window import UNEXPECTED_ROWS_HINT, RowWindow, rows_in_window, unexpected_rows

PROTOCOLS = frozenset({"file", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory"})
"""Stores that need credentials of their own, and files. No plain HTTP: it would reach whatever the service reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataQuestion:
    """What to ask of one data set."""

    where: str
    """Dotted path of the data in the specification, such as `rl.data`."""
    data: SupervisedData | PromptData
    reward: RewardSpec | None = None
    """Reads the rows' gold answers, if they have one."""
    limit: int | None = None
    """Rows beyond so many are not used and not looked at."""
    workers_python: str = sys.executable
    """Parses gold answers in mathematics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What is known of a data set."""

    num_rows: int | None
    """Blank lines left out; None where only the run can tell."""
    findings: list[Finding]
    warnings: tuple[str, ...] = ()


def inspect_data(question: DataQuestion, deadline: Deadline) -> DataFacts:
    """Reads the data once. Blocks; raises TimeoutError when the deadline passes between two reads."""
    if unreachable := find_unreachable(question.where, question.data):
        return DataFacts(num_rows=0, findings=[unreachable])
    path = question.data.path
    try:
        return _inspect(question, deadline)
    except NotLookedThrough as error:
        warning = f"{question.where}: {error}, so its rows were not counted and not checked"
        return DataFacts(num_rows=None, findings=[], warnings=(warning,))
    except FileNotFoundError:
        return _refused(question, f"{path} does not exist for the service", "give a path that all workers can read too")
    except TooLarge:
        hint = "store it as Parquet, which need not be read to the end, or leave rows out that no stage needs"
        return _refused(question, f"{path} is larger than {MAX_BYTES // 2**20} MiB", hint)
    except UnicodeDecodeError as error:
        return _refused(question, f"{path} is not UTF-8 text ({error.reason})", "save it as UTF-8")
    except ImportError as error:
        hint = "install that package beside the service and the workers, or copy the file to a shared folder"
        return _refused(question, f"{path} needs a package that is not installed: {error}", hint)
    except TimeoutError:
        raise
    except (OSError, ValueError, LookupError, csv.Error) as error:
        hint = f"check that it is {question.data.type}, and that the service may read it"
        return _refused(question, f"{path} cannot be read: {error}", hint)


def find_unreachable(where: str, data: SupervisedData | PromptData) -> Finding | None:
    """Why the service will not even try to open this place; None if it will."""
    if data.is_on_hub:
        return None
    if not data.path.startswith("/") and "://" not in data.path:
        hint = (
            "give an absolute path or a URL; the command line makes paths absolute that are relative to the "
            "specification's file"
        )
        problem = f"{data.path!r} is a relative path, and the service runs in another folder than you"
        return Finding(field=f"{where}.path", problem=problem, hint=hint)
    if strange := [protocol for protocol in _protocols(data.path) if protocol not in PROTOCOLS]:
        hint = f"copy the file to a folder or a store that the team shares ({', '.join(sorted(PROTOCOLS))})"
        problem = f"data is not read through {strange[0]}://: the service would open any address that a user names"
        return Finding(field=f"{where}.path", problem=problem, hint=hint)
    return None


@dataclass(slots=True, kw_only=True)
class _Faults:
    question: DataQuestion
    by_kind: dict[str, BadLines] = field(default_factory=dict)
    num_dropped: int = 0
    """Rows without an answer that the data's settings leave out."""
    math_golds: list[tuple[int, str]] = field(default_factory=list)
    """Number and gold answer of the first records whose form is right, still to be parsed."""

    def add(self, number: int, fault: RecordFault) -> None:
        """Notes the fault of a record, counted from 1."""
        kind = f"{fault.part} {fault.hint}"
        if kind not in self.by_kind:
            unit = "line" if self.question.data.type == "jsonl" else "row"
            self.by_kind[kind] = BadLines(field=f"{self.question.where}.{fault.part}", hint=fault.hint, unit=unit)
        self.by_kind[kind].add(number, str(fault))

    def findings(self) -> list[Finding]:
        """One for each kind."""
        return [bad.as_finding() for bad in self.by_kind.values()]


def _inspect(question: DataQuestion, deadline: Deadline) -> DataFacts:
    faults = _Faults(question=question)
    if question.data.type in ("jsonl", "csv"):
        rows = RowWindow(question.data)
        num_rows = _look_at(question, rows.used(read_entries(question.data, deadline)), faults)
        if not num_rows:
            return _refused(question, f"{question.data.path} holds no rows", "give at least one")
        if problem := rows.problem():
            return _refused(question, problem, UNEXPECTED_ROWS_HINT)
        unparsed = _parse_math(question, faults, deadline)
        return DataFacts(num_rows=num_rows, findings=faults.findings(), warnings=unparsed)
    with ExitStack() as stack:
        table = open_table(question.data, stack, deadline)
        if problem := unexpected_rows(question.data, table.num_rows):
            return _refused(question, problem, UNEXPECTED_ROWS_HINT)
        seen = _look_at(question, RowWindow(question.data).used(table_entries(table, deadline)), faults)
    num_rows = rows_in_window(question.data, table.num_rows) - faults.num_dropped
    num_rows = num_rows if question.limit is None else min(num_rows, question.limit)
    if not num_rows:
        return _refused(question, f"{question.data.path} holds no rows", "give at least one")
    warning = f"{question.where}: only the first {seen} of {num_rows} rows were checked, the data being large"
    unparsed = _parse_math(question, faults, deadline)
    warnings = (warning, *unparsed) if seen < num_rows else unparsed
    return DataFacts(num_rows=num_rows, findings=faults.findings(), warnings=warnings)


def _look_at(question: DataQuestion, entries: Iterator[tuple[int, Entry]], faults: _Faults) -> int:
    """Notes the faults of the records that are used; returns how many were looked at."""
    num_rows = 0
    for number, entry in entries:
        if num_rows == question.limit:
            break
        if _is_left_out(question.data, entry):
            faults.num_dropped += 1
            continue
        num_rows += 1
        try:
            gold = _read(question, entry)
        except RecordFault as fault:
            faults.add(number, fault)
        else:
            if gold is not None and len(faults.math_golds) < MAX_PARSED:
                faults.math_golds.append((number, gold))
    return num_rows


def _is_left_out(data: SupervisedData | PromptData, entry: Entry) -> bool:
    return isinstance(data, PromptData) and not isinstance(entry, RecordFault) and lacks_answer(entry, data)


def _read(question: DataQuestion, entry: Entry) -> str | None:
    """A gold answer in mathematics, which is still to be parsed."""
    if isinstance(entry, RecordFault):
        raise entry
    if isinstance(question.data, SupervisedData):
        read_supervised(entry, question.data)
        return None
    _, answer = read_prompt(entry, question.data)
    if question.reward is None:
        return None
    _read_gold(answer, question.reward)
    return answer if any(map(_has_to_parse, single_rewards(question.reward))) else None


def _has_to_parse(reward: SingleReward) -> bool:
    return isinstance(reward, MathAnswerReward) and reward.unreadable_gold == "error"


def _parse_math(question: DataQuestion, faults: _Faults, deadline: Deadline) -> tuple[str, ...]:
    """Notes the faults of gold answers in mathematics; warns if some could not be parsed here."""
    golds = faults.math_golds
    if not golds:
        return ()
    problems = parse_math_golds([gold for _, gold in golds], question.workers_python, deadline)
    for (number, _), problem in zip(golds, problems, strict=False):
        if problem is not None:
            faults.add(number, RecordFault("answer_field", problem, MATH_HINT))
    if len(problems) == len(golds) < MAX_PARSED:
        return ()
    return (
        f"{question.where}: {len(problems)} gold answers were parsed as mathematics, not all; the run ends at the "
        "first that cannot be",
    )


def _read_gold(answer: str, reward: RewardSpec) -> None:
    for single in single_rewards(reward):
        form = gold_form(single)
        try:
            form.parse(answer)
        except ValueError as error:
            raise RecordFault("answer_field", str(error).rpartition(": ")[0], form.hint) from error


def _protocols(path: str) -> list[str]:
    """Of each link of a chain such as `simplecache::s3://…`."""
    return [
        link.split("://")[0] if "://" in link else "file" if link.startswith("/") else link for link in path.split("::")
    ]


def _refused(question: DataQuestion, problem: str, hint: str) -> DataFacts:
    return DataFacts(num_rows=0, findings=[Finding(field=f"{question.where}.path", problem=problem, hint=hint)])
