"""Majority voting over a prompt's samples."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from workers.evaluation.correctness import CORRECT_FROM


def majority_at_n(answer_keys: Sequence[str], rewards: Sequence[float]) -> float:
    """Chance that the most frequent answer of a prompt's samples is right (self-consistency, arXiv 2203.11171).

    Samples vote with their answer key; of equally frequent answers one is drawn by lot, so that the figure is the mean
    over them and depends on no order. An answer whose samples are not all judged alike is right for a share of them.

    Raises ValueError if the lengths differ, StatisticsError if there is no sample.
    """
    votes = Counter(answer_keys)
    most = max(votes.values(), default=0)
    winners = {key for key, count in votes.items() if count == most}
    # All winners have the same number of votes, so the mean over their samples is the mean over the winners.
    return fmean(reward >= CORRECT_FROM for key, reward in zip(answer_keys, rewards, strict=True) if key in winners)
