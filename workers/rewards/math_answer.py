"""The reward for mathematical answers: equal to the gold answer as math-verify sees it.

Parsing and comparing can take for ever; math-verify's own timeouts are switched off, since the process has a deadline.
"""

import logging
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from service.contract.answer_forms import last_boxed
from service.contract.gold_answers import parse_math_gold
from workers.rewards.samples import GoldUnreadable, RewardSample

_MARKS = ("$", "\\boxed", "\\(", "\\[")
"""A gold answer without one of them is taken as one formula."""


class MathAnswerVerifier:
    """The completion's final answer, boxed or last, equals the gold answer."""

    def __init__(self, *, compares_text: bool = False) -> None:
        """`compares_text`: a gold answer that cannot be parsed is compared as text, instead of raising."""
        self._compares_text = compares_text
        # It warns of the missing timeouts, once a process and in many words.
        logging.getLogger("math_verify").setLevel(logging.ERROR)

    def score(self, sample: RewardSample) -> float:
        """1.0 or 0.0; a completion without anything to parse is wrong."""
        try:
            gold = parse_gold(sample.answer)
        except GoldUnreadable:
            if not self._compares_text:
                raise
            return 1.0 if _bare(_boxed_or_all(sample.completion)) == _bare(sample.answer) else 0.0
        answer = parse(sample.completion, parsing_timeout=None)
        return 1.0 if answer and verify(list(gold), answer, timeout_seconds=None) else 0.0


def _boxed_or_all(completion: str) -> str:
    """What the last box holds; the whole text without one, or where it is not closed."""
    try:
        return last_boxed(completion)
    except ValueError:
        return completion


def _bare(text: str) -> str:
    return "".join(text.replace("$", "").split())


@lru_cache(maxsize=4096)
def parse_gold(text: str) -> tuple[Any, ...]:
    """The gold answer in math-verify's own form. Raises GoldUnreadable if nothing in it can be parsed."""
    try:
        stripped = parse_math_gold(text)
    except ValueError as error:
        raise GoldUnreadable(str(error)) from error
    formula = stripped if any(mark in stripped for mark in _MARKS) else f"${stripped}$"
    gold = parse(formula, fallback_mode="no_fallback", parsing_timeout=None)
    if not gold:
        raise GoldUnreadable(
            f"gold answer {text[:80]!r} cannot be parsed by math-verify; write LaTeX or a plain expression, such as "
            "'\\frac{1}{2}', '$x + 1$' or '42'"
        )
    return tuple(gold)
