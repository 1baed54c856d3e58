"""Which form of gold answer a reward reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

from service.contract.gold_answers import (
    parse_assert_tests,
    parse_countdown_gold,
    parse_exact_match_gold,
    parse_json_schema_gold,
    parse_math_gold,
    parse_stdin_tests,
)
from service.contract.rewards import (
    CodeTestsReward,
    CountdownReward,
    ExactMatchReward,
    HttpJudgeReward,
    JsonSchemaReward,
    MathAnswerReward,
    PythonFunctionReward,
    RegexReward,
    SingleReward,
)


@dataclass(frozen=True, slots=True)
class GoldForm:
    """How a gold answer is read, and how it should look."""

    parse: Callable[[str], Any]
    """Raises ValueError."""
    hint: str


MATH_HINT = "a math gold answer looks like '\\frac{1}{2}', '$x + 1$' or '42'"
_ANYTHING = GoldForm(str, "")
"""The reward itself, or nobody, reads the text."""


def gold_form(reward: SingleReward) -> GoldForm:
    """The form that this reward expects in every row."""
    match reward:
        case CountdownReward():
            return GoldForm(parse_countdown_gold, "a Countdown gold answer looks like '3 5 7 -> 22', all of them 0..36")
        case ExactMatchReward():
            return GoldForm(parse_exact_match_gold, "give the expected text")
        case MathAnswerReward():
            if reward.unreadable_gold == "text":
                return GoldForm(parse_exact_match_gold, "give the expected answer")
            return GoldForm(parse_math_gold, MATH_HINT)
        case RegexReward():
            return GoldForm(parse_exact_match_gold, "give the expected text") if reward.compares_gold else _ANYTHING
        case JsonSchemaReward():
            hint = "give the schema as JSON, or one for all rows in reward.json_schema"
            return GoldForm(parse_json_schema_gold, hint) if reward.json_schema is None else _ANYTHING
        case CodeTestsReward():
            if reward.tests == "asserts":
                return GoldForm(parse_assert_tests, "give Python source such as 'assert add(1, 2) == 3'")
            return GoldForm(parse_stdin_tests, 'give a JSON list such as [{"input": "1 2", "output": "3"}]')
        case PythonFunctionReward() | HttpJudgeReward():
            return _ANYTHING
        case _:
            assert_never(reward)
