"""Gold answers as text: what a data row may hold in ``answer``, and how it is read.

The service refuses a data set whose gold answers cannot be read when an experiment is submitted; the workers' rewards
read the same text again during training. Both use this module, so they can't disagree. Standard library only.

Countdown: three numbers, an arrow and the target, all integers in 0..36, as in ``3 5 7 -> 22``.
Exact match: any text that is not blank.
"""

from dataclasses import dataclass

MAX_COUNTDOWN_VALUE = 36
"""Largest integer that may stand in a Countdown problem or in a step of its solution; the smallest is 0."""

COUNTDOWN_INTEGERS = {str(value): value for value in range(MAX_COUNTDOWN_VALUE + 1)}
"""Every accepted spelling of an integer: no sign, no leading zero, ASCII digits only."""

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
