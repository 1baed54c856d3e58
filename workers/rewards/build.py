"""From a reward's specification to the functions that judge completions.

Both rewards are pure and finish in a time that is linear in a bounded text, so they run where they are called.
"""

from functools import lru_cache
from typing import Protocol, assert_never

from service.contract.data import CountdownReward, ExactMatchReward, RewardSpec
from service.contract.gold_answers import CountdownGold, parse_countdown_gold
from workers.rewards.countdown import countdown_answer_key, verify_countdown
from workers.rewards.exact_match import exact_match_answer_key, verify_exact_match

MAX_COUNTDOWN_CHARACTERS = 1024
"""A legal trace takes 11 short words; text beyond this length is wrong without being read."""


class Reward(Protocol):
    """Judges completions."""

    def score(self, completion_text: str, gold_text: str) -> float:
        """1.0 for a right completion, 0.0 for a wrong one.

        Raises ValueError if the gold answer cannot be read; no completion makes it raise.
        """

    def answer_key(self, completion_text: str) -> str:
        """Equal for completions that count as the same answer."""


class CountdownVerdict:
    """The Countdown reward: a legal trace that reaches the target."""

    def score(self, completion_text: str, gold_text: str) -> float:
        """See `Reward`."""
        gold = _countdown_gold(gold_text)
        if len(completion_text) > MAX_COUNTDOWN_CHARACTERS:
            return 0.0
        return 1.0 if verify_countdown(completion_text, gold) else 0.0

    def answer_key(self, completion_text: str) -> str:
        """The canonical trace; text that is no sound trace stands for itself, spacing aside."""
        trace = countdown_answer_key(completion_text) if len(completion_text) <= MAX_COUNTDOWN_CHARACTERS else None
        return " ".join(completion_text.split()) if trace is None else trace


class ExactMatchVerdict:
    """The exact-match reward: the gold answer's text."""

    def score(self, completion_text: str, gold_text: str) -> float:
        """See `Reward`."""
        return 1.0 if verify_exact_match(completion_text, gold_text) else 0.0

    def answer_key(self, completion_text: str) -> str:
        """The text, outer white space aside."""
        return exact_match_answer_key(completion_text)


def build_reward(spec: RewardSpec) -> Reward:
    """The reward that a specification asks for."""
    match spec:
        case CountdownReward():
            return CountdownVerdict()
        case ExactMatchReward():
            return ExactMatchVerdict()
        case _:
            assert_never(spec)


@lru_cache(maxsize=4096)
def _countdown_gold(text: str) -> CountdownGold:
    """A group's completions share their gold answer."""
    return parse_countdown_gold(text)
