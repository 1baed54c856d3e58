"""The rewards that finish in a time linear in a bounded text, and so need no process of their own."""

from functools import lru_cache

from service.contract.gold_answers import CountdownGold, parse_countdown_gold
from workers.rewards.countdown import verify_countdown
from workers.rewards.exact_match import verify_exact_match
from workers.rewards.samples import GoldUnreadable, RewardSample

MAX_COUNTDOWN_CHARACTERS = 1024
"""A legal trace takes 11 short words; text beyond this length is wrong without being read."""


class CountdownVerifier:
    """A legal trace that reaches the target."""

    def score(self, sample: RewardSample) -> float:
        """1.0 or 0.0."""
        try:
            gold = _countdown_gold(sample.answer)
        except ValueError as error:
            raise GoldUnreadable(str(error)) from error
        if len(sample.completion) > MAX_COUNTDOWN_CHARACTERS:
            return 0.0
        return 1.0 if verify_countdown(sample.completion, gold) else 0.0


class ExactMatchVerifier:
    """The gold answer's text."""

    def score(self, sample: RewardSample) -> float:
        """1.0 or 0.0."""
        try:
            return 1.0 if verify_exact_match(sample.completion, sample.answer) else 0.0
        except ValueError as error:
            raise GoldUnreadable(str(error)) from error


@lru_cache(maxsize=4096)
def _countdown_gold(text: str) -> CountdownGold:
    """A group's completions share their gold answer."""
    return parse_countdown_gold(text)
