"""Gold answers as text: what a data row may hold in ``answer``, and how it is read.

The service refuses a data set whose gold answers cannot be read when an experiment is submitted; the workers' rewards
read the same text again during training. Both use this module, so they can't disagree. Standard library only.

Countdown: three numbers, an arrow and the target, all integers in 0..36, as in ``3 5 7 -> 22``.
Exact match, and a regular expression that compares: any text that is not blank.
Math: LaTeX or a plain expression; whether it can be parsed, only math-verify knows, here only its shape is looked at.
JSON schema: a JSON object. Code tests: Python source, or a JSON list of ``{"input": "…", "output": "…"}``.
"""

import ast
import json
from dataclasses import dataclass
from typing import Any

MAX_COUNTDOWN_VALUE = 36
"""Largest integer that may stand in a Countdown problem or in a step of its solution; the smallest is 0."""

COUNTDOWN_INTEGERS = {str(value): value for value in range(MAX_COUNTDOWN_VALUE + 1)}
"""Every accepted spelling of an integer: no sign, no leading zero, ASCII digits only."""

MAX_MATH_GOLD_CHARACTERS = 2000
MAX_TEST_CASES = 256

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class CountdownGold:
    """One Countdown problem: reach ``target`` with two operations from three numbers, each used once."""

    numbers: tuple[int, int, int]
    """In the order of the prompt; the order has no meaning for the verifier."""
    target: int

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.numbers))} -> {self.target}"


def parse_countdown_gold(text: str) -> CountdownGold:
    """Read ``3 5 7 -> 22``; whitespace around the words is free.

    Raises ValueError if the text has another form or an integer outside 0..36.
    """
    words = text.split()
    if len(words) != 5 or words[3] != "->":
        raise ValueError(
            f"gold answer {_shown(text)} is no Countdown problem: expected three integers, '->' and the target, "
            "separated by spaces; write it like '3 5 7 -> 22'"
        )
    first, second, third, target = (_countdown_integer(word, text) for word in (*words[:3], words[4]))
    return CountdownGold(numbers=(first, second, third), target=target)


def parse_exact_match_gold(text: str) -> str:
    """Strip the text that a completion has to equal.

    Raises ValueError if nothing is left: an empty gold answer would reward empty completions.
    """
    stripped = text.strip()
    if not stripped:
        raise ValueError(
            f"gold answer {_shown(text)} is blank: an empty completion would count as right; "
            "give the expected text in 'answer' or drop the row"
        )
    return stripped


def parse_math_gold(text: str) -> str:
    """The text that math-verify is to parse, after a look at its shape.

    Raises ValueError if it is blank, very long, or has braces that do not match.
    """
    stripped = text.strip()
    if not stripped:
        raise ValueError(f"gold answer {_shown(text)} is blank: give the mathematical answer")
    if len(stripped) > MAX_MATH_GOLD_CHARACTERS:
        raise ValueError(
            f"gold answer {_shown(text)} has {len(stripped)} characters, more than {MAX_MATH_GOLD_CHARACTERS}: give "
            "the final answer without its derivation"
        )
    if stripped.replace("\\{", "").count("{") != stripped.replace("\\}", "").count("}"):
        raise ValueError(f"gold answer {_shown(text)} has braces that do not match: close every one")
    return stripped


def parse_json_schema_gold(text: str) -> dict[str, Any]:
    """The JSON Schema that a row's completions have to fit. Raises ValueError if the text is no JSON object."""
    found = _json(text, "a JSON Schema")
    if not isinstance(found, dict):
        raise ValueError(f"gold answer {_shown(text)} is no JSON Schema: expected a JSON object")
    return found


def parse_assert_tests(text: str) -> str:
    """Python source that runs after a program. Raises ValueError if it does not compile or does nothing."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"gold answer {_shown(text)} is no Python source ({error}): give asserts") from error
    if not tree.body:
        raise ValueError(f"gold answer {_shown(text)} holds no statement, so every program would pass: give asserts")
    return text


@dataclass(frozen=True, slots=True)
class ProgramCase:
    """One run of a program: what it reads, and what it should print."""

    input: str
    output: str


def parse_stdin_tests(text: str) -> list[ProgramCase]:
    """Read ``[{"input": "1 2", "output": "3"}, …]``. Raises ValueError if the text has another form."""
    found = _json(text, "a list of test cases")
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_TEST_CASES:
        raise ValueError(
            f"gold answer {_shown(text)} is no list of 1 to {MAX_TEST_CASES} test cases: give what the program reads "
            "as 'input' and what it should print as 'output'"
        )
    return [_program_case(case) for case in found]


def _program_case(case: Any) -> ProgramCase:
    fits = isinstance(case, dict) and set(case) == {"input", "output"}
    if not fits or not all(isinstance(value, str) for value in case.values()):
        raise ValueError(f"test case {_shown(json.dumps(case))} has another form: give the texts 'input' and 'output'")
    return ProgramCase(input=case["input"], output=case["output"])


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"gold answer {_shown(text)} is no JSON ({error}): give {what}") from error


def _countdown_integer(word: str, text: str) -> int:
    value = COUNTDOWN_INTEGERS.get(word)
    if value is None:
        raise ValueError(
            f"gold answer {_shown(text)} holds {_shown(word)}, which is no integer in 0..{MAX_COUNTDOWN_VALUE}: "
            "write plain digits without sign or leading zeros, within that range"
        )
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
