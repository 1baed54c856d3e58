"""The reward for text of a given form, or for an answer at a given place of it."""

import re

from service.contract.gold_answers import parse_exact_match_gold
from service.contract.rewards import ANSWER_GROUP, RegexReward
from workers.rewards.samples import GoldUnreadable, RewardSample


class RegexVerifier:
    """The pattern is found; with a group named `answer`, the last one found is the gold answer."""

    def __init__(self, spec: RegexReward) -> None:
        self._pattern = re.compile(spec.pattern, re.DOTALL)
        self._compares_gold = spec.compares_gold

    def score(self, sample: RewardSample) -> float:
        """1.0 or 0.0."""
        if not self._compares_gold:
            return 1.0 if self._pattern.search(sample.completion) else 0.0
        try:
            gold = parse_exact_match_gold(sample.answer)
        except ValueError as error:
            raise GoldUnreadable(str(error)) from error
        found = [match[ANSWER_GROUP] for match in self._pattern.finditer(sample.completion)]
        return 1.0 if found and (found[-1] or "").strip() == gold else 0.0
